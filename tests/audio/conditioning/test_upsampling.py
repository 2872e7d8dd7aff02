"""Log-mel spectrograms against numpy, and the upsampling networks."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wavedil.audio import Features, LogMel, NearestUpsampling, TransposedUpsampling


def test_log_mels_equal_the_definition():
    """Slaney's mel bands in numpy, frame by frame and band by band; equal to librosa's."""
    hop, n_fft = 160, 400
    mel = LogMel(16000, 20, n_fft, hop, fmin=50, fmax=7000)
    sound = 0.3 * torch.randn(1, 2001, generator=torch.Generator().manual_seed(1))
    padded = np.pad(sound[0].double().numpy(), (120, 2000))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    frames = np.stack([padded[i * hop : i * hop + n_fft] * window for i in range(13)])
    spectrum = np.abs(np.fft.rfft(frames)).T

    def to_mel(f):
        return 3 * f / 200 if f < 1000 else 15 + 27 * math.log(f / 1000) / math.log(6.4)

    corners = [
        200 * m / 3 if m < 15 else 1000 * 6.4 ** ((m - 15) / 27) for m in np.linspace(to_mel(50), to_mel(7000), 22)
    ]
    bins = np.arange(201) * 16000 / n_fft
    bands = []
    for low, middle, high in zip(corners, corners[1:], corners[2:], strict=False):
        triangle = np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle))
        bands.append(np.maximum(triangle, 0) * 2 / (high - low))
    expected = np.log10((np.stack(bands) @ spectrum).clip(1e-5)) + 2.5
    assert mel(sound).shape == (1, 20, 13)
    torch.testing.assert_close(mel(sound)[0].double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_a_frame_is_centered_on_its_samples():
    mel = LogMel(8000, 5, 36, 12)
    for frame in (0, 3, 7):
        click = torch.zeros(1, 96)
        click[0, frame * 12 + 5 : frame * 12 + 7] = 1
        assert mel(click)[0].sum(0).argmax() == frame


def test_nearest_upsampling_equals_repetition_and_convolution():
    torch.manual_seed(0)
    net = NearestUpsampling(LogMel(8000, 5, 32, 12), channels=4)
    with torch.no_grad():
        net.taps.normal_()
        frames = torch.randn(2, 5, 9 + 2 * net.reach)
        repeated = net.conv(frames).repeat_interleave(12, dim=-1)
        expected = F.conv1d(repeated.flatten(0, 1).unsqueeze(1), net.taps[None, None] / 25, padding=12)[..., 12:-12]
        torch.testing.assert_close(net(frames), expected.view(2, 4, 108), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [lambda: NearestUpsampling(Features(2, 200)), lambda: TransposedUpsampling(Features(2, 200), [10, 20])],
)
def test_one_step_of_adam_changes_the_output_little(make):
    torch.manual_seed(0)
    net, frames = make(), torch.randn(1, 2, 30)
    with torch.no_grad():
        before = net(frames)
    optimizer = torch.optim.Adam(net.parameters(), 8e-3)  # learning rate of the recipes
    net(frames).sum().backward()
    optimizer.step()
    with torch.no_grad():
        assert (net(frames) - before).norm() < 0.3 * before.norm()


@pytest.mark.parametrize(
    "net",
    [
        NearestUpsampling(LogMel(8000, 5, 32, 12)),
        TransposedUpsampling(LogMel(8000, 5, 32, 12), [3, 4]),
        TransposedUpsampling(Features(2, 5), [5]),
        TransposedUpsampling(Features(2, 8), [2, 2, 2]),
        TransposedUpsampling(Features(2, 9), [3, 3]),
        NearestUpsampling(Features(2, 1)),
    ],
)
def test_a_sample_depends_on_its_frame_and_reach_frames_on_each_side(net):
    torch.manual_seed(0)
    net.double()
    frames = torch.randn(1, net.features.channels, 9 + 2 * net.reach, dtype=torch.float64, requires_grad=True)
    made = net(frames)
    assert made.shape == (1, net.channels, 9 * net.hop_length)
    for t in (3 * net.hop_length, 3 * net.hop_length + net.hop_length // 2, 4 * net.hop_length - 1):
        seen = torch.autograd.grad(made[0, :, t].abs().sum(), frames, retain_graph=True)[0].abs().sum((0, 1)) > 0
        places = seen.nonzero().flatten() - net.reach
        assert seen[3 + net.reach] and places.min() >= 3 - net.reach and places.max() <= 3 + net.reach
    # An excerpt with its context gives the same samples.
    piece = net(frames[..., 2 : 2 + 4 + 2 * net.reach])
    torch.testing.assert_close(piece, made[..., 2 * net.hop_length : 6 * net.hop_length])
