"""Initialization: the variance stays the same through each layer and through the sum of all skips.

Measured on speech against torch's default: see docs/measurements.md.
"""

import torch
from torch import nn

from wavedil.core import DilatedConv, DilatedStack


@torch.no_grad()
def init_conv_(conv: DilatedConv, gain: float) -> None:
    """Normal weights and zero bias: the outputs' standard deviation is ``gain`` times that of the inputs."""
    nn.init.normal_(conv.weight, std=gain / conv.weight[0].numel() ** 0.5)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def init_stack_(stack: DilatedStack) -> None:
    """Initializes a stack of gated blocks, except their condition layers."""
    for layer in stack.layers:
        init_conv_(layer.conv, 1.0)
        init_conv_(layer.skip, 2.0 / len(stack.layers) ** 0.5)
        if layer.residual is not None:
            init_conv_(layer.residual, 0.3)  # a layer starts as a small change of its input
