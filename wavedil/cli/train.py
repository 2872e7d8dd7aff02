"""``wavedil train``."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Every key of the recipe is an option: --data.root DIR, --trainer.max_time 00:00:15:00, "
        "--model.network.channels 32 ... Ctrl-C saves the model and a checkpoint."
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


def run(arguments: argparse.Namespace) -> None:
    from wavedil.train.run import train

    train(arguments.config, arguments.out, arguments.resume, arguments.overrides)
