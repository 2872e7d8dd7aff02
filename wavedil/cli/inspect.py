"""``wavedil inspect``. A class may have ``inspection()``, which returns the functions that measure and print it."""

import argparse
import json
import os
import re
import sys
from pathlib import Path

from wavedil.cli.options import add_rate_option, find_model
from wavedil.errors import WavedilError, one_of, similar

EXAMPLES = (
    'wavedil inspect "1..512 x3" --rate 16000',
    "wavedil inspect 1,2,5 --ndim 2 --plot schedule.png",
    "wavedil inspect torchvision:resnet50 --plot field.png",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subject",
        metavar="SCHEDULE|MODEL|NETWORK",
        type=find_model,
        help='a dilation schedule, e.g. "1..512 x3" or "1,2,5 x4"; a model folder, run folder, .nam file or the name '
        "of a packaged model; or an image classifier: timm:NAME, torchvision:NAME or MODULE:FUNCTION",
    )
    parser.add_argument("--ndim", type=int, default=1, help="number of space axes, 1 to 3 (default 1)")
    parser.add_argument(
        "--kernel-size", type=int, help="kernel size along each axis (default 2 if --ndim is 1, else 3)"
    )
    parser.add_argument(
        "--channels", type=int, default=64, help="channels of each layer, to compute parameters and cost (default 64)"
    )
    add_rate_option(parser, "to print the receptive field in ms")
    parser.add_argument("--plot", metavar="FILE", help="plot the receptive field to a .png, .svg or .pdf file")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def take_unknown(arguments: argparse.Namespace, words: list[str]) -> list[str]:
    """Refuses a schedule in several arguments, ``inspect 2 4 8``, with the form that is expected."""
    from wavedil.core.schedule import parse_schedule

    parts = [arguments.subject, *words]
    schedule = " ".join(parts)
    if all(part.strip(",").isdigit() for part in parts):
        schedule = ",".join(part.strip(",") for part in parts)
    try:
        parse_schedule(schedule)
    except WavedilError:
        return words
    schedule = f'"{schedule}"' if " " in schedule else schedule
    raise WavedilError(f"SCHEDULE is in {len(parts)} arguments, {' '.join(parts)}: write wavedil inspect {schedule}")


def run(arguments: argparse.Namespace) -> None:
    from wavedil.inspection.schedule import inspect_schedule
    from wavedil.inspection.text import render_text
    from wavedil.progress import Bar

    render, title, model, measure = render_text, "", None, None
    if re.fullmatch(r"[A-Za-z_][\w.]*:[\w.]+", arguments.subject):
        from wavedil.vision import networks

        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        model, title = networks.build_network(arguments.subject), arguments.subject
        info, render, measure = networks.inspect_network(model), networks.render_network, networks.measure_network
    elif arguments.subject and (Path(arguments.subject).exists() or re.search(r"/|\.nam$", arguments.subject, re.I)):
        from wavedil.inspection.model import inspect_model, render_model
        from wavedil.weights import load

        model = load(arguments.subject)
        inspect, render = model.inspection() if hasattr(model, "inspection") else (inspect_model, render_model)
        info, title = inspect(model), f"{type(model).__name__} {arguments.subject}"
    else:
        from wavedil.packaged import packaged_names

        subject, names = arguments.subject, packaged_names()
        if similar(subject, names) or not any(char.isdigit() or char == "(" for char in subject):
            expected = f'a schedule, e.g. "1..512 x3", a model folder or .nam file, or {one_of(subject, names)}'
            raise WavedilError(f"SCHEDULE|MODEL is {subject!r}: expected {expected}")
        info = inspect_schedule(subject, arguments.ndim, arguments.kernel_size, arguments.channels, arguments.rate)
    if arguments.plot:
        from wavedil.figures import check_figure_path
        from wavedil.inspection.plot import plot
        from wavedil.outputs import claim_file

        with claim_file(arguments.plot, [arguments.subject]):
            check_figure_path(arguments.plot)
            if model is not None and measure is None:
                from wavedil.inspection.model import measure_model

                measure = measure_model
            with Bar("receptive field") as bar:
                field = None if measure is None else measure(model, bar.update)
            if field is None and "growth" not in info:
                raise WavedilError(f"{arguments.subject} has no schedule and no measured field: nothing to draw")
            plot(info, arguments.plot, field, title)
        print(f"wrote {arguments.plot}", file=sys.stderr)
    print(json.dumps(info, indent=2) if arguments.json else render(info))
