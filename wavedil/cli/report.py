"""``wavedil report``."""

import argparse
from pathlib import Path

EXAMPLES = (
    "wavedil report runs/pluck",
    "wavedil report runs/tiny runs/tiny-2 --out comparison.html",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", metavar="RUN", nargs="+", help="run folder; several runs are compared")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="the HTML file to write (default RUN/report.html, or comparison.html for several runs)",
    )


def run(arguments: argparse.Namespace) -> None:
    from wavedil.report import write_report
    from wavedil.report.run import is_training

    running = len(arguments.folders) == 1 and is_training(Path(arguments.folders[0]))
    print(write_report(*arguments.folders, out=arguments.out, running=running))
