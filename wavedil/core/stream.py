"""Explicit streaming state: ``step(x, state) -> (y, state)``.

A state is a ``dict[str, Tensor]`` with one history per causal convolution, keyed like the module's parameters
(``"layers.3.conv.history"``). It can be saved with safetensors or ``torch.save``, moved (:func:`to`) and branched
(:func:`select`). A step returns a new state and never modifies its argument.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from wavedil.errors import WavedilError

State = dict[str, Tensor]


def take_history(state: Mapping[str, Tensor] | None, x: Tensor, axis: int, length: int) -> Tensor:
    """The last ``length`` inputs before chunk ``x`` along space axis ``axis``: from the state, or zeros at the start.

    Raises:
        WavedilError: the state has no history, or one of another shape or on another device.
    """
    shape = list(x.shape)
    shape[axis + 2] = length
    if state is None:
        return x.new_zeros(shape)
    if "history" not in state:
        raise WavedilError(
            f"state has keys {sorted(state)}: expected 'history'; pass the state of the previous step, or None"
        )
    history = state["history"]
    if list(history.shape) != shape:
        raise WavedilError(
            f"state has a history of shape {tuple(history.shape)}: expected {tuple(shape)}; it is from another model "
            "or batch size, so start with state=None"
        )
    if history.device != x.device:
        raise WavedilError(
            f"state is on {history.device}, x on {x.device}: move the state with wavedil.core.stream.to(state, device)"
        )
    return history.to(x.dtype)


def substate(state: Mapping[str, Tensor] | None, name: str) -> State | None:
    """The part of a module's state that belongs to its submodule ``name``; None at the start."""
    if state is None:
        return None
    prefix = name + "."
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def add_prefix(name: str, tensors: Mapping[str, Tensor]) -> State:
    """The tensors of the submodule ``name`` with their keys in its parent: ``name`` and a dot before each."""
    return {f"{name}.{key}": value for key, value in tensors.items()}


def to(state: Mapping[str, Tensor], *args, **kwargs) -> State:
    """The state on another device or in another dtype; arguments of ``Tensor.to``."""
    return {key: value.to(*args, **kwargs) for key, value in state.items()}


def select(state: Mapping[str, Tensor], streams: Tensor | list[int]) -> State:
    """The state of the batch entries ``streams``, in this order; a repeated index branches a stream."""
    index = torch.as_tensor(streams)
    return {key: value.index_select(0, index.to(value.device)) for key, value in state.items()}
