"""r9y9's ``wavenet-vocoder`` 0.1.1: ``first_conv``, ``conv_layers``, ``last_conv_layers``."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from wavedil.audio.wavenet import WaveNet
from wavedil.errors import WavedilError
from wavedil.interop.tensors import Source, under


def from_wavenet_vocoder(
    tensors: Mapping[str, Tensor], *, stacks: int, legacy: bool = True, sample_rate: int = 22050
) -> WaveNet:
    """A :class:`WaveNet` with the weights of a state_dict; weight norm is folded.

    Args:
        stacks: how many times the dilations go from 1 upwards, which tensors do not tell.
        legacy: whether the sum of skips is scaled by √½ after each layer but the first, the package's default; if not
            it is a plain sum.
        sample_rate: in Hz, of the sound that the model was trained on.

    Its codes are mu-law codes with 128 for zero, as ours. Our prediction at t is its output at t - 1; what it draws
    while generating starts from code 127, ours from 128.
    """
    source = Source(tensors, "wavenet-vocoder 0.1.1")
    layers = source.count("conv_layers.{}.conv.bias")
    if stacks < 1 or layers % stacks:
        raise WavedilError(f"stacks is {stacks}: expected a divisor of the {layers} layers")
    skip_channels, hidden, _ = source.shape("conv_layers.0.conv1x1_skip.weight")
    _, channels, kernel_size = source.shape("conv_layers.0.conv.weight")
    codes, inputs = source.shape("last_conv_layers.3.weight")[0], source.shape("first_conv.weight")[1]
    if inputs != codes or "conv_layers.0.conv1x1_c.weight" in source:
        raise WavedilError(f"it has {inputs} inputs and {codes} outputs: expected codes in and out, one each")
    scales = [0.5 ** (0.5 * (layers - max(layer, 1))) if legacy else 1.0 for layer in range(layers)]
    model = WaveNet(
        channels,
        skip_channels,
        [2 ** (layer % (layers // stacks)) for layer in range(layers)],
        kernel_size,
        hidden_channels=hidden,
        codes=codes,
        sample_rate=sample_rate,
        residual_scale=0.5**0.5,
        skip_scale=scales,
    )
    first = source.conv("first_conv")
    values = {
        "front.tables": (first["weight"][:, :, 0] + first["bias"].unsqueeze(1)).T.unsqueeze(0),
        **under("head.hidden", source.conv("last_conv_layers.1")),
        **under("head.out", source.conv("last_conv_layers.3")),
    }
    for layer in range(layers):
        theirs, ours = f"conv_layers.{layer}", f"stack.layers.{layer}"
        values |= under(f"{ours}.conv", source.conv(f"{theirs}.conv"))
        values |= under(f"{ours}.skip", source.conv(f"{theirs}.conv1x1_skip"))
        residual = source.conv(f"{theirs}.conv1x1_out")
        if layer < layers - 1:  # the last is used by nothing
            values |= under(f"{ours}.residual", residual)
    return source.fill(model, values)
