"""Losses of effect models.

A loss is a module called as ``loss(output, target)``, both ``(batch, 1, time)``, that returns a scalar. Its ``forward``
may also declare arguments named ``dry`` and ``knobs``; :func:`compute_loss` passes them.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.audio.spectrogram import hann_stft
from wavedil.errors import WavedilError
from wavedil.losses import WeightedSum, call_loss

__all__ = [
    "DC",
    "ESR",
    "MSE",
    "AmpLoss",
    "MultiResolutionSTFT",
    "NAMLoss",
    "PreEmphasis",
    "WeightedSum",
    "compute_loss",
]

#: Energy per sample (-50 dB of full scale) added to the target's, so that silent crops do not dominate the loss.
FLOOR = 1e-5


def compute_loss(
    loss: nn.Module, output: Tensor, target: Tensor, dry: Tensor | None = None, knobs: Tensor | None = None
) -> Tensor:
    """Computes a loss, with the dry input and the knob settings if its ``forward`` declares them.

    Args:
        loss: any of this module, or a module of your own with ``forward(output, target)``, plus ``dry`` and ``knobs``
            as it needs them.
        output, target: ``(batch, 1, time)``.
        dry: the effect's input, ``(batch, 1, context + time)``. The loss receives its last ``time`` samples, which are
            aligned with the target.
        knobs: settings ``(batch, knobs)``, or None for a model without knobs.
    """
    if dry is not None:
        dry = dry[..., dry.shape[-1] - target.shape[-1] :]
    return call_loss(loss, output, target, dry=dry, knobs=knobs)


class ESR(nn.Module):
    """Error-to-signal ratio, sum((target - output)²) / sum(target²) (Damskägg et al. 2019, arXiv 1811.00334, eq. 4).

    It is computed over the batch. (The ESR of ``wavedil evaluate`` is over all data and has no floor.)

    Args:
        floor: energy per sample added to the target's. In small batches of quiet and loud sound, ESR gives quiet sound
            the largest weight; a floor near the mean energy of the data makes the weights more equal.
    """

    def __init__(self, floor: float = FLOOR):
        super().__init__()
        self.floor = floor

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (target - output).square().mean() / (target.square().mean() + self.floor)


class MSE(nn.Module):
    """Mean squared error."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (target - output).square().mean()


class DC(nn.Module):
    """Squared difference of the means, over the target's energy (Wright & Välimäki 2020, arXiv 1911.08922, eq. 5)."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (target - output).mean(2).square().mean() / (target.square().mean() + FLOOR)


class PreEmphasis(nn.Module):
    """Applies the filter y[t] - coefficient * y[t-1] before another loss, so that high frequencies weigh more.

    The coefficient is 0.85 in Wright & Välimäki 2020 (arXiv 1911.08922, section 3) and 0.95 in Damskägg et al. 2019.
    The first sample has no predecessor and is dropped.

    Args:
        loss: computed on the filtered sound.
        coefficient: of the filter.
    """

    def __init__(self, loss: nn.Module, coefficient: float = 0.85):
        super().__init__()
        self.loss, self.coefficient = loss, coefficient

    def forward(self, output: Tensor, target: Tensor, dry: Tensor | None = None, knobs: Tensor | None = None) -> Tensor:
        dry = None if dry is None else self._filter(dry)
        return compute_loss(self.loss, self._filter(output), self._filter(target), dry, knobs)

    def _filter(self, y: Tensor) -> Tensor:
        return y[..., 1:] - self.coefficient * y[..., :-1]


class AmpLoss(WeightedSum):
    """The usual loss of amplifier models: ESR + 0.25 ESR after pre-emphasis + 0.25 DC.

    The terms are those of Wright & Välimäki 2020 (arXiv 1911.08922), section 3.

    Args:
        pre_emphasis: coefficient of the pre-emphasis filter.
        pre_emphasis_weight, dc_weight: weights of the second and third term.
    """

    def __init__(self, pre_emphasis: float = 0.85, pre_emphasis_weight: float = 0.25, dc_weight: float = 0.25):
        super().__init__([ESR(), PreEmphasis(ESR(), pre_emphasis), DC()], [1.0, pre_emphasis_weight, dc_weight])


class MultiResolutionSTFT(nn.Module):
    """Multi-resolution STFT loss (Yamamoto et al. 2020, arXiv 1910.11480, eq. 4 to 7).

    At each resolution: spectral convergence plus the mean absolute difference of log magnitudes. The loss is the mean
    over resolutions.

    Args:
        sizes, hops, windows: FFT size, hop length and Hann window length of each resolution, in samples. The defaults
            are the paper's.
    """

    def __init__(
        self,
        sizes: Sequence[int] = (512, 1024, 2048),
        hops: Sequence[int] = (50, 120, 240),
        windows: Sequence[int] = (240, 600, 1200),
    ):
        super().__init__()
        if not len(sizes) == len(hops) == len(windows) > 0:
            raise WavedilError(f"sizes, hops and windows are {sizes}, {hops}, {windows}: expected one of each per STFT")
        self.resolutions = tuple(zip(sizes, hops, windows, strict=True))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        largest = max(size for size, _, _ in self.resolutions)
        if output.shape[2] <= largest // 2:
            raise WavedilError(
                f"output has {output.shape[2]} samples: expected more than {largest // 2} for an STFT of size "
                f"{largest}; use longer crops"
            )
        return sum(self._distance(output, target, *each) for each in self.resolutions) / len(self.resolutions)

    def _distance(self, output: Tensor, target: Tensor, size: int, hop: int, window: int) -> Tensor:
        magnitudes = []
        for y in (output, target):
            spectrum = hann_stft(y[:, 0].float(), size, hop, window)
            # The paper's code clamps the power too: at 0 the root has no gradient and the log no value.
            magnitudes.append((spectrum.real.square() + spectrum.imag.square()).clamp(min=1e-7).sqrt())
        ours, theirs = magnitudes
        convergence = (theirs - ours).norm() / theirs.norm()
        return convergence + F.l1_loss(ours.log(), theirs.log())


class NAMLoss(WeightedSum):
    """The loss of neural-amp-modeler 0.13: MSE + 5e-4 multi-resolution STFT.

    neural-amp-modeler scales targets to -18 dB of full scale first, on which the effect of ``stft_weight`` depends.

    Args:
        relative: ESR instead of MSE.
        stft_weight: weight of the multi-resolution STFT loss; 0 for none.
        pre_emphasis: coefficient of a pre-emphasis filter before another term of the first kind; None for none. It was
            0.85 in versions before 0.13.
        pre_emphasis_weight: weight of that term.
    """

    def __init__(
        self,
        relative: bool = False,
        stft_weight: float = 5e-4,
        pre_emphasis: float | None = None,
        pre_emphasis_weight: float = 1.0,
    ):
        kind = ESR if relative else MSE
        terms: list[tuple[nn.Module, float]] = [(kind(), 1.0)]
        terms += [(MultiResolutionSTFT(), stft_weight)] if stft_weight else []
        terms += [] if pre_emphasis is None else [(PreEmphasis(kind(), pre_emphasis), pre_emphasis_weight)]
        super().__init__(*map(list, zip(*terms, strict=True)))
