"""``wavedil export``."""

import argparse
import shlex
import sys
from pathlib import Path

from wavedil.cli.options import add_model_argument
from wavedil.progress import say

EXAMPLES = (
    "wavedil export runs/nam amp.nam --metadata name=Klon --metadata gear_type=pedal",
    "wavedil export runs/speech speech.onnx --streaming",
    "wavedil export runs/amp amp.c",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_argument(parser, "runs/nam", nam=True)
    parser.add_argument("file", metavar="FILE", help="the .nam, .onnx or .c file to write, or hf://OWNER/NAME")
    parser.add_argument(
        "--streaming", action="store_true", help=".onnx: export a single step, with the state as input and output"
    )
    parser.add_argument(
        "--knob",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="with --streaming: knob setting of the initial state (default: the middle of its range)",
    )
    parser.add_argument(
        "--quality", type=float, metavar="Q", help=".c: for models with several networks, from 0 (fastest) to 1 (best)"
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
    options |= {"knobs": knobs, "quality": arguments.quality, "inputs": [arguments.model]}
    print(write_model(model, arguments.file, **options))
    if arguments.streaming:
        from wavedil.interop.onnx import example_code

        print(Path(arguments.file).with_suffix(".start.npz"))
        print(example_code(model, arguments.file, knobs))
    if arguments.file.lower().endswith(".c"):
        print(Path(arguments.file).with_suffix(".h"))
        print(f"compile with: cc -O3 -march=native -c {shlex.quote(arguments.file)}")
