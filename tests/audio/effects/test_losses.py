"""Losses of effect models, by hand and against independent formulas."""

import numpy as np
import pytest
import torch

from wavedil.audio.effects.losses import (
    DC,
    ESR,
    FLOOR,
    MSE,
    AmpLoss,
    MultiResolutionSTFT,
    NAMLoss,
    PreEmphasis,
    WeightedSum,
)
from wavedil.errors import WavedilError

OUTPUT = torch.tensor([[[1.0, 2.0, 0.0, 1.0]], [[0.0, 0.0, 0.0, 4.0]]], dtype=torch.float64)
TARGET = torch.tensor([[[1.0, 0.0, 2.0, 1.0]], [[0.0, 0.0, 0.0, 2.0]]], dtype=torch.float64)


def test_by_hand():
    # errors 0 -2 2 0 and 0 0 0 -2: 12; target 1 0 4 1 and 4: 10; means of the errors 0 and -1/2
    assert ESR()(OUTPUT, TARGET).item() == pytest.approx(12 / (10 + 8 * FLOOR))
    assert DC()(OUTPUT, TARGET).item() == pytest.approx((0.25 / 2) / (10 / 8 + FLOOR))
    # half of the sample before taken off: errors -2 3 -1 and 0 0 -2: 18; target -1/2 2 0 and 0 0 2: 8.25
    assert PreEmphasis(ESR(), 0.5)(OUTPUT, TARGET).item() == pytest.approx(18 / (8.25 + 6 * FLOOR))
    both = WeightedSum([ESR(), DC()], [2.0, 3.0])(OUTPUT, TARGET)
    assert both.item() == pytest.approx(2 * ESR()(OUTPUT, TARGET).item() + 3 * DC()(OUTPUT, TARGET).item())


def test_amp_loss_is_three_terms():
    terms = ESR()(OUTPUT, TARGET) + 0.25 * PreEmphasis(ESR(), 0.85)(OUTPUT, TARGET) + 0.25 * DC()(OUTPUT, TARGET)
    torch.testing.assert_close(AmpLoss()(OUTPUT, TARGET), terms, rtol=0, atol=0)
    assert AmpLoss(pre_emphasis=0.5)(OUTPUT, TARGET) != AmpLoss()(OUTPUT, TARGET)


def test_nam_loss_is_that_of_its_trainer():
    module = pytest.importorskip("nam.train.lightning_module", reason="needs neural-amp-modeler")
    a, b = (0.1 * sound(seed).float()[:1] for seed in (0, 1))
    config = {"mrstft_weight": 5e-4, "pre_emph_weight": 0.5, "pre_emph_coef": 0.85}
    peer = module.LightningModule(torch.nn.Identity(), loss_config=module.LossConfig.init_from_config(config))
    expected = sum(item.weight * item.value for item in peer._get_loss_dict(a[:, 0], b[:, 0]).values())
    ours = NAMLoss(pre_emphasis=0.85, pre_emphasis_weight=0.5)(a, b)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    assert NAMLoss(stft_weight=0)(a, b) == MSE()(a, b)
    assert NAMLoss(relative=True, stft_weight=0)(a, b) == ESR()(a, b)


def test_silence_weighs_no_more_than_the_floor():
    silence = torch.zeros(1, 1, 10)
    assert ESR()(silence, silence) == 0
    assert ESR()(silence + 1e-3, silence).item() == pytest.approx(1e-6 / FLOOR)
    assert ESR(0.5)(silence + 1e-3, silence).item() == pytest.approx(1e-6 / 0.5)


def sound(seed, time=3000):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((2, 1, time)))


def magnitudes(x, size, hop, window):
    """Power spectra by numpy: frames centered by reflection, a periodic Hann window in the middle of each."""
    padded = np.pad(x, ((0, 0), (size // 2, size // 2)), mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1)[:, ::hop]
    shape = np.zeros(size)
    start = (size - window) // 2
    shape[start : start + window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    return np.sqrt(np.maximum(np.abs(np.fft.rfft(frames * shape)) ** 2, 1e-7))


def test_spectral_distance_against_numpy():
    a, b = sound(0), sound(1)
    expected = []
    for size, hop, window in ((512, 50, 240), (256, 30, 256)):
        ours, theirs = (magnitudes(x[:, 0].numpy(), size, hop, window) for x in (a, b))
        convergence = np.linalg.norm(theirs - ours) / np.linalg.norm(theirs)
        expected.append(convergence + np.abs(np.log(theirs) - np.log(ours)).mean())
    loss = MultiResolutionSTFT((512, 256), (50, 30), (240, 256))
    assert loss(a, b).item() == pytest.approx(np.mean(expected), rel=1e-4)
    assert loss(b, b).item() == 0


def test_gradients_are_finite_at_silence():
    output = torch.zeros(1, 1, 3000, requires_grad=True)
    WeightedSum([ESR(), DC(), PreEmphasis(ESR()), MultiResolutionSTFT()])(output, sound(0)[:1].float()).backward()
    assert torch.isfinite(output.grad).all() and output.grad.abs().max() > 0


def test_bad_arguments_raise():
    with pytest.raises(WavedilError, match="output has 1000 samples: expected more than 1024"):
        MultiResolutionSTFT()(torch.zeros(1, 1, 1000), torch.zeros(1, 1, 1000))
    with pytest.raises(WavedilError, match="expected one of each per STFT"):
        MultiResolutionSTFT((512,), (50, 60), (240,))
    with pytest.raises(WavedilError, match="losses has 2 entries and weights 1"):
        WeightedSum([ESR(), DC()], [1.0])
