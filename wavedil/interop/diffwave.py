"""Weights of lmnt-com's ``diffwave`` 0.1.7: ``input_projection``, ``residual_layers`` …"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from wavedil.audio.models.diffwave import DiffWave
from wavedil.core.stream import add_prefix
from wavedil.interop.tensors import ForeignTensors, split_conv


def from_diffwave(
    tensors: Mapping[str, Tensor],
    *,
    cycle: int = 10,
    noise: Sequence[float] | None = None,
    sample_rate: int = 22050,
) -> DiffWave:
    """Converts a state_dict to a :class:`DiffWave`.

    The bias of a layer's mel projection is added to that of its convolution. The unused residual half of the last layer
    is dropped.

    Args:
        cycle: number of layers after which the dilations start again at 1 (``dilation_cycle_length``).
        noise: ``noise_schedule`` of the training; default the package's.
        sample_rate: in Hz.
    """
    source = ForeignTensors(tensors, "diffwave")
    layers = source.count_layers("residual_layers.{}.dilated_conv.bias")
    channels = source.shape("input_projection.weight")[0]
    mels = source.shape("residual_layers.0.conditioner_projection.weight")[1]
    model = DiffWave(
        channels, [2 ** (layer % cycle) for layer in range(layers)], mels=mels, noise=noise, sample_rate=sample_rate
    )
    values = {
        **add_prefix("input_conv", source.pop_conv("input_projection")),
        **add_prefix("embedding.first", source.pop_conv("diffusion_embedding.projection1")),
        **add_prefix("embedding.second", source.pop_conv("diffusion_embedding.projection2")),
        **add_prefix("upsampling.convs.0", source.pop_conv("spectrogram_upsampler.conv1")),
        **add_prefix("upsampling.convs.1", source.pop_conv("spectrogram_upsampler.conv2")),
        **add_prefix("hidden", source.pop_conv("skip_projection")),
        **add_prefix("out", source.pop_conv("output_projection")),
    }
    for layer in range(layers):
        theirs, ours = f"residual_layers.{layer}", f"stack.layers.{layer}"
        conv, step = source.pop_conv(f"{theirs}.dilated_conv"), source.pop_conv(f"{theirs}.diffusion_projection")
        mel = source.pop_conv(f"{theirs}.conditioner_projection")
        residual, skip = split_conv(source.pop_conv(f"{theirs}.output_projection"), channels)
        values |= add_prefix(f"{ours}.conv", {"weight": conv["weight"], "bias": conv["bias"] + mel["bias"]})
        values[f"{ours}.condition.weight"] = mel["weight"]
        values |= add_prefix(f"{ours}.step_projection", {"weight": step["weight"].unsqueeze(2), "bias": step["bias"]})
        values |= add_prefix(f"{ours}.skip", skip)
        if layer < layers - 1:
            values |= add_prefix(f"{ours}.residual", residual)
    return source.load_into(model, values)
