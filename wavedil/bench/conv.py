"""Dilated convolutions: in 1-D against ``conv1d``, in 2-D in both memory layouts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wavedil.bench.runner import DTYPES, Candidate, measure
from wavedil.ops.dilated_conv import dilated_conv
from wavedil.ops.memory import keep_freed_memory


def bench_conv(
    device: str,
    *,
    batch: int = 2,
    channels: int = 64,
    time: int = 8000,
    size: int = 128,
    dilations: Sequence[int] = (1, 32, 512),
    dilations_2d: Sequence[int] = (1, 4, 16),
    rounds: int = 9,
) -> dict[str, Any]:
    """Times convolutions: causal 1-D with kernel size 2 to twice the channels, and 3x3 on ``size`` x ``size`` images.

    Rows "forward" run without gradients; rows "training" run forward and backward to input, weight and bias.
    """
    if device == "cpu":
        keep_freed_memory()
    candidates = []
    for precision in DTYPES:
        for dilation in dilations:
            candidates += _one_axis(device, precision, batch, channels, time, dilation)
        for dilation in dilations_2d:
            candidates += _two_axes(device, precision, batch, channels, size, dilation)
    return {"rows": measure(candidates, rounds=rounds, device=device)}


def _one_axis(device: str, precision: str, batch: int, channels: int, time: int, dilation: int) -> list[Candidate]:
    dtype = DTYPES[precision]
    x = torch.randn(batch, channels, time, device=device).to(dtype)
    weight = torch.randn(2 * channels, channels, 2, device=device).to(dtype)
    bias = torch.randn(2 * channels, device=device).to(dtype)

    def plain(x: Tensor) -> Tensor:
        return F.conv1d(F.pad(x, (dilation, 0)), weight, bias, dilation=dilation)

    def ours(x: Tensor) -> Tensor:
        options = {"stride": (1,), "padding": [(dilation, 0)], "dilation": (dilation,), "groups": 1}
        return dilated_conv(x, weight, bias, **options)

    rows = x.transpose(1, 2).contiguous().transpose(1, 2)  # channels innermost in memory
    variants = {"conv1d": (plain, x), "ours": (ours, rows)}
    return _candidates(f"1-D k2 d{dilation} {precision}", variants, (weight, bias))


def _two_axes(device: str, precision: str, batch: int, channels: int, size: int, dilation: int) -> list[Candidate]:
    dtype = DTYPES[precision]
    x = torch.randn(batch, channels, size, size, device=device).to(dtype)
    weight = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
    bias = torch.randn(channels, device=device).to(dtype)

    def convolve(x: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, padding=dilation, dilation=dilation)

    variants = {
        "NCHW": (convolve, x),
        "channels_last": (convolve, x.contiguous(memory_format=torch.channels_last)),
    }
    return _candidates(f"2-D 3x3 d{dilation} {precision}", variants, (weight, bias))


def _candidates(
    title: str,
    variants: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]],
    parameters: tuple[Tensor, ...],
) -> list[Candidate]:
    for parameter in parameters:
        parameter.requires_grad_()
    forward, training = [], []
    for name, (function, x) in variants.items():
        forward.append(Candidate(f"{title} forward, {name}", _forward(function, x), f"{title} f"))
        step = _training(function, x.detach().requires_grad_(), parameters)
        training.append(Candidate(f"{title} training, {name}", step, f"{title} t"))
    return forward + training


def _forward(function: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    def call() -> None:
        with torch.no_grad():
            function(x)

    return call


def _training(function: Callable[[Tensor], Tensor], x: Tensor, parameters: tuple[Tensor, ...]) -> Callable[[], None]:
    d = torch.randn_like(function(x))

    def call() -> None:
        torch.autograd.grad(function(x), (x, *parameters), d)

    return call
