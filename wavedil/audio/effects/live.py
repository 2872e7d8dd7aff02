"""Effects on live sound, block by block."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.data.levels import Levels, check_level
from wavedil.audio.models.effect import Effect
from wavedil.audio.models.effect_model import EffectModel
from wavedil.core.schema import Range, checked
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError
from wavedil.ops.fallback import load_kernels

CHUNK = 2**15  # samples of silence per pass

AudioChannels = Annotated[int, Range(1, 1024)]  # as many as libsndfile reads


class LiveEffect:
    """Processes live sound block by block, without delay beyond the block.

    ::

        effect = LiveEffect(model, {"gain": 0.5})
        while True:
            play(effect.process(record(128)))  # (channels, 128) or (128,)
            effect.knobs = {"gain": read_dial()}

    The constructor processes ``model.settle`` seconds of silence, so that the first block has no start-up transient. On
    a CPU with numba installed the effect runs as compiled loops, with the weights that the model had at construction.

    Args:
        model: an effect model, e.g. an :class:`Effect`; it is put in eval mode.
        knobs: settings by name.
        channels: number of audio channels; each is processed separately.
        source: name of the sound in error messages. With a name, the caller warns of samples outside [-1, 1] at the
            end, by ``levels.warn()``; without one, :meth:`process` warns at the first such block.

    Attributes:
        levels: counts the samples outside [-1, 1].
        knobs: settings by name. Assign new settings at any time; they apply from the next block on.
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
        self.levels, self._source = Levels(), source
        self.knobs = knobs or {}
        self._engine = make_engine(model, channels)
        silence = math.ceil(model.settle * model.sample_rate)
        for start in range(0, silence, CHUNK):
            self._engine.step(np.zeros((channels, min(CHUNK, silence - start)), np.float32), self._knob_values)
        self.blocks, self.samples, self.seconds, self.slowest_block = 0, 0, 0.0, 0.0

    @property
    def knobs(self) -> dict[str, float]:
        return self._knobs

    @knobs.setter
    def knobs(self, settings: Mapping[str, float]) -> None:
        self._knob_values = self.model.knob_values(settings)
        self._knobs = dict(settings)

    def process(self, block: np.ndarray) -> np.ndarray:
        """Processes the next block, ``(time,)`` or ``(channels, time)``, of any length; float32 of the same shape.

        Raises:
            WavedilError: for another number of channels, integers, NaN or infinity, or a peak above 16.
        """
        started = time.perf_counter()
        name = self._source or "block"
        sound = check_level(to_tensor(str(name), block).detach().cpu(), name, self.levels).float().numpy()
        if self._source is None:
            self.levels.warn()
        if sound.ndim not in (1, 2) or (sound.shape[0] if sound.ndim == 2 else 1) != self.channels:
            raise WavedilError(f"block has shape {sound.shape}: expected ({self.channels}, time)")
        if not np.isfinite(sound).all():
            raise WavedilError("block has NaN or infinity, which would stay in the effect's state: leave it out")
        y = self._engine.step(sound.reshape(self.channels, -1), self._knob_values)
        self.blocks, self.samples = self.blocks + 1, self.samples + y.shape[1]
        seconds = time.perf_counter() - started
        self.seconds, self.slowest_block = self.seconds + seconds, max(self.slowest_block, seconds)
        return y.reshape(sound.shape)

    @property
    def seconds_per_block(self) -> float:
        return self.seconds / self.blocks if self.blocks else math.nan

    @property
    def real_time_factor(self) -> float:
        return self.samples / self.model.sample_rate / self.seconds if self.blocks else math.nan


class TorchEngine:
    """Runs the model's ``step``, which defines the result."""

    def __init__(self, model: EffectModel, channels: int):
        self.model, self.channels, self.state = model, channels, None

    @torch.inference_mode()
    def step(self, x: np.ndarray, knobs: Tensor) -> np.ndarray:
        """Processes ``(channels, time)`` with settings ``(knobs,)``; the result has the same shape."""
        device = next(self.model.parameters()).device
        knobs = knobs.to(device).expand(self.channels, -1) if self.model.knobs else None
        y, self.state = self.model.step(torch.from_numpy(x).unsqueeze(1).to(device), self.state, knobs)
        return y[:, 0].float().cpu().numpy()


class CompiledEngine:
    """Computes the same in the compiled loops of ``kernels.py``, for an :class:`Effect` in float32 on a CPU."""

    def __init__(self, model: Effect, channels: int, kernels: ModuleType):
        self.model, self.kernels = model, kernels
        layers = list(model.stack.layers)
        taps, width = layers[0].conv.kernel_size[0], layers[0].conv.out_channels // 2
        skip, skip_bias = model.stack.skip_product()
        rows = layers[0].channels
        no_residual = torch.zeros(rows, width), torch.zeros(rows)
        residuals = [
            (layer.residual.weight.flatten(1), layer.residual.bias) if layer.residual is not None else no_residual
            for layer in layers
        ]
        weights = (
            model.input_conv.weight.flatten(1),
            model.input_conv.bias,
            model.one_poles.decay,
            torch.stack([layer.conv.weight.transpose(1, 2) for layer in layers]),
            torch.stack([weight for weight, _ in residuals]),
            torch.stack([bias for _, bias in residuals]),
            skip.flatten(1),
            skip_bias,
            model.hidden.weight.flatten(1),
            model.hidden.bias,
            model.out.weight.flatten(),
        )
        dilations = np.array(model.dilations, np.int64)
        sizes = rows * ((taps - 1) * dilations + kernels.ROOM)
        offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        charges = np.array(model.one_poles.charges, np.float32)
        self.states = [
            (charges.copy(), np.zeros(sizes.sum(), np.float32), np.zeros(1, np.int64)) for _ in range(channels)
        ]
        scratch_rows = max(2, 1 + len(charges), len(skip) + model.hidden.out_channels), len(layers) * width
        scratch = (np.zeros(count * kernels.BLOCK, np.float32) for count in scratch_rows)
        out_bias = np.float32(model.out.bias.item())
        #: The kernel's arguments that are the same in every call, in its order.
        self.constants = (*map(_array, weights), out_bias, dilations, offsets, *scratch)
        self._knobs: Tensor | None = None

    @torch.inference_mode()
    def _biases(self, knobs: Tensor) -> np.ndarray:
        """The bias of each layer plus its conditioning on the knobs, (layers, 2 * hidden)."""
        condition = self.model.condition(knobs.unsqueeze(0)) if self.model.knobs else None
        biases = []
        for layer in self.model.stack.layers:
            conditioning = 0 if condition is None else layer.condition(condition).flatten()
            biases.append(layer.conv.bias + conditioning)
        return _array(torch.stack(biases))

    def step(self, x: np.ndarray, knobs: Tensor) -> np.ndarray:
        """Processes ``(channels, time)`` with settings ``(knobs,)``; the result has the same shape."""
        if self._knobs is None or not torch.equal(knobs, self._knobs):
            self._knobs, self._bias = knobs, self._biases(knobs)
        x = np.require(x, np.float32, ["C", "W"])  # numba would compile again for another layout
        y = np.empty_like(x)
        for channel, state in enumerate(self.states):
            self.kernels.apply_effect(x[channel], y[channel], self._bias, *state, *self.constants)
        return y


def make_engine(model: EffectModel, channels: int) -> TorchEngine | CompiledEngine:
    """The compiled engine if it can run this model, else the torch engine."""
    float32_on_cpu = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters())
    if float32_on_cpu and type(model) is Effect:  # a subclass may compute something else

        def trial(kernels: ModuleType) -> None:
            CompiledEngine(model, 1, kernels).step(np.zeros((1, 1), np.float32), torch.zeros(len(model.knobs)))

        kernels = load_kernels("wavedil.audio.effects.kernels", trial)
        if kernels is not None:
            return CompiledEngine(model, channels, kernels)
    return TorchEngine(model, channels)


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy())
