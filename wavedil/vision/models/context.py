"""The context module (Yu & Koltun 2016, arXiv 1511.07122, section 3): a stack of the core and a 1x1 convolution."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.core import ConvBlock, DilatedConv, DilatedStack, Schedule, parse_schedule
from wavedil.core.schema import Channels, Classes, Dimensions, Range
from wavedil.errors import WavedilError, one_of
from wavedil.vision.models.heads.parts import Features, last_channels, last_map
from wavedil.vision.models.padding import reflect
from wavedil.weights import register

#: Dilations, and layer widths in multiples of the number of classes: table 1 and the nets of the appendix.
VARIANTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "basic": ("1,1,2,4,8,16,1", (1,) * 7),
    "large": ("1,1,2,4,8,16,1", (2, 2, 4, 8, 16, 32, 32)),
    "cityscapes": ("1,1,2,4,8,16,32,64,1", (1,) * 9),
    "kitti": ("1,1,2,4,8,1", (1,) * 6),
}

Deviation = Annotated[float, Range(0, 1e3)]


@register
class ContextModule(nn.Module):
    """Refines class scores at the same resolution: ``(batch, num_classes, *space) -> (batch, num_classes, *space)``.

    3x3 convolutions with ReLU, one per dilation, then a 1x1 convolution without activation. With the identity
    initialization and the basic variant, the initial output is relu(x), since the ReLUs act on the signed scores.

    Args:
        num_classes: C, the number of output channels.
        variant: ``"basic"`` or ``"large"`` (both with dilations 1,1,2,4,8,16,1 and receptive field 67),
            ``"cityscapes"`` (dilations up to 64; 259) or ``"kitti"`` (up to 8; 35).
        in_channels: channels of the input. If not num_classes, a 1x1 convolution ``score`` comes first. A list: the
            input is a list of feature maps from fine to coarse, and the module reads the last one.
        dilations: any schedule, in place of the variant; ``widths`` then defaults to num_classes for each layer.
        widths: channels of each dilated layer.
        ndim: number of space axes.
        padding: ``"layer"``: each layer pads its input, as in the released CamVid, Cityscapes and KITTI nets.
            ``"once"``: the input of the module is padded (by 33 for receptive field 67) and the layers do not pad, as
            in the VOC net. The two differ only where the receptive field extends beyond the map.
        pad_mode: ``"zeros"`` or ``"reflect"``; the paper found no difference.
        init: ``"identity"`` (equations 4 and 5; see :func:`identity_`) or ``"random"``, the default of torch.
        sigma: standard deviation of equation 5, in multiples of the identity's weight C / c_out. Default 0 if all
            widths are C (equation 4), else 0.01, since channels with equal initial weights would stay equal.

    Raises:
        WavedilError: arguments that do not fit together, e.g. a width below C with the identity initialization, which
            would drop classes.
    """

    def __init__(
        self,
        num_classes: Classes,
        variant: str = "basic",
        *,
        in_channels: Channels | Sequence[Channels] | None = None,
        dilations: Schedule | None = None,
        widths: Sequence[Channels] | None = None,
        ndim: Dimensions = 2,
        padding: str = "layer",
        pad_mode: str = "zeros",
        init: str = "identity",
        sigma: Deviation | None = None,
    ):
        super().__init__()
        if variant not in VARIANTS:
            raise WavedilError(f"variant is {variant!r}: expected {one_of(variant, VARIANTS)}")
        if padding not in ("layer", "once"):
            raise WavedilError(f"padding is {padding!r}: expected 'layer' or 'once'")
        if init not in ("identity", "random"):
            raise WavedilError(f"init is {init!r}: expected 'identity' or 'random'")
        if dilations is not None and variant != "basic":
            raise WavedilError(f"variant is {variant!r} and dilations is {dilations!r}: expected only one of the two")
        schedule, multiples = VARIANTS[variant]
        default_widths = [m * num_classes for m in multiples]
        if dilations is not None:
            schedule = parse_schedule(dilations)
            default_widths = [num_classes] * len(schedule)
        widths = default_widths if widths is None else widths
        if len(widths) != len(default_widths):
            raise WavedilError(
                f"widths is {list(widths)}: expected one for each of {len(default_widths)} dilated layers"
            )
        self.num_classes, self.padding, self.pad_mode, self.init = num_classes, padding, pad_mode, init
        self.sigma = (0.0 if set(widths) == {num_classes} else 0.01) if sigma is None else sigma
        inputs = num_classes if in_channels is None else last_channels(in_channels)
        self.score = None if inputs == num_classes else DilatedConv(ndim, inputs, num_classes, 1)
        self.stack = DilatedStack(
            ndim=ndim,
            channels=[num_classes, *widths],
            dilations=schedule,
            kernel_size=3,
            block=ConvBlock,
            padding="same" if padding == "layer" else "valid",
            pad_mode=pad_mode,
        )
        self.final = DilatedConv(ndim, widths[-1], num_classes, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes the layers after ``score`` according to ``init``."""
        for conv in [*(layer.conv for layer in self.stack.layers), self.final]:
            if self.init == "identity":
                identity_(conv, self.num_classes, self.sigma)
            else:
                conv.reset_parameters()

    @property
    def receptive_field(self) -> int:
        """Cells along each axis. On a map of stride s and receptive field r: r + s (field - 1) pixels."""
        return self.stack.receptive_field

    def forward(self, features: Features) -> Tensor:
        """``(batch, in_channels, *space) -> (batch, num_classes, *space)``."""
        x = last_map(features)
        if self.score is not None:
            x = self.score(x)
        if self.padding == "once":
            x = self._pad(self.stack.layers[0].conv.check(x))
        return self.final(self.stack(x))

    def _pad(self, x: Tensor) -> Tensor:
        margin = (self.receptive_field - 1) // 2
        if self.pad_mode == "reflect":
            return reflect(x, [(margin, margin)] * self.stack.ndim)
        return F.pad(x, [margin] * (2 * self.stack.ndim))


@torch.no_grad()
def identity_(conv: DilatedConv, groups: int, sigma: float = 0.0) -> DilatedConv:
    """Initializes a convolution in place so that it passes ``groups`` maps through (equations 4 and 5, for any widths).

    Input and output channels are each split into that many groups of consecutive channels; channel a of c is in group
    floor(a groups / c). At the center of the kernel, the weight from group g to group g is 1 / (channels of group g in
    the output). This is the paper's C / c_out if C divides c_out. Over layers that begin and end with C channels the
    gains multiply to exactly 1, for any widths in between. All other weights are normal with standard deviation sigma *
    groups / c_out; biases are 0.

    Raises:
        WavedilError: fewer channels than groups, which would drop some of them.
    """
    weight, outputs, inputs = conv.weight, conv.out_channels, conv.in_channels
    if min(outputs, inputs) < groups or conv.groups != 1:
        raise WavedilError(
            f"a convolution from {inputs} to {outputs} channels in {conv.groups} groups cannot pass {groups} maps: "
            f"use widths of at least {groups}, or init='random'"
        )
    group_in = torch.arange(inputs, device=weight.device) * groups // inputs
    group_out = torch.arange(outputs, device=weight.device) * groups // outputs
    # Not normal_: on the meta device it first imports sympy and torch._dynamo, which takes five seconds.
    noise = torch.randn(weight.shape, dtype=weight.dtype, device=weight.device)
    weight.copy_(noise * (sigma * groups / outputs))
    center = weight[(slice(None), slice(None), *(k // 2 for k in conv.kernel_size))]  # (outputs, inputs), a view
    gain = 1 / (group_out[:, None] == group_out).sum(1, keepdim=True)  # (outputs, 1)
    center.copy_(torch.where(group_out[:, None] == group_in, gain.to(weight.dtype), center))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
