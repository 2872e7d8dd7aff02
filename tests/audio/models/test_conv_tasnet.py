"""Conv-TasNet's separator against torchaudio's."""

import pytest
import torch
from torch import nn

from wavedil.audio import load, save
from wavedil.audio.models.conv_tasnet import Separator, SeparatorBlock
from wavedil.core import measure_receptive_field

THEIRS = {"expand": 0, "activations.0": 1, "norms.0": 2, "conv": 3, "activations.1": 4, "norms.1": 5}


@pytest.fixture
def torchaudio():
    return pytest.importorskip(
        "torchaudio.models.conv_tasnet",
        reason="needs torchaudio",
        exc_type=(ImportError, OSError, RuntimeError),
    )


def copy_weights(peer: nn.Module, block: SeparatorBlock) -> None:
    names = {ours: f"conv_layers.{index}" for ours, index in THEIRS.items()}
    names |= {"skip": "skip_out"} | ({"residual": "res_out"} if block.residual is not None else {})
    theirs = peer.state_dict()
    block.load_state_dict(
        {name: theirs[names[name.rpartition(".")[0]] + "." + name.rpartition(".")[2]] for name in block.state_dict()}
    )


def with_random_weights(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


@pytest.mark.parametrize(("dilation", "residual"), [(1, True), (4, True), (2, False)])
@torch.no_grad()
def test_block_equals_torchaudio(torchaudio, dilation, residual):
    peer = with_random_weights(
        torchaudio.ConvBlock(5, 7, 3, padding=dilation, dilation=dilation, no_residual=not residual)
    )
    block = SeparatorBlock(5, 7, 3, dilation, residual=residual)
    copy_weights(peer, block)
    x = torch.randn(2, 5, 23)
    added, skip = peer(x)
    out, ours = block(x)
    torch.testing.assert_close(ours, skip, rtol=0, atol=1e-6)
    torch.testing.assert_close(out, x if added is None else x + added, rtol=0, atol=1e-6)


@torch.no_grad()
def test_separator_equals_torchaudio(torchaudio, tmp_path):
    peer = with_random_weights(
        torchaudio.MaskGenerator(6, 3, 3, 5, 7, num_layers=2, num_stacks=2, msk_activate="sigmoid")
    )
    ours = Separator(6, 3, 5, 7, "1,2 x2")
    for block, theirs in zip(ours.blocks, peer.conv_layers, strict=True):
        copy_weights(theirs, block)
    names = {"norm": "input_norm", "input_conv": "input_conv", "activation": "output_prelu", "out": "output_conv"}
    for name, theirs in names.items():
        getattr(ours, name).load_state_dict(getattr(peer, theirs).state_dict())
    mixture = torch.randn(2, 6, 31)
    expected = peer(mixture)
    assert expected.shape == (2, 3, 6, 31) and expected.std() > 0.05
    torch.testing.assert_close(ours(mixture), expected, rtol=0, atol=1e-6)
    again = load(save(ours, tmp_path / "model"))
    assert torch.equal(again(mixture), ours(mixture))


def test_receptive_field_of_the_convolutions():
    block = SeparatorBlock(2, 3, 3, 4)
    block.norms = nn.ModuleList([nn.Identity(), nn.Identity()])  # norms see all of the input
    assert measure_receptive_field(block, 2).extent == (block.receptive_field,) == (9,)
    assert Separator(2, 2, 2, 2, "1,2 x2").receptive_field == 1 + 2 * 6


def test_every_weight_has_a_gradient():
    model = Separator(4, 2, 3, 5, "1,2")
    model(torch.randn(1, 4, 9)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
