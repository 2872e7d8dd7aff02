"""The state that truncated back-propagation carries from one batch to the next."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from wavedil.core.stream import State


class CarriedState:
    """The state of a network after each row of the last batch, and the place where that row ended.

    A row whose crop does not continue the last one starts with the state before a file's first sample: the first crop
    of a file, and the first one after a file that could not be read or after a change of the batch size.
    """

    def __init__(self) -> None:
        self._last: State | None = None
        self._step, self._before = -1, None  # an optimizer step, and the state before its first batch

    def start_batch(self, step: int) -> None:
        """Remembers the state before the first batch of an optimizer step."""
        if step != self._step:
            self._step, self._before = step, self._last

    def undo_step(self, step: int) -> None:
        """Restores the state before ``step``, if that has begun."""
        if step == self._step:
            self._last = self._before

    def before(self, batch: dict[str, Tensor], start: Callable[[int], State]) -> State:
        """The state before each row of a batch.

        Args:
            batch: ``file`` and ``start`` tell the place of each row, ``(batch,)``.
            start: returns the state of a number of rows at the start of a file.
        """
        state, last = start(len(batch["file"])), self._last
        if last is None or len(last["file"]) != len(batch["file"]):
            return state
        continues = (last["file"].to(batch["file"].device) == batch["file"]) & (
            last["next"].to(batch["start"].device) == batch["start"]
        )
        return {
            name: torch.where(
                continues.view(-1, *[1] * (value.ndim - 1)), last[name].to(value.device, value.dtype), value
            )
            for name, value in state.items()
        }

    def store(self, batch: dict[str, Tensor], state: State) -> None:
        """Keeps the state after a batch, without its gradients."""
        place = {"file": batch["file"], "next": batch["start"] + batch["codes"].shape[1]}
        self._last = {**{name: value.detach() for name, value in state.items()}, **place}

    def state_dict(self) -> list[dict[str, Tensor] | None]:
        """The state of each process, in order; called by all of them."""
        last = None if self._last is None else {name: value.cpu() for name, value in self._last.items()}
        if not (dist.is_available() and dist.is_initialized()):
            return [last]
        states: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(states, last)
        return states

    def load_state_dict(self, states: list[dict[str, Tensor] | None], rank: int) -> None:
        """Restores the state of process ``rank``; the rows of further processes start anew."""
        self._last, self._step = states[rank] if rank < len(states) else None, -1
