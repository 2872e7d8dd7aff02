"""Engines of live effects: compiled C, or the model in PyTorch."""

import ctypes
import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.effects.compiled.c_writer import ramp_samples
from wavedil.audio.effects.compiled.layout import Layout, state_type
from wavedil.audio.effects.compiled.library import load_program
from wavedil.audio.effects.compiled.program import lower
from wavedil.audio.models.effect_model import EffectModel
from wavedil.core.stream import State, add_prefix, substate
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError, shown

_log = logging.getLogger("wavedil")
_given: set[str] = set()  # messages


class Ramp:
    """Knob values that move to new ones within 20 ms, as in the C code.

    The values follow a cubic from the value and slope that the knob has when it is set. Its slope has no jump, which
    would be audible in a pure tone.
    """

    def __init__(self, model: EffectModel):
        self.samples = ramp_samples(model.sample_rate)
        self.low, self.high = torch.tensor(list(model.knobs.values())).view(-1, 2).T
        self.target: Tensor | None = None
        self.started = False

    def set(self, values: Tensor) -> None:
        """Sets the values ``(knobs,)`` to move to; those before the first sample apply at once."""
        values = values.float()
        if self.target is None or not self.started:
            self.target = values.clone()
            self.span, self.slope, self.left = torch.zeros(3, len(values)).unbind()
            return
        changed, u = values != self.target, self.left / self.samples
        slope = u * (6 * (1 - u) * self.span + (3 * u - 2) * self.slope)
        self.span = torch.where(changed, values - self._at(self.left), self.span)
        self.slope = torch.where(changed, slope, self.slope)
        self.left = torch.where(changed, float(self.samples), self.left)
        self.target = values.clone()

    def state(self) -> State:
        names = ("target", "span", "slope", "left", "started")
        return {name: torch.as_tensor(getattr(self, name)) for name in names}

    def restore(self, state: State) -> None:
        self.target, self.span, self.slope, self.left = (state[name] for name in ("target", "span", "slope", "left"))
        self.started = bool(state["started"])

    def next(self, count: int) -> tuple[int, Tensor]:
        """The number of samples, at most ``count``, to compute next, and their knobs: ``(knobs,)`` if all have the same
        values, else ``(knobs, time)``.
        """
        self.started = True
        remaining = int(self.left.max())
        if not remaining:
            return count, self.target
        count = min(count, remaining)
        left = (self.left.unsqueeze(1) - torch.arange(1, count + 1)).clamp(min=0)
        self.left = left[:, -1]
        return count, self._at(left.T).T

    def _at(self, left: Tensor) -> Tensor:
        """Values of the knobs that have some samples to go, ``(…, knobs)``."""
        u = left / self.samples
        moved = self.target + u * u * ((1 - u) * self.slope - (3 - 2 * u) * self.span)
        return torch.minimum(torch.maximum(moved, self.low), self.high)


def _ramp_limits(sample_rate: int) -> dict[str, int]:
    """The largest values of what counts, in the state of a ramp."""
    return {"left": ramp_samples(sample_rate), "started": 1}


class TorchEngine:
    """Runs the model's ``step``, which defines the result."""

    def __init__(self, model: EffectModel, channels: int):
        self.model, self.channels, self.state_of_model = model, channels, None
        self.ramp = Ramp(model)

    @torch.inference_mode()
    def set_knobs(self, knobs: Tensor) -> None:
        """Moves the knobs to the values ``(knobs,)``; those before the first sample apply at once."""
        self.ramp.set(knobs)

    @torch.inference_mode()
    def process(self, x: np.ndarray) -> np.ndarray:
        """Processes ``(channels, time)``; the result has the same shape."""
        device = next(self.model.parameters()).device
        sound, parts = torch.from_numpy(np.array(x)).unsqueeze(1).to(device), []
        start, end = 0, x.shape[1]
        if not end:
            return np.zeros_like(x)
        while start < end:
            count, knobs = end - start, None
            if self.model.knobs:
                count, values = self.ramp.next(count)
                knobs = values.to(device).expand(self.channels, *values.shape)
            y, self.state_of_model = self.model.step(sound[:, :, start : start + count], self.state_of_model, knobs)
            parts.append(y[:, 0].float().cpu().numpy())
            start += count
        return np.concatenate(parts, axis=1)

    def state(self) -> State:
        """Everything that the next samples depend on."""
        found = add_prefix("model", self.state_of_model or {})
        if self.model.knobs:
            found |= add_prefix("ramp", self.ramp.state())
        return {key: value.clone() for key, value in found.items()}

    @torch.inference_mode()
    def restore(self, state: Mapping[str, Any]) -> list[float]:
        """Continues from a :meth:`state`; returns the values to which its knobs move.

        Raises:
            WavedilError: the state is of another model, number of channels or engine, or has values out of range.
        """
        expected = add_prefix("ramp", self.ramp.state()) if self.model.knobs else {}
        if any(str(key).startswith("model.") for key in state):  # not before the first sample
            device = next(self.model.parameters()).device
            knobs = self.ramp.target.to(device).expand(self.channels, -1) if self.model.knobs else None
            _, after = self.model.step(torch.zeros(self.channels, 1, 1, device=device), None, knobs)
            expected |= add_prefix("model", after)
        found = _checked_state(state, expected, add_prefix("ramp", _ramp_limits(self.model.sample_rate)))
        self.state_of_model = substate(found, "model") or None
        if self.model.knobs:
            self.ramp.restore(substate(found, "ramp"))
        return self.ramp.target.tolist() if self.model.knobs else []


class CompiledEngine:
    """Runs the C code of the model's program, with the weights that the model had at construction.

    Raises:
        WavedilError: the model has no program, or there is no compiler, or it failed.
    """

    def __init__(self, model: EffectModel, channels: int):
        program = lower(model)
        self.library, self.limits = load_program(program), _ramp_limits(program.sample_rate)
        self.process_channel = self.library.effect_process
        layout, kind = Layout(program), state_type(program)
        self.limits["data"] = None  # parts of it that are not in use may hold anything
        self.limits["at"] = torch.tensor([history.room for history in layout.histories])
        self.memory = np.zeros((channels, kind.itemsize + 64), np.uint8)
        starts = [-row.ctypes.data % 64 for row in self.memory]  # at the start of a cache line
        self.fields = [
            row[start : start + kind.itemsize].view(kind) for row, start in zip(self.memory, starts, strict=True)
        ]
        self.states = [ctypes.c_void_p(fields.ctypes.data) for fields in self.fields]
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

    def state(self) -> State:
        """Everything that the next samples depend on."""
        names = self.fields[0].dtype.names
        return {name: torch.from_numpy(np.concatenate([fields[name] for fields in self.fields])) for name in names}

    def restore(self, state: Mapping[str, Any]) -> list[float]:
        """Continues from a :meth:`state`; returns the values to which its knobs move.

        Raises:
            WavedilError: the state is of another model, number of channels or engine, or has values out of range.
        """
        found = _checked_state(state, self.state(), self.limits)
        for name, values in found.items():
            for fields, value in zip(self.fields, values.numpy(), strict=True):
                fields[name] = value
        return found["target"][0].tolist() if "target" in found else []


def _checked_state(state: Mapping[str, Any], expected: State, limits: Mapping[str, int | Tensor | None]) -> State:
    """A user's state, as tensors of the types of ``expected``.

    Numbers are from 0 to the ``limits`` of their keys, or finite where there is no limit; None: not checked.
    """
    other = "it is of another model, number of channels or engine (compiled C, or PyTorch)"
    if state.keys() != expected.keys():
        raise WavedilError(f"state has {shown(sorted(map(str, state)))}: expected {shown(sorted(expected))}; {other}")
    found = {}
    for key, like in expected.items():
        value = to_tensor(f"{key} of state", state[key]).detach()
        if value.shape != like.shape:
            raise WavedilError(f"state has {key} of shape {tuple(value.shape)}: expected {tuple(like.shape)}; {other}")
        found[key] = value.to(like, copy=True)
        limit = limits.get(key, math.inf)
        is_good = limit is None or value.isfinite() & (value <= limit) & ((value >= 0) | (key not in limits))
        if not bool(torch.as_tensor(is_good).all()):
            raise WavedilError(f"state has {key} out of range: expected what state() of this effect returned")
    return found


def make_engine(model: EffectModel, channels: int) -> TorchEngine | CompiledEngine:
    """The compiled engine if it can run this model, else the torch engine, with one message about the reason."""
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
