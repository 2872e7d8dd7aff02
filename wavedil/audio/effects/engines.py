"""What computes a live effect: compiled C, or the model itself."""

import ctypes
import logging

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.effects.compiled.c_writer import knob_ramp
from wavedil.audio.effects.compiled.library import load_program
from wavedil.audio.effects.compiled.program import lower
from wavedil.audio.models.effect_model import EffectModel
from wavedil.errors import WavedilError

_log = logging.getLogger("wavedil")
_given: set[str] = set()  # messages


class Ramp:
    """Knob values that move to new ones within 20 ms, in small steps, as in the C code."""

    def __init__(self, sample_rate: int):
        self.steps, self.step_samples = knob_ramp(sample_rate)
        self.values: Tensor | None = None
        self.clock, self.started = 0, False

    def set(self, values: Tensor) -> None:
        """Sets the values to move to; those before the first sample apply at once."""
        values = values.float()
        if self.values is None or not self.started:
            self.values, self.target = values.clone(), values.clone()
            self.delta, self.left = torch.zeros_like(values), torch.zeros_like(values)
            return
        changed = values != self.target
        self.target = values.clone()
        self.delta = torch.where(changed, (values - self.values) / self.steps, self.delta)
        self.left = torch.where(changed, float(self.steps), self.left)

    def next(self, count: int) -> int:
        """The number of samples, at most ``count``, to compute with the present ``values``."""
        if bool(self.left.any()):
            if not self.clock:
                self.left = (self.left - 1).clamp(min=0)
                moved = torch.where(self.left > 0, self.values + self.delta, self.target)
                self.values = moved
            count = min(count, self.step_samples - self.clock)
        self.clock, self.started = (self.clock + count) % self.step_samples, True
        return count


class TorchEngine:
    """Runs the model's ``step``, which defines the result."""

    def __init__(self, model: EffectModel, channels: int):
        self.model, self.channels, self.state = model, channels, None
        self.ramp = Ramp(model.sample_rate)

    @torch.inference_mode()
    def set_knobs(self, knobs: Tensor) -> None:
        """Moves the knobs to the values ``(knobs,)``; those before the first sample apply at once."""
        self.ramp.set(knobs)

    @torch.inference_mode()
    def process(self, x: np.ndarray) -> np.ndarray:
        """Processes ``(channels, time)``; the result has the same shape."""
        device = next(self.model.parameters()).device
        sound, parts = torch.from_numpy(x).unsqueeze(1).to(device), []
        start, end = 0, x.shape[1]
        if not end:
            return np.zeros_like(x)
        while start < end:
            count = self.ramp.next(end - start) if self.model.knobs else end
            knobs = self.ramp.values.to(device).expand(self.channels, -1) if self.model.knobs else None
            y, self.state = self.model.step(sound[:, :, start : start + count], self.state, knobs)
            parts.append(y[:, 0].float().cpu().numpy())
            start += count
        return np.concatenate(parts, axis=1)


class CompiledEngine:
    """Runs the C code of the model's program, with the weights that the model had at construction.

    Raises:
        WavedilError: the model has no program, or there is no compiler, or it failed.
    """

    def __init__(self, model: EffectModel, channels: int):
        self.library = load_program(lower(model))
        size = self.library.effect_state_size()
        self.process_channel = self.library.effect_process
        self.memory = np.zeros((channels, size + 64), np.uint8)
        starts = [row.ctypes.data for row in self.memory]
        self.states = [ctypes.c_void_p(start + -start % 64) for start in starts]  # at the start of a cache line
        for state in self.states:
            self.library.effect_init(state)

    def set_knobs(self, knobs: Tensor) -> None:
        """Moves the knobs to the values ``(knobs,)``; those before the first sample apply at once."""
        for state in self.states:
            for index, value in enumerate(knobs.tolist()):
                self.library.effect_set_knob(state, index, value)

    def process(self, x: np.ndarray) -> np.ndarray:
        """Processes ``(channels, time)``; the result has the same shape."""
        x = np.ascontiguousarray(x, np.float32)
        y = np.empty_like(x)
        source, target = (array.__array_interface__["data"][0] for array in (x, y))
        for channel, state in enumerate(self.states):
            row = channel * x.strides[0]
            self.process_channel(state, source + row, target + row, x.shape[1])
        return y


def make_engine(model: EffectModel, channels: int) -> TorchEngine | CompiledEngine:
    """The compiled engine if it can run this model, else the torch engine; a message says why, once."""
    parameters = list(model.parameters())
    if any(p.device.type != "cpu" or p.dtype != torch.float32 for p in parameters):
        return TorchEngine(model, channels)
    try:
        return CompiledEngine(model, channels)
    except WavedilError as error:
        if str(error) not in _given:
            _log.warning("this effect runs in PyTorch, which is slower: %s", error)
        _given.add(str(error))
        return TorchEngine(model, channels)
