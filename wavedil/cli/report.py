"""``wavedil report``."""

import argparse

EXAMPLES = (
    "wavedil report runs/pluck",
    "wavedil report runs/tiny-2",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", help="run folder, as printed by wavedil train")


def run(arguments: argparse.Namespace) -> None:
    from wavedil.report import write_report

    print(write_report(arguments.folder))
