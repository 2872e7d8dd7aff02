"""``wavedil bench``."""

import argparse
import json
from contextlib import nullcontext
from importlib import import_module

from wavedil.cli.options import add_device_option
from wavedil.errors import WavedilError

#: Modules of trials, which have options of their own and no measurements.
TRIALS = {"fuzz": "wavedil.bench.fuzz", "kills": "wavedil.bench.kills"}
NAMES = ("codes", "conv", "crf", "data", "dense", "memory", "numerics", "sample", "segment", "tiles", "train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join((*NAMES, *TRIALS))}")
    parser.add_argument(
        "data", metavar="DATA", nargs="*", help="data: folders of sound files, packed folders or URLs to read"
    )
    parser.add_argument("--json", metavar="FILE", help="write the result to this file")
    add_device_option(parser)
    parser.add_argument("--long", action="store_true", help="memory: the long version, about half an hour")
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: torch's)")


def add_model_arguments(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Adds the options of a trial that the command line names."""
    name = next((word for word in words if word in TRIALS), None)
    if name is not None:
        import_module(TRIALS[name]).add_options(parser)


def run(arguments: argparse.Namespace) -> int | None:
    if arguments.name in TRIALS:
        for option in ("json", "long", "threads", "data"):
            if getattr(arguments, option):
                raise WavedilError(f"{option} is not an option of {arguments.name}: leave it out")
        return import_module(TRIALS[arguments.name]).run(arguments)
    from wavedil.bench import render, run_benchmark
    from wavedil.files import atomic_write
    from wavedil.outputs import claim_file

    with claim_file(arguments.json) if arguments.json else nullcontext():
        options = {"device": arguments.device, "threads": arguments.threads, "long": arguments.long}
        options["data"] = arguments.data
        result = run_benchmark(arguments.name, **options)
        if arguments.json:
            with atomic_write(arguments.json) as beside:
                beside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(render(result))
    return None
