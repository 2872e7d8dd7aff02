"""``wavedil search``."""

import argparse
import json
import sys

from wavedil.cli.options import add_rate_option, keep_recipe_keys, print_result
from wavedil.errors import WavedilError

EXAMPLES = (
    "wavedil search --field 2048 --multiply-adds 5000 --rate 44100",
    "wavedil search -c amp --data.root klon.csv --steps 300 --candidates 8",
    'wavedil search -c jsb --data.root JSB_Chorales.mat --steps 300 --schedule "1,2,4:2" --parameters 50000 200000',
)
_UNITS = ("multiply_adds", "parameters", "nanoseconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Builds schedules of several kinds, each with as many channels as the budget allows, and ranks them by a "
        "proxy: how evenly the receptive field is used, times the number of hidden units. With -c RECIPE, costs are "
        "computed for the network of the recipe, and --steps compares the best candidates in short training runs. To "
        "continue after Ctrl-C, repeat the command. All other options are keys of the recipe, as in wavedil train."
    )
    parser.add_argument(
        "-c",
        "--config",
        action="append",
        metavar="RECIPE",
        help="use the network, data and training settings of this recipe",
    )
    parser.add_argument(
        "--field", type=int, metavar="N", help="minimum receptive field in samples (default: that of the recipe)"
    )
    budgets = parser.add_mutually_exclusive_group()
    for unit, text in zip(
        _UNITS,
        (
            "maximum multiply-adds per output sample (default: those of the recipe); several: a Pareto front",
            "or maximum number of parameters",
            "or maximum time per output sample in nanoseconds, measured in PyTorch on this machine",
        ),
        strict=True,
    ):
        budgets.add_argument(f"--{unit.replace('_', '-')}", type=float, nargs="+", metavar="X", help=text)
    parser.add_argument("--kernel-sizes", type=int, nargs="+", metavar="K", help="kernel sizes to try (default 2 3 6)")
    parser.add_argument(
        "--schedule",
        action="append",
        default=[],
        metavar="SCHEDULE[:K]",
        help="an additional candidate, with kernel size K or with all of them; can be repeated",
    )
    parser.add_argument("--ndim", type=int, help="number of space axes, 1 to 3; only without -c (default 1)")
    parser.add_argument("--steps", type=int, metavar="N", help="with -c: train the best candidates for N steps each")
    parser.add_argument(
        "--candidates", type=int, metavar="N", help="number of training runs for each budget (default 8)"
    )
    parser.add_argument("--out", metavar="FOLDER", help="folder for the training runs (default runs/search-RECIPE)")
    add_rate_option(parser, "to print receptive fields in ms")
    parser.add_argument(
        "--plot", metavar="FILE", help="plot error (or proxy) against cost to a .png, .svg or .pdf file"
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.set_defaults(overrides=[])


take_unknown = keep_recipe_keys


def run(arguments: argparse.Namespace) -> None:
    from wavedil.inspection.candidates import rank_schedules
    from wavedil.inspection.frontier import plot_frontier, render_frontier
    from wavedil.outputs import claim_files
    from wavedil.progress import Bar

    given = {unit: getattr(arguments, unit) for unit in _UNITS if getattr(arguments, unit)}
    unit, budgets = next(iter(given.items()), (_UNITS[0], []))
    options = {"kernel_sizes": arguments.kernel_sizes} if arguments.kernel_sizes else {}
    if arguments.plot:
        from wavedil.figures import check_figure_path

        check_figure_path(arguments.plot)
    with claim_files([arguments.plot], arguments.config or []):
        if arguments.config is None:
            for name in ("steps", "candidates", "out"):
                if getattr(arguments, name) is not None:
                    raise WavedilError(f"--{name} is for training runs: name the recipe with -c, or leave it out")
            if arguments.field is None or not budgets:
                missing = "--field" if arguments.field is None else "--multiply-adds, --parameters or --nanoseconds"
                raise WavedilError(f"{missing} is missing: set it, or name a recipe with -c")
            with Bar("candidates") as bar:
                found = rank_schedules(
                    arguments.field,
                    budgets,
                    unit,
                    ndim=arguments.ndim or 1,
                    schedules=arguments.schedule,
                    progress=bar.update,
                    **options,
                )
            result = {"field": arguments.field, "unit": unit, "candidates": [vars(each) for each in found]}
        else:
            from wavedil.train.search import search_schedules

            if arguments.ndim not in (None, 1):
                raise WavedilError(f"--ndim is {arguments.ndim}: recipes are searched along time only, leave it out")
            for name in ("steps", "candidates"):
                if getattr(arguments, name) is not None:
                    options[name] = getattr(arguments, name)
            with Bar("candidates") as bar:
                result = search_schedules(
                    arguments.config,
                    arguments.out,
                    field=arguments.field,
                    budgets=budgets,
                    unit=unit,
                    schedules=arguments.schedule,
                    overrides=arguments.overrides,
                    progress=bar.update,
                    **options,
                )
        if arguments.plot:
            plot_frontier(result, arguments.plot)
            print(f"wrote {arguments.plot}", file=sys.stderr)
    print_result(json.dumps(result, indent=2) if arguments.json else render_frontier(result, arguments.rate))
