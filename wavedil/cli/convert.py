"""``wavedil convert``."""

import argparse

from wavedil.cli.options import find_model
from wavedil.errors import with_article

EXAMPLES = (
    "wavedil convert amp.nam models/amp",
    "wavedil convert proteus.json models/proteus --set sample_rate=48000",
    "wavedil convert vits.pth models/encoder --format vits-wn --prefix enc_q.enc",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = (
        "a .nam file, a .json file of RTNeural, AIDA-X or Proteus, a checkpoint, hf://OWNER/NAME, a model folder or "
        "run folder, or the name of a packaged model"
    )
    parser.add_argument("source", metavar="SRC", type=find_model, help=text)
    parser.add_argument("folder", metavar="DST", help="model folder to write")
    parser.add_argument("--format", help="format of SRC if it cannot be detected: nam, wavenet-vocoder, ...")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting that the checkpoint does not contain, e.g. stacks=2 or legacy=false; can be repeated",
    )
    parser.add_argument("--half", action="store_true", help="store the weights as float16")
    parser.add_argument("--prefix", default="", help="convert only the tensors with this prefix, e.g. enc_q.enc")


def run(arguments: argparse.Namespace) -> None:
    from wavedil.core.cost import count_parameters
    from wavedil.interop.files import read_model
    from wavedil.interop.formats import parse_options
    from wavedil.outputs import check_folder_name, claim_file
    from wavedil.weights import save

    check_folder_name("DST", arguments.folder)
    model, format = read_model(arguments.source, arguments.format, parse_options(arguments.set), arguments.prefix)
    with claim_file(arguments.folder, [arguments.source], is_folder=True):
        folder = save(model, arguments.folder, half=arguments.half)
    print(f"{folder}: {with_article(model)} of {count_parameters(model)} parameters, from {format}")
