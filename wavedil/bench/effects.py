"""Effects on live sound, block by block: compiled C, PyTorch, and the package neural-amp-modeler."""

import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch

from wavedil.audio import Effect, LiveEffect
from wavedil.audio.effects.engines import CompiledEngine, TorchEngine
from wavedil.audio.models.effect_model import EffectModel
from wavedil.audio.models.layer_chain import LayerChain
from wavedil.audio.models.nam import NAM, NAMLSTM, LayerArray, NAMConvNet
from wavedil.bench.runner import missing_row, summary_row, torch_threads
from wavedil.errors import WavedilError
from wavedil.interop.nam import write_nam
from wavedil.progress import Bar

UNIT = "x real time"
ROUND = 2048  # samples per round of a candidate, or one block
WARM = 3  # rounds before the measured ones

_A2_DILATIONS = [1, 3, 7, 17, 41, 101, 239] * 2 + [1, 13] + [1, 3, 7, 17, 41, 101, 239]
_A2_TAPS = [6] * 14 + [15] * 2 + [6] * 7
_LEAKY = {"type": "LeakyReLU", "negative_slope": 0.01}


def _a2(channels: int) -> NAM:
    options = {"activation": _LEAKY, "head_kernel_size": 16, "head_bias": True}
    return NAM([LayerArray(1, channels, 1, _A2_DILATIONS, _A2_TAPS, **options)])


def _klon() -> Effect:
    slow = {"time_constants": [0.05, 0.005], "charges": [100.0, 0.0]}
    return Effect(16, 16, "1..512", knobs={"gain": [0, 1]}, sample_rate=44100, **slow)


def _chain(kind: str, channels: int, rate: int) -> LayerChain:
    layers = [{"type": kind, "channels": channels}, {"type": "conv", "channels": 1}]
    return LayerChain(layers, residual=True, knobs={"gain": [0, 1]}, sample_rate=rate)


#: Untrained networks of the sizes that are in use. A1 and A2 are those of Neural Amp Modeler's plugins.
MODELS: dict[str, Callable[[], EffectModel]] = {
    "NAM A1 standard": NAM,
    "NAM A2 full": lambda: _a2(8),
    "NAM A2 lite": lambda: _a2(3),
    "NAM LSTM 1x16": lambda: NAMLSTM(16),
    "NAM ConvNet 8": lambda: NAMConvNet(8, [2**i for i in range(10)]),
    "Proteus LSTM 1x40 with a knob": partial(_chain, "lstm", 40, 44100),
    "AIDA-X GRU 1x16 with a knob": partial(_chain, "gru", 16, 48000),
    "Effect of the Klon Centaur": _klon,
}


@dataclass
class _Candidate:
    """A function to time. ``call`` is None if it cannot run here; ``note`` then has the reason."""

    name: str
    call: Callable[[np.ndarray], Any] | None
    rate: int
    block: int
    note: str = ""
    state_bytes: int | None = None  # of one channel, as C
    times: list[float] = field(default_factory=list)  # seconds of each block
    rounds: list[float] = field(default_factory=list)  # times real time of each round

    def run(self, sound: np.ndarray, is_measured: bool) -> None:
        """Processes one round of sound."""
        times = []
        for start in range(0, max(ROUND, self.block), self.block):
            block = sound[start : start + self.block]
            started = time.perf_counter()
            self.call(block)
            times.append(time.perf_counter() - started)
        if is_measured:
            self.times += times
            self.rounds.append(len(times) * self.block / self.rate / sum(times))

    def row(self, baseline: float | None) -> dict[str, Any]:
        if self.call is None:
            return missing_row(self.name, UNIT, self.note)
        row = summary_row(self.name, UNIT, self.rounds)
        row["ratio"] = row["median"] / (baseline or row["median"])
        percentiles = statistics.quantiles(self.times, n=100, method="inclusive")
        p50, p99, slowest = (1000 * each for each in (percentiles[49], percentiles[98], max(self.times)))
        row |= {"p50_ms": p50, "p99_ms": p99, "slowest_ms": slowest, "blocks": len(self.times)}
        row["block_ms"] = 1000 * self.block / self.rate
        row["state_bytes"] = self.state_bytes
        row["note"] = f"p50 {p50:.3g}, p99 {p99:.3g}, slowest of {len(self.times)} {slowest:.3g} ms"
        return row


@torch.inference_mode()
def bench_effects(
    device: str,
    *,
    blocks: Sequence[int] = (32, 64, 256, 2048),
    models: Mapping[str, Callable[[], EffectModel]] = MODELS,
    seconds: float = 2.0,
) -> dict[str, Any]:
    """Times blocks of sound: each row has the speed in multiples of real time, and percentiles of the time of a block.

    Rows ``torch`` run the model's ``step``, rows ``compiled`` :class:`LiveEffect` as C. The package neural-amp-modeler
    keeps no state between blocks, so its rows compute each block with the receptive field before it. All use one
    thread and take turns. Compiled rows also have ``state_bytes``, the size of the C state.

    Args:
        blocks: samples per block.
        models: functions that make the models, by name.
        seconds: to measure each row.
    """
    if device != "cpu":
        raise WavedilError(f"device is {device!r}: live effects are measured on the CPU, so use cpu")
    candidates, notes = [], []
    with torch_threads(1):
        for (name, make), block in product(models.items(), blocks):
            torch.manual_seed(0)
            model = make().eval()
            knobs = {knob: sum(ends) / 2 for knob, ends in model.knobs.items()}
            about = {"rate": model.sample_rate, "block": block}
            label = f"{name}, block {block}"
            engine = TorchEngine(model, 1)
            engine.set_knobs(model.knob_values(knobs))
            candidates.append(_Candidate(f"{label}, torch", lambda x, run=engine.process: run(x[None]), **about))
            try:
                size = CompiledEngine(model, 1).library.effect_state_size()
                run = LiveEffect(model, knobs).process
                candidates.append(_Candidate(f"{label}, compiled", run, state_bytes=size, **about))
            except WavedilError as error:
                candidates.append(_Candidate(f"{label}, compiled", None, note=str(error), **about))
            if isinstance(model, NAM):
                peer = _peer(model)
                call = None if peer is None else partial(_run_peer, peer, model.receptive_field - 1)
                candidates.append(_Candidate(f"{label}, neural-amp-modeler", call, note="not installed", **about))
                if peer is not None and block == blocks[0]:
                    notes.append(_agreement(name, model, peer))
        _measure(candidates, seconds)
    rows, baseline = [], None
    for candidate in candidates:
        if candidate.name.endswith(", torch"):
            baseline = statistics.median(candidate.rounds)
        rows.append(candidate.row(baseline))
    return {"rows": rows, "notes": notes}


def _measure(candidates: Sequence[_Candidate], seconds: float) -> None:
    """Lets the candidates take turns until each has used its time, at least twice."""
    sound = 0.1 * np.random.default_rng(0).standard_normal(max(ROUND, *(c.block for c in candidates)))
    sound = sound.astype(np.float32)
    left = [candidate for candidate in candidates if candidate.call is not None]
    total, turn = len(left), 0
    with Bar("measuring") as bar:
        while left:
            for candidate in left:
                candidate.run(sound, is_measured=turn >= WARM)
            left = [each for each in left if len(each.rounds) < 2 or sum(each.times) < seconds]
            turn += 1
            bar.update(total - len(left), total)


def _peer(model: NAM) -> Any:
    """The network in the package neural-amp-modeler, with the same weights; None if it is not installed."""
    try:
        with warnings.catch_warnings(action="ignore"):
            from nam.models import init_from_nam
    except ImportError:
        return None
    model.metadata = {"loudness": 0.0, "gain": 0.0}  # else writing measures them
    with tempfile.TemporaryDirectory() as folder:
        return init_from_nam(json.loads(write_nam(model, f"{folder}/model.nam").read_text())).eval()


def _run_peer(peer: Any, context: int, block: np.ndarray) -> Any:
    sound = np.concatenate([np.zeros(context, np.float32), block])
    return peer(torch.from_numpy(sound)[None], pad_start=False).numpy()


def _agreement(name: str, model: NAM, peer: Any) -> str:
    """A sentence on how much the compiled effect differs from the peer."""
    x = 0.1 * np.random.default_rng(1).standard_normal(2 * model.receptive_field).astype(np.float32)
    ours, theirs = LiveEffect(model).process(x), peer(torch.from_numpy(x)[None], pad_start=True)[0].numpy()
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    return f"{name}: ours and neural-amp-modeler differ by {difference:.1e} of the largest sample"
