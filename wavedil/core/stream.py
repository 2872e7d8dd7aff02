"""Explicit streaming state: ``step(x, state) -> (y, state)``.

A state is a plain ``dict[str, Tensor]``, one history per causal convolution, keyed like the module's parameters
(``"layers.3.conv.history"``). So it can be saved with safetensors or ``torch.save``, moved, copied and branched like
any tensors, and it carries no hidden position: a step never changes the state it is given.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wavedil.errors import WavedilError

State = dict[str, Tensor]


def take_history(state: Mapping[str, Tensor] | None, x: Tensor, axis: int, length: int) -> Tensor:
    """The ``length`` inputs before chunk ``x`` along space ``axis``: zeros at the start, else the state's, checked."""
    shape = list(x.shape)
    shape[axis + 2] = length
    if state is None:
        return x.new_zeros(shape)
    if "history" not in state:
        raise WavedilError(
            f"state has keys {sorted(state)}: expected 'history'; pass the state that the last step returned, or None"
        )
    history = state["history"]
    if list(history.shape) != shape:
        raise WavedilError(
            f"state has a history of shape {tuple(history.shape)}, this chunk needs {tuple(shape)}: "
            "it comes from another model or batch size; start again with state=None"
        )
    if history.device != x.device:
        raise WavedilError(
            f"state is on {history.device}, the chunk on {x.device}: move it with stream.to(state, device)"
        )
    return history.to(x.dtype)


def part(state: Mapping[str, Tensor] | None, name: str) -> State | None:
    """The state of the submodule ``name``, or None at the start."""
    if state is None:
        return None
    prefix = name + "."
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def named(name: str, state: State) -> State:
    """The state of a submodule under its name in the whole state."""
    return {f"{name}.{key}": value for key, value in state.items()}


def to(state: Mapping[str, Tensor], *args, **kwargs) -> State:
    """The state on another device or in another dtype; arguments as in ``Tensor.to``."""
    return {key: value.to(*args, **kwargs) for key, value in state.items()}


def clone(state: Mapping[str, Tensor]) -> State:
    """An independent copy."""
    return {key: value.clone() for key, value in state.items()}


def select(state: Mapping[str, Tensor], streams: Tensor | list[int]) -> State:
    """The state of some streams of the batch, in the order given; an index may occur twice (a branch)."""
    index = torch.as_tensor(streams)
    return {key: value.index_select(0, index.to(value.device)) for key, value in state.items()}
