"""DiffWave against lmnt-com's package (where installed); training, model folders, refused arguments."""

import pytest
import torch
from torch import nn

from wavedil.audio import load, save
from wavedil.audio.models.diffwave import DiffWave
from wavedil.core import measure_receptive_field
from wavedil.errors import WavedilError
from wavedil.interop.diffwave import from_diffwave


@pytest.fixture
def peer():
    module = pytest.importorskip("diffwave.model", reason="needs diffwave")
    from diffwave.params import AttrDict, params

    small = AttrDict(params)
    small.override({"residual_channels": 6, "residual_layers": 5, "dilation_cycle_length": 3, "n_mels": 4})
    torch.manual_seed(0)
    peer = module.DiffWave(small).eval()
    for parameter in peer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return peer


class Unconditioned(nn.Module):
    """With zero features and step 0, so that the sound is the only input."""

    def __init__(self, model: DiffWave):
        super().__init__()
        self.model = model

    def forward(self, x):
        mel = x.new_zeros(len(x), self.model.mels, x.shape[2] // 256)
        return self.model(x, mel, torch.zeros(len(x), dtype=torch.int64))


@torch.no_grad()
def test_equals_the_package(peer):
    ours, peer = from_diffwave(peer.state_dict(), cycle=3).double(), peer.double()
    assert ours.stack.dilations == (1, 2, 4, 1, 2)
    sound, mel = torch.randn(2, 512).double(), torch.rand(2, 4, 2).double()
    step = torch.tensor([0, 49])
    expected = peer(sound, mel, step)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(ours(sound.unsqueeze(1), mel, step), expected, rtol=0, atol=1e-9)
    between = torch.tensor([3.3]).double()  # fractional, as in its fast sampling
    expected = peer(sound[:1], mel[:1], between)
    torch.testing.assert_close(ours(sound[:1].unsqueeze(1), mel[:1], between), expected, rtol=0, atol=1e-9)


def test_sampling_equals_the_package(peer, monkeypatch):
    inference = pytest.importorskip("diffwave.inference", reason="needs diffwave with torchaudio")
    ours, mel = from_diffwave(peer.state_dict(), cycle=3), torch.rand(1, 4, 1)
    monkeypatch.setitem(inference.models, "here", peer)
    torch.manual_seed(7)
    expected, rate = inference.predict(mel, "here", device=torch.device("cpu"))
    sound = ours.sample(mel, torch.Generator().manual_seed(7))
    assert rate == ours.sample_rate and expected.std() > 0.05
    torch.testing.assert_close(sound.squeeze(1), expected, rtol=0, atol=1e-4)  # rounding adds up over fifty steps


def test_training_and_model_folders(tmp_path):
    torch.manual_seed(0)
    model = DiffWave(4, "1,2", mels=3, noise=[0.01, 0.1, 0.3])
    assert model.receptive_field == 1 + 2 * 3
    sound, mel = torch.randn(2, 1, 256), torch.rand(2, 3, 1)
    # An untrained model returns zero, and the mean of |normal| is √(2/π).
    assert model.loss(sound, mel).item() == pytest.approx((2 / torch.pi) ** 0.5, abs=0.1)
    nn.init.normal_(model.out.weight)
    model.loss(sound, mel).backward()
    assert all(p.grad is not None for p in model.parameters())
    again = load(save(model, tmp_path / "model"))
    step = torch.tensor([0, 2])
    assert torch.equal(again(sound, mel, step), model(sound, mel, step))
    assert again.sample(mel).shape == (2, 1, 256) and again.noise == [0.01, 0.1, 0.3]
    assert measure_receptive_field(Unconditioned(model), 1, size=256).extent == (7,)


def test_a_model_folder_with_the_default_noise_loads(tmp_path):
    model = DiffWave(4, "1", mels=3)
    assert load(save(model, tmp_path / "model")).noise == model.noise
    assert (len(model.noise), model.noise[0], model.noise[-1]) == (50, 1e-4, 0.05)


def test_bad_arguments_are_refused():
    model = DiffWave(4, "1", mels=3)
    with pytest.raises(WavedilError, match="sound has 300 samples, mel 1 frames of 256: expected 256 samples"):
        model(torch.zeros(1, 1, 300), torch.zeros(1, 3, 1), torch.zeros(1))
    with pytest.raises(WavedilError, match=r"expected \(batch, 1, time\) and \(batch, 3, frames\)"):
        model(torch.zeros(1, 256), torch.zeros(1, 3, 1), torch.zeros(1))
    with pytest.raises(WavedilError, match="numbers from 0 to 49"):
        model(torch.zeros(1, 1, 256), torch.zeros(1, 3, 1), torch.tensor([50]))
    with pytest.raises(WavedilError, match=r"noise is \[0.1, 1.0\]: expected a list of numbers above 0 and below 1"):
        DiffWave(noise=[0.1, 1.0])
    with pytest.raises(WavedilError, match="expected the tensors of diffwave"):
        from_diffwave({"a": torch.zeros(1)})
