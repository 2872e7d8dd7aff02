"""The front end: VGG-16 made dense (Yu & Koltun 2016, arXiv 1511.07122, section 4)."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from wavedil.core import ConvBlock, DilatedConv, DilatedStack, receptive_field
from wavedil.errors import WavedilError
from wavedil.vision.models.foreign_weights import CaffeLayers, caffe_tensors, copy_layers
from wavedil.vision.models.heads.parts import classifier
from wavedil.vision.models.padding import reflect
from wavedil.weights import register

#: Convolutions of VGG-16's five stages; a pool of 2 follows each.
DEPTHS = (2, 2, 3, 3, 3)
STRIDES = (4, 8, 16, 32)
PADDINGS = ("reflect_image", "valid", "same")

#: What the released Caffe weights want taken from their BGR input in 0 to 255 (blue, green, red), and nothing else.
CAFFE_MEANS = {
    "voc": (102.93, 111.36, 116.52),
    "camvid": (110.70, 108.78, 105.41),
    "cityscapes": (72.39, 82.91, 73.16),
    "kitti": (96.19, 95.55, 91.35),
}


@register
class VGGFrontEnd(nn.Module):
    """VGG-16 whose last pools are left out: ``(batch, in_channels, height, width) -> (batch, num_classes, h, w)``.

    A layer behind a pool that is left out is dilated by 2 for it. With the paper's stride of 8, pool4 and pool5 are
    gone, conv5 is dilated by 2 and fc6, which is 7x7, by 4. No activation follows ``final``. The receptive field is
    380 pixels and cell i sits at pixel 8 i + 3.5, whatever the padding.

    Args:
        num_classes: score maps; None ends at fc7, with hidden_channels maps.
        stride: pixels per cell. 8 is the paper's; 4 leaves out pool3 as well, so conv4 is dilated by 2, conv5 by 4 and
            fc6 by 8 (four times the work in those layers); 16 keeps pool4; 32 is VGG-16 itself, slid over the image.
        padding: ``"reflect_image"``, as in the paper: the image is reflected by :attr:`margin` 186 on each side (and
            at the end up to a multiple of the stride) and no layer pads; h = ceil(height / stride). ``"valid"``: no
            padding, h = ceil((height - 372) / stride), which is what training on padded crops needs; as in Caffe, the
            last cell's pools are cut short where that is no whole number. ``"same"``: each layer pads with zeros, as
            VGG did; h = ceil(height / stride).
        widths: channels of the five stages.
        hidden_channels: of fc6 and fc7.
        dropout: behind fc6 and fc7.
        levels: give the list of maps that :meth:`features` returns, as :class:`wavedil.vision.FCN8s` and other heads of
            several maps read them, instead of the last; num_classes is None then, and padding ``"same"``.

    Raises:
        WavedilError: arguments that do not fit; with ``"valid"``, an image of 372 pixels or less.
    """

    def __init__(
        self,
        num_classes: int | None,
        *,
        in_channels: int = 3,
        stride: int = 8,
        padding: str = "reflect_image",
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        hidden_channels: int = 4096,
        dropout: float = 0.5,
        levels: bool = False,
    ):
        super().__init__()
        if levels and (num_classes is not None or padding != "same"):
            raise WavedilError(
                "levels are for a front end without scores whose maps lie over one another: expected "
                f"num_classes=None and padding='same', got {num_classes!r} and {padding!r}"
            )
        if stride not in STRIDES:
            raise WavedilError(f"stride is {stride!r}: expected one of {', '.join(map(str, STRIDES))}")
        if padding not in PADDINGS:
            raise WavedilError(f"padding is {padding!r}: expected one of {', '.join(PADDINGS)}")
        if len(widths) != len(DEPTHS):
            raise WavedilError(f"widths are {widths!r}: expected the channels of VGG-16's {len(DEPTHS)} stages")
        self.output_stride = self.stride = stride
        self.padding = padding
        block = partial(
            ConvBlock,
            padding="same" if padding == "same" else "valid",
            activation=partial(nn.ReLU, inplace=True),
        )
        channels, self.stages = in_channels, nn.ModuleList()
        for stage, (depth, width) in enumerate(zip(DEPTHS, widths, strict=True)):
            dilation = max(1, 2**stage // stride)  # in VGG-16 the stage stands at stride 2 ** stage
            self.stages.append(
                DilatedStack(2, [channels, *[width] * depth], [dilation] * depth, kernel_size=3, block=block)
            )
            channels = width
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.fc6 = block(2, channels, hidden_channels, kernel_size=7, dilation=32 // stride)
        self.fc7 = block(2, hidden_channels, hidden_channels, kernel_size=1)
        self.dropout = nn.Dropout(dropout)
        self.final = None if num_classes is None else classifier(hidden_channels, num_classes)
        self.channels = hidden_channels if num_classes is None else num_classes
        #: Of the maps that :meth:`features` gives; None where only the last is given.
        self.level_channels = [*widths[2:4], hidden_channels] if levels else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random weights that keep variances through the ReLUs; the paper starts from VGG-16 trained on ImageNet."""
        for conv in [m for m in self.modules() if isinstance(m, DilatedConv)]:
            nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
        if self.final is not None:
            nn.init.uniform_(self.final.weight, -0.01, 0.01)

    @property
    def receptive_field(self) -> int:
        """Pixels along one axis that a cell sees: 380 for the stride of 8."""
        layers: list[tuple[int, int, int]] = []  # dilation, kernel size, stride
        for stage, stack in enumerate(self.stages):
            layers += [(d, 3, 1) for d in stack.dilations] + [(1, 2, 2)] * self._pools(stage)
        layers.append((self.fc6.conv.dilation[0], 7, 1))
        return receptive_field(*map(list, zip(*layers, strict=True)), ndim=2)

    @property
    def margin(self) -> int:
        """Pixels that a cell sees on each side of its own stride x stride pixels."""
        return (self.receptive_field - self.stride) // 2

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        maps = self.features(x)
        if self.level_channels is not None:
            return maps
        x = maps[-1]
        return x if self.final is None else self.final(x)

    def features(self, x: Tensor) -> list[Tensor]:
        """The maps behind stages 3 and 4 (pool3 and pool4 where they are kept) and of fc7: what FCN-8s reads.

        Their cells lie over one another where the padding is ``"same"``.
        """
        x, maps = self._framed(x), []
        for stage, stack in enumerate(self.stages):
            x = stack(x)
            if self._pools(stage):
                x = self.pool(x)
            maps.append(x)
        x = self.dropout(self.fc6(x))
        return [*maps[2:4], self.dropout(self.fc7(x))]

    def load_torchvision(self, state_dict: Mapping[str, Tensor]) -> VGGFrontEnd:
        """Takes the weights of torchvision's ``vgg16``, whose input is RGB by ImageNet's mean and deviation; self.

        classifier.0 becomes the 7x7 convolution, classifier.3 the 1x1; ``final`` stays as it is.
        """
        layers, index = [], 0
        for stack in self.stages:
            for block in stack.layers:
                layers.append((f"features.{index}", block.conv))
                index += 2  # the convolution and its ReLU
            index += 1  # the pool
        layers += [("classifier.0", self.fc6.conv), ("classifier.3", self.fc7.conv)]
        copy_layers(layers, state_dict, "torchvision's vgg16 (without batch norm)")
        return self

    def load_caffe_names(self, mapping: CaffeLayers, rgb: bool = False) -> VGGFrontEnd:
        """Takes ``{layer: (weight, bias)}`` under the names of the released Caffe nets (fyu/dilation); self.

        conv1_1 … conv5_3, fc6, fc7 and ``final`` or (VOC) ``fc-final``. Layers of the context module (``ct_…``,
        ``ctx_…``) may be there too. These weights want BGR input less :data:`CAFFE_MEANS`, and for all but Cityscapes
        ``upsample(…, align="corner")``.

        rgb: turn the weights of conv1_1 round, so that they want RGB input less the means turned round: what a
            :class:`wavedil.vision.Segmenter` gives with these ``mean`` over 255 and ``std`` of 1/255.
        """
        layers = [
            (f"conv{stage}_{i}", block.conv)
            for stage, stack in enumerate(self.stages, 1)
            for i, block in enumerate(stack.layers, 1)
        ]
        layers += [("fc6", self.fc6.conv), ("fc7", self.fc7.conv)]
        if self.final is not None:
            layers.append(("fc-final" if "fc-final" in mapping else "final", self.final))
        known = {*dict(layers), "final", "fc-final"}
        other = [name for name in mapping if not name.startswith(("ct_", "ctx_")) and name not in known]
        if other:
            raise WavedilError(f"layer {other[0]!r} is none of a front end's: expected {', '.join(dict(layers))}")
        copy_layers(layers, caffe_tensors(mapping), "a front end of fyu/dilation")
        if rgb:
            first = self.stages[0].layers[0].conv
            with torch.no_grad():
                first.weight.copy_(first.weight.flip(1))
        return self

    def _pools(self, stage: int) -> bool:
        return 2 ** (stage + 1) <= self.stride

    def _framed(self, x: Tensor) -> Tensor:
        margin, space = self.margin, self.stages[0].layers[0].conv.check(x).shape[2:]
        least = 2 * margin + 1 if self.padding == "valid" else 1
        if min(space) < least:
            raise WavedilError(
                f"image is {space[0]}x{space[1]}: padding={self.padding!r} needs {least} pixels or more along each "
                "axis; use larger crops or padding='reflect_image'"
            )
        if self.padding != "reflect_image":
            return x
        return reflect(x, [(margin, margin + -size % self.stride) for size in space])


def vgg16_front_end(
    weights: str = "torchvision",
    stride: int = 8,
    padding: str = "reflect_image",
    dropout: float = 0.5,
    levels: bool = False,
) -> VGGFrontEnd:
    """A front end that starts from VGG-16 as torchvision trained it on ImageNet, up to fc7: the backbone of a recipe.

    Args:
        weights: ``"torchvision"``: its ``VGG16_Weights.IMAGENET1K_V1``, 528 MB, downloaded once; or a file with the
            ``state_dict`` of its ``vgg16``, of these or any other widths, as ``torch.save`` wrote it.
        stride, padding, dropout, levels: as in :class:`VGGFrontEnd`.

    Raises:
        WavedilError: weights that cannot be had, or are not a vgg16's.
    """
    tensors = _vgg16_weights(weights)
    first = [2 * sum(DEPTHS[:stage]) + stage for stage in range(len(DEPTHS))]  # conv, ReLU, …, pool
    try:
        widths = [len(tensors[f"features.{index}.weight"]) for index in first]
        hidden_channels = len(tensors["classifier.0.weight"])
    except KeyError as error:
        raise WavedilError(f"weights {weights!r} have no {error}: expected those of torchvision's vgg16") from None
    options = {"stride": stride, "padding": padding, "dropout": dropout, "levels": levels}
    return VGGFrontEnd(None, widths=widths, hidden_channels=hidden_channels, **options).load_torchvision(tensors)


def _vgg16_weights(weights: str) -> Mapping[str, Tensor]:
    if weights != "torchvision":
        try:
            return torch.load(weights, weights_only=True, map_location="cpu")
        except (OSError, RuntimeError, ValueError, pickle.UnpicklingError, EOFError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise WavedilError(f"weights {weights!r} cannot be read: {reason}") from None
    try:
        from torchvision.models import VGG16_Weights
    except ImportError:
        raise WavedilError("weights 'torchvision' need torchvision: pip install torchvision, or give a file") from None
    try:
        return VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=False)
    except OSError as error:
        url = VGG16_Weights.IMAGENET1K_V1.url
        raise WavedilError(f"{url} cannot be had ({error}): fetch it elsewhere and give the file as weights") from None
