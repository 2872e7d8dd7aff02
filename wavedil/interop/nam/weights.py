"""The order of the weights in a ``.nam`` file."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from wavedil.audio.models.nam import NAM, NAMLSTM, NAMConvNet, NAMLinear
from wavedil.audio.models.nam.layer import FILM_PLACES


def count(model: nn.Module) -> int:
    return sum(tensor.numel() for row in _rows(model) for tensor in row)


def fill(model: nn.Module, weights: Tensor) -> None:
    """Copies the flat ``weights``, as many as :func:`count` says, to the model."""
    with torch.no_grad():
        for row in _rows(model):
            numbers, weights = weights.tensor_split([sum(tensor.numel() for tensor in row)])
            parts = numbers.view(len(row[0]), -1).split([tensor.numel() // len(tensor) for tensor in row], dim=1)
            for tensor, part in zip(row, parts, strict=True):
                tensor.copy_(part.reshape(tensor.shape))


def flat(model: nn.Module) -> Tensor:
    """All weights in one float64 vector."""
    joined = (torch.cat([tensor.flatten(1) for tensor in row], 1) if len(row) > 1 else row[0] for row in _rows(model))
    return torch.cat([tensor.detach().double().cpu().flatten() for tensor in joined])


def _rows(model: nn.Module) -> Iterator[list[Tensor]]:
    """Tensors in order. Those of one list are concatenated row by row, as the matrices of an LSTM."""
    for part in _parts(model):
        if isinstance(part, Tensor):
            yield [part]
        elif isinstance(part, list):
            yield part
        elif part is not None:
            yield from [[tensor] for tensor in (part.weight, part.bias) if tensor is not None]


def _parts(model: nn.Module) -> Iterator[nn.Module | Tensor | list[Tensor] | None]:
    if isinstance(model, NAM):
        for array in model.arrays:
            yield array.rechannel
            for layer in array.layers:
                yield from (layer.conv, layer.mixin, layer.layer1x1, layer.head1x1)
                yield from (layer.films[place].conv for place in FILM_PLACES if place in layer.films)
            yield array.head_rechannel
        if model.head is not None:
            yield from model.head.convs
    elif isinstance(model, NAMLSTM):
        for layer in range(model.lstm.num_layers):
            yield [getattr(model.lstm, f"weight_{source}_l{layer}") for source in ("ih", "hh")]
            yield from (getattr(model.lstm, f"bias_ih_l{layer}"), model.hidden[layer], model.cell[layer])
        yield model.out
    elif isinstance(model, NAMConvNet):
        for conv, norm in zip(model.convs, model.norms, strict=True):
            yield conv
            if model.batchnorm:
                yield from (norm.mean, norm.variance, norm.weight, norm.bias, norm.eps)
        yield model.out
    elif isinstance(model, NAMLinear):
        yield model.conv
