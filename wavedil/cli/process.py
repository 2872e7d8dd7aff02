"""``wavedil process``."""

import argparse
import json

from wavedil.cli.options import add_device_option, add_effect_options, add_model_argument
from wavedil.progress import Bar

EXAMPLES = (
    "wavedil process runs/amp guitar.wav driven.wav --knob drive=0.7",
    "wavedil process runs/amp di.flac out.flac --resample --subtype PCM_24",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_argument(parser, "runs/amp")
    parser.add_argument("input", metavar="IN", help="an audio file of any length; each channel is processed separately")
    parser.add_argument("output", metavar="OUT", help="the file to write; its suffix decides the format")
    add_effect_options(parser)
    parser.add_argument("--resample", action="store_true", help="convert IN to the model's sample rate")
    parser.add_argument("--subtype", help="sample format, e.g. PCM_24 or FLOAT (default: 16 bit if the format has it)")
    add_device_option(parser)


def run(arguments: argparse.Namespace) -> None:
    from wavedil.audio.effects.process import process_file
    from wavedil.audio.models.effect_model import EffectModel, parse_knobs
    from wavedil.outputs import check_outputs
    from wavedil.weights import load

    check_outputs([arguments.output], [arguments.input, arguments.model])
    model = load(arguments.model, arguments.device, expect=EffectModel)
    if arguments.quality is not None:
        model = model.at_quality(arguments.quality)
    with Bar("processing", model.sample_rate) as bar:
        result = process_file(
            model,
            arguments.input,
            arguments.output,
            parse_knobs(arguments.knob, "--knob "),
            resample=arguments.resample,
            subtype=arguments.subtype,
            progress=bar.update,
        )
    print(json.dumps(result, indent=2))
