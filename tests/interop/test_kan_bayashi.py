"""kan-bayashi's WaveNet against espnet's copy of it (where installed) and against its description."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wavedil.audio import load, save
from wavedil.errors import WavedilError
from wavedil.interop.kan_bayashi import from_kan_bayashi

CODES, BANDS, CHANNELS, SKIPS, DILATIONS = 16, 5, 6, 4, (1, 2, 1, 2)


def causal(inputs, outputs, taps):
    return nn.ModuleDict({"conv": nn.Conv1d(inputs, outputs, taps)})


class Plain(nn.Module):
    """The original's layer names, with a forward written from its README and code."""

    def __init__(self, taps, factor):
        super().__init__()
        layers = range(len(DILATIONS))
        self.causal = causal(CODES, CHANNELS, taps)
        if factor:
            self.upsampling = nn.ModuleDict({"conv": nn.ConvTranspose2d(1, 1, (1, factor), (1, factor))})
        self.dil_tanh = nn.ModuleList(causal(CHANNELS, CHANNELS, taps) for _ in layers)
        self.dil_sigmoid = nn.ModuleList(causal(CHANNELS, CHANNELS, taps) for _ in layers)
        self.aux_1x1_tanh = nn.ModuleList(nn.Conv1d(BANDS, CHANNELS, 1) for _ in layers)
        self.aux_1x1_sigmoid = nn.ModuleList(nn.Conv1d(BANDS, CHANNELS, 1) for _ in layers)
        self.skip_1x1 = nn.ModuleList(nn.Conv1d(CHANNELS, SKIPS, 1) for _ in layers)
        self.res_1x1 = nn.ModuleList(nn.Conv1d(CHANNELS, CHANNELS, 1) for _ in layers)
        self.conv_post_1, self.conv_post_2 = nn.Conv1d(SKIPS, SKIPS, 1), nn.Conv1d(SKIPS, CODES, 1)

    def forward(self, codes, features):
        def convolved(layer, x, d=1):
            weight = layer["conv"].weight
            return F.conv1d(F.pad(x, ((weight.shape[2] - 1) * d, 0)), weight, layer["conv"].bias, dilation=d)

        x = convolved(self.causal, F.one_hot(codes, CODES).transpose(1, 2).to(features.dtype))
        h = self.upsampling["conv"](features.unsqueeze(1)).squeeze(1) if hasattr(self, "upsampling") else features
        total = 0
        for i, d in enumerate(DILATIONS):
            signal = torch.tanh(convolved(self.dil_tanh[i], x, d) + self.aux_1x1_tanh[i](h))
            z = signal * torch.sigmoid(convolved(self.dil_sigmoid[i], x, d) + self.aux_1x1_sigmoid[i](h))
            total, x = total + self.skip_1x1[i](z), x + self.res_1x1[i](z)
        return self.conv_post_2(F.relu(self.conv_post_1(F.relu(total)))).transpose(1, 2)


@torch.no_grad()
def check(peer, factor, folder):
    torch.manual_seed(0)
    for parameter in peer.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours, peer = from_kan_bayashi(peer.state_dict(), stacks=2), peer.double()
    codes, features = torch.randint(CODES, (2, 48)), torch.randn(2, BANDS, 48 // max(factor, 1), dtype=torch.float64)
    expected = peer(F.pad(codes, (1, 0), value=CODES // 2)[:, :-1], features).transpose(1, 2)
    assert expected.std() > 0.3
    condition = ours.conditioning(features, num=2).condition(0, 48)  # rounded to float32
    again = load(save(ours, folder / "model"))
    assert torch.equal(again(codes, condition), ours(codes, condition))
    torch.testing.assert_close(ours.double()(codes, condition.double()), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("taps", "factor"), [(2, 0), (3, 4)])
def test_equals_the_description(taps, factor, tmp_path):
    check(Plain(taps, factor), factor, tmp_path)


@pytest.mark.parametrize(("taps", "factor"), [(2, 0), (3, 4)])
def test_equals_espnet(taps, factor, tmp_path):
    espnet = pytest.importorskip("espnet.nets.pytorch_backend.wavenet", reason="needs espnet")
    sizes = {"n_quantize": CODES, "n_aux": BANDS, "n_resch": CHANNELS, "n_skipch": SKIPS}
    peer = espnet.WaveNet(**sizes, dilation_depth=2, dilation_repeat=2, kernel_size=taps, upsampling_factor=factor)
    peer.onehot.register_forward_hook(lambda layer, codes, hot: hot.double())  # its one-hot codes are always float32
    check(peer.eval(), factor, tmp_path)


def test_bad_arguments_are_refused():
    with pytest.raises(WavedilError, match="expected the tensors of a WaveNet of kan-bayashi or espnet"):
        from_kan_bayashi({}, stacks=1)
    with pytest.raises(WavedilError, match="stacks is 3: expected a divisor of the 4 layers"):
        from_kan_bayashi(Plain(2, 0).state_dict(), stacks=3)
