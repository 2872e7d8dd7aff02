"""Losses of paired models: output and target, both ``(batch, 1, time)``, to one number. Sums of them go by weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.errors import WavedilError

#: Energy per sample, -50 dB of full scale, that is added to a target's: else silence would weigh without bound.
FLOOR = 1e-5


class ESR(nn.Module):
    """Error-to-signal ratio, sum((target - output)²) / sum(target²) (Damskägg et al. 2019, arXiv 1811.00334, eq. 4).

    Over the whole batch. (What ``wavedil evaluate`` calls ESR is over all the data, and has no floor.)

    Args:
        floor: energy per sample that is added to the target's. Of small batches of quiet and loud sound the ratio gives
            the quiet ones most weight; a floor near the mean energy of all brings their weights together.
    """

    def __init__(self, floor: float = FLOOR):
        super().__init__()
        self.floor = floor

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (target - output).square().mean() / (target.square().mean() + self.floor)


class DC(nn.Module):
    """Squared difference of the means over the target's energy (Wright & Välimäki 2020, arXiv 1911.08922, eq. 5)."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (target - output).mean(2).square().mean() / (target.square().mean() + FLOOR)


class PreEmphasis(nn.Module):
    """Another loss after y[t] - coefficient y[t-1] on output and target: high frequencies count more.

    Wright & Välimäki 2020, arXiv 1911.08922, section 3: 0.85 there, 0.95 in Damskägg et al. 2019. The first sample has
    none before it and is left out.
    """

    def __init__(self, loss: nn.Module, coefficient: float = 0.85):
        super().__init__()
        self.loss, self.coefficient = loss, coefficient

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.loss(*(y[..., 1:] - self.coefficient * y[..., :-1] for y in (output, target)))


class MultiResolutionSTFT(nn.Module):
    """Spectral convergence and log magnitude distance, the mean over resolutions (Yamamoto et al. 2020, arXiv
    1910.11480, eq. 4 to 7).

    Args:
        sizes, hops, windows: of each resolution's transform, in samples; Hann windows. The defaults are the paper's.
    """

    def __init__(
        self,
        sizes: Sequence[int] = (512, 1024, 2048),
        hops: Sequence[int] = (50, 120, 240),
        windows: Sequence[int] = (240, 600, 1200),
    ):
        super().__init__()
        if not len(sizes) == len(hops) == len(windows) > 0:
            raise WavedilError(f"sizes, hops and windows are {sizes}, {hops}, {windows}: expected as many of each")
        self.resolutions = tuple(zip(sizes, hops, windows, strict=True))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        if output.shape[2] <= max(size for size, _, _ in self.resolutions) // 2:
            sizes = ", ".join(str(size) for size, _, _ in self.resolutions)
            raise WavedilError(f"{output.shape[2]} samples are too few for transforms of {sizes}: use longer crops")
        return sum(self._distance(output, target, *each) for each in self.resolutions) / len(self.resolutions)

    def _distance(self, output: Tensor, target: Tensor, size: int, hop: int, window: int) -> Tensor:
        shape = torch.hann_window(window, device=output.device)
        magnitudes = []
        for y in (output, target):
            spectrum = torch.stft(y[:, 0].float(), size, hop, window, shape, return_complex=True)
            # As in the paper's code: a floor under the power, where the root has no gradient and the log no value.
            magnitudes.append((spectrum.real.square() + spectrum.imag.square()).clamp(min=1e-7).sqrt())
        ours, theirs = magnitudes
        convergence = (theirs - ours).norm() / theirs.norm()
        return convergence + F.l1_loss(ours.log(), theirs.log())


class Sum(nn.Module):
    """A sum of losses, each times its weight.

    Args:
        losses: of the classes here, or others that are called alike.
        weights: one for each; default 1.
    """

    def __init__(self, losses: list[nn.Module], weights: list[float] | None = None):
        super().__init__()
        self.losses, self.weights = nn.ModuleList(losses), [1.0] * len(losses) if weights is None else weights
        if not losses or len(self.weights) != len(losses):
            raise WavedilError(f"{len(losses)} losses and {len(self.weights)} weights: expected one weight for each")

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return sum(weight * loss(output, target) for weight, loss in zip(self.weights, self.losses, strict=True))
