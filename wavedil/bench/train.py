"""A training step of a WaveNet: wavedil, a plain PyTorch one, and the package wavenet-vocoder."""

import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedil.audio import WaveNet
from wavedil.bench.runner import DTYPES, Candidate, matrix_product_limit, measure, summary_row
from wavedil.bench.samplers import wavenet_vocoder_network
from wavedil.ops.launch import TRITON_VARIABLE
from wavedil.ops.memory import keep_freed_memory

_CODES = 256


def bench_train(
    device: str,
    *,
    batch: int = 2,
    time: int = 8000,
    channels: int = 64,
    skip_channels: int = 128,
    dilations: tuple[int, ...] = tuple(2**i for i in range(10)) * 2,
    rounds: int = 7,
) -> dict[str, Any]:
    """Times forward, backward and Adam on ``batch`` x ``time`` codes, with kernel size 2; bf16 uses autocast.

    wavenet-vocoder has its default weight normalization and takes its codes one-hot. On a GPU there are also rows of
    wavedil without its Triton kernels.
    """
    if device == "cpu":
        keep_freed_memory()
    codes = torch.randint(0, _CODES, (batch, time), device=device)
    sizes = (channels, skip_channels, dilations)
    models = {
        "plain torch": lambda: _Loss(_Plain(*sizes)),
        "wavenet-vocoder": _wavenet_vocoder(*sizes),
        "wavedil": partial(_Ours, *sizes),
    }
    candidates = [
        Candidate(f"{name} {precision}", loss and _step(loss, codes, device, precision), "step")
        for name, loss in models.items()
        for precision in DTYPES
    ]
    if device != "cpu":
        steps = {precision: _step(partial(_Ours, *sizes), codes, device, precision) for precision in DTYPES}
        candidates += _without_triton(steps)
    rows = measure(candidates, rounds=rounds, device=device, unit="s", warm=1)
    medians = {row["name"]: row["median"] for row in rows}
    gflop = _multiply_adds(*sizes) * batch * time * 2 * 3 / 1e9  # 3: backward costs twice the forward pass
    notes = [f"{gflop:.1f} GFLOP a step, {batch} x {time} samples"]
    for precision, dtype in DTYPES.items():
        limit = matrix_product_limit(dtype, device)
        rows.append(summary_row(f"limit: matrix product {precision}", "GFLOP/s", [limit]))
        ours = gflop / medians[f"wavedil {precision}"]
        notes.append(f"wavedil {precision}: {ours:.0f} GFLOP/s, {ours / limit:.0%} of the limit")
    if medians["wavenet-vocoder fp32"] is not None:
        for ours_in, theirs_in in (("fp32", "fp32"), ("bf16", "fp32"), ("bf16", "bf16")):
            factor = medians[f"wavenet-vocoder {theirs_in}"] / medians[f"wavedil {ours_in}"]
            notes.append(f"wavedil {ours_in} is {factor:.2f} x as fast as wavenet-vocoder {theirs_in}")
    return {"rows": rows, "notes": notes}


def _without_triton(steps: dict[str, Callable[[], None]]) -> list[Candidate]:
    """Training steps, by precision, without the fused Triton kernels."""

    def call(step: Callable[[], None]) -> None:
        before = os.environ.get(TRITON_VARIABLE)
        os.environ[TRITON_VARIABLE] = "0"
        try:
            step()
        finally:
            del os.environ[TRITON_VARIABLE]
            os.environ |= {} if before is None else {TRITON_VARIABLE: before}

    return [Candidate(f"wavedil without Triton {name}", partial(call, step), "step") for name, step in steps.items()]


class _Loss(nn.Module):
    """Mean cross entropy of codes ``(batch, time)``, each predicted by a network from the codes before it."""

    def __init__(self, net: nn.Module, one_hot: bool = False):
        super().__init__()
        self.net, self.one_hot = net, one_hot

    def forward(self, codes: Tensor) -> Tensor:
        before = F.pad(codes, (1, 0), value=_CODES // 2)[:, :-1]
        x = F.one_hot(before, _CODES).transpose(1, 2).float() if self.one_hot else before
        return F.cross_entropy(self.net(x).float(), codes)


class _Plain(nn.Module):
    """The paper's network as it is usually written: conv1d, and skips added layer by layer."""

    def __init__(self, channels: int, skip_channels: int, dilations: tuple[int, ...]):
        super().__init__()
        self.embedding = nn.Embedding(_CODES, channels)
        self.dilated = nn.ModuleList(nn.Conv1d(channels, 2 * channels, 2, dilation=d) for d in dilations)
        self.residual = nn.ModuleList(nn.Conv1d(channels, channels, 1) for _ in dilations)
        self.skip = nn.ModuleList(nn.Conv1d(channels, skip_channels, 1) for _ in dilations)
        self.head = nn.Sequential(
            nn.ReLU(),
            nn.Conv1d(skip_channels, skip_channels, 1),
            nn.ReLU(),
            nn.Conv1d(skip_channels, _CODES, 1),
        )

    def forward(self, codes: Tensor) -> Tensor:
        x, total = self.embedding(codes).transpose(1, 2), 0
        for dilated, residual, skip in zip(self.dilated, self.residual, self.skip, strict=True):
            filtered, gated = dilated(F.pad(x, (dilated.dilation[0], 0))).chunk(2, dim=1)
            z = torch.tanh(filtered) * torch.sigmoid(gated)
            total = total + skip(z)
            x = x + residual(z)
        return self.head(total)


class _Ours(nn.Module):
    """wavedil's network with the loss as output."""

    def __init__(self, *sizes: Any):
        super().__init__()
        self.net = WaveNet(*sizes)

    def forward(self, codes: Tensor) -> Tensor:
        return self.net.loss(codes)


def _wavenet_vocoder(channels: int, skip_channels: int, dilations: tuple[int, ...]) -> Callable[[], nn.Module] | None:
    sizes = channels, skip_channels, dilations
    if wavenet_vocoder_network(*sizes) is None:
        return None
    return lambda: _Loss(wavenet_vocoder_network(*sizes), one_hot=True)


def _step(make: Callable[[], nn.Module], codes: Tensor, device: str, precision: str) -> Callable[[], None]:
    model = make().to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def call() -> None:
        with warnings.catch_warnings(action="ignore"):  # old packages use deprecated parts of torch
            with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=precision == "bf16"):
                loss = model(codes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return call


def _multiply_adds(channels: int, skip_channels: int, dilations: tuple[int, ...]) -> int:
    """Multiply-adds of the products per sample, forward."""
    layer = channels * 2 * channels * 2 + channels * channels + channels * skip_channels
    return len(dilations) * layer + skip_channels * skip_channels + skip_channels * _CODES
