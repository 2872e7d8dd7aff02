"""r9y9's ``wavenet-vocoder`` 0.1.1: ``first_conv``, ``conv_layers``, ``last_conv_layers`` …"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wavedil.audio.conditioning.features import Features
from wavedil.audio.conditioning.upsampling import ImageUpsampling
from wavedil.audio.models.wavenet import WaveNet
from wavedil.errors import WavedilError
from wavedil.interop.tensors import Source, under


def from_wavenet_vocoder(
    tensors: Mapping[str, Tensor],
    *,
    stacks: int,
    legacy: bool = True,
    speakers: Sequence[str] | None = None,
    sample_rate: int = 22050,
) -> WaveNet:
    """A :class:`WaveNet` with the weights of a state_dict; weight norm is folded.

    Features with or without its upsampling, its table of speakers, codes or amplitudes (a mixture of logistics) as
    input: the tensors tell. The biases of conditioning join that of the convolution, which is added to the same sum.

    Args:
        stacks: how many times the dilations go from 1 upwards, which tensors do not tell.
        legacy: whether the sum of skips is scaled by √½ after each layer but the first, the package's default; if not
            it is a plain sum.
        speakers: names; default their numbers.
        sample_rate: in Hz, of the sound that the model was trained on.

    Our prediction at t is its output at t - 1, given its features at t, as while it generates. What it draws then
    starts from code 127, ours from 128, the code of zero.
    """
    source = Source(tensors, "wavenet-vocoder 0.1.1")
    layers = source.count("conv_layers.{}.conv.bias")
    if not isinstance(stacks, int) or stacks < 1 or layers % stacks:
        raise WavedilError(f"stacks is {stacks!r}: expected a divisor of the {layers} layers")
    skip_channels, hidden, _ = source.shape("conv_layers.0.conv1x1_skip.weight")
    _, channels, kernel_size = source.shape("conv_layers.0.conv.weight")
    outputs, inputs = source.shape("last_conv_layers.3.weight")[0], source.shape("first_conv.weight")[1]
    speaker_table = source.take("embed_speakers.weight") if "embed_speakers.weight" in source else None
    local, values = _local(source)
    model = WaveNet(
        channels,
        skip_channels,
        [2 ** (layer % (layers // stacks)) for layer in range(layers)],
        kernel_size,
        hidden_channels=hidden,
        condition=local,
        speakers=_names(speakers, speaker_table),
        speaker_channels=1 if speaker_table is None else speaker_table.shape[1],
        sample_rate=sample_rate,
        residual_scale=0.5**0.5,
        skip_scale=[0.5 ** (0.5 * (layers - max(layer, 1))) if legacy else 1.0 for layer in range(layers)],
        **_input_and_output(inputs, outputs),
    )
    first = source.conv("first_conv")
    if inputs == 1:
        values |= under("input_embedding.conv", first)
    else:
        values["input_embedding.tables"] = (first["weight"][:, :, 0] + first["bias"].unsqueeze(1)).T.unsqueeze(0)
    if speaker_table is not None:
        values["conditioner.speaker_embedding.weight"] = speaker_table
    values |= under("head.hidden", source.conv("last_conv_layers.1"))
    values |= under("head.out", source.conv("last_conv_layers.3"))
    for layer in range(layers):
        theirs, ours = f"conv_layers.{layer}", f"stack.layers.{layer}"
        conv = source.conv(f"{theirs}.conv")
        heard = [
            source.conv(f"{theirs}.{name}") for name in ("conv1x1c", "conv1x1g") if f"{theirs}.{name}.bias" in source
        ]
        if heard:
            values[f"{ours}.condition.weight"] = torch.cat([one["weight"] for one in heard], dim=1)
            conv["bias"] = conv["bias"] + sum(one["bias"] for one in heard)
        values |= under(f"{ours}.conv", conv)
        values |= under(f"{ours}.skip", source.conv(f"{theirs}.conv1x1_skip"))
        residual = source.conv(f"{theirs}.conv1x1_out")
        if layer < layers - 1:  # the last is used by nothing
            values |= under(f"{ours}.residual", residual)
    return source.fill(model, values)


def _local(source: Source) -> tuple[ImageUpsampling | None, dict[str, Tensor]]:
    """What brings features to the sample rate, and its tensors; None without features."""
    if "conv_layers.0.conv1x1c.weight" not in source:
        return None, {}
    bands = source.shape("conv_layers.0.conv1x1c.weight")[1]
    convs = []
    while f"upsample_conv.{2 * len(convs)}.weight" in source:  # ReLUs are between
        convs.append(source.conv(f"upsample_conv.{2 * len(convs)}"))
    return image_upsampling(bands, convs, slope=0.0)


def image_upsampling(
    bands: int, convs: Sequence[Mapping[str, Tensor]], slope: float
) -> tuple[ImageUpsampling, dict[str, Tensor]]:
    """The net of transposed convolutions with these tensors, for features of so many bands."""
    factors = [conv["weight"].shape[3] for conv in convs]
    local = ImageUpsampling(
        Features(bands, hop_length=int(torch.tensor([1, *factors]).prod())),
        factors,
        band_kernel_size=convs[0]["weight"].shape[2] if convs else 1,
        slope=slope,
    )
    values: dict[str, Tensor] = {}
    for index, conv in enumerate(convs):
        values |= under(f"conditioner.upsampling.convs.{index}", conv)
    return local, values


def _names(speakers: Sequence[str] | None, table: Tensor | None) -> list[str]:
    number = 0 if table is None else len(table)
    names = [str(index) for index in range(number)] if speakers is None else list(speakers)
    if len(names) != number:
        raise WavedilError(f"speakers has {len(names)} names: expected one for each of its {number} speakers")
    return names


def _input_and_output(inputs: int, outputs: int) -> dict[str, object]:
    if inputs == outputs:
        return {"num_codes": outputs}
    if inputs != 1 or outputs % 3:
        raise WavedilError(
            f"it has {inputs} inputs and {outputs} outputs: expected as many codes in as out, or an amplitude in and "
            "three numbers for each of a mixture's logistics out"
        )
    logistics = {"distribution": "logistics", "components": outputs // 3}
    return {"input": "scalar", "quantizer": "linear", "num_codes": 65536, **logistics}
