"""Weights of kan-bayashi's ``parallel_wavegan`` generator and espnet's: ``first_conv``, ``upsample_net`` …"""

from collections.abc import Mapping

from torch import Tensor

from wavedil.audio.models.parallel_wavegan import ParallelWaveGANGenerator
from wavedil.core.stream import add_prefix
from wavedil.errors import WavedilError
from wavedil.interop.tensors import ForeignTensors, doubling_dilations, split_conv


def from_parallel_wavegan(
    tensors: Mapping[str, Tensor], *, stacks: int = 3, sample_rate: int = 24000
) -> ParallelWaveGANGenerator:
    """Converts a state_dict to a :class:`ParallelWaveGANGenerator`; weight norm is folded.

    Residual and skip may be two layers (the original) or one with the residual first (espnet). The unused residual of
    the last layer is dropped.

    Args:
        stacks: how often the dilations start again at 1.
        sample_rate: in Hz.
    """
    source = ForeignTensors(tensors, "a Parallel WaveGAN generator")
    layers = source.count_layers("conv_layers.{}.conv.bias")
    dilations = doubling_dilations(layers, stacks)
    doubled, channels, kernel_size = source.shape("conv_layers.0.conv.weight")
    skip_channels, mels = source.shape("last_conv_layers.1.weight")[0], source.shape("upsample_net.conv_in.weight")[1]
    upsampling = {"upsampling.conv.weight": source.pop("upsample_net.conv_in.weight")}
    filters: list[Tensor] = []
    # Layers without weights are between the filters, so their indices are not consecutive.
    while names := [n for n in source.remaining if n.startswith("upsample_net.upsample.up_layers.")]:
        filters.append(source.pop(min(names, key=lambda name: int(name.split(".")[3]))))
    if not all(f.shape[:3] == (1, 1, 1) for f in filters):
        raise WavedilError("the upsampling filters span frequencies: expected freq_axis_kernel_size=1")
    model = ParallelWaveGANGenerator(
        channels,
        skip_channels,
        dilations,
        kernel_size,
        hidden_channels=doubled // 2,
        mels=mels,
        scales=[f.shape[3] // 2 for f in filters],
        context=upsampling["upsampling.conv.weight"].shape[2] // 2,
        sample_rate=sample_rate,
    )
    values = {
        **upsampling,
        **{f"upsampling.filters.{index}.weight": value for index, value in enumerate(filters)},
        **add_prefix("input_conv", source.pop_conv("first_conv")),
        **add_prefix("hidden", source.pop_conv("last_conv_layers.1")),
        **add_prefix("out", source.pop_conv("last_conv_layers.3")),
    }
    for layer in range(layers):
        theirs, ours = f"conv_layers.{layer}", f"stack.layers.{layer}"
        values |= add_prefix(f"{ours}.conv", source.pop_conv(f"{theirs}.conv"))
        values |= add_prefix(f"{ours}.condition", source.pop_conv(f"{theirs}.conv1x1_aux"))
        residual = source.pop_conv(f"{theirs}.conv1x1_out")
        if f"{theirs}.conv1x1_skip.weight" in source:
            skip = source.pop_conv(f"{theirs}.conv1x1_skip")
        else:
            residual, skip = split_conv(residual, channels)
        values |= add_prefix(f"{ours}.skip", skip)
        if layer < layers - 1:
            values |= add_prefix(f"{ours}.residual", residual)
    return source.load_into(model, values)
