"""``wavedil bench``."""

import argparse
import json
from contextlib import nullcontext
from importlib import import_module

from wavedil.cli.options import add_device_option
from wavedil.errors import WavedilError, one_of

#: One line for each benchmark; the names are those of :data:`wavedil.bench.BENCHMARKS`.
NAMES = {
    "codes": "whether the numba engine draws the same codes as the reference, for each head and conditioning",
    "conv": "speed of dilated convolutions, forward and backward, in 1-D and 2-D",
    "crf": "speed of the dense CRF, compared with pydensecrf2",
    "data": "speed of reading crops of audio, compared with the speed of training; DATA: folders to read",
    "dense": "accuracy of features at smaller output strides: to_dense and options of other packages",
    "effects": "speed of live effects by block size: compiled C, PyTorch and neural-amp-modeler",
    "memory": "whether memory stays constant in long streams, effects, loading and training",
    "numerics": "convolutions for which torch or wavedil returns wrong results on this machine",
    "sample": "speed of sampling, with one stream and with many: wavedil's engines and other packages",
    "segment": "speed of segmentation networks: wavedil, torchvision and segmentation_models.pytorch",
    "tiles": "prediction with and without tiles: difference, speed and memory",
    "train": "speed and memory of training steps",
}

#: Modules of trials, which have options of their own and print their results.
TRIALS = {name: f"wavedil.bench.{name}" for name in ("fuzz", "inpaint", "kills", "trainers")}
_TRIAL_LINES = {
    "fuzz": "reads randomly changed files; each must give a result or a one-line error",
    "inpaint": "accuracy of filled gaps in held-out recordings: a model and linear prediction",
    "kills": "kills and resumes training runs, and compares the results with uninterrupted runs",
    "trainers": "error of an amplifier model after equal CPU time: wavedil and neural-amp-modeler",
}

EXAMPLES = (
    "wavedil bench sample --json sample.json",
    "wavedil bench data recordings/ packed/",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a benchmark from the list below")
    parser.epilog = "benchmarks:\n" + "\n".join(f"  {name:<10}{text}" for name, text in (NAMES | _TRIAL_LINES).items())
    parser.add_argument(
        "data", metavar="DATA", nargs="*", help="of the benchmark data: folders of audio files, packed folders or URLs"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the results to this file")
    add_device_option(parser)
    parser.add_argument("--long", action="store_true", help="of the benchmark memory: measure for about half an hour")
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
