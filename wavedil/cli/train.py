"""``wavedil train``."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Every key of the recipe is an option: --data.root DIR, --trainer.max_time 00:00:15:00, "
        "--model.network.channels 32 ... Ctrl-C, SIGTERM and SIGHUP save the model and a checkpoint."
    )
    parser.add_argument(
        "-c",
        "--config",
        metavar="RECIPE",
        help="a YAML file, or a built-in recipe: pluck (default), speech, amp, tiny, ...; recipes/README.md lists all",
    )
    parser.add_argument("--out", metavar="RUN", help="run folder (default: a new one in runs/)")
    parser.add_argument("--resume", metavar="auto", help="continue the run in --out, or the newest run of this recipe")
    parser.set_defaults(overrides=[])


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
