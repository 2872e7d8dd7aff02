"""Functions of all benchmarks: timing candidates in turns, describing the machine, rendering the table."""

import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import wavedil
from wavedil.device import check_device
from wavedil.errors import WavedilError
from wavedil.progress import Bar

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_PACKAGES = (
    "torch",
    "numpy",
    "numba",
    "wavenet-vocoder",
    "torchaudio",
    "torchvision",
    "segmentation-models-pytorch",
    "neural-amp-modeler",
)
_LONG_ENOUGH = 0.05  # seconds; shorter times are measured less precisely


@dataclass
class Candidate:
    """A function to time. ``call`` is None if its package is missing. Ratios are relative to the first of a group."""

    name: str
    call: Callable[[], Any] | None
    group: str = ""
    amount: float = 1.0  # work per call, e.g. samples; for units per second


def measure(
    candidates: Sequence[Candidate], *, rounds: int, device: str, unit: str = "ms", warm: int = 2
) -> list[dict[str, Any]]:
    """Times candidates: one row each, with the median and the interquartile range of ``rounds`` calls.

    The candidates take turns, so that a slow phase of the machine affects all of them.

    Args:
        candidates: to time; the first of each group has ratio 1.
        rounds: number of measured calls of each.
        device: to synchronize with before and after each call.
        unit: ``"ms"`` or ``"s"``; or a rate that ends in ``"/s"``, of each candidate's ``amount``. On a CPU, rows of a
            rate also have the best rate per second of CPU time, which depends less on other processes.
        warm: number of calls before the measured ones.
    """
    times: dict[int, list[float]] = {i: [] for i, c in enumerate(candidates) if c.call is not None}
    least = dict.fromkeys(times, math.inf)  # CPU time of the fastest call
    with Bar("measuring") as bar:
        for turn in range(rounds + warm):
            for index, seconds in times.items():
                started = time.process_time()
                duration = _seconds(candidates[index].call, device)
                if turn >= warm:
                    seconds.append(duration)
                    least[index] = min(least[index], time.process_time() - started)
            bar.update(turn + 1, rounds + warm)
    baselines: dict[str, float] = {}  # group -> median of its first row
    rows = []
    for index, candidate in enumerate(candidates):
        if index in times:
            if unit.endswith("/s"):
                row = summary_row(candidate.name, unit, [candidate.amount / seconds for seconds in times[index]])
                row["ratio"] = row["median"] / baselines.setdefault(candidate.group, row["median"])
                if device == "cpu":
                    row["per_cpu_second"] = candidate.amount / max(least[index], 1e-9)
            else:
                scale = {"ms": 1e3, "s": 1.0}[unit]
                row = summary_row(candidate.name, unit, [seconds * scale for seconds in times[index]])
                row["ratio"] = baselines.setdefault(candidate.group, row["median"]) / row["median"]
        else:
            row = missing_row(candidate.name, unit, "not installed")
        rows.append(row)
    return rows


def summary_row(name: str, unit: str, values: Sequence[float]) -> dict[str, Any]:
    """A row with median and interquartile range of measured values, without a ratio."""
    median = statistics.median(values)
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else [median] * 3
    return {"name": name, "unit": unit, "median": median, "iqr": high - low, "ratio": None}


def fault_row(name: str, counts: Mapping[str, int]) -> dict[str, Any]:
    """A row with a number of faults, and the other counts with it."""
    others = {key.replace(" ", "_"): value for key, value in counts.items() if key != "faults"}
    return summary_row(name, "faults", [counts["faults"]]) | others


def missing_row(name: str, unit: str, note: str) -> dict[str, Any]:
    """A row without values, and a note why."""
    return {"name": name, "unit": unit, "median": None, "iqr": None, "ratio": None, "note": note}


def matrix_product_limit(dtype: torch.dtype, device: str, size: int = 2048) -> float:
    """GFLOP/s of a large square matrix product in torch, best of five.

    The size starts at 256 and is doubled until a product takes 0.05 s, or up to ``size``: without hardware support for
    this dtype, the largest product can take a minute.
    """
    width = min(256, size)
    while True:
        a = torch.randn(width, width, device=device).to(dtype)
        # The faster of two: the very first call also loads libraries.
        if width >= size or min(_seconds(partial(torch.matmul, a, a), device) for _ in range(2)) > _LONG_ENOUGH:
            break
        width = min(2 * width, size)
    # The first of six warms up and is never the best.
    best = min(_seconds(partial(torch.matmul, a, a), device) for _ in range(6))
    return 2 * width**3 / best / 1e9


def memory_limit(device: str) -> float:
    """GB/s read plus written by a copy of 1 GiB, best of five."""
    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    # The first of six warms up and is never the best.
    return 2 * len(source) / min(_seconds(partial(target.copy_, source), device) for _ in range(6)) / 1e9


def describe(name: str, device: str) -> dict[str, Any]:
    """The keys ``benchmark``, ``machine``, ``versions`` and ``commit`` of a result."""
    check_device(device)
    machine = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "device": device,
        "system": platform.platform(),
    }
    versions = {"wavedil": wavedil.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"benchmark": name, "machine": machine, "versions": versions, "commit": _commit()}


def render(result: dict[str, Any]) -> str:
    """The result as a text table."""
    machine, rows = result["machine"], result["rows"]
    lines = [
        f"{result['benchmark']} on {machine['gpu'] if machine['device'] != 'cpu' else machine['cpu']}"
        f", {machine['threads']} of {machine['cores']} cores, {machine['memory_gib']} GiB",
        ", ".join(f"{package} {version}" for package, version in result["versions"].items())
        + (f", commit {result['commit']}" if result["commit"] else ""),
        "",
    ]
    width = max([len(row["name"]) for row in rows] + [4])
    lines.append(f"{'name':{width}}  {'median':>10}  {'iqr':>9}  unit       × plain")
    for row in rows:
        if row["median"] is None:
            lines.append(f"{row['name']:{width}}  {row['note']}")
            continue
        ratio = "" if row["ratio"] is None else f"{row['ratio']:7.2f}"
        median = f"{row['median']:10,.0f}" if row["median"] >= 1e4 else f"{row['median']:10.4g}"
        measured = f"{median}  {row['iqr']:9.2g}"
        lines.append(f"{row['name']:{width}}  {measured}  {row['unit']:9}  {ratio:7}  {row.get('note', '')}".rstrip())
    return "\n".join([*lines, "", *result.get("notes", [])]).rstrip()


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Sets torch's number of threads within the context; None does not change it."""
    before = torch.get_num_threads()
    if threads is not None:
        if threads < 1:
            raise WavedilError(f"threads is {threads}: expected a positive integer")
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seconds(call: Callable[[], Any], device: str) -> float:
    """The duration of one call."""
    synchronize = torch.accelerator.synchronize if device != "cpu" else lambda: None
    synchronize()
    started = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - started


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    if sys.platform == "win32":
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _commit() -> str | None:
    """The commit of the git checkout that contains this file; None if there is none."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
