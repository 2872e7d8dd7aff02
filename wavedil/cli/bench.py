"""``wavedil bench``."""

import argparse
import json
from contextlib import nullcontext
from importlib import import_module

from wavedil.cli.options import add_device_option
from wavedil.errors import WavedilError, one_of

#: One line for each benchmark; the names are those of :data:`wavedil.bench.BENCHMARKS`.
NAMES = {
    "codes": "generated codes of the compiled loops and of the definition, for each head and conditioning",
    "conv": "speed of dilated convolutions, forward and backward, in 1-D and 2-D",
    "crf": "speed of the dense CRF, and of pydensecrf2",
    "data": "reading of crops of sound, beside what training takes; takes folders as DATA",
    "dense": "exactness of classifiers made dense, of wavedil and other packages",
    "effects": "speed of live effects by block size: compiled, PyTorch and neural-amp-modeler",
    "memory": "whether memory stays flat in long streams, effects, loading and training",
    "numerics": "convolutions that torch or wavedil computes wrongly on this machine",
    "sample": "speed of sampling: engines of wavedil and other packages, one stream and many",
    "segment": "speed of the prediction of images",
    "tiles": "predictions in tiles and in one piece: difference, speed and memory",
    "train": "speed and memory of training steps",
}

#: Modules of trials, which have options of their own and print their results.
TRIALS = {name: f"wavedil.bench.{name}" for name in ("fuzz", "inpaint", "kills", "trainers")}
_TRIAL_LINES = {
    "fuzz": "random changes of inputs, each of which must be an error in one line",
    "inpaint": "gaps in held-out recordings, filled by a model and by linear prediction alone",
    "kills": "kills trainings, and compares the resumed ones with an uninterrupted one",
    "trainers": "error of an amplifier model after equal CPU time, trained by wavedil and by neural-amp-modeler",
}

EXAMPLES = (
    "wavedil bench sample --json sample.json",
    "wavedil bench data recordings/ packed/",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the benchmark, from the list below")
    parser.epilog = "benchmarks:\n" + "\n".join(f"  {name:<10}{text}" for name, text in (NAMES | _TRIAL_LINES).items())
    parser.add_argument(
        "data", metavar="DATA", nargs="*", help="data: folders of sound files, packed folders or URLs to read"
    )
    parser.add_argument("--json", metavar="FILE", help="write the result to this file")
    add_device_option(parser)
    parser.add_argument("--long", action="store_true", help="memory: a longer measurement, about half an hour")
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: torch's)")


def add_model_arguments(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Adds the options of a trial that the command line names."""
    name = next((word for word in words if word in TRIALS), None)
    if name is not None:
        import_module(TRIALS[name]).add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    from wavedil.bench.runner import describe, render
    from wavedil.outputs import claim_file
    from wavedil.writing import atomic_write

    if arguments.name not in NAMES | TRIALS:
        raise WavedilError(
            f"benchmark {arguments.name!r} is unknown: expected {one_of(arguments.name, NAMES | TRIALS)}"
        )
    is_trial = arguments.name in TRIALS
    for option in ("long", "threads", "data") if is_trial else ():
        if getattr(arguments, option):
            raise WavedilError(f"{option} is not an option of {arguments.name}: leave it out")
    with claim_file(arguments.json) if arguments.json else nullcontext():
        if is_trial:
            rows = import_module(TRIALS[arguments.name]).run(arguments)
            result = describe(arguments.name, "cpu") | {"rows": rows}
        else:
            from wavedil.bench import run_benchmark

            options = {"device": arguments.device, "threads": arguments.threads, "long": arguments.long}
            result = run_benchmark(arguments.name, **options, data=arguments.data)
        if arguments.json:
            with atomic_write(arguments.json) as beside:
                beside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if not is_trial:  # trials print while they run
        print(render(result))
    return int(any(row["unit"] == "faults" and row["median"] for row in result["rows"]))
