"""Sampling: wavedil's engines, wavenet-vocoder and WaveRNN, one stream and many, on a CPU or a GPU."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from wavedil.audio.generation.engines import ENGINES, session_class
from wavedil.audio.generation.generate import Stream
from wavedil.bench.runner import (
    DTYPES,
    Candidate,
    matrix_product_limit,
    measure,
    memory_limit,
    summary_row,
    torch_threads,
)
from wavedil.bench.samplers import Size, multiply_adds, ours, wavenet_vocoder, wavernn
from wavedil.errors import WavedilError

#: The first of SIZES with zeros that are skipped; with other heads, and 16-bit amplitudes as input and output.
VARIANTS = (
    *(Size(f"{share:.0%} zeros", 64, 128, "1..512 x2", sparsity=share) for share in (0.5, 0.75, 0.9)),
    Size("10 logistics", 64, 128, "1..512 x2", distribution="logistics", components=10),
    Size("1 Gaussian", 64, 128, "1..512 x2", distribution="gaussians", components=1),
    Size("10 Gaussians", 64, 128, "1..512 x2", distribution="gaussians", components=10),
)
SIZES = (
    Size("20 layers", 64, 128, "1..512 x2"),
    Size("30 layers R 128", 128, 256, "1..512 x3"),
    Size("20 layers + mel", 64, 128, "1..512 x2", features=80),
)
#: Samples per call, of all streams together: about half a second of work.
SAMPLES = {"numba": 16000, "torch": 200, "wavenet-vocoder": 300, "WaveRNN": 400}
GPU_BATCHES = (1, 64, 1024, 4096, 16384)


def bench_sample(
    device: str,
    *,
    sizes: tuple[Size, ...] = SIZES,
    variants: tuple[Size, ...] = VARIANTS,
    samples: dict[str, int] | None = None,
    batches: tuple[int, ...] = GPU_BATCHES,
    rounds: int = 5,
) -> dict[str, Any]:
    """Samples per second, of all streams together. The first of ``sizes`` is measured in more ways than the others.

    Streams continue from call to call, so the rate does not depend on the length of a call. On a CPU, wavedil uses as
    many threads as the row's name says (default one), and the other packages use one.
    """
    samples = SAMPLES | (samples or {})
    if device == "cpu":
        return _on_cpu(sizes, variants, samples, rounds)
    if not device.startswith("cuda"):
        raise WavedilError(f"device is {device!r}: expected cpu or cuda")
    return _on_gpu(device, sizes[0], batches, samples["numba"], rounds)


def _on_cpu(sizes: tuple[Size, ...], variants: tuple[Size, ...], samples: dict[str, int], rounds: int) -> dict:
    threads = min(2, torch.get_num_threads())
    limits = {}
    for count in range(1, threads + 1):
        with torch_threads(count):
            limits[count] = {name: matrix_product_limit(dtype, "cpu") for name, dtype in DTYPES.items()}
    first, *others = sizes
    table = _Table(limits)
    table.add_wavenet_vocoder(first, samples["wavenet-vocoder"])
    table.add_wavernn(first, 1, samples["WaveRNN"])
    table.add_engine(first, "torch", 1, samples["torch"], 1)
    for count in limits:
        table.add_engine(first, "numba", 1, samples["numba"], count)
    table.add_wavernn(first, 16, samples["WaveRNN"] // 2)
    table.add_engine(first, "torch", 16, samples["torch"] * 4, 1)
    table.add_engine(first, "numba", 16, samples["numba"], 1)
    table.add_engine(first, "torch", 64, samples["torch"] * 16, 1)
    for count in limits:
        table.add_engine(first, "numba", 64, samples["numba"], count)
    for size in others:
        table.add_wavenet_vocoder(size, samples["wavenet-vocoder"])
        table.add_engine(size, "numba", 1, samples["numba"] // 4, 1)
        table.add_engine(size, "numba", 16, samples["numba"] // 4, 1)
    for size in variants:
        table.add_engine(size, "numba", 1, samples["numba"] // 4, 1)
    rows = table.measure(rounds, "cpu") + _starts(first, rounds) + _compilations()
    for count, limit in limits.items():
        for name, value in limit.items():
            rows.append(summary_row(f"limit: matrix product {name}, {count} threads", "GFLOP/s", [value]))
    return {"rows": rows, "notes": table.notes(rows)}


def _on_gpu(device: str, size: Size, batches: tuple[int, ...], samples: int, rounds: int) -> dict[str, Any]:
    """Every engine that can run on this device, by batch. ``memory_share`` counts the weights once per step."""
    limit = {name: matrix_product_limit(dtype, device, 8192) for name, dtype in DTYPES.items()}
    bandwidth = memory_limit(device)
    table = _Table({1: limit}, bandwidth)
    plan = size.model(device).plan()
    for batch in batches:
        for engine in ENGINES:
            if session_class(engine).obstacle(plan, batch) is None:
                steps = samples // 200 if engine == "torch" else samples // 16  # 80 and 1000
                table.add_engine(size, engine, batch, steps * batch, 1, device)
    rows = table.measure(rounds, device)
    rows += [summary_row(f"limit: matrix product {name}", "GFLOP/s", [value]) for name, value in limit.items()]
    rows.append(summary_row("limit: memory", "GB/s", [bandwidth]))
    return {"rows": rows, "notes": []}


class _Table:
    """Candidates, with the share of the machine's limits that each reaches."""

    def __init__(self, limits: dict[int, dict[str, float]], bandwidth: float | None = None):
        self.limits, self.bandwidth = limits, bandwidth
        self.candidates: list[Candidate] = []
        self.work: dict[str, tuple[int, int, int]] = {}  # row -> threads, batch, multiply-adds per sample

    def add(self, size: Size, batch: int, name: str, call: Callable[[], Any] | None, amount: int) -> str:
        """Adds a candidate and returns the name of its row."""
        group = f"{size.name}, {batch} stream{'s' * (batch > 1)}"
        self.candidates.append(Candidate(f"{group}: {name}", call, group, amount))
        return self.candidates[-1].name

    def add_wavenet_vocoder(self, size: Size, steps: int) -> None:
        self.add(size, 1, "wavenet-vocoder", wavenet_vocoder(size, steps), steps)

    def add_wavernn(self, size: Size, batch: int, steps: int) -> None:
        self.add(size, batch, "WaveRNN, another model", wavernn(batch, steps), steps * batch)

    def add_engine(self, size: Size, engine: str, batch: int, samples: int, threads: int, device: str = "cpu") -> None:
        """Adds a row for each precision of an engine."""
        steps = max(1, samples // batch)
        work = multiply_adds(size.model("cpu").plan())
        for precision in session_class(engine).precisions:
            call = ours(size, engine, batch, steps, precision=precision, threads=threads, device=device)
            title = f"{engine} {precision}" + (f", {threads} threads" if threads > 1 else "")
            self.work[self.add(size, batch, title, call, steps * batch)] = threads, batch, work

    def measure(self, rounds: int, device: str) -> list[dict[str, Any]]:
        rows = measure(self.candidates, rounds=rounds, device=device, unit="samples/s", warm=1)
        for row in rows:
            if row["name"] in self.work:
                threads, batch, work = self.work[row["name"]]
                row["gflops"] = row["median"] * 2 * work / 1e9
                row["limit_share"] = {name: row["gflops"] / limit for name, limit in self.limits[threads].items()}
                shares = ", ".join(f"{share:.0%} of {name}" for name, share in row["limit_share"].items())
                row["note"] = f"{row['gflops']:.3g} GFLOP/s: {shares}"
                if "per_cpu_second" in row:
                    row["note"] += f"; best {row['per_cpu_second']:,.0f} per CPU second"
                if self.bandwidth is not None:
                    bytes_each = {"bf16": 2, "int8": 1}.get(row["name"].split()[-1], 4)
                    row["memory_share"] = row["median"] / batch * work * bytes_each / 1e9 / self.bandwidth
                    row["note"] += f", {row['memory_share']:.0%} of memory"
        return rows

    def notes(self, rows: list[dict[str, Any]]) -> list[str]:
        """Compares the engines on one stream with real time at 16 kHz and with wavenet-vocoder."""
        group = self.candidates[0].group
        engines = {c.name for c in self.candidates if c.group == group and c.name in self.work}
        has_peer = self.candidates[0].call is not None
        return [
            f"{row['name']}: {row['median'] / 16000:.2f} x real time at 16 kHz"
            + (f", {row['ratio']:.1f} x wavenet-vocoder" if has_peer else "")
            for row in rows
            if row["name"] in engines
        ]


def _starts(size: Size, rounds: int) -> list[dict[str, Any]]:
    """Seconds from the construction of a stream to its first sample, with the engine compiled before."""
    model = size.model("cpu")

    def first(engine: str, precision: str) -> Callable[[], Any]:
        def call() -> None:
            with torch_threads(1):
                Stream(model, engine=engine, precision=precision, seed=0).next_sound(1)

        return call

    candidates = [
        Candidate(f"{size.name}, first sample of a stream: {engine} {precision}", first(engine, precision), "first")
        for engine in ("torch", "numba")
        for precision in session_class(engine).precisions
    ]
    return measure(candidates, rounds=rounds, device="cpu")


def _compilations() -> list[dict[str, Any]]:
    """Seconds to the first sample of a process: without cached compilations, and with those of an earlier process."""
    with tempfile.TemporaryDirectory() as cache:
        cold = {precision: _process_seconds(precision, cache) for precision in session_class("numba").precisions}
        warm = _process_seconds("fp32", cache)
    title = "first sample, nothing compiled before: numba"
    return [
        *(summary_row(f"{title} {precision}", "s", [seconds]) for precision, (seconds, _) in cold.items()),
        summary_row("first sample of the next process: numba fp32", "s", [warm[0]]),
        summary_row("the next process from its start to the sample: numba fp32", "s", [warm[1]]),
    ]


def _process_seconds(precision: str, cache: str) -> tuple[float, float]:
    """Seconds to the first sample of a small model in a separate process, without and with its imports."""
    start = "from wavedil.bench.sample import print_first_sample_seconds; print_first_sample_seconds()"
    environment = os.environ | {"NUMBA_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    command = [sys.executable, "-c", start, precision]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return float(done.stdout), time.perf_counter() - started


def print_first_sample_seconds() -> None:
    """Main function of a separate process: prints the seconds from the construction of a stream to its first sample."""
    model = Size("small", 16, 16, "1..4").model("cpu")
    started = time.perf_counter()
    Stream(model, engine="numba", precision=sys.argv[1]).next_sound(1)
    print(time.perf_counter() - started)
