"""VITS's WN against transformers (where installed) and against its description."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wavedil.audio import load, save
from wavedil.audio.models.vits import WN
from wavedil.core import measure_receptive_field
from wavedil.errors import WavedilError
from wavedil.interop.vits import from_vits_wn

CASES = [(1, 5, 0), (2, 3, 4)]


class PlainWN(nn.Module):
    """WN from its description: one condition layer for all layers; the last layer has a skip only."""

    def __init__(self, channels, kernel_size, rate, layers, condition_channels, norm):
        super().__init__()
        self.rate, self.layers, self.channels = rate, layers, channels
        if condition_channels:
            self.cond_layer = norm(nn.Conv1d(condition_channels, 2 * channels * layers, 1))
        self.in_layers = nn.ModuleList(
            norm(nn.Conv1d(channels, 2 * channels, kernel_size, dilation=rate**i, padding="same"))
            for i in range(layers)
        )
        self.res_skip_layers = nn.ModuleList(
            norm(nn.Conv1d(channels, channels * (1 if i == layers - 1 else 2), 1)) for i in range(layers)
        )

    def forward(self, x, mask, condition=None):
        total, width = torch.zeros_like(x), 2 * self.channels
        for i in range(self.layers):
            h = self.in_layers[i](x)
            if condition is not None:
                h = h + self.cond_layer(condition)[:, i * width : (i + 1) * width]
            y = self.res_skip_layers[i](torch.tanh(h[:, : self.channels]) * torch.sigmoid(h[:, self.channels :]))
            if i < self.layers - 1:
                x = (x + y[:, : self.channels]) * mask
            total = total + y[:, -self.channels :]
        return total * mask


def random_weights(module: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


def inputs(condition_channels: int):
    mask = (torch.arange(40) < torch.tensor([[40], [23]])).float().unsqueeze(1)
    condition = torch.randn(2, condition_channels, 1) if condition_channels else None
    return torch.randn(2, 6, 40), mask, condition


@torch.no_grad()
def check(peer: nn.Module, rate: int, condition_channels: int) -> None:
    ours = from_vits_wn(peer.state_dict(), dilation_rate=rate)
    x, mask, condition = inputs(condition_channels)
    expected = peer(x, mask, condition)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(ours(x, mask, condition), expected, rtol=0, atol=1e-6)
    unmasked = peer(x, torch.ones_like(mask), condition)
    torch.testing.assert_close(ours(x, condition=condition), unmasked, rtol=0, atol=1e-6)
    assert not torch.allclose(unmasked, expected)


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm, lambda layer: layer])
@pytest.mark.parametrize(("rate", "kernel_size", "condition_channels"), CASES)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")  # old files have the old form
def test_equals_the_description(rate, kernel_size, condition_channels, norm):
    peer = random_weights(PlainWN(6, kernel_size, rate, 3, condition_channels, norm))
    check(peer, rate, condition_channels)


@pytest.mark.parametrize(("rate", "kernel_size", "condition_channels"), CASES)
def test_equals_transformers(rate, kernel_size, condition_channels):
    vits = pytest.importorskip("transformers.models.vits.modeling_vits", reason="needs transformers")
    config = vits.VitsConfig(
        hidden_size=6,
        wavenet_kernel_size=kernel_size,
        wavenet_dilation_rate=rate,
        speaker_embedding_size=condition_channels,
    )
    check(random_weights(vits.VitsWaveNet(config, 3)), rate, condition_channels)


def test_training_with_weight_norm_and_model_folders(tmp_path):
    model = WN(4, 3, 2, 3, condition_channels=2, weight_norm=True)
    assert model.receptive_field == 1 + 2 * (1 + 2 + 4)
    assert measure_receptive_field(WN(4, 3, 2, 3), 4, ndim=1).extent == (15,)
    x, condition = torch.randn(1, 4, 9), torch.randn(1, 2, 1)
    model(x, torch.ones(1, 1, 9), condition).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    again = load(save(model, tmp_path / "wn"))
    torch.testing.assert_close(again(x, condition=condition), model(x, condition=condition.expand(-1, -1, 9)))


def test_bad_tensors_are_refused():
    good = PlainWN(4, 3, 1, 2, 0, lambda layer: layer).state_dict()
    with pytest.raises(WavedilError, match=r"in_layers.0.bias is missing: expected the tensors of a WN of VITS"):
        from_vits_wn({})
    with pytest.raises(WavedilError, match="1 tensors are unknown, e.g. extra"):
        from_vits_wn({**good, "extra": torch.zeros(1)})
    with pytest.raises(WavedilError, match="in the tensors, .* in the model"):
        from_vits_wn({**good, "res_skip_layers.0.bias": torch.zeros(7)})
    with pytest.raises(WavedilError, match="in_layers.1.weight holds NaN"):
        from_vits_wn({**good, "in_layers.1.weight": torch.full((8, 4, 3), float("nan"))})
    with pytest.raises(WavedilError, match="in_layers.0.weight_v has no in_layers.0.weight_g"):
        from_vits_wn({**good, "in_layers.0.weight_v": torch.zeros(8, 4, 3)})
    with pytest.raises(WavedilError, match="kernel_size is 4: expected an odd number"):
        WN(4, 4)


def test_masked_samples_do_not_matter():
    model, (x, mask, _) = WN(6, 3, 2, 3), inputs(0)
    alone = model(x[1:, :, :23])
    torch.testing.assert_close(model(x * mask, mask)[1:, :, :23], alone)
    assert F.l1_loss(model(x * mask)[1:, :, :23], alone) > 1e-4
