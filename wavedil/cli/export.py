"""``wavedil export``."""

import argparse
import sys
from pathlib import Path

from wavedil.cli.options import add_model_argument
from wavedil.progress import say

EXAMPLES = (
    "wavedil export runs/nam amp.nam --metadata name=Klon --metadata gear_type=pedal",
    "wavedil export runs/speech speech.onnx --streaming",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_argument(parser, "runs/nam")
    parser.add_argument("file", metavar="FILE", help="a .nam or .onnx file to write, or hf://OWNER/NAME")
    parser.add_argument("--streaming", action="store_true", help=".onnx: one step, with its state in and out")
    parser.add_argument(
        "--knob",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="--streaming: a setting that the start state is for (default: the middle of its range)",
    )
    parser.add_argument("--nam-version", default="0.7.0", help=".nam: 0.7.0 (default), or 0.5.4 for older programs")
    parser.add_argument(
        "--metadata",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=".nam: name, modeled_by, gear_type, gear_make, gear_model, tone_type, input_level_dbu, output_level_dbu",
    )


def run(arguments: argparse.Namespace) -> None:
    from wavedil.audio.models.effect_model import parse_knobs
    from wavedil.interop.files import check_target, write_model
    from wavedil.interop.nam.metadata import parse_metadata
    from wavedil.weights import load

    if sys.stderr.isatty():
        say(f"exporting to {arguments.file}; ONNX files are also compared with the model")
    check_target(arguments.file, arguments.streaming)
    metadata = parse_metadata(arguments.metadata)
    model = load(arguments.model)
    options = {"streaming": arguments.streaming, "nam_version": arguments.nam_version, "metadata": metadata}
    knobs = parse_knobs(arguments.knob, "--knob ")
    print(write_model(model, arguments.file, **options, knobs=knobs, inputs=[arguments.model]))
    if arguments.streaming:
        from wavedil.interop.onnx import example_code

        print(Path(arguments.file).with_suffix(".start.npz"))
        print(example_code(model, arguments.file, knobs))
