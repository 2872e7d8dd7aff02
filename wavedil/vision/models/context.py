"""The context module (Yu & Koltun 2016, arXiv 1511.07122, section 3), a stack of the core and a 1x1 convolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.core import ConvBlock, DilatedConv, DilatedStack, Schedule, parse_schedule
from wavedil.errors import WavedilError
from wavedil.vision.models.foreign_weights import CaffeLayers, caffe_tensors, copy_layers
from wavedil.vision.models.heads.parts import Features, check_classes, last, last_channels
from wavedil.vision.models.padding import reflect
from wavedil.weights import register

#: Dilations, and widths as multiples of the number of classes: table 1, and the nets of the appendix.
VARIANTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "basic": ("1,1,2,4,8,16,1", (1,) * 7),
    "large": ("1,1,2,4,8,16,1", (2, 2, 4, 8, 16, 32, 32)),
    "cityscapes": ("1,1,2,4,8,16,32,64,1", (1,) * 9),
    "kitti": ("1,1,2,4,8,1", (1,) * 6),
}


@register
class ContextModule(nn.Module):
    """Scores in, scores out, at the same resolution: ``(batch, num_classes, *space)`` both.

    3x3 convolutions with ReLU, one per dilation, then a 1x1 convolution without. Initialized as the identity it
    begins, in the basic variant, as relu(x): the ReLUs see the signed scores.

    Args:
        num_classes: C, score maps out.
        variant: ``"basic"`` and ``"large"`` (both 1,1,2,4,8,16,1; field 67), ``"cityscapes"`` (up to 64; 259) or
            ``"kitti"`` (up to 8; 35).
        in_channels: of the features this module is put on; where it is not num_classes, a 1x1 convolution ``score``
            comes first. Of a list of maps, fine to coarse, the last is read.
        dilations: any other schedule; the widths are then num_classes unless given.
        widths: channels of each dilated layer.
        ndim: number of space axes.
        padding: ``"layer"``: each layer pads its own input, as the released CamVid, Cityscapes and KITTI nets do;
            ``"once"``: the module's input is padded (by 33 for a field of 67) and no layer is, as the VOC net does.
            They differ only where the field reaches beyond the map.
        pad_mode: ``"zeros"`` or ``"reflect"``, which the paper found alike.
        init: ``"identity"`` (equations 4 and 5; see :func:`identity_`) or ``"random"``, torch's own.
        sigma: of equation 5, as a share of the identity's weight C / c_out; default 0 where all widths are C (equation
            4), else 0.01, since channels that begin equal would stay equal.

    Raises:
        WavedilError: arguments that do not fit, e.g. a width below C with the identity, which would lose classes.
    """

    level = -1

    def __init__(
        self,
        num_classes: int,
        variant: str = "basic",
        *,
        in_channels: int | Sequence[int] | None = None,
        dilations: Schedule | None = None,
        widths: Sequence[int] | None = None,
        ndim: int = 2,
        padding: str = "layer",
        pad_mode: str = "zeros",
        init: str = "identity",
        sigma: float | None = None,
    ):
        super().__init__()
        if variant not in VARIANTS:
            raise WavedilError(f"variant is {variant!r}: expected one of {', '.join(VARIANTS)}")
        if padding not in ("layer", "once"):
            raise WavedilError(f"padding is {padding!r}: expected 'layer' or 'once'")
        if init not in ("identity", "random"):
            raise WavedilError(f"init is {init!r}: expected 'identity' or 'random'")
        if dilations is not None and variant != "basic":
            raise WavedilError(f"both variant={variant!r} and dilations={dilations!r} are given: keep one of them")
        check_classes(num_classes)
        schedule, multiples = VARIANTS[variant]
        rates = parse_schedule(schedule if dilations is None else dilations)
        if widths is None:
            widths = [m * num_classes for m in multiples] if dilations is None else [num_classes] * len(rates)
        if len(widths) != len(rates):
            raise WavedilError(f"widths are {list(widths)}: expected one for each of {len(rates)} dilated layers")
        self.num_classes, self.padding, self.pad_mode, self.init = num_classes, padding, pad_mode, init
        self.sigma = (0.0 if set(widths) == {num_classes} else 0.01) if sigma is None else sigma
        inputs = num_classes if in_channels is None else last_channels(in_channels)
        self.score = None if inputs == num_classes else DilatedConv(ndim, inputs, num_classes, 1)
        self.stack = DilatedStack(
            ndim=ndim,
            channels=[num_classes, *widths],
            dilations=rates,
            kernel_size=3,
            block=ConvBlock,
            padding="same" if padding == "layer" else "valid",
            pad_mode=pad_mode,
        )
        self.final = DilatedConv(ndim, widths[-1], num_classes, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for conv in [*(layer.conv for layer in self.stack.layers), self.final]:
            if self.init == "identity":
                identity_(conv, self.num_classes, self.sigma)
            else:
                conv.reset_parameters()

    @property
    def receptive_field(self) -> int:
        """Cells along each axis; on maps of stride s whose cells see r pixels, r + s (field - 1) pixels."""
        return self.stack.receptive_field

    def forward(self, features: Features) -> Tensor:
        """``(batch, in_channels, *space) -> (batch, num_classes, *space)``."""
        x = last(features)
        if self.score is not None:
            x = self.score(x)
        if self.padding == "once":
            x = self._padded(self.stack.layers[0].conv.check(x))
        return self.final(self.stack(x))

    def load_caffe_names(self, mapping: CaffeLayers) -> ContextModule:
        """Takes ``{layer: (weight, bias)}`` under the names of the released Caffe nets (fyu/dilation); self.

        ct_conv1_1 … ct_final (VOC) or ctx_conv1_1 … ctx_final. Layers of the front end and ``ctx_upsample`` may be
        there too.
        """
        convs = [layer.conv for layer in self.stack.layers]
        names = ["conv1_1", "conv1_2", *(f"conv{i}_1" for i in range(2, len(convs) - 1)), "fc1"]
        prefix = "ct_" if any(name.startswith("ct_") for name in mapping) else "ctx_"
        layers = [(prefix + name, conv) for name, conv in zip([*names, "final"], [*convs, self.final], strict=True)]
        other = {name for name in mapping if name.startswith(("ct_", "ctx_"))} - {"ctx_upsample", *dict(layers)}
        if other:
            raise WavedilError(f"layer {min(other)!r} is none of this module's: expected {', '.join(dict(layers))}")
        copy_layers(layers, caffe_tensors(mapping), "a context module of fyu/dilation")
        return self

    def _padded(self, x: Tensor) -> Tensor:
        reach = (self.receptive_field - 1) // 2
        if self.pad_mode == "reflect":
            return reflect(x, [(reach, reach)] * self.stack.ndim)
        return F.pad(x, [reach] * (2 * self.stack.ndim))


@torch.no_grad()
def identity_(conv: DilatedConv, groups: int, sigma: float = 0.0) -> DilatedConv:
    """Initializes a layer so that it passes ``groups`` maps on, in place (equations 4 and 5, for any widths).

    The channels on either side are split into that many runs, channel a of c being in run floor(a groups / c). At the
    kernel's center, the weight from run g to run g is 1 / (channels of run g in the output); this is the paper's
    C / c_out where C divides c_out, and over layers whose ends have C channels the gains multiply to exactly 1 for any
    widths between. All other weights are normal with deviation sigma groups / c_out; biases are 0.

    Raises:
        WavedilError: fewer channels than groups, some of which would be lost.
    """
    weight, outputs, inputs = conv.weight, conv.out_channels, conv.in_channels
    if min(outputs, inputs) < groups or conv.groups != 1:
        raise WavedilError(
            f"a convolution from {inputs} to {outputs} channels in {conv.groups} groups cannot pass {groups} maps on: "
            f"use widths of at least {groups}, or init='random'"
        )
    run_in = torch.arange(inputs, device=weight.device) * groups // inputs
    run_out = torch.arange(outputs, device=weight.device) * groups // outputs
    # Not normal_, which on the meta device, where model folders are checked, first imports for five seconds.
    noise = torch.randn(weight.shape, dtype=weight.dtype, device=weight.device)
    weight.copy_(noise * (sigma * groups / outputs))
    center = weight[(slice(None), slice(None), *(k // 2 for k in conv.kernel_size))]  # (outputs, inputs), a view
    share = 1 / (run_out[:, None] == run_out).sum(1, keepdim=True)  # (outputs, 1)
    center.copy_(torch.where(run_out[:, None] == run_in, share.to(weight.dtype), center))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
