"""Replaces the convolutions of a network by learned or mergeable ones, for the comparisons beside this file."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from wavedil import DilatedConv, LearnedDilation, MergeableDilations

KINDS = ("regular", "learned", "mergeable")


def replace_taps(parts: Sequence[nn.Module], kind: str, **options) -> None:
    """Replaces the attribute ``conv`` of each module; at first, learned taps give the same output.

    The branches of mergeable taps are on the taps of the regular convolution only, so the merged one is regular.

    Args:
        options: of :class:`LearnedDilation`, e.g. ``window``.
    """
    for part in parts if kind != "regular" else ():
        old: DilatedConv = part.conv
        shape = old.ndim, old.in_channels, old.out_channels, old.kernel_size
        shared = {"dilation": old.dilation, "padding": old.padding}
        if kind == "learned":
            part.conv = LearnedDilation(*shape, **shared, **options)
            state = {"weight": old.weight.flatten(2), "bias": old.bias}
            part.conv.load_state_dict({**part.conv.state_dict(), **state})
        else:
            branches = [(2, old.dilation), (1, 1)] if old.ndim == 1 and old.kernel_size[0] > 2 else [(1, 1)]
            part.conv = MergeableDilations(*shape, branches=branches, **shared)


def learned_layers(network: nn.Module) -> Iterator[tuple[str, LearnedDilation]]:
    for name, module in network.named_modules():
        if isinstance(module, LearnedDilation):
            yield name, module


def make_optimizer(network: nn.Module, lr: float, steps: int) -> tuple[torch.optim.Optimizer, object]:
    """Adam with a learning rate that falls to zero. The rate of positions lets each of them cross its window."""
    groups = [{"params": [], "lr": lr}]
    windows = {name: max(layer.window) for name, layer in learned_layers(network)}
    for name, parameter in network.named_parameters():
        owner, _, kind = name.rpartition(".")
        if kind in ("positions", "sigma") and owner in windows:
            groups.append({"params": [parameter], "lr": 2 * windows[owner] / steps})
        else:
            groups[0]["params"].append(parameter)
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)


def train(network: nn.Module, steps: int, lr: float, max_norm: float, loss: Callable[[int], torch.Tensor]) -> None:
    """Minimizes ``loss(step)``. Learned taps are snapped after three quarters of the steps."""
    optimizer, schedule = make_optimizer(network, lr, steps)
    for step in range(steps):
        if step == steps * 3 // 4:
            for _, layer in learned_layers(network):
                layer.snap()
        optimizer.zero_grad()
        loss(step).backward()
        nn.utils.clip_grad_norm_(network.parameters(), max_norm)
        optimizer.step()
        schedule.step()
