"""Measures whether memory grows in long runs: resident memory during streams, effects, loading and training."""

import gc
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavedil.audio import Effect, LiveEffect, WaveNet, generate, load, save, stream
from wavedil.bench.runner import summary_row
from wavedil.errors import WavedilError

READINGS = 10  # of the memory, after as much work for warm-up as there is between two of them
BLOCK = 1024  # samples


@dataclass(frozen=True)
class Amounts:
    """How much of each task runs between two readings."""

    stream_seconds: float = 4.0
    short_streams: int = 20
    effect_seconds: float = 60.0
    generated: int = 50
    loads: int = 20
    training_steps: int = 200


QUICK = Amounts()
#: Ten minutes of one stream, 500 short ones, an hour of an effect, 5000 clips, 2000 loads, 20,000 training steps.
LONG = Amounts(60.0, 50, 360.0, 500, 200, 2000)


def bench_memory(device: str, *, long: bool = False, amounts: Amounts | None = None) -> dict[str, Any]:
    """Measures the growth of resident memory after a warm-up, per hour of sound or per 1000 calls or steps.

    Growth that is the same in the long version is a leak; less of it in the long version is memory that the allocator
    has not reused yet. ``rss_mib`` of each row has the memory before the task, after its warm-up, and at its end.
    """
    if device != "cpu":
        raise WavedilError(f"device is {device!r}: resident memory is that of the CPU, so use cpu")
    _resident()
    amounts = amounts or (LONG if long else QUICK)
    tasks = [
        ("one stream", "hour of sound", amounts.stream_seconds / 3600, _one_stream),
        ("short streams, dropped", "1000 streams", amounts.short_streams / 1000, _short_streams),
        ("effect in blocks", "hour of sound", amounts.effect_seconds / 3600, _effect),
        ("generate", "1000 calls", amounts.generated / 1000, _generate),
        ("load", "1000 calls", amounts.loads / 1000, _load),
        ("training", "1000 steps", amounts.training_steps / 1000, _training),
    ]
    return {"rows": [_measure(*task, amounts) for task in tasks], "notes": []}


def _measure(name: str, unit: str, step: float, task: Callable[[Amounts], Any], amounts: Amounts) -> dict[str, Any]:
    before = _resident()
    readings = []
    with task(amounts) as work:
        for _ in range(READINGS + 1):
            work()
            gc.collect()
            readings.append(_resident())
    growth = (readings[-1] - readings[0]) / (READINGS * step) / 1024
    row = summary_row(name, f"KiB per {unit}", [growth])
    row["rss_mib"] = {"before": before / 2**20, "warm": readings[0] / 2**20, "end": readings[-1] / 2**20}
    row["note"] = "RSS " + ", ".join(f"{value:.1f} MiB {when}" for when, value in row["rss_mib"].items())
    row["amount"] = READINGS * step
    return row


@contextmanager
def _one_stream(amounts: Amounts) -> Iterator[Callable[[], None]]:
    model = _wavenet()
    chunks = stream(model, seed=0, chunk=BLOCK)

    def work() -> None:
        for _ in range(max(1, round(amounts.stream_seconds * model.sample_rate / BLOCK))):
            next(chunks)

    yield work


@contextmanager
def _short_streams(amounts: Amounts) -> Iterator[Callable[[], None]]:
    model = _wavenet()

    def work() -> None:
        for seed in range(amounts.short_streams):
            chunks = stream(model, seed=seed, num=2, chunk=BLOCK // 8)
            next(chunks)
            chunks.state()

    yield work


@contextmanager
def _effect(amounts: Amounts) -> Iterator[Callable[[], None]]:
    torch.manual_seed(0)
    effect = LiveEffect(Effect(8, 8, "1..128", knobs={"gain": [0, 1]}, sample_rate=44100), {"gain": 0.5})
    block = 0.1 * np.random.default_rng(0).standard_normal(BLOCK).astype(np.float32)

    def work() -> None:
        for number in range(max(1, round(amounts.effect_seconds * 44100 / BLOCK))):
            effect.knobs = {"gain": number % 100 / 100}
            effect.process(block)

    yield work


@contextmanager
def _generate(amounts: Amounts) -> Iterator[Callable[[], None]]:
    model = _wavenet()

    def work() -> None:
        for seed in range(amounts.generated):
            generate(model, [BLOCK // 4, BLOCK // 8], seed=seed)

    yield work


@contextmanager
def _load(amounts: Amounts) -> Iterator[Callable[[], None]]:
    with tempfile.TemporaryDirectory() as folder:
        save(_wavenet(), Path(folder, "model"))

        def work() -> None:
            for _ in range(amounts.loads):
                load(Path(folder, "model"))

        yield work


@contextmanager
def _training(amounts: Amounts) -> Iterator[Callable[[], None]]:
    model = _wavenet().train()
    optimizer = torch.optim.Adam(model.parameters())
    codes = torch.randint(model.num_codes, (2, BLOCK))

    def work() -> None:
        for _ in range(amounts.training_steps):
            optimizer.zero_grad()
            loss = model.loss(codes)
            loss.backward()
            optimizer.step()

    yield work


def _wavenet() -> WaveNet:
    torch.manual_seed(0)
    return WaveNet(16, 16, "1..64 x2", num_codes=64, sample_rate=16000).eval()


def _resident() -> int:
    """Resident memory of this process in bytes."""
    try:
        import resource

        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (ImportError, OSError):
        raise WavedilError("this system does not report resident memory: run bench memory on Linux") from None
