"""kan-bayashi's ``parallel_wavegan`` generator, and espnet's: ``first_conv``, ``upsample_net``, ``conv_layers`` …"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from wavedil.audio.models.parallel_wavegan import ParallelWaveGANGenerator
from wavedil.errors import WavedilError
from wavedil.interop.tensors import Source, under


def from_parallel_wavegan(
    tensors: Mapping[str, Tensor], *, stacks: int = 3, sample_rate: int = 24000
) -> ParallelWaveGANGenerator:
    """A :class:`ParallelWaveGANGenerator` with the weights of a state_dict; weight norm is folded.

    Residual and skip may be two layers (the original) or one, residual first (espnet). The last layer's residual,
    which nothing uses, is left out.

    Args:
        stacks: how many times the dilations go from 1 upwards, which tensors do not tell.
    """
    source = Source(tensors, "a Parallel WaveGAN generator")
    layers = source.count("conv_layers.{}.conv.bias")
    if stacks < 1 or layers % stacks:
        raise WavedilError(f"stacks is {stacks}: expected a divisor of the {layers} layers")
    doubled, channels, kernel_size = source.shape("conv_layers.0.conv.weight")
    skip_channels, mels = source.shape("last_conv_layers.1.weight")[0], source.shape("upsample_net.conv_in.weight")[1]
    upsampling = {"upsampling.conv.weight": source.take("upsample_net.conv_in.weight")}
    filters: list[Tensor] = []
    # Between the filters are layers without weights, so their numbers are not one after another.
    while names := [n for n in source.left if n.startswith("upsample_net.upsample.up_layers.")]:
        filters.append(source.take(min(names, key=lambda name: int(name.split(".")[3]))))
    if not all(f.shape[:3] == (1, 1, 1) for f in filters):
        raise WavedilError("its upsampling filters reach over frequencies: expected freq_axis_kernel_size=1")
    model = ParallelWaveGANGenerator(
        channels,
        skip_channels,
        [2 ** (layer % (layers // stacks)) for layer in range(layers)],
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
        **under("input_conv", source.conv("first_conv")),
        **under("hidden", source.conv("last_conv_layers.1")),
        **under("out", source.conv("last_conv_layers.3")),
    }
    for layer in range(layers):
        theirs, ours = f"conv_layers.{layer}", f"stack.layers.{layer}"
        values |= under(f"{ours}.conv", source.conv(f"{theirs}.conv"))
        values |= under(f"{ours}.condition", source.conv(f"{theirs}.conv1x1_aux"))
        residual = source.conv(f"{theirs}.conv1x1_out")
        if f"{theirs}.conv1x1_skip.weight" in source:
            skip = source.conv(f"{theirs}.conv1x1_skip")
        else:
            skip = {part: value[channels:] for part, value in residual.items()}
            residual = {part: value[:channels] for part, value in residual.items()}
        values |= under(f"{ours}.skip", skip)
        if layer < layers - 1:
            values |= under(f"{ours}.residual", residual)
    return source.fill(model, values)
