"""Speed of effects in small blocks: as compiled C and in PyTorch, in turns."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavedil.audio.effects.engines import CompiledEngine, TorchEngine
from wavedil.audio.models.effect import Effect
from wavedil.audio.models.effect_model import EffectModel
from wavedil.audio.models.nam import NAM, NAMLSTM, LayerArray, NAMConvNet

_A2_DILATIONS = [1, 3, 7, 17, 41, 101, 239] * 2 + [1, 13] + [1, 3, 7, 17, 41, 101, 239]
_A2_TAPS = [6] * 14 + [15] * 2 + [6] * 7
_LEAKY = {"type": "LeakyReLU", "negative_slope": 0.01}


def _a2(channels: int) -> NAM:
    options = {"activation": _LEAKY, "head_kernel_size": 16, "head_bias": True}
    return NAM([LayerArray(1, channels, 1, _A2_DILATIONS, _A2_TAPS, **options)])


def _klon() -> Effect:
    slow = {"time_constants": [0.05, 0.005], "charges": [100.0, 0.0]}
    return Effect(16, 16, "1..512", knobs={"gain": [0, 1]}, sample_rate=44100, **slow)


#: Models of the sizes that are in use, with random weights. A1 and A2 are the networks of Neural Amp Modeler's plugins.
EXAMPLES: dict[str, Callable[[], EffectModel]] = {
    "NAM A1 standard": NAM,
    "NAM A2 full": lambda: _a2(8),
    "NAM A2 lite": lambda: _a2(3),
    "NAM LSTM 1x16": lambda: NAMLSTM(16),
    "NAM ConvNet 8": lambda: NAMConvNet(8, [2**i for i in range(10)]),
    "Effect of the Klon Centaur": _klon,
}


def measure_speed(model: EffectModel, block: int = 64, blocks: int = 2000, rounds: int = 5) -> dict[str, Any]:
    """Times an effect block by block, on one core.

    Args:
        model: in float32 on a CPU.
        block: samples per block.
        blocks: number of blocks that the compiled effect computes in each round; PyTorch computes a hundredth of them.
        rounds: of each engine, in turns.

    Returns:
        A dict of ``compiled`` and ``torch``, seconds of sound per second of computation (by the median time of a
        block), ``slowest``, the CPU time of the slowest compiled block relative to the duration of its sound,
        ``library_bytes`` and ``state_bytes``.

    Raises:
        WavedilError: the model has no C source, or there is no C compiler.
    """
    model = model.eval()
    engines = CompiledEngine(model, 1), TorchEngine(model, 1)
    middle = torch.tensor([(low + high) / 2 for low, high in model.knobs.values()])
    x = (0.3 * np.random.default_rng(0).standard_normal((1, block))).astype(np.float32)
    times: tuple[list[float], list[float]] = [], []
    slowest = 0.0
    for engine in engines:
        engine.set_knobs(middle)
    for _ in range(rounds):
        for engine, count, seconds in zip(engines, (blocks, max(3, blocks // 100)), times, strict=True):
            engine.process(x)
            for _ in range(count):
                start, cpu = time.perf_counter(), time.thread_time()  # of which the second omits other programs
                engine.process(x)
                seconds.append(time.perf_counter() - start)
                if engine is engines[0]:
                    slowest = max(slowest, time.thread_time() - cpu)
    duration = block / model.sample_rate
    compiled, plain = (duration / statistics.median(seconds) for seconds in times)
    library = engines[0].library
    return {
        "compiled": compiled,
        "torch": plain,
        "slowest": slowest / duration,
        "library_bytes": Path(library._name).stat().st_size if Path(library._name).exists() else None,
        "state_bytes": library.effect_state_size(),
    }
