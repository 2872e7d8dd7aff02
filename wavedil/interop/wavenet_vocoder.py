"""Weights of r9y9's ``wavenet-vocoder`` 0.1.1: ``first_conv``, ``conv_layers``, ``last_conv_layers`` …"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wavedil.audio.conditioning.features import Features
from wavedil.audio.conditioning.upsampling import ImageUpsampling
from wavedil.audio.models.wavenet import WaveNet
from wavedil.core.stream import add_prefix
from wavedil.errors import WavedilError, count_text
from wavedil.interop.tensors import ForeignTensors, doubling_dilations


def from_wavenet_vocoder(
    tensors: Mapping[str, Tensor],
    *,
    stacks: int,
    legacy: bool = True,
    speakers: Sequence[str] | None = None,
    sample_rate: int = 22050,
) -> WaveNet:
    """Converts a state_dict to a :class:`WaveNet`; weight norm is folded.

    Inferred from the tensors: features, with or without upsampling; speaker embeddings; and whether the input is codes
    or amplitudes (then the output is a mixture of logistics). The biases of condition layers are added to those of the
    convolutions.

    The prediction of our model at t is the output of the package's at t - 1, with the features at t, as in its
    generation. The package starts to generate from code 127, wavedil from 128, the code of amplitude zero.

    Args:
        stacks: how often the dilations start again at 1.
        legacy: True, the package's default, scales the sum of skips by √½ after each layer but the first; False is a
            plain sum.
        speakers: names; default their indices.
        sample_rate: in Hz, of the training data.
    """
    source = ForeignTensors(tensors, "wavenet-vocoder 0.1.1")
    layers = source.count_layers("conv_layers.{}.conv.bias")
    dilations = doubling_dilations(layers, stacks)
    skip_channels, hidden, _ = source.shape("conv_layers.0.conv1x1_skip.weight")
    _, channels, kernel_size = source.shape("conv_layers.0.conv.weight")
    outputs, inputs = source.shape("last_conv_layers.3.weight")[0], source.shape("first_conv.weight")[1]
    speaker_table = source.pop("embed_speakers.weight") if "embed_speakers.weight" in source else None
    upsampling, values = _upsampling(source)
    model = WaveNet(
        channels,
        skip_channels,
        dilations,
        kernel_size,
        hidden_channels=hidden,
        condition=upsampling,
        speakers=_names(speakers, speaker_table),
        speaker_channels=1 if speaker_table is None else speaker_table.shape[1],
        sample_rate=sample_rate,
        residual_scale=0.5**0.5,
        skip_scale=[0.5 ** (0.5 * (layers - max(layer, 1))) if legacy else 1.0 for layer in range(layers)],
        **_input_and_output(inputs, outputs),
    )
    first = source.pop_conv("first_conv")
    if inputs == 1:
        values |= add_prefix("input_embedding.conv", first)
    else:
        values["input_embedding.tables"] = (first["weight"][:, :, 0] + first["bias"].unsqueeze(1)).T.unsqueeze(0)
    if speaker_table is not None:
        values["conditioner.speaker_embedding.weight"] = speaker_table
    values |= add_prefix("head.hidden", source.pop_conv("last_conv_layers.1"))
    values |= add_prefix("head.out", source.pop_conv("last_conv_layers.3"))
    for layer in range(layers):
        theirs, ours = f"conv_layers.{layer}", f"stack.layers.{layer}"
        conv = source.pop_conv(f"{theirs}.conv")
        condition_layers = [
            source.pop_conv(f"{theirs}.{name}")
            for name in ("conv1x1c", "conv1x1g")
            if f"{theirs}.{name}.bias" in source
        ]
        if condition_layers:
            values[f"{ours}.condition.weight"] = torch.cat([one["weight"] for one in condition_layers], dim=1)
            conv["bias"] = conv["bias"] + sum(one["bias"] for one in condition_layers)
        values |= add_prefix(f"{ours}.conv", conv)
        values |= add_prefix(f"{ours}.skip", source.pop_conv(f"{theirs}.conv1x1_skip"))
        residual = source.pop_conv(f"{theirs}.conv1x1_out")
        if layer < layers - 1:  # nothing uses the last one
            values |= add_prefix(f"{ours}.residual", residual)
    return source.load_into(model, values)


def _upsampling(source: ForeignTensors) -> tuple[ImageUpsampling | None, dict[str, Tensor]]:
    """The upsampling network and its tensors; None without features."""
    if "conv_layers.0.conv1x1c.weight" not in source:
        return None, {}
    bands = source.shape("conv_layers.0.conv1x1c.weight")[1]
    convs = []
    while f"upsample_conv.{2 * len(convs)}.weight" in source:  # every second layer is a ReLU
        convs.append(source.pop_conv(f"upsample_conv.{2 * len(convs)}"))
    return image_upsampling(bands, convs, slope=0.0)


def image_upsampling(
    bands: int, convs: Sequence[Mapping[str, Tensor]], slope: float
) -> tuple[ImageUpsampling, dict[str, Tensor]]:
    """The upsampling network of transposed convolutions with these tensors, and the tensors by our names."""
    factors = [conv["weight"].shape[3] for conv in convs]
    upsampling = ImageUpsampling(
        Features(bands, hop_length=int(torch.tensor([1, *factors]).prod())),
        factors,
        band_kernel_size=convs[0]["weight"].shape[2] if convs else 1,
        slope=slope,
    )
    values: dict[str, Tensor] = {}
    for index, conv in enumerate(convs):
        values |= add_prefix(f"conditioner.upsampling.convs.{index}", conv)
    return upsampling, values


def _names(speakers: Sequence[str] | None, table: Tensor | None) -> list[str]:
    count = 0 if table is None else len(table)
    names = [str(index) for index in range(count)] if speakers is None else list(speakers)
    if len(names) != count:
        raise WavedilError(f"speakers has {count_text(len(names), 'name')}: expected one per speaker, {count}")
    return names


def _input_and_output(inputs: int, outputs: int) -> dict[str, object]:
    if inputs == outputs:
        return {"num_codes": outputs}
    if inputs != 1 or outputs % 3:
        raise WavedilError(
            f"the network has {inputs} inputs and {outputs} outputs: expected equal numbers of codes, or 1 input (an "
            "amplitude) and 3 outputs per logistic"
        )
    logistics = {"distribution": "logistics", "components": outputs // 3}
    return {"input": "scalar", "quantizer": "linear", "num_codes": 65536, **logistics}
