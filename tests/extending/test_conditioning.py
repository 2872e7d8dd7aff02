"""Local features and an upsampling network defined outside the package."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wavedil.audio import Features, WaveNet, generate, load, save
from wavedil.audio.conditioning.upsampling import Upsampling
from wavedil.audio.evaluation import evaluate
from wavedil.errors import WavedilError
from wavedil.train import AudioModule
from wavedil.weights import register


@register
class Loudness(Features):
    """RMS of each frame and of the samples around it."""

    from_sound = True

    def __init__(self, hop_length: int = 10, context: int = 5):
        super().__init__(channels=1, hop_length=hop_length)
        self.margin = context

    def from_excerpt(self, sound: Tensor) -> Tensor:
        return F.lp_pool1d(sound.unsqueeze(1), 2, self.hop_length + 2 * self.margin, self.hop_length)


@register
class LinearUpsampling(Upsampling):
    """Linear interpolation between the centers of frames."""

    def __init__(self, features: Features, channels: int | None = None, frame_kernel_size: int = 1):
        super().__init__(features, channels, frame_kernel_size, spread=1)

    def upsample(self, frames: Tensor) -> Tensor:
        upsampled = F.interpolate(frames, scale_factor=self.hop_length, mode="linear")
        return upsampled[..., self.hop_length : -self.hop_length]


def make() -> WaveNet:
    torch.manual_seed(0)
    return WaveNet(8, 12, "1..8", sample_rate=8000, condition=LinearUpsampling(Loudness(), channels=3)).eval()


def test_training_model_folders_evaluation_and_generation(tmp_path):
    model = make()
    AudioModule(model)  # checks that a run can save it
    sound = 0.3 * torch.randn(2, 95)
    features = model.features(sound)
    assert features.shape == (2, 1, 10)
    again = load(save(model, tmp_path / "model"))
    clip = generate(again, condition=features, num=2, seed=3)
    assert clip.shape == (2, 1, 100) and torch.equal(clip, generate(model, condition=features, num=2, seed=3))
    assert not torch.equal(clip, generate(model, condition=features + 5, num=2, seed=3))
    with torch.no_grad():
        loss = model.loss(model.encode(sound), condition=model.conditioning(features, num=2).condition(0, 95))
    assert evaluate(again, sound).bits_per_sample == pytest.approx(loss.item() / torch.tensor(2.0).log().item(), 1e-5)


def test_a_crop_has_the_condition_of_its_samples():
    model, sound = make(), 0.3 * torch.randn(1, 200)
    network = model.conditioner.upsampling
    margin, reach, hop = network.features.margin, network.reach, network.hop_length
    start, length = 6 * hop, 45
    frames = -(-length // hop) + 2 * reach
    begin = start - reach * hop - margin
    excerpt = sound[:, begin : begin + frames * hop + 2 * margin]
    batch = {
        "codes": model.encode(sound[:, start : start + length]),
        "sound": excerpt,
        "frames": torch.arange(frames).unsqueeze(0),
    }
    with torch.no_grad():
        condition = model.conditioner.crop_condition(batch)
    expected = model.conditioning(model.features(sound)).condition(start, start + length)
    torch.testing.assert_close(condition, expected)


def test_features_without_an_upsampling_network_are_refused():
    with pytest.raises(WavedilError, match="condition is a Loudness: expected a network that brings features"):
        WaveNet(condition=Loudness())
