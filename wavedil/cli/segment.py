"""``wavedil segment``. A model's class names the Python function that writes its predictions: ``prediction()``.

The function is ``f(model, images, out, *, progress=None, **options)``; its keyword-only arguments are options of the
shell, and its result is a dictionary for JSON.
"""

import argparse
import json

from wavedil.cli import options
from wavedil.cli.model_function import ModelFunction
from wavedil.progress import Bar

_PREDICTION = ModelFunction("prediction", "does not label images")


EXAMPLES = (
    "wavedil segment runs/tiny photos/ --out labeled",
    "wavedil segment runs/joint street.jpg --crf --tile 512",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "The other options depend on the model: wavedil segment MODEL --help"
    options.add_model_argument(parser, "runs/tiny")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="an image, or a folder of images")
    parser.add_argument("--out", default="labeled", help="output folder (default labeled)")
    options.add_device_option(parser)


add_model_arguments = _PREDICTION.add_options
take_unknown = _PREDICTION.refuse_unknown


def run(arguments: argparse.Namespace) -> None:
    from wavedil.weights import load

    options.check_writable(arguments.out, "--out", arguments.model)
    model = load(arguments.model, arguments.device)
    with Bar("labeling") as bar:
        result = _PREDICTION(model, arguments, arguments.images, arguments.out, progress=bar.update)
    options.print_result(json.dumps(result, indent=2))
