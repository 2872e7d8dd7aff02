"""Parallel WaveGAN's generator against espnet's (where installed) and against its description."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wavedil.audio import load, save
from wavedil.audio.models.parallel_wavegan import ParallelWaveGANGenerator
from wavedil.errors import WavedilError
from wavedil.interop.parallel_wavegan import from_parallel_wavegan

SIZES = {"residual_channels": 6, "gate_channels": 8, "skip_channels": 5, "aux_channels": 3, "layers": 4, "stacks": 2}


def as_originally(scales, context, merged):
    """Random weights with the names and shapes of the original generator; merged as in espnet."""
    torch.manual_seed(0)

    def conv(out, inputs, *taps, bias=True):
        fan = inputs * (taps[0] if taps else 1)
        return {
            "weight": torch.randn(out, inputs, *taps) / fan**0.5,
            **({"bias": torch.randn(out) / 4} if bias else {}),
        }

    named = {"first_conv": conv(6, 1, 1), "last_conv_layers.1": conv(5, 5, 1), "last_conv_layers.3": conv(1, 5, 1)}
    named["upsample_net.conv_in"] = conv(3, 3, 2 * context + 1, bias=False)
    for index, scale in enumerate(scales):
        smoothing = torch.rand(1, 1, 1, 2 * scale + 1) / scale
        named[f"upsample_net.upsample.up_layers.{2 * index + 1}"] = {"weight": smoothing}
    for layer in range(4):
        name = f"conv_layers.{layer}"
        named[f"{name}.conv"], named[f"{name}.conv1x1_aux"] = conv(8, 6, 3), conv(8, 3, 1, bias=False)
        out, skip = conv(6, 4, 1), conv(5, 4, 1)
        if merged:
            named[f"{name}.conv1x1_out"] = {part: torch.cat([out[part], skip[part]]) for part in out}
        else:
            named[f"{name}.conv1x1_out"], named[f"{name}.conv1x1_skip"] = out, skip
    return {f"{name}.{part}": value for name, layer in named.items() for part, value in layer.items()}


def by_the_book(t, noise, mel, scales, context):
    """The original generator in torch functions, from unmerged tensors."""
    c = F.conv1d(F.pad(mel, (context, context), mode="replicate"), t["upsample_net.conv_in.weight"]).unsqueeze(1)
    for index, scale in enumerate(scales):
        c = F.interpolate(c, scale_factor=(1, scale), mode="nearest")
        c = F.conv2d(c, t[f"upsample_net.upsample.up_layers.{2 * index + 1}.weight"], padding=(0, scale))
    c, x, total = c.squeeze(1), F.conv1d(noise, t["first_conv.weight"], t["first_conv.bias"]), 0
    for layer in range(4):
        w = {name.split(".", 2)[2]: value for name, value in t.items() if name.startswith(f"conv_layers.{layer}.")}
        d = 2 ** (layer % 2)
        h = F.conv1d(x, w["conv.weight"], w["conv.bias"], padding=d, dilation=d) + F.conv1d(c, w["conv1x1_aux.weight"])
        z = torch.tanh(h[:, :4]) * torch.sigmoid(h[:, 4:])
        total = total + F.conv1d(z, w["conv1x1_skip.weight"], w["conv1x1_skip.bias"])
        x = (x + F.conv1d(z, w["conv1x1_out.weight"], w["conv1x1_out.bias"])) * 0.5**0.5
    y = F.relu(total * 0.25**0.5)
    y = F.relu(F.conv1d(y, t["last_conv_layers.1.weight"], t["last_conv_layers.1.bias"]))
    return F.conv1d(y, t["last_conv_layers.3.weight"], t["last_conv_layers.3.bias"])


@pytest.mark.parametrize(("scales", "context"), [((4, 3), 2), ((5,), 0)])
def test_equals_the_description(scales, context, tmp_path):
    tensors = as_originally(scales, context, merged=False)
    hop = torch.tensor(scales).prod().item()
    noise, mel = torch.randn(2, 1, 7 * hop), torch.randn(2, 3, 7)
    expected = by_the_book(tensors, noise, mel, scales, context)
    assert expected.std() > 0.05
    ours = from_parallel_wavegan(tensors, stacks=2)
    torch.testing.assert_close(ours(noise, mel), expected, rtol=0, atol=1e-6)
    merged = from_parallel_wavegan(as_originally(scales, context, merged=True), stacks=2)
    torch.testing.assert_close(merged(noise, mel), expected, rtol=0, atol=1e-6)
    again = load(save(ours, tmp_path / "model"))
    assert torch.equal(again(noise, mel), ours(noise, mel))


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@torch.no_grad()
def test_equals_espnet():
    espnet = pytest.importorskip("espnet2.gan_tts.parallel_wavegan.parallel_wavegan", reason="needs espnet")
    torch.manual_seed(1)
    upsampling = {"upsample_scales": [4, 3]}
    peer = espnet.ParallelWaveGANGenerator(**SIZES, upsample_params=upsampling).eval()
    for parameter in peer.parameters():
        nn.init.normal_(parameter, std=0.7)
    noise, mel = torch.randn(2, 1, 84), torch.randn(2, 3, 7)
    ours, expected = from_parallel_wavegan(peer.state_dict(), stacks=2), peer(mel, noise)
    assert expected.std() > 0.01
    torch.testing.assert_close(ours(noise, mel), expected, rtol=0, atol=1e-6)


def test_training_and_refused_arguments():
    model = ParallelWaveGANGenerator(4, 4, "1,2", hidden_channels=4, mels=3, scales=[4], weight_norm=True)
    assert model.receptive_field == 7
    model(torch.randn(1, 1, 20), torch.randn(1, 3, 5)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(WavedilError, match=r"expected \(batch, 1, 4 \* frames\) and \(batch, 3, frames\)"):
        model(torch.randn(1, 1, 21), torch.randn(1, 3, 5))
    with pytest.raises(WavedilError, match="stacks is 3: expected a divisor of the 4 layers"):
        from_parallel_wavegan(as_originally((4,), 1, merged=False), stacks=3)
