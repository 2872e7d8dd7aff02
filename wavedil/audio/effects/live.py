"""Effects block by block, as live sound comes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.models.effect import Effect
from wavedil.audio.models.effect_model import EffectModel
from wavedil.errors import WavedilError
from wavedil.ops.fallback import load_kernels

CHUNK = 2**15  # samples of silence in one pass


class LiveEffect:
    """An effect for live use, block by block; it adds no delay beyond the block.

    ::

        effect = LiveEffect(model, {"gain": 0.5})
        while True:
            play(effect.process(record(128)))  # (channels, 128) or (128,)
            effect.knobs = {"gain": dial()}

    Args:
        model: e.g. an :class:`Effect`; it stays as it is.
        knobs: settings by name; they may be set anew at any time, and hold from the next block on.
        channels: each is processed by itself.

    It begins with the model's ``settle`` seconds of silence, so that no start-up is heard.
    On a CPU it runs as compiled loops where numba is installed; these take the weights as they are when it is made.
    ``seconds_per_block`` is the mean time that :meth:`process` has taken, ``slowest_block`` the longest, and
    ``real_time_factor`` the seconds of sound in a second of work.
    """

    def __init__(self, model: EffectModel, knobs: Mapping[str, float] | None = None, channels: int = 1):
        self.model, self.channels = model.eval(), channels
        self.knobs = knobs or {}
        self._engine = make_engine(model, channels)
        silence = math.ceil(model.settle * model.sample_rate)
        for start in range(0, silence, CHUNK):
            self._engine.step(np.zeros((channels, min(CHUNK, silence - start)), np.float32), self._setting)
        self.blocks, self.samples, self.seconds, self.slowest_block = 0, 0, 0.0, 0.0

    @property
    def knobs(self) -> dict[str, float]:
        return self._knobs

    @knobs.setter
    def knobs(self, values: Mapping[str, float]) -> None:
        self._setting = self.model.knob_values(values)
        self._knobs = dict(values)

    def process(self, block: np.ndarray) -> np.ndarray:
        """The next block, ``(time,)`` or ``(channels, time)``, of any length, to the same, float32."""
        started = time.perf_counter()
        sound = np.asarray(block, dtype=np.float32)
        if sound.ndim not in (1, 2) or (sound.shape[0] if sound.ndim == 2 else 1) != self.channels:
            raise WavedilError(f"block has shape {sound.shape}: expected ({self.channels}, time)")
        if not np.isfinite(sound).all():
            raise WavedilError("block holds NaN or Inf, which would stay in the model's memory: leave it out")
        y = self._engine.step(sound.reshape(self.channels, -1), self._setting)
        self.blocks, self.samples = self.blocks + 1, self.samples + y.shape[1]
        took = time.perf_counter() - started
        self.seconds, self.slowest_block = self.seconds + took, max(self.slowest_block, took)
        return y.reshape(sound.shape)

    @property
    def seconds_per_block(self) -> float:
        return self.seconds / self.blocks if self.blocks else math.nan

    @property
    def real_time_factor(self) -> float:
        return self.samples / self.model.sample_rate / self.seconds if self.blocks else math.nan


class TorchEngine:
    """The definition: the model's own ``step``."""

    def __init__(self, model: EffectModel, channels: int):
        self.model, self.channels, self.state = model, channels, None

    @torch.inference_mode()
    def step(self, x: np.ndarray, knobs: Tensor) -> np.ndarray:
        """``(channels, time)`` to the same, at settings ``(knobs,)``."""
        device = next(self.model.parameters()).device
        setting = knobs.to(device).expand(self.channels, -1) if self.model.knobs else None
        y, self.state = self.model.step(torch.from_numpy(x).unsqueeze(1).to(device), self.state, setting)
        return y[:, 0].float().cpu().numpy()


class CompiledEngine:
    """The same by the loops of ``effect_kernels``, for float32 on a CPU."""

    def __init__(self, model: Effect, channels: int, kernels: ModuleType):
        self.model, self.kernels = model, kernels
        layers = list(model.stack.layers)
        taps, width = layers[0].conv.kernel_size[0], layers[0].conv.out_channels // 2
        skip, skip_bias = model.stack.skip_product()
        rows = layers[0].channels
        blank = torch.zeros(rows, width), torch.zeros(rows)
        residuals = [
            (layer.residual.weight.flatten(1), layer.residual.bias) if layer.residual is not None else blank
            for layer in layers
        ]
        self.weights = tuple(
            _array(tensor)
            for tensor in (
                torch.stack([layer.conv.weight.transpose(1, 2) for layer in layers]),
                torch.stack([weight for weight, _ in residuals]),
                torch.stack([bias for _, bias in residuals]),
                skip.flatten(1),
                skip_bias,
                model.hidden.weight.flatten(1),
                model.hidden.bias,
                model.out.weight.flatten(),
            )
        )
        self.input_conv = _array(model.input_conv.weight.flatten(1)), _array(model.input_conv.bias)
        self.decay = _array(model.one_poles.decay)
        self.out_bias = np.float32(model.out.bias.item())
        self.dilations = np.array(model.dilations, np.int64)
        sizes = rows * ((taps - 1) * self.dilations + kernels.ROOM)
        self.offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        charges = np.array(model.one_poles.charges, np.float32)
        self.states = [
            (charges.copy(), np.zeros(sizes.sum(), np.float32), np.zeros(1, np.int64)) for _ in range(channels)
        ]
        scratch = max(2, 1 + len(charges), len(skip) + model.hidden.out_channels) * kernels.BLOCK
        self.scratch = np.zeros(scratch, np.float32), np.zeros(len(layers) * width * kernels.BLOCK, np.float32)
        self._setting: Tensor | None = None

    @torch.inference_mode()
    def _biases(self, knobs: Tensor) -> np.ndarray:
        """(layers, 2 * hidden): each layer's bias with the knobs' settings in it."""
        condition = self.model.condition(knobs.unsqueeze(0)) if self.model.knobs else None
        biases = []
        for layer in self.model.stack.layers:
            more = 0 if condition is None else layer.condition(condition).flatten()
            biases.append(layer.conv.bias + more)
        return _array(torch.stack(biases))

    def step(self, x: np.ndarray, knobs: Tensor) -> np.ndarray:
        """``(channels, time)`` to the same, at settings ``(knobs,)``."""
        if self._setting is None or not torch.equal(knobs, self._setting):
            self._setting, self._bias = knobs, self._biases(knobs)
        conv, residual, residual_bias, skip, skip_bias, hidden, hidden_bias, out = self.weights
        x = np.require(x, np.float32, ["C", "W"])  # numba compiles anew for arrays that are otherwise
        y = np.empty_like(x)
        for channel, (held, histories, place) in enumerate(self.states):
            self.kernels.run(
                x[channel], y[channel], *self.input_conv, self.decay, held, conv, self._bias, residual, residual_bias,
                skip,
                skip_bias, hidden, hidden_bias, out, self.out_bias, self.dilations, self.offsets, histories, place,
                *self.scratch,
            )  # fmt: skip
        return y


def make_engine(model: EffectModel, channels: int) -> TorchEngine | CompiledEngine:
    """The compiled engine where it can run this model, else torch's."""
    plain = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters())
    if plain and isinstance(model, Effect):

        def trial(kernels: ModuleType) -> None:
            CompiledEngine(model, 1, kernels).step(np.zeros((1, 1), np.float32), torch.zeros(len(model.knobs)))

        kernels = load_kernels("wavedil.audio.effects.kernels", trial)
        if kernels is not None:
            return CompiledEngine(model, channels, kernels)
    return TorchEngine(model, channels)


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy())
