"""Benchmarks: wavedil, plain PyTorch and the installed peer packages take turns in one process."""

from collections.abc import Sequence
from typing import Any

from wavedil.bench.codes import bench_codes
from wavedil.bench.conv import bench_conv
from wavedil.bench.crf import bench_crf
from wavedil.bench.data import bench_data
from wavedil.bench.dense import bench_dense
from wavedil.bench.effects import bench_effects
from wavedil.bench.memory import bench_memory
from wavedil.bench.numerics import bench_numerics
from wavedil.bench.runner import describe, render, torch_threads
from wavedil.bench.sample import bench_sample
from wavedil.bench.segment import bench_segment
from wavedil.bench.tiles import bench_tiles
from wavedil.bench.train import bench_train
from wavedil.errors import WavedilError, one_of

__all__ = ["BENCHMARKS", "render", "run_benchmark"]

BENCHMARKS = {
    "conv": bench_conv,
    "train": bench_train,
    "sample": bench_sample,
    "codes": bench_codes,
    "effects": bench_effects,
    "numerics": bench_numerics,
    "crf": bench_crf,
    "segment": bench_segment,
    "tiles": bench_tiles,
    "dense": bench_dense,
    "memory": bench_memory,
    "data": bench_data,
}


def run_benchmark(
    name: str, *, device: str = "cpu", threads: int | None = None, long: bool = False, data: Sequence[str] = ()
) -> dict[str, Any]:
    """Runs one benchmark. The result can be written as JSON, or turned into text by ``render``.

    Args:
        name: a key of ``BENCHMARKS``.
        device: a torch device; some benchmarks run on the CPU only.
        threads: number of torch's threads; None does not change it.
        long: the long version of ``memory``.
        data: for ``data``: folders of audio files, packed folders or URLs.

    Returns:
        A dict of ``machine``, ``versions``, ``commit`` (None outside a git checkout), ``rows`` and ``notes`` (sentences
        that summarize the rows). Each row has ``name``, ``unit``, ``median``, ``iqr`` and ``ratio``, the speed relative
        to the first row of its group. The numbers are None if a package is not installed. Some rows have a ``note``.

    Raises:
        WavedilError: an unknown name, a device that is not available, or fewer than 1 thread.
    """
    if name not in BENCHMARKS:
        raise WavedilError(f"benchmark {name!r} is unknown: expected {one_of(name, BENCHMARKS)}")
    if long and name != "memory":
        raise WavedilError(f"long is for the benchmark memory, not for {name}: leave it out")
    if data and name != "data":
        raise WavedilError(f"{data[0]} is for the benchmark data, not for {name}: leave it out")
    options = ({"long": True} if long else {}) | ({"data": data} if data else {})
    with torch_threads(threads):
        description = describe(name, device)
        return description | BENCHMARKS[name](device, **options)
