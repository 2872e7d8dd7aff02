"""``wavedil doctor``."""

import argparse
import json

from wavedil.progress import Bar

EXAMPLES = (
    "wavedil doctor",
    "wavedil doctor --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "The exit status is 1 if a check fails."
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Returns 1 if something is wrong."""
    from wavedil.doctor import examine

    with Bar("examining") as bar:
        result = examine(bar.update)
    print(json.dumps(result.json(), indent=2) if arguments.json else result)
    return int(not result.is_well)
