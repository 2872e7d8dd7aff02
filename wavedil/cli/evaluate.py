"""``wavedil evaluate``. A model's class names the Python function that evaluates it: ``evaluation()``.

The function is ``f(model, data, *, progress=None, **options)``; its keyword-only arguments are command-line options,
and its result is a dataclass whose ``str`` is printed.
"""

import argparse
import json

from wavedil.cli import options
from wavedil.cli.model_function import ModelFunction
from wavedil.progress import Bar

_EVALUATION = ModelFunction("evaluation", "has no evaluation")


EXAMPLES = (
    "wavedil evaluate runs/speech recordings/ --held-out",
    "wavedil evaluate runs/tiny street/val --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "The other options depend on the model: wavedil evaluate MODEL --help"
    options.add_model_argument(parser, nam=True)
    parser.add_argument(
        "data",
        metavar="DATA",
        help="an audio file or a folder of them; for an effect a table or folder of recordings; for images a folder of "
        "images and masks; for piano rolls a .mat file",
    )
    options.add_device_option(parser)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


add_model_arguments = _EVALUATION.add_options
take_unknown = _EVALUATION.refuse_unknown


def run(arguments: argparse.Namespace) -> None:
    from wavedil.weights import load

    model = load(arguments.model, arguments.device)
    with Bar("evaluating") as bar:
        result = _EVALUATION(model, arguments, arguments.data, progress=bar.update)
    options.print_result(json.dumps(vars(result), indent=2) if arguments.json else str(result))
