"""Sampling: our engines, wavenet-vocoder and WaveRNN, one stream and many, on a CPU or a GPU."""

from __future__ import annotations

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
from wavedil.bench.runner import Candidate, figures, matrix_product_limit, measure, memory_limit, threads_set
from wavedil.bench.samplers import Size, multiply_adds, ours, wavenet_vocoder, wavernn
from wavedil.errors import WavedilError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Other heads of the first of SIZES: amplitudes of 16 bits in and out.
HEADS = (
    Size("10 logistics", 64, 128, "1..512 x2", distribution="logistics", components=10),
    Size("1 Gaussian", 64, 128, "1..512 x2", distribution="gaussians", components=1),
    Size("10 Gaussians", 64, 128, "1..512 x2", distribution="gaussians", components=10),
)
SIZES = (
    Size("20 layers", 64, 128, "1..512 x2"),
    Size("30 layers R 128", 128, 256, "1..512 x3"),
    Size("20 layers + mel", 64, 128, "1..512 x2", features=80),
)
#: Samples that a call makes in all: about half a second's worth.
SAMPLES = {"numba": 16000, "torch": 200, "wavenet-vocoder": 300, "WaveRNN": 400}
GPU_BATCHES = (1, 64, 1024, 4096, 16384)


def run(
    device: str,
    *,
    sizes: tuple[Size, ...] = SIZES,
    heads: tuple[Size, ...] = HEADS,
    samples: dict[str, int] | None = None,
    batches: tuple[int, ...] = GPU_BATCHES,
    rounds: int = 5,
) -> dict[str, Any]:
    """Samples per second in all. The first of `sizes` is measured in every way, the others shorter.

    Samples are drawn on and on, so the length of a call does not matter. On a CPU, ours uses as many threads as the
    rows say, all others one.
    """
    samples = SAMPLES | (samples or {})
    if device == "cpu":
        return _on_cpu(sizes, heads, samples, rounds)
    if not device.startswith("cuda"):
        raise WavedilError(f"device is {device!r}: sampling is measured on cpu or cuda")
    return _on_gpu(device, sizes[0], batches, samples["numba"], rounds)


def _on_cpu(sizes: tuple[Size, ...], heads: tuple[Size, ...], samples: dict[str, int], rounds: int) -> dict[str, Any]:
    threads = min(2, torch.get_num_threads())
    limits = {}
    for count in range(1, threads + 1):
        with threads_set(count):
            limits[count] = {name: matrix_product_limit(dtype, "cpu") for name, dtype in _DTYPES.items()}
    first, *others = sizes
    table = _Table(limits)
    table.peers(first, samples)
    for count in limits:
        table.engine(first, "numba", 1, samples["numba"], count)
    table.add(first, 16, "WaveRNN, another model", wavernn(16, samples["WaveRNN"] // 2), 16 * (samples["WaveRNN"] // 2))
    table.engine(first, "torch", 16, samples["torch"] * 4, 1)
    table.engine(first, "numba", 16, samples["numba"], 1)
    table.engine(first, "torch", 64, samples["torch"] * 16, 1)
    for count in limits:
        table.engine(first, "numba", 64, samples["numba"], count)
    for size in others:
        table.add(
            size, 1, "wavenet-vocoder", wavenet_vocoder(size, samples["wavenet-vocoder"]), samples["wavenet-vocoder"]
        )
        table.engine(size, "numba", 1, samples["numba"] // 4, 1)
        table.engine(size, "numba", 16, samples["numba"] // 4, 1)
    for size in heads:
        table.engine(size, "numba", 1, samples["numba"] // 4, 1)
    rows = table.measured(rounds, "cpu") + _starts(first, rounds) + _compilations()
    for count, limit in limits.items():
        for name, value in limit.items():
            rows.append(figures(f"limit: matrix product {name}, {count} threads", "GFLOP/s", [value]))
    return {"rows": rows, "notes": table.notes(rows)}


def _on_gpu(device: str, size: Size, batches: tuple[int, ...], samples: int, rounds: int) -> dict[str, Any]:
    """Every engine that knows this device, by batch. The share of memory counts the weights once for each step."""
    limit = {name: matrix_product_limit(dtype, device, 8192) for name, dtype in _DTYPES.items()}
    bandwidth = memory_limit(device)
    table = _Table({1: limit}, bandwidth)
    plan = size.model(device).plan()
    for batch in batches:
        for engine in ENGINES:
            if session_class(engine).supports(plan, batch):
                steps = samples // 200 if engine == "torch" else samples // 16  # 80 and 1000
                table.engine(size, engine, batch, steps * batch, 1, device)
    rows = table.measured(rounds, device)
    rows += [figures(f"limit: matrix product {name}", "GFLOP/s", [value]) for name, value in limit.items()]
    rows.append(figures("limit: memory", "GB/s", [bandwidth]))
    return {"rows": rows, "notes": []}


class _Table:
    """Candidates, and for each the share of the cores' limits that its rate is."""

    def __init__(self, limits: dict[int, dict[str, float]], bandwidth: float | None = None):
        self.limits, self.bandwidth = limits, bandwidth
        self.candidates: list[Candidate] = []
        self.work: dict[str, tuple[int, int, int]] = {}  # row -> threads, batch, multiply-adds for a sample

    def add(self, size: Size, batch: int, name: str, call: Callable[[], Any] | None, amount: int) -> str:
        group = f"{size.name}, {_streams(batch)}"
        self.candidates.append(Candidate(f"{group}: {name}", call, group, amount))
        return self.candidates[-1].name

    def peers(self, size: Size, samples: dict[str, int]) -> None:
        """Other packages, then our reference, with one stream."""
        count = samples["wavenet-vocoder"]
        self.add(size, 1, "wavenet-vocoder", wavenet_vocoder(size, count), count)
        self.add(size, 1, "WaveRNN, another model", wavernn(1, samples["WaveRNN"]), samples["WaveRNN"])
        self.engine(size, "torch", 1, samples["torch"], 1)

    def engine(self, size: Size, engine: str, batch: int, samples: int, threads: int, device: str = "cpu") -> None:
        """A row for each precision of an engine."""
        steps = max(1, samples // batch)
        work = multiply_adds(size.model("cpu").plan())
        for precision in session_class(engine).precisions:
            call = ours(size, engine, batch, steps, precision=precision, threads=threads, device=device)
            title = f"{engine} {precision}" + (f", {threads} threads" if threads > 1 else "")
            self.work[self.add(size, batch, title, call, steps * batch)] = threads, batch, work

    def measured(self, rounds: int, device: str) -> list[dict[str, Any]]:
        rows = measure(self.candidates, rounds=rounds, device=device, unit="samples/s", warm=1)
        for row in rows:
            if row["name"] in self.work:
                threads, batch, work = self.work[row["name"]]
                row["gflops"] = row["median"] * 2 * work / 1e9
                row["limit_share"] = {name: row["gflops"] / limit for name, limit in self.limits[threads].items()}
                shares = ", ".join(f"{share:.0%} of {name}" for name, share in row["limit_share"].items())
                row["note"] = f"{row['gflops']:.3g} GFLOP/s: {shares}"
                if self.bandwidth is not None:
                    bytes_each = 2 if row["name"].endswith("bf16") else 4
                    row["memory_share"] = row["median"] / batch * work * bytes_each / 1e9 / self.bandwidth
                    row["note"] += f", {row['memory_share']:.0%} of memory"
        return rows

    def notes(self, rows: list[dict[str, Any]]) -> list[str]:
        """The samplers of one stream against the first, wavenet-vocoder, and against 16 kHz."""
        group = self.candidates[0].group
        own = {c.name for c in self.candidates if c.group == group and c.name in self.work}
        peer = self.candidates[0].call is not None
        return [
            f"{row['name']}: {row['median'] / 16000:.2f} x real time at 16 kHz"
            + (f", {row['ratio']:.1f} x wavenet-vocoder" if peer else "")
            for row in rows
            if row["name"] in own
        ]


def _streams(batch: int) -> str:
    return "1 stream" if batch == 1 else f"{batch} streams"


def _starts(size: Size, rounds: int) -> list[dict[str, Any]]:
    """From the call of `stream` to its first sample, the engine being compiled."""
    model = size.model("cpu")

    def first(engine: str, precision: str) -> Callable[[], Any]:
        def call() -> None:
            with threads_set(1):
                Stream(model, engine=engine, precision=precision, seed=0).next_codes(1)

        return call

    candidates = [
        Candidate(f"{size.name}, first sample of a stream: {engine} {precision}", first(engine, precision), "first")
        for engine in ("torch", "numba")
        for precision in session_class(engine).precisions
    ]
    return measure(candidates, rounds=rounds, device="cpu")


def _compilations() -> list[dict[str, Any]]:
    """The first samples of a process: with nothing compiled before, and with all that the first one left on disk."""
    with tempfile.TemporaryDirectory() as cache:
        cold = {precision: _process(precision, cache) for precision in ("fp32", "bf16")}
        warm = _process("fp32", cache)
    rows = [
        figures(f"first sample, nothing compiled before: numba {p}", "s", [first]) for p, (first, _) in cold.items()
    ]
    rows.append(figures("first sample of the next process: numba fp32", "s", [warm[0]]))
    rows.append(figures("the next process from its start to the sample: numba fp32", "s", [warm[1]]))
    return rows


def _process(precision: str, cache: str) -> tuple[float, float]:
    """Seconds to the first sample of a small model in a process of its own, without and with its imports."""
    start = "from wavedil.bench.sample import child; child()"
    environment = os.environ | {"NUMBA_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    command = [sys.executable, "-c", start, precision]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return float(done.stdout), time.perf_counter() - started


def child() -> None:
    """In the process of its own: seconds from the call of `stream` to its first sample, on standard output."""
    model = Size("small", 16, 16, "1..4").model("cpu")
    started = time.perf_counter()
    Stream(model, engine="numba", precision=sys.argv[1]).next_codes(1)
    print(time.perf_counter() - started)
