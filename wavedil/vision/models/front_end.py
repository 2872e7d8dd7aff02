"""The front end: VGG-16 as a dense predictor (Yu & Koltun 2016, arXiv 1511.07122, section 4)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from wavedil.core import ConvBlock, DilatedConv, DilatedStack, receptive_field
from wavedil.core.schema import Channels, Classes, Dropout, Stride
from wavedil.errors import WavedilError, first_line, one_of, shown
from wavedil.extras import install
from wavedil.files import check_regular_file
from wavedil.vision.models.heads.parts import score_layer
from wavedil.vision.models.padding import reflect
from wavedil.weights import register

#: Number of convolutions in each of the five stages of VGG-16; each stage ends with pooling by 2.
DEPTHS = (2, 2, 3, 3, 3)
STRIDES = (4, 8, 16, 32)
PADDINGS = ("reflect_image", "valid", "same")


@register
class VGGFrontEnd(nn.Module):
    """VGG-16 without its last pooling layers: ``(batch, in_channels, height, width) -> (batch, num_classes, h, w)``.

    Each pooling layer that is removed doubles the dilation of all later layers. For stride 8, as in the paper, pool4
    and pool5 are removed, conv5 has dilation 2 and fc6, a 7x7 convolution, has dilation 4. No activation follows
    ``final``. The receptive field is then 380 pixels, and cell i is centered on pixel 8 i + 3.5 for every padding.

    Args:
        num_classes: output channels; None returns the features of fc7, with hidden_channels channels.
        stride: pixels per cell. 8 as in the paper; 4 removes pool3 too, so conv4 has dilation 2, conv5 4 and fc6 8
            (four times the computation in those layers); 16 keeps pool4; 32 is VGG-16 applied at every position.
        padding: ``"reflect_image"``, as in the paper: the image is padded by reflection with :attr:`margin` 186 pixels
            on each side (and at the end up to a multiple of the stride) and the layers do not pad; h = ceil(height /
            stride). ``"valid"``: no padding, h = ceil((height - 372) / stride), for training on padded crops; as in
            Caffe, the last pooling windows are cut off at the border if the sizes do not divide. ``"same"``: each layer
            pads with zeros, as in VGG; h = ceil(height / stride).
        widths: channels of the five stages.
        hidden_channels: channels of fc6 and fc7.
        dropout: dropout probability after fc6 and fc7.
        levels: return the list of feature maps of :meth:`features` instead of the last one, for
            :class:`wavedil.vision.FCN8s` and other heads that need several maps. Needs num_classes=None and padding
            ``"same"``.

    Raises:
        WavedilError: arguments that do not fit together; with ``"valid"``, an image of 372 pixels or less.
    """

    def __init__(
        self,
        num_classes: Classes | None,
        *,
        in_channels: Channels = 3,
        stride: Stride = 8,
        padding: str = "reflect_image",
        widths: Sequence[Channels] = (64, 128, 256, 512, 512),
        hidden_channels: Channels = 4096,
        dropout: Dropout = 0.5,
        levels: bool = False,
    ):
        super().__init__()
        if levels and (num_classes is not None or padding != "same"):
            raise WavedilError(
                f"levels is True, num_classes is {num_classes!r} and padding is {padding!r}: expected num_classes=None "
                "and padding='same', since heads need aligned maps"
            )
        if stride not in STRIDES:
            raise WavedilError(f"stride is {stride!r}: expected {one_of(stride, STRIDES)}")
        if padding not in PADDINGS:
            raise WavedilError(f"padding is {padding!r}: expected {one_of(padding, PADDINGS)}")
        if len(widths) != len(DEPTHS):
            raise WavedilError(
                f"widths is {shown(widths)}: expected the channels of the {len(DEPTHS)} stages of VGG-16"
            )
        self.output_stride = self.stride = stride
        self.in_channels = in_channels
        self.padding = padding
        block = partial(
            ConvBlock,
            padding="same" if padding == "same" else "valid",
            activation=partial(nn.ReLU, inplace=True),
        )
        channels, self.stages = in_channels, nn.ModuleList()
        for stage, (depth, width) in enumerate(zip(DEPTHS, widths, strict=True)):
            dilation = max(1, 2**stage // stride)  # in VGG-16 the stage has stride 2 ** stage
            self.stages.append(
                DilatedStack(2, [channels, *[width] * depth], [dilation] * depth, kernel_size=3, block=block)
            )
            channels = width
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.fc6 = block(2, channels, hidden_channels, kernel_size=7, dilation=32 // stride)
        self.fc7 = block(2, hidden_channels, hidden_channels, kernel_size=1)
        self.dropout = nn.Dropout(dropout)
        self.final = None if num_classes is None else score_layer(hidden_channels, num_classes)
        self.channels = hidden_channels if num_classes is None else num_classes
        #: Channels of the maps of :meth:`features`; None without ``levels``.
        self.level_channels = [*widths[2:4], hidden_channels] if levels else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random weights that preserve the variance through ReLUs; the paper starts from VGG-16 trained on ImageNet."""
        for conv in [m for m in self.modules() if isinstance(m, DilatedConv)]:
            nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
        if self.final is not None:
            nn.init.uniform_(self.final.weight, -0.01, 0.01)

    @property
    def receptive_field(self) -> int:
        """Pixels along each axis: 380 for stride 8."""
        layers: list[tuple[int, int, int]] = []  # dilation, kernel size, stride
        for stage, stack in enumerate(self.stages):
            layers += [(d, 3, 1) for d in stack.dilations] + [(1, 2, 2)] * self._has_pool(stage)
        layers.append((self.fc6.conv.dilation[0], 7, 1))
        return receptive_field(*map(list, zip(*layers, strict=True)), ndim=2)

    @property
    def margin(self) -> int:
        """Receptive field on each side of the stride x stride pixels of a cell."""
        return (self.receptive_field - self.stride) // 2

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        maps = self.features(x)
        if self.level_channels is not None:
            return maps
        x = maps[-1]
        return x if self.final is None else self.final(x)

    def features(self, x: Tensor) -> list[Tensor]:
        """Feature maps of stages 3 and 4 (after pool3 and pool4 if present) and fc7: the inputs of FCN-8s.

        With padding ``"same"`` their cells are aligned.
        """
        x, maps = self._pad(x), []
        for stage, stack in enumerate(self.stages):
            x = stack(x)
            if self._has_pool(stage):
                x = self.pool(x)
            maps.append(x)
        x = self.dropout(self.fc6(x))
        return [*maps[2:4], self.dropout(self.fc7(x))]

    def load_torchvision(self, state_dict: Mapping[str, Tensor]) -> Self:
        """Loads the weights of torchvision's ``vgg16``, for RGB input normalized by ImageNet's mean and deviation.

        classifier.0 becomes the 7x7 convolution and classifier.3 the 1x1 convolution; ``final`` is not changed.

        Returns:
            The module itself.

        Raises:
            WavedilError: a tensor that is missing or has the wrong shape; no weight is changed then.
        """
        layers, index = [], 0
        for stack in self.stages:
            for block in stack.layers:
                layers.append((f"features.{index}", block.conv))
                index += 2  # the convolution and its ReLU
            index += 1  # the pooling layer
        layers += [("classifier.0", self.fc6.conv), ("classifier.3", self.fc7.conv)]
        _copy_weights(layers, state_dict)
        return self

    def _has_pool(self, stage: int) -> bool:
        return 2 ** (stage + 1) <= self.stride

    def _pad(self, x: Tensor) -> Tensor:
        """Checks the size of the image and pads it for ``"reflect_image"``."""
        margin, space = self.margin, self.stages[0].layers[0].conv.check(x).shape[2:]
        minimum = 2 * margin + 1 if self.padding == "valid" else 1
        if min(space) < minimum:
            raise WavedilError(
                f"image is {space[0]}x{space[1]} pixels: padding={self.padding!r} needs at least {minimum} along each "
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
    """A :class:`VGGFrontEnd` up to fc7 with the ImageNet weights of torchvision's VGG-16, as the backbone of a recipe.

    Args:
        weights: ``"torchvision"``: ``VGG16_Weights.IMAGENET1K_V1``, 528 MB, downloaded once. Or the path of a file with
            the ``state_dict`` of torchvision's ``vgg16``, with any widths, written by ``torch.save``.
        stride, padding, dropout, levels: as in :class:`VGGFrontEnd`.

    Raises:
        WavedilError: weights that cannot be downloaded or read, or that are not those of a vgg16.
    """
    tensors = _read_vgg16_weights(weights)
    first = [2 * sum(DEPTHS[:stage]) + stage for stage in range(len(DEPTHS))]  # each stage: (conv, ReLU) * depth, pool
    try:
        widths = [len(tensors[f"features.{index}.weight"]) for index in first]
        hidden_channels = len(tensors["classifier.0.weight"])
    except KeyError as error:
        raise WavedilError(
            f"weights {weights!r}: no tensor {error}; expected the weights of torchvision's vgg16"
        ) from None
    options = {"stride": stride, "padding": padding, "dropout": dropout, "levels": levels}
    return VGGFrontEnd(None, widths=widths, hidden_channels=hidden_channels, **options).load_torchvision(tensors)


def _read_vgg16_weights(weights: str) -> Mapping[str, Tensor]:
    if weights != "torchvision":
        check_regular_file(weights, "weights of vgg16")
        try:
            return torch.load(weights, weights_only=True, map_location="cpu")
        except Exception as error:  # of many kinds for damaged files
            raise WavedilError(f"weights {weights!r} cannot be read: {first_line(error)}") from None
    try:
        from torchvision.models import VGG16_Weights
    except ImportError:
        raise WavedilError(
            f"weights 'torchvision' needs torchvision: {install('torchvision')}, or pass the path of a weights file"
        ) from None
    try:
        return VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=False)
    except OSError as error:
        url = VGG16_Weights.IMAGENET1K_V1.url
        raise WavedilError(
            f"weights: {url} cannot be downloaded ({error}); pass the path of a copy as weights"
        ) from None


@torch.no_grad()
def _copy_weights(layers: Sequence[tuple[str, nn.Module]], tensors: Mapping[str, Tensor]) -> None:
    """Copies ``tensors[name + ".weight"]`` and ``".bias"`` into each (name, layer): all of them, or none.

    A matrix (outputs, inputs) with as many elements as the weight is reshaped: a fully connected layer on a (channels,
    height, width) map is a convolution with a kernel of that size.
    """
    copies: list[tuple[Tensor, Tensor]] = []
    for name, layer in layers:
        for part, parameter in layer.named_parameters(recurse=False):
            key = f"{name}.{part}"
            if key not in tensors:
                raise WavedilError(
                    f"weights have no tensor {key}: expected those of torchvision's vgg16 (without batch norm)"
                )
            value = tensors[key]
            is_matrix = value.ndim == 2 and (*value.shape,) == (len(parameter), parameter[0].numel())
            if value.shape != parameter.shape and not is_matrix:
                raise WavedilError(
                    f"{key} has shape {tuple(value.shape)}: expected {tuple(parameter.shape)}; use the widths and "
                    "hidden_channels of the weights"
                )
            copies.append((parameter, value.reshape(parameter.shape)))
    for parameter, value in copies:
        parameter.copy_(value)
