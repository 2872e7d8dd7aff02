from collections.abc import Callable, Sequence

import pytest
import torch

from wavedil.audio import WaveNet
from wavedil.core import LearnedDilation, fold_dilations


@pytest.fixture
def set_taps() -> Callable[[WaveNet, Sequence[Sequence[int]]], WaveNet]:
    """A function that gives the layers of a WaveNet snapped taps at some delays each, in place."""

    def set_taps(model: WaveNet, delays: Sequence[Sequence[int]]) -> WaveNet:
        for layer, own in zip(model.stack.layers, delays, strict=True):
            old = layer.conv
            conv = LearnedDilation(1, old.in_channels, old.out_channels, len(own), window=600, padding="causal")
            with torch.no_grad():
                conv.positions.copy_(599 - torch.tensor([own]))
                conv.weight.mul_(1.5)
                conv.bias.mul_(1.5)
            layer.conv = conv.to(old.weight.device)
        return fold_dilations(model)

    return set_taps
