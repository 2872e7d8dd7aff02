"""``wavedil process``."""

import argparse
import json
import os
from pathlib import Path

from wavedil.cli.options import add_device_option, add_effect_options, add_model_argument
from wavedil.errors import WavedilError
from wavedil.progress import Bar

EXAMPLES = (
    "wavedil process runs/amp guitar.wav driven.wav --knob drive=0.7",
    "wavedil process runs/amp di.flac out.flac --resample --subtype PCM_24",
    "wavedil process runs/amp takes/ solo.wav processed/",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "If IN is a folder or several files, OUT is a folder, in which the files have the same names. A file that "
        "cannot be processed is reported and skipped, and the exit status is then 2."
    )
    add_model_argument(parser, "runs/amp", nam=True)
    parser.add_argument(
        "inputs",
        metavar="IN",
        nargs="+",
        help="an audio file or a folder of them; each channel is processed separately",
    )
    parser.add_argument("output", metavar="OUT", help="the file to write, whose suffix sets the format; or a folder")
    add_effect_options(parser)
    parser.add_argument("--resample", action="store_true", help="resample IN to the sample rate of the model")
    parser.add_argument(
        "--subtype", help="sample format, e.g. PCM_24 or FLOAT (default: that of IN if OUT supports it)"
    )
    add_device_option(parser)


def run(arguments: argparse.Namespace) -> int:
    from wavedil.audio.effects.process import process_file, process_files
    from wavedil.audio.models.effect_model import EffectModel, parse_knobs
    from wavedil.outputs import check_outputs
    from wavedil.weights import load

    inputs, output = arguments.inputs, arguments.output
    if output == "-":
        raise WavedilError(f"OUT is {output!r}: expected a file or a folder")
    several = len(inputs) > 1 or os.path.isdir(inputs[0])
    if not several:
        is_folder = os.path.isdir(output) or output.endswith(("/", os.sep)) or not Path(output).suffix
        output = str(Path(output, Path(inputs[0]).name)) if is_folder else output
        check_outputs([output], [*inputs, arguments.model])
    model = load(arguments.model, arguments.device, expect=EffectModel)
    if arguments.quality is not None:
        model = model.at_quality(arguments.quality)
    knobs = parse_knobs(arguments.knob, "--knob ")
    with Bar("processing", model.sample_rate) as bar:
        options = {"resample": arguments.resample, "subtype": arguments.subtype, "progress": bar.update}
        if several:
            result = process_files(model, inputs, output, knobs, inputs=[arguments.model], **options)
        else:
            result = process_file(model, inputs[0], output, knobs, **options)
    print(json.dumps(result, indent=2))
    return 2 if several and any("error" in each for each in result) else 0
