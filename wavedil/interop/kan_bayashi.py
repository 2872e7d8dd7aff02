"""Weights of kan-bayashi's PytorchWaveNetVocoder and espnet's WaveNet: ``dil_tanh``, ``skip_1x1`` …"""

from collections.abc import Mapping

import torch
from torch import Tensor

from wavedil.audio.models.wavenet import WaveNet
from wavedil.core.stream import add_prefix
from wavedil.interop.tensors import ForeignTensors, doubling_dilations
from wavedil.interop.wavenet_vocoder import image_upsampling


def from_kan_bayashi(tensors: Mapping[str, Tensor], *, stacks: int, sample_rate: int = 16000) -> WaveNet:
    """Converts a state_dict to a :class:`WaveNet`.

    The tanh and sigmoid convolutions of a layer become the two halves of one, with the biases of the feature layers
    added. Features are at the sample rate, or upsampled by the network's transposed convolution.

    The prediction of our model at t is the original's output at t - 1, with the features at t; its shape is
    ``(batch, codes, time)``.

    Args:
        stacks: how often the dilations start again at 1 (``dilation_repeat``).
        sample_rate: in Hz, of the training data.
    """
    source = ForeignTensors(tensors, "a WaveNet of kan-bayashi or espnet")
    layers = source.count_layers("dil_tanh.{}.conv.bias")
    dilations = doubling_dilations(layers, stacks)
    channels, num_codes, front_taps = source.shape("causal.conv.weight")
    bands = source.shape("aux_1x1_tanh.0.weight")[1]
    convs = [source.pop_conv("upsampling.conv")] if "upsampling.conv.weight" in source else []
    if convs:  # a missing bias is a bias of zero
        convs[0].setdefault("bias", torch.zeros(1))
    upsampling, values = image_upsampling(bands, convs, slope=1.0)
    model = WaveNet(
        channels,
        source.shape("conv_post_1.weight")[0],
        dilations,
        source.shape("dil_tanh.0.conv.weight")[2],
        input_kernel_size=front_taps,
        num_codes=num_codes,
        condition=upsampling,
        sample_rate=sample_rate,
    )
    front = source.pop_conv("causal.conv")
    tables = front["weight"].permute(2, 1, 0).clone()  # (taps, codes, channels), newest last
    tables[-1] += front["bias"]  # the newest tap always sees a code
    values["input_embedding.tables"] = tables
    values |= add_prefix("head.hidden", source.pop_conv("conv_post_1"))
    values |= add_prefix("head.out", source.pop_conv("conv_post_2"))
    for layer in range(layers):
        ours = f"stack.layers.{layer}"
        halves = [source.pop_conv(f"dil_{half}.{layer}.conv") for half in ("tanh", "sigmoid")]
        feature_halves = [source.pop_conv(f"aux_1x1_{half}.{layer}") for half in ("tanh", "sigmoid")]
        values[f"{ours}.conv.weight"] = torch.cat([half["weight"] for half in halves])
        values[f"{ours}.conv.bias"] = torch.cat([half["bias"] for half in halves + feature_halves]).view(2, -1).sum(0)
        values[f"{ours}.condition.weight"] = torch.cat([half["weight"] for half in feature_halves])
        values |= add_prefix(f"{ours}.skip", source.pop_conv(f"skip_1x1.{layer}"))
        residual = source.pop_conv(f"res_1x1.{layer}")
        if layer < layers - 1:  # nothing uses the last one
            values |= add_prefix(f"{ours}.residual", residual)
    return source.load_into(model, values)
