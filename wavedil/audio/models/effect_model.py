"""What every model from sound to sound has: knobs, and a beginning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wavedil.core.stream import State
from wavedil.errors import WavedilError


class EffectModel(nn.Module):
    """A model that was trained on pairs of input and output: an amplifier, a pedal, a denoiser.

    It is what ``wavedil process``, ``wavedil evaluate`` and :class:`wavedil.audio.LiveEffect` run.
    """

    #: In messages.
    title = "an Effect or NAM"
    sample_rate: int  # in Hz
    receptive_field: int  # samples of the input, the present one among them, that an output sees
    #: Name and range of each control.
    knobs: Mapping[str, tuple[float, float]] = {}
    #: Seconds of silence that it hears first when it is played live, until nothing of its start-up is left.
    settle: float = 0.0
    #: Whether something in it is charged at time 0: what it makes of a stretch from within a recording is then wrong.
    charged: bool = False

    @property
    def beginning(self) -> str:
        """What was before time 0, in words."""
        return "zero history"

    @staticmethod
    def evaluation() -> Callable[..., Any]:
        """The function behind ``wavedil evaluate``."""
        from wavedil.audio.effects.evaluation import evaluate_effect

        return evaluate_effect

    def forward(self, x: Tensor, knobs: Tensor | None = None, skip: int = 0) -> Tensor:
        """``(batch, 1, time), (batch, knobs) -> (batch, 1, time - skip)``: the first ``skip`` outputs are left out."""
        raise NotImplementedError

    def step(self, x: Tensor, state: State | None = None, knobs: Tensor | None = None) -> tuple[Tensor, State]:
        """The next chunk ``(batch, 1, time)`` of any length at settings ``(batch, knobs)``, and the state after it."""
        raise NotImplementedError

    def knob_values(self, values: Mapping[str, float] | None = None) -> Tensor:
        """Knob settings by name as ``(knobs,)``, in the order of the model's.

        Raises:
            WavedilError: a knob that is unknown, missing, or out of its range.
        """
        values = values or {}
        names = ", ".join(self.knobs) or "none"
        for name in values:
            if name not in self.knobs:
                raise WavedilError(f"knob {name!r} is unknown: this model has {names}")
        for name, (low, high) in self.knobs.items():
            if name not in values:
                raise WavedilError(f"knob {name!r} is not set: give a value in {low:g}..{high:g}")
            if not low <= values[name] <= high:
                raise WavedilError(f"knob {name!r} is {values[name]:g}: expected a value in {low:g}..{high:g}")
        return torch.tensor([float(values[name]) for name in self.knobs])
