"""The shell's commands for models of dense prediction. As in cli.py, heavy imports are inside the functions."""

from __future__ import annotations

import argparse
import json
from typing import Any

from wavedil.errors import WavedilError
from wavedil.progress import Bar

PREDICTION = ("tile", "scales", "flip", "crf")
LAYOUT = ("images", "masks", "image_ending", "mask_ending")


def segment(arguments: argparse.Namespace, _: list[str]) -> None:
    from wavedil.vision import Regressor, commands
    from wavedil.vision.models.predictor import load_predictor

    model = load_predictor(arguments.model, arguments.device)
    bar = Bar("labeling", 0, "image")
    options = _given(arguments, PREDICTION)
    write = commands.map_values if isinstance(model, Regressor) else commands.segment
    result = write(model, arguments.images, arguments.out, progress=bar.of, **options)
    bar.close()
    print(json.dumps(result, indent=2))


def evaluate(model: Any, arguments: argparse.Namespace) -> tuple[Any, str]:
    """The result, and how a terminal shows it."""
    from wavedil.vision import commands

    if arguments.exclude:
        raise WavedilError(f"--exclude is not for a {type(model).__name__}: take the images out of the folder")
    bar = Bar("evaluating", 0, "image")
    options = _given(arguments, (*PREDICTION, *LAYOUT, "scaled", "validation", "held_out"))
    result = commands.evaluate_folder(model, arguments.data, progress=bar.of, **options)
    bar.close()
    return result, commands.render_evaluation(result)


def refuse_options(arguments: argparse.Namespace, model: str) -> None:
    """For a model of sound: what the functions below add is not for it."""
    given = _given(arguments, (*PREDICTION, *LAYOUT, "scaled"))
    if given:
        raise WavedilError(f"--{min(given).replace('_', '-')} is for images, not for a {model}: leave it out")


def add_segment_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model folder, e.g. runs/tiny/model")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="an image, or a folder of them")
    parser.add_argument("--out", default="labeled", help="folder for the files (default labeled)")
    _add_prediction_options(parser)
    parser.add_argument("--device", default="cpu", help="cpu, cuda … (default cpu)")


def add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    _add_prediction_options(parser)
    for name, what in zip(
        LAYOUT,
        (
            "their folder in DATA (default images)",
            "the masks' folder in DATA (default masks; targets for a model of values)",
            "how their stems end, beside the masks' name",
            "how the masks' stems end, beside the images' name",
        ),
        strict=True,
    ):
        parser.add_argument(
            f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, metavar="NAME", help=f"images: {what}"
        )
    parser.add_argument(
        "--scaled",
        action="store_true",
        default=argparse.SUPPRESS,
        help="images: compare at the size the model works at, not at the masks' own",
    )


def _add_prediction_options(parser: argparse.ArgumentParser) -> None:
    """These are in the namespace only where they were given, so that the defaults are the Python functions' own."""
    absent = {"default": argparse.SUPPRESS}
    parser.add_argument("--tile", type=int, **absent, help="images: label in tiles of this many pixels a side")
    parser.add_argument(
        "--scales", type=float, nargs="+", **absent, help="images: average over these sizes, e.g. 0.75 1 1.25"
    )
    parser.add_argument("--flip", action="store_true", **absent, help="images: average with the mirror image")
    parser.add_argument("--crf", action="store_true", **absent, help="images: refine by a dense CRF")
    parser.add_argument(
        "--crf-preset", dest="crf", **absent, metavar="NAME", help="images: by one with other published parameters"
    )


def _given(arguments: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}
