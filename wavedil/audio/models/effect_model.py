"""Base class of models that process sound."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from wavedil.audio.effects.compiled.program import Program, no_program
from wavedil.core.schema import Range, checked
from wavedil.core.stream import State
from wavedil.errors import WavedilError, one_of, shown, with_article

NARROWEST = 1e-5  # width of a knob's range, relative to the larger end
Quality = Annotated[float, Range(0, 1)]


class EffectModel(nn.Module):
    """Base class of models trained on pairs of input and output: an amplifier, a pedal, a denoiser.

    ``wavedil process``, ``wavedil evaluate`` and :class:`wavedil.audio.LiveEffect` run them.
    """

    #: Name of this kind of model in messages.
    title = "an Effect, NAM or LayerChain"
    #: Name of the first input in an ONNX file; None if there can be none.
    input_name: str | None = "sound"
    sample_rate: int  # in Hz
    receptive_field: int  # input samples, up to the present, that an output depends on
    #: Name and range of each control.
    knobs: Mapping[str, tuple[float, float]] = {}
    #: Seconds of silence to run before live sound, after which the start-up has no effect.
    settle: float = 0.0
    #: Whether filters have a charge at time 0. Crops from within a recording then start from a wrong state.
    charged: bool = False

    @property
    def start_description(self) -> str:
        """The state at time 0, for the definitions of figures."""
        return "zero history"

    @staticmethod
    def evaluation() -> Callable[..., Any]:
        """The function behind ``wavedil evaluate``."""
        from wavedil.audio.effects.evaluation import evaluate_effect

        return evaluate_effect

    def forward(self, x: Tensor, knobs: Tensor | None = None, skip: int = 0) -> Tensor:
        """``(batch, 1, time), (batch, knobs) -> (batch, 1, time - skip)``, without the first ``skip`` outputs.

        ``knobs`` may also be ``(batch, knobs, time)``, which change from sample to sample.
        """
        raise NotImplementedError

    def step(self, x: Tensor, state: State | None = None, knobs: Tensor | None = None) -> tuple[Tensor, State]:
        """The next chunk ``(batch, 1, time)``, of any length: its output and the state after it.

        ``knobs`` are ``(batch, knobs)``, or ``(batch, knobs, time)`` where they change from sample to sample, as in
        :class:`wavedil.audio.LiveEffect` while a knob moves.
        """
        raise NotImplementedError

    def program(self) -> Program:
        """The model for compiled code. A subclass that computes something else has to define its own.

        Raises:
            WavedilError: there is no compiled code for this model.
        """
        raise no_program(self)

    @checked
    def at_quality(self, quality: Quality) -> "EffectModel":
        """The model to use at a quality from 0, the fastest, to 1, of a model that has several.

        Raises:
            WavedilError: this model has only one quality.
        """
        raise WavedilError(f"quality is {quality:g}: {with_article(self)} like this has only one, omit it")

    def parts(self) -> list["EffectModel"]:
        """The networks that training fits to the target, each on its own; the last one is validated."""
        return [self]

    def part_names(self) -> list[str]:
        """A name of each of :meth:`parts`, for the page of a run."""
        return ["model"]

    def set_validation_esr(self, esr: float) -> None:
        """Stores the ESR on held-out recordings, a fraction, in the metadata of a model that has them."""
        if hasattr(self, "metadata") and math.isfinite(esr):
            metadata = dict(self.metadata or {})
            metadata["training"] = {**metadata.get("training", {}), "validation_esr": esr}
            self.metadata = metadata
            self.config = {**self.config, "metadata": metadata}

    def check_input(self, x: Tensor, knobs: Tensor | None) -> None:
        """Raises WavedilError unless x is ``(batch, 1, time)`` and knobs are as :meth:`step` takes them."""
        if x.ndim != 3 or x.shape[1] != 1:
            raise WavedilError(f"x has shape {tuple(x.shape)}: expected (batch, 1, time)")
        shapes = (x.shape[0], len(self.knobs)), (x.shape[0], len(self.knobs), x.shape[2])
        if (knobs is None and self.knobs) or (knobs is not None and tuple(knobs.shape) not in shapes):
            found = "None" if knobs is None else f"of shape {tuple(knobs.shape)}"
            expected = f"{shapes[0]} or {shapes[1]}, for {', '.join(self.knobs)}" if self.knobs else "None"
            raise WavedilError(f"knobs is {found}: expected {expected}")

    @checked
    def knob_values(self, values: Mapping[str, float] | None = None) -> Tensor:
        """Knob values by name to ``(knobs,)``, in the model's order.

        Raises:
            WavedilError: a knob is unknown, missing, or out of its range.
        """
        values = values or {}
        for name in values:
            if name not in self.knobs:
                raise WavedilError(f"knob {name!r} is unknown: expected {one_of(name, self.knobs)}")
        for name, (low, high) in self.knobs.items():
            if name not in values:
                raise WavedilError(f"knob {name!r} is not set: give a value in {low:g}..{high:g}")
            value = values[name]
            if not low <= value <= high:
                found = shown(value) if isinstance(value, int) else f"{value:g}"  # an int may be too large for a float
                raise WavedilError(f"knob {name!r} is {found}: expected a value in {low:g}..{high:g}")
        return torch.tensor([float(values[name]) for name in self.knobs])


def knob_ranges(knobs: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """Knobs with their ranges, checked."""
    for name, ends in knobs.items():
        if len(ends) != 2 or not ends[1] - ends[0] > NARROWEST * max(1e-3, *map(abs, ends)):  # float32 has 7 digits
            raise WavedilError(
                f"knob {name!r} has the range {list(ends)}: expected [lowest, highest], which differ by more than "
                f"{NARROWEST:g} of the larger one"
            )
    return {name: (float(low), float(high)) for name, (low, high) in knobs.items()}


def parse_knobs(settings: Iterable[str], option: str = "") -> dict[str, float]:
    """``["gain=0.5"]`` as a dictionary; ``option`` is the beginning of messages.

    Raises:
        WavedilError: a setting is not ``NAME=NUMBER``, or a name occurs twice.
    """
    values: dict[str, float] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name in values:
            raise WavedilError(f"{option}{setting}: {name} is set twice: keep one of them")
        try:
            values[name] = float(value)
        except ValueError:
            raise WavedilError(f"{option}{setting}: expected NAME=NUMBER, e.g. gain=0.5") from None
    return values
