"""The shell's commands for weights in and out. As in cli.py, heavy imports are inside the functions."""

from __future__ import annotations

import argparse
from pathlib import Path

from wavedil.errors import WavedilError

_SCHEME = "hf://"


def add_convert_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a .nam file, a checkpoint, or hf://OWNER/NAME")
    parser.add_argument("folder", metavar="DST", help="model folder to write")
    parser.add_argument("--format", help="of SRC, where it is not to be found out: nam, wavenet-vocoder …")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what the tensors do not tell, e.g. stacks=2 legacy=false; may be given several times",
    )
    parser.add_argument("--prefix", default="", help="which part of a larger model, e.g. enc_q.enc")


def add_export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model folder")
    parser.add_argument("file", metavar="FILE", help="a .nam or .onnx file to write, or hf://OWNER/NAME")
    parser.add_argument("--streaming", action="store_true", help=".onnx: the step, with its state in and out")
    parser.add_argument("--nam-version", default="0.7.0", help=".nam: 0.7.0 (default), or 0.5.4 for older programs")


def convert(arguments: argparse.Namespace, _: list[str]) -> None:
    from wavedil.weights import save

    if arguments.source.startswith(_SCHEME):
        from wavedil.interop.hub import download

        model, name = download(arguments.source.removeprefix(_SCHEME)), "the hub"
    else:
        from wavedil.interop.formats import convert as read
        from wavedil.interop.formats import parse_options

        options = parse_options(arguments.set)
        model, name = read(arguments.source, arguments.format, options, arguments.prefix)
    folder = save(model, arguments.folder)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{folder}: a {type(model).__name__} of {count} parameters, from {name}")


def export(arguments: argparse.Namespace, _: list[str]) -> None:
    from wavedil.weights import load

    target, suffix = arguments.file, Path(arguments.file).suffix.lower()
    hub = target.startswith(_SCHEME)
    if not hub and suffix not in (".nam", ".onnx"):
        raise WavedilError(f"FILE is {target}: expected a name that ends in .nam or .onnx, or hf://OWNER/NAME")
    if arguments.streaming and suffix != ".onnx":
        raise WavedilError(f"--streaming is for .onnx files, FILE is {target}: leave it out")
    model = load(arguments.model)
    if hub:
        from wavedil.interop.hub import upload

        target = upload(model, target.removeprefix(_SCHEME))
    elif suffix == ".nam":
        from wavedil.interop.nam import write_nam

        write_nam(model, target, arguments.nam_version)
    else:
        from wavedil.interop.onnx import export_onnx

        export_onnx(model, target, arguments.streaming)
    print(target)
