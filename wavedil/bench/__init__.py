"""Benchmarks: ours, plain PyTorch and every installed peer in turn in one process."""

from __future__ import annotations

from typing import Any

from wavedil.bench import codes, conv, crf, dense, numerics, sample, segment, tiles, train
from wavedil.bench.runner import describe, render, threads_set
from wavedil.errors import WavedilError

__all__ = ["BENCHMARKS", "render", "run_benchmark"]

BENCHMARKS = {
    "conv": conv.run,
    "train": train.run,
    "sample": sample.run,
    "codes": codes.run,
    "numerics": numerics.run,
    "crf": crf.run,
    "segment": segment.run,
    "tiles": tiles.run,
    "dense": dense.run,
}


def run_benchmark(name: str, *, device: str = "cpu", threads: int | None = None) -> dict[str, Any]:
    """Runs one benchmark; the result goes to JSON as it is, or through `render` to text.

    Its keys: `machine`, `versions`, `commit` (None outside a git checkout), `rows` (each `name`,
    `unit`, `median`, `iqr`, `ratio`: times as fast as the first row of its group; None for what is
    not installed; some a `note`) and `notes` (sentences that sum up).

    Raises:
        WavedilError: an unknown name, a device that is not there, or a number of threads below 1.
    """
    if name not in BENCHMARKS:
        known = ", ".join(BENCHMARKS)
        raise WavedilError(f"benchmark {name!r} is unknown: take one of {known}")
    with threads_set(threads):
        description = describe(name, device)
        return description | BENCHMARKS[name](device)
