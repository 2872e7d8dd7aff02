"""kan-bayashi's PytorchWaveNetVocoder, and espnet's ``nets.pytorch_backend.wavenet``: ``dil_tanh``, ``skip_1x1`` …"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wavedil.audio.models.wavenet import WaveNet
from wavedil.errors import WavedilError
from wavedil.interop.tensors import Source, under
from wavedil.interop.wavenet_vocoder import image_upsampling


def from_kan_bayashi(tensors: Mapping[str, Tensor], *, stacks: int, sample_rate: int = 16000) -> WaveNet:
    """A :class:`WaveNet` with the weights of a state_dict.

    Its tanh and sigmoid convolutions are the two halves of ours, whose bias takes in those of the features too. The
    features are at the sample rate, or brought there by its transposed convolution.

    Args:
        stacks: how many times the dilations go from 1 upwards (``dilation_repeat``), which tensors do not tell.
        sample_rate: in Hz, of the sound that the model was trained on.

    Our prediction at t is its output at t - 1, given its features at t; ours is ``(batch, codes, time)``.
    """
    source = Source(tensors, "a WaveNet of kan-bayashi or espnet")
    layers = source.count("dil_tanh.{}.conv.bias")
    if not isinstance(stacks, int) or stacks < 1 or layers % stacks:
        raise WavedilError(f"stacks is {stacks!r}: expected a divisor of the {layers} layers")
    channels, num_codes, front_taps = source.shape("causal.conv.weight")
    bands = source.shape("aux_1x1_tanh.0.weight")[1]
    upsampling = "upsampling.conv"
    convs = [source.conv(upsampling)] if f"{upsampling}.weight" in source else []
    if convs:  # made without a bias it is the same as with one of zero
        convs[0].setdefault("bias", torch.zeros(1))
    local, values = image_upsampling(bands, convs, slope=1.0)
    model = WaveNet(
        channels,
        source.shape("conv_post_1.weight")[0],
        [2 ** (layer % (layers // stacks)) for layer in range(layers)],
        source.shape("dil_tanh.0.conv.weight")[2],
        input_kernel_size=front_taps,
        num_codes=num_codes,
        condition=local,
        sample_rate=sample_rate,
    )
    front = source.conv("causal.conv")
    tables = front["weight"].permute(2, 1, 0).clone()  # (taps, codes, channels), newest last
    tables[-1] += front["bias"]  # there is a newest code always
    values["input_embedding.tables"] = tables
    values |= under("head.hidden", source.conv("conv_post_1"))
    values |= under("head.out", source.conv("conv_post_2"))
    for layer in range(layers):
        ours = f"stack.layers.{layer}"
        halves = [source.conv(f"dil_{half}.{layer}.conv") for half in ("tanh", "sigmoid")]
        heard = [source.conv(f"aux_1x1_{half}.{layer}") for half in ("tanh", "sigmoid")]
        values[f"{ours}.conv.weight"] = torch.cat([half["weight"] for half in halves])
        values[f"{ours}.conv.bias"] = torch.cat([half["bias"] for half in halves + heard]).view(2, -1).sum(0)
        values[f"{ours}.condition.weight"] = torch.cat([half["weight"] for half in heard])
        values |= under(f"{ours}.skip", source.conv(f"skip_1x1.{layer}"))
        residual = source.conv(f"res_1x1.{layer}")
        if layer < layers - 1:  # the last is used by nothing
            values |= under(f"{ours}.residual", residual)
    return source.fill(model, values)
