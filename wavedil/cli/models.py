"""``wavedil models``."""

import argparse
import json

EXAMPLES = ("wavedil models", "wavedil sample pluck --seconds 4 --out clips")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Other commands accept these names as MODEL, unless a folder has the same name."
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(arguments: argparse.Namespace) -> None:
    from wavedil.packaged import packaged_models

    models = packaged_models()
    if arguments.json:
        print(json.dumps({"models": [vars(model) for model in models]}, indent=2))
        return
    for model in models:
        rate = "" if model.sample_rate is None else f", {model.sample_rate} Hz"
        print(f"{model.name:<10} {model.task}{rate}")
        print(f"{'':<10} {model.parameters:,} parameters, {model.bytes / 1e6:.2f} MB; {model.figures}")
