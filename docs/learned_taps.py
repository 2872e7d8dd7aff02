"""Draws docs/learned_taps.png: positions of taps before, during and after training. python docs/learned_taps.py"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil import LearnedDilation
from wavedil.figures import write_figure

BLUE, ORANGE, GRAY = "#2f6fb7", "#e8862e", "#6b7685"


def fit(conv: LearnedDilation, kernel: Tensor, steps: int, rate: float) -> list[Tensor]:
    """Trains ``conv`` to compute the dense ``kernel`` of the same window; returns the positions after each step."""
    path = [conv.positions.detach().clone()]
    size = [4 * n for n in conv.window]
    options = [{"params": [conv.weight], "lr": 0.02}, {"params": [conv.positions, conv.sigma], "lr": rate}]
    optimizer = torch.optim.Adam(options)
    convolve = (F.conv1d, F.conv2d)[conv.ndim - 1]
    for step in range(steps):
        x = torch.randn(16, 1, *size)
        loss = (conv(x) - convolve(x, kernel)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        for group, first in zip(optimizer.param_groups, (0.02, rate), strict=True):
            group["lr"] = first * (1 - step / steps)
        optimizer.step()
        path.append(conv.positions.detach().clone())
    return path


def learn_echoes() -> tuple[LearnedDilation, list[Tensor], list[int]]:
    delays = [3, 17, 22, 41, 58]
    kernel = torch.zeros(1, 1, 64)
    kernel[0, 0, [63 - delay for delay in delays]] = torch.tensor([1.0, -0.8, 0.9, 0.7, -0.8])
    conv = LearnedDilation(
        1, 1, 1, 5, dilation=15, window=64, padding="valid", interpolation="gaussian", sigma=5.0, bias=False
    )
    return conv, fit(conv, kernel, 600, 0.3), delays


def learn_ring() -> tuple[LearnedDilation, list[Tensor], Tensor]:
    places = torch.tensor([[1, 5], [2, 9], [5, 11], [9, 10], [11, 6], [10, 2], [7, 1], [3, 2], [6, 6]])
    kernel = torch.zeros(1, 1, 13, 13)
    kernel[0, 0, places[:, 0], places[:, 1]] = 1.0
    conv = LearnedDilation(
        2, 1, 1, 3, dilation=4, window=13, padding="valid", interpolation="gaussian", sigma=2.0, bias=False
    )
    nn.init.constant_(conv.weight, 0.5)
    return conv, fit(conv, kernel, 300, 0.1), places


def main() -> None:
    torch.manual_seed(0)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=(1.5, 1), layout="constrained")
    conv, positions, delays = learn_echoes()
    conv.snap()
    lines = 63 - torch.stack(positions)[:, 0]
    for delay in delays:
        left.axhline(delay, color=ORANGE, linewidth=1, linestyle=":")
    left.plot(lines, color=BLUE, linewidth=1.5)
    left.scatter([0] * 5, lines[0], color="white", edgecolors=BLUE, zorder=3, label="regular, dilation 15")
    left.scatter([len(lines) - 1] * 5, 63 - conv.offsets[0], marker="s", color=BLUE, zorder=3, label="snapped")
    left.set(title="Five causal taps learn five echoes (dotted)", xlabel="step", ylabel="delay in samples")
    left.legend(frameon=False, loc="center right")
    conv, positions, places = learn_ring()
    conv.snap()
    for (y0, x0), track in zip(positions[0].t(), torch.stack(positions).permute(2, 0, 1), strict=True):
        right.plot(track[:, 1], track[:, 0], color=BLUE, linewidth=1)
        right.scatter([x0], [y0], color="white", edgecolors=BLUE, zorder=3)
    right.scatter(places[:, 1], places[:, 0], s=160, marker="s", color="none", edgecolors=ORANGE, linewidths=1.5)
    right.scatter(conv.offsets[1], conv.offsets[0], marker="s", color=BLUE, zorder=3)
    right.set(title="3 x 3 taps, dilation 4, learn a ring", xlim=(-0.7, 12.7), ylim=(12.7, -0.7), aspect="equal")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=GRAY)
    write_figure(figure, Path(__file__).with_name("learned_taps.png"))


if __name__ == "__main__":
    main()
