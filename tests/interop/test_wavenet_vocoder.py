"""wavenet-vocoder 0.1.1 against the package itself: both skip conventions, with and without weight norm."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wavedil.audio import generate, load, save
from wavedil.audio.conditioning.features import Features
from wavedil.audio.conditioning.upsampling import ImageUpsampling
from wavedil.errors import WavedilError
from wavedil.interop.wavenet_vocoder import from_wavenet_vocoder

# The package uses a deprecated weight norm of torch.
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
CODES = 16


@pytest.fixture
def package():
    return pytest.importorskip("wavenet_vocoder", reason="needs wavenet-vocoder")


def peer(package, **options):
    torch.manual_seed(0)
    sizes = {"residual_channels": 6, "gate_channels": 8, "skip_out_channels": 5, "kernel_size": 3}
    model = package.WaveNet(out_channels=CODES, layers=6, stacks=2, **sizes, **options).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def one_hot_of_previous(codes):
    previous = F.pad(codes, (1, 0), value=CODES // 2)[:, :-1]
    return F.one_hot(previous, CODES).transpose(1, 2).float()


@pytest.mark.parametrize("scales", [None, [3, 4]])
@torch.no_grad()
def test_features_and_speakers(package, scales, tmp_path):
    options = {} if scales is None else {"upsample_conditional_features": True, "upsample_scales": scales}
    theirs = peer(package, cin_channels=7, gin_channels=3, n_speakers=4, **options)
    ours = from_wavenet_vocoder(theirs.state_dict(), stacks=2, speakers=["ann", "bob", "cy", "dee"])
    hop = 1 if scales is None else 12
    features, codes = torch.rand(2, 7, 60 // hop), torch.randint(CODES, (2, 60))
    expected = theirs(one_hot_of_previous(codes), features, torch.tensor([[2], [0]]))
    condition = ours.conditioning(features, ["cy", "ann"], 2).condition(0, 60)
    assert expected.std() > 0.3 and ours.conditioner.upsampling.hop_length == hop
    torch.testing.assert_close(ours(codes, condition), expected, rtol=0, atol=1e-6)
    other = ours.conditioning(features, ["bob", "ann"], 2).condition(0, 60)
    assert (ours(codes, other) - expected).abs().max() > 1e-3
    again = load(save(ours, tmp_path / "model"))
    assert torch.equal(again(codes, condition), ours(codes, condition))
    with pytest.raises(WavedilError, match="whose product is 12: expected hop_length, 10"):
        ImageUpsampling(Features(7, hop_length=10), [3, 4])
    with pytest.raises(WavedilError, match="band_kernel_size is 2: expected an odd number"):
        ImageUpsampling(Features(7, hop_length=1), [], 2)


@torch.no_grad()
def test_amplitudes_in_and_logistics_out(package):
    torch.manual_seed(0)
    sizes = {"residual_channels": 6, "gate_channels": 8, "skip_out_channels": 5, "kernel_size": 2}
    theirs = package.WaveNet(out_channels=30, layers=4, stacks=1, scalar_input=True, **sizes).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours = from_wavenet_vocoder(theirs.state_dict(), stacks=1)
    codes = ours.encode(torch.rand(2, 40) * 2 - 1)
    amplitudes = ours.decode(F.pad(codes, (1, 0), value=ours.zero_code)[:, :-1]).unsqueeze(1)
    expected = theirs(amplitudes)
    assert expected.std() > 0.3 and ours.distribution.components == 10
    torch.testing.assert_close(ours(codes), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("norm", [True, False])
@torch.no_grad()
def test_equals_the_package(package, legacy, norm, tmp_path):
    theirs = peer(package, legacy=legacy, weight_normalization=norm)
    ours = from_wavenet_vocoder(theirs.state_dict(), stacks=2, legacy=legacy)
    codes = torch.randint(CODES, (2, 60))
    expected = theirs(one_hot_of_previous(codes))
    assert expected.std() > 0.3
    torch.testing.assert_close(ours(codes), expected, rtol=0, atol=1e-6)
    other = from_wavenet_vocoder(theirs.state_dict(), stacks=2, legacy=not legacy)
    assert (other(codes) - expected).abs().max() > 0.01
    again = load(save(ours, tmp_path / "model"))
    assert torch.equal(again(codes), ours(codes))
    assert ours.receptive_field == theirs.receptive_field


def test_generation_equals_teacher_forcing(package):
    ours = from_wavenet_vocoder(peer(package).state_dict(), stacks=2)
    codes = ours.encode(generate(ours, 50, seed=3, temperature=0, engine="torch")[:, 0])
    assert torch.equal(ours(codes).argmax(1), codes)


def test_bad_arguments_are_refused(package):
    tensors = peer(package).state_dict()
    with pytest.raises(WavedilError, match="stacks is 4: expected a divisor of the 6 layers"):
        from_wavenet_vocoder(tensors, stacks=4)
    with pytest.raises(WavedilError, match="speakers has 1 name: expected one per speaker, 0"):
        from_wavenet_vocoder(tensors, stacks=2, speakers=["ann"])
    with pytest.raises(WavedilError, match="the network has 2 inputs and 16 outputs"):
        from_wavenet_vocoder({**tensors, "first_conv.weight_v": torch.ones(6, 2, 1)}, stacks=2)
    with pytest.raises(WavedilError, match="expected the tensors of wavenet-vocoder 0.1.1"):
        from_wavenet_vocoder({}, stacks=1)
