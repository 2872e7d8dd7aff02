"""Effects on live sound, block by block."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from torch import Tensor

from wavedil.audio.data.levels import OUTSIDE, Levels, check_level
from wavedil.audio.effects.engines import make_engine
from wavedil.audio.models.effect_model import EffectModel
from wavedil.core.schema import Range, checked
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError

CHUNK = 2**15  # samples of silence per pass

AudioChannels = Annotated[int, Range(1, 1024)]  # as many as libsndfile reads


class LiveEffect:
    """Processes live audio block by block, without latency in addition to the block.

    ::

        effect = LiveEffect(model, {"gain": 0.5})
        while True:
            play(effect.process(record(128)))  # (channels, 128) or (128,)
            effect.knobs = {"gain": read_dial()}

    The constructor processes ``model.settle`` seconds of silence, so that the first block has no start-up transient. On
    a CPU with a C compiler the effect runs as compiled C, with the weights that the model had at construction.

    Args:
        model: an effect model, e.g. an :class:`Effect`; it is put in eval mode.
        knobs: settings by name.
        channels: number of audio channels; each is processed separately.
        source: name of the input in messages. If set, the caller must call ``levels.warn()`` at the end to warn of
            samples outside [-1, 1]; otherwise :meth:`process` warns at the first such block.

    Attributes:
        levels: counts the samples outside [-1, 1].
        source: the name in messages.
        knobs: settings by name. Assign new settings at any time; from the next block on the knobs move to them within
            20 ms, so that no click is audible.
        blocks, samples: number of blocks and samples (per channel) processed so far.
        seconds, slowest_block: seconds spent in :meth:`process` in total, and by its slowest call.
        seconds_per_block: mean seconds per call of :meth:`process`; NaN before the first.
        real_time_factor: seconds of sound processed per second of computation; NaN before the first call.
    """

    @checked
    def __init__(
        self,
        model: EffectModel,
        knobs: Mapping[str, float] | None = None,
        channels: AudioChannels = 1,
        source: str | Path | None = None,
    ):
        self.model, self.channels = model.eval(), channels
        self.levels, self.source = Levels(), source
        self.knobs = knobs or {}
        self._engine, self._engine_values = make_engine(model, channels), None
        silence = math.ceil(model.settle * model.sample_rate)
        for start in range(0, silence, CHUNK):
            self._run(np.zeros((channels, min(CHUNK, silence - start)), np.float32))
        self.blocks, self.samples, self.seconds, self.slowest_block = 0, 0, 0.0, 0.0

    @property
    def knobs(self) -> dict[str, float]:
        return dict(self._knobs)

    @knobs.setter
    def knobs(self, settings: Mapping[str, float]) -> None:
        self._values = self.model.knob_values(settings)  # the engine gets them in the thread that processes
        self._knobs = dict(settings)

    def process(self, block: np.ndarray) -> np.ndarray:
        """Processes the next block, ``(time,)`` or ``(channels, time)``, of any length; float32 of the same shape.

        Raises:
            WavedilError: for another number of channels, integers, NaN or infinity, or a peak above 16.
        """
        started = time.perf_counter()
        # The complete checks take 15 µs, half of the time of a block of 64. NaN is not in the range either.
        usual = type(block) is np.ndarray and block.dtype == np.float32 and block.size
        sound = block if usual and block.max() <= OUTSIDE and block.min() >= -OUTSIDE else self._checked(block)
        if sound.ndim not in (1, 2) or (sound.shape[0] if sound.ndim == 2 else 1) != self.channels:
            raise WavedilError(f"block has shape {sound.shape}: expected ({self.channels}, time)")
        y = self._run(sound.reshape(self.channels, -1))
        self.blocks, self.samples = self.blocks + 1, self.samples + y.shape[1]
        seconds = time.perf_counter() - started
        self.seconds, self.slowest_block = self.seconds + seconds, max(self.slowest_block, seconds)
        return y.reshape(sound.shape)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next block depends on: pass it to :meth:`restore`, now or in another process.

        Call it between blocks. A state is of one model, number of channels and engine (compiled C, or PyTorch), and of
        one version of this package.
        """
        self._set_knobs()
        return self._engine.state()

    @checked
    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from a :meth:`state`, with its knobs. Call it between blocks.

        Raises:
            WavedilError: the state is of another model, number of channels or engine, or has values out of range.
        """
        self._set_knobs()
        targets = self._engine.restore(state)
        ends = self.model.knobs.items()
        self.knobs = {
            name: min(max(value, low), high)  # a float32 may be beyond the end by rounding
            for (name, (low, high)), value in zip(ends, targets, strict=True)
        }
        self._engine_values = self._values

    def _checked(self, block: Any) -> np.ndarray:
        name = self.source or "block"
        sound = check_level(to_tensor(str(name), block).detach().cpu(), name, self.levels).float().numpy()
        if self.source is None:
            self.levels.warn()
        if not np.isfinite(sound).all():
            raise WavedilError("block has NaN or infinity, which would stay in the effect's state: leave it out")
        return sound

    def _set_knobs(self) -> None:
        values = self._values
        if values is not self._engine_values:
            self._engine.set_knobs(values)
            self._engine_values = values

    def _run(self, x: np.ndarray) -> np.ndarray:
        self._set_knobs()
        return self._engine.process(x)

    @property
    def seconds_per_block(self) -> float:
        return self.seconds / self.blocks if self.blocks else math.nan

    @property
    def real_time_factor(self) -> float:
        return self.samples / self.model.sample_rate / self.seconds if self.blocks else math.nan
