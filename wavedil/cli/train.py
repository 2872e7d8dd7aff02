"""``wavedil train``."""

import argparse
import textwrap
from collections.abc import Sequence

from wavedil.recipe_files import known_recipes, recipe_summary

EXAMPLES = (
    "wavedil train -c speech --data.root recordings/ --trainer.max_time 1h",
    "wavedil train -c speech -c mine.yaml --out runs/mine",
    "wavedil train --out runs/mine --resume auto",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    known = known_recipes()
    width = max(map(len, known), default=0) + 1
    recipes = "\n".join(f"  {name:<{width}}{recipe_summary(path)}" for name, path in known.items())
    parser.epilog = f"recipes:\n{recipes}\n\n" + textwrap.fill(
        "Every key of the recipe is an option: --data.root DIR, --trainer.max_time 00:00:15:00, "
        "--model.network.channels 32 ... Ctrl-C, SIGTERM and SIGHUP save the model and a checkpoint. "
        "wavedil train -c NAME --help lists the keys of a recipe, --print_config prints it with all keys.",
        98,
    )
    parser.add_argument(
        "-c",
        "--config",
        action="append",
        metavar="RECIPE",
        help="a recipe from the list below, or a YAML file (default pluck). Can be repeated: later ones override keys "
        "of earlier ones, and the last one names the run",
    )
    parser.add_argument("--out", metavar="RUN", help="run folder (default: a new one in runs/)")
    parser.add_argument("--resume", metavar="auto", help="continue the run in --out, or the latest run of this recipe")
    parser.set_defaults(overrides=[])


def add_model_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Adds the keys of the recipes that ``words`` name to the help."""
    if not {"-h", "--help"} & set(words):
        return
    named = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    named.add_argument("-c", "--config", action="append")
    names = named.parse_known_args([word for word in words if word not in ("-h", "--help")])[0].config
    if names:
        from wavedil.train.recipe_help import add_help
        from wavedil.train.recipes import find_recipes, module_class, read_recipes

        paths = find_recipes(names)
        parser.epilog, parser.usage = None, "wavedil train -c RECIPE [--out RUN] [--resume auto] [--KEY VALUE ...]"
        add_help(parser, read_recipes(paths)[0], module_class(paths))


def take_unknown(arguments: argparse.Namespace, words: list[str]) -> None:
    """Keeps the recipe's keys for LightningCLI, which checks them."""
    arguments.overrides = words


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 if the training is finished, 130 after Ctrl-C, and 128 + its number after another signal."""
    from wavedil.train.recipes import check_given_once
    from wavedil.train.run import run_recipe

    check_given_once(arguments.overrides)
    _, status = run_recipe(arguments.config, arguments.out, arguments.resume, arguments.overrides, arguments.imports)
    return status
