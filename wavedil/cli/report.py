"""``wavedil report``."""

import argparse
from pathlib import Path

EXAMPLES = (
    "wavedil report runs/pluck",
    "wavedil report runs/tiny-2",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", metavar="RUN", nargs="+", help="run folder, as printed by wavedil train; several are compared"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="the page (default RUN/report.html; comparison.html if there are several runs)"
    )


def run(arguments: argparse.Namespace) -> None:
    from wavedil.report import write_report
    from wavedil.report.run import is_training

    running = len(arguments.folders) == 1 and is_training(Path(arguments.folders[0]))
    print(write_report(*arguments.folders, out=arguments.out, running=running))
