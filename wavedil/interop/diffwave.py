"""lmnt-com's ``diffwave`` 0.1.7: ``input_projection``, ``residual_layers`` …"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from wavedil.audio.models.diffwave import DiffWave
from wavedil.interop.tensors import Source, under


def from_diffwave(
    tensors: Mapping[str, Tensor],
    *,
    cycle: int = 10,
    noise: Sequence[float] | None = None,
    sample_rate: int = 22050,
) -> DiffWave:
    """A :class:`DiffWave` with the weights of a state_dict.

    Args:
        cycle: layers until the dilation is 1 again (``dilation_cycle_length``), which tensors do not tell.
        noise: its ``noise_schedule``; default the package's.

    The bias of a layer's mel projection joins that of its convolution; the last layer's residual half, which nothing
    uses, is left out.
    """
    source = Source(tensors, "diffwave")
    layers = source.count("residual_layers.{}.dilated_conv.bias")
    channels = source.shape("input_projection.weight")[0]
    mels = source.shape("residual_layers.0.conditioner_projection.weight")[1]
    model = DiffWave(
        channels, [2 ** (layer % cycle) for layer in range(layers)], mels=mels, noise=noise, sample_rate=sample_rate
    )
    values = {
        **under("input_conv", source.conv("input_projection")),
        **under("embedding.first", source.conv("diffusion_embedding.projection1")),
        **under("embedding.second", source.conv("diffusion_embedding.projection2")),
        **under("upsampling.convs.0", source.conv("spectrogram_upsampler.conv1")),
        **under("upsampling.convs.1", source.conv("spectrogram_upsampler.conv2")),
        **under("hidden", source.conv("skip_projection")),
        **under("out", source.conv("output_projection")),
    }
    for layer in range(layers):
        theirs, ours = f"residual_layers.{layer}", f"stack.layers.{layer}"
        conv, step = source.conv(f"{theirs}.dilated_conv"), source.conv(f"{theirs}.diffusion_projection")
        mel, both = source.conv(f"{theirs}.conditioner_projection"), source.conv(f"{theirs}.output_projection")
        values |= under(f"{ours}.conv", {"weight": conv["weight"], "bias": conv["bias"] + mel["bias"]})
        values[f"{ours}.condition.weight"] = mel["weight"]
        values |= under(f"{ours}.step_projection", {"weight": step["weight"].unsqueeze(2), "bias": step["bias"]})
        values |= under(f"{ours}.skip", {part: value[channels:] for part, value in both.items()})
        if layer < layers - 1:
            values |= under(f"{ours}.residual", {part: value[:channels] for part, value in both.items()})
    return source.fill(model, values)
