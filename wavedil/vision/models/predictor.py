"""Base class of dense prediction models: normalization, backbone, head and context, upsampling to pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.core.padded_conv import axes_value
from wavedil.core.receptive_field import per_axis
from wavedil.core.schema import Positive, Range, Scale
from wavedil.errors import WavedilError, one_of, shown, with_article
from wavedil.vision.models.upsample import ALIGNMENTS, first_cells, upsample, upsample_traced

#: Mean and standard deviation of ImageNet, red, green and blue in [0, 1]; networks trained on it expect these.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MEAN_OF_BAND, STD_OF_BAND = 0.5, 0.25  # of images that are not RGB

Resize = Annotated[float, Range(2**-8, 2**8)]
#: Of each band of the image, e.g. of red, green and blue.
Mean = Sequence[Scale]
Std = Sequence[Positive]


class DensePredictor(nn.Module):
    """Values at every pixel: ``(batch, bands, height, width) in [0, 1] -> (batch, num_outputs, height, width)``.

    ``in_channels`` of the backbone is the number of bands; 3, red, green and blue, if it has no such attribute.

    Base class of :class:`wavedil.vision.Segmenter`, which documents the arguments, and
    :class:`wavedil.vision.Regressor`.

    Args:
        num_outputs: output channels: the number of classes of a Segmenter, 1 for a Regressor.
    """

    #: Used in the error message of :func:`wavedil.weights.load`.
    title = "a Segmenter or Regressor"

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        context: nn.Module | None,
        refinement: nn.Module | None,
        num_outputs: int,
        scale: float,
        align: str | None,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        super().__init__()
        missing = [name for name in ("channels", "output_stride") if not hasattr(backbone, name)]
        if missing:
            raise WavedilError(
                f"backbone is {with_article(backbone)} without {' and '.join(missing)}: expected a module with both "
                "attributes"
            )
        align = align or getattr(backbone, "align", "center")
        if align not in ALIGNMENTS:
            raise WavedilError(f"align is {align!r}: expected {one_of(align, ALIGNMENTS)}")
        self.in_channels = getattr(backbone, "in_channels", None) or 3
        if self.in_channels != 3:  # the defaults are of red, green and blue
            mean = [MEAN_OF_BAND] * self.in_channels if list(mean) == list(MEAN) else mean
            std = [STD_OF_BAND] * self.in_channels if list(std) == list(STD) else std
            if refinement is not None:
                raise WavedilError(
                    f"refinement is {with_article(refinement)} and the backbone has in_channels {self.in_channels}: a "
                    "refinement needs the colors of RGB images, in_channels 3"
                )
        if len(mean) != self.in_channels or len(std) != self.in_channels:
            raise WavedilError(
                f"mean is {shown(mean)} and std is {shown(std)}: expected {self.in_channels} numbers each, one for "
                "each band (in_channels of the backbone)"
            )
        self.backbone, self.head, self.context, self.refinement = backbone, head, context, refinement
        self.auxiliary: nn.Module | None = None
        self.num_outputs, self.scale, self.align = num_outputs, scale, align
        # Not persistent: both are in config.json already.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    @property
    def output_stride(self) -> int | tuple[int, int]:
        """Stride of the backbone's last feature map in pixels; (vertical, horizontal) if the axes differ."""
        return self.backbone.output_stride

    @property
    def strides(self) -> tuple[int, int]:
        """:attr:`output_stride` along both axes."""
        return per_axis("output_stride", self.output_stride, 2)

    @property
    def receptive_field(self) -> int | None:
        """Largest receptive field of :meth:`coarse_scores` in pixels along an axis; None if unknown or unlimited."""
        parts = [(self.backbone, (1, 1)), (self.head, self.strides), (self.context, self.strides)]
        fields = [(getattr(part, "receptive_field", None), strides) for part, strides in parts if part is not None]
        if any(field is None for field, _ in fields):
            return None
        fields = [(per_axis("receptive_field", field, 2), strides) for field, strides in fields]
        return max(1 + sum((field[axis] - 1) * strides[axis] for field, strides in fields) for axis in (0, 1))

    @staticmethod
    def inspection() -> tuple[Callable[[DensePredictor], dict[str, Any]], Callable[[dict[str, Any]], str]]:
        """The functions behind ``wavedil inspect``: numbers of a model, and their text."""
        from wavedil.vision.inspection import inspect_predictor, render_predictor

        return inspect_predictor, render_predictor

    @staticmethod
    def evaluation() -> Callable[..., Any]:
        """The function behind ``wavedil evaluate``."""
        from wavedil.vision.folder_evaluation import evaluate_folder

        return evaluate_folder

    @staticmethod
    def prediction() -> Callable[..., Any]:
        """The function behind ``wavedil segment``."""
        from wavedil.vision.prediction_files import write_predictions

        return write_predictions

    def forward(self, image: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return self._traced(image)
        scores, stride = self.coarse_scores(image)
        return self.upsample_scores(image, scores, stride)

    def coarse_scores(self, image: Tensor) -> tuple[Tensor, int | tuple[int, int]]:
        """Scores at the resolution of the head, and their stride in pixels; (vertical, horizontal) if the axes differ.

        The scores have shape ``(batch, num_outputs, ceil(height / stride), ceil(width / stride))``.
        """
        x = self._padded(image)
        return self._cropped(self._scores(self.backbone(x)), image, x)

    def _padded(self, image: Tensor) -> Tensor:
        """The normalized image, padded to a multiple of the stride."""
        if image.ndim != 4 or image.shape[1] != self.in_channels or not image.is_floating_point() or 0 in image.shape:
            raise WavedilError(
                f"image is {image.dtype} of shape {tuple(image.shape)}: expected floats in [0, 1] of shape "
                f"(batch, {self.in_channels}, height, width)"
            )
        x = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        height, width = image.shape[2:]
        bottom, right = -height % self.strides[0], -width % self.strides[1]
        return F.pad(x, (0, right, 0, bottom)) if bottom or right else x

    def _cropped(self, scores: Tensor, image: Tensor, x: Tensor) -> tuple[Tensor, int | tuple[int, int]]:
        """The scores of the padded image ``x`` that belong to ``image``, and their stride."""
        if scores.shape[1] != self.num_outputs:
            raise WavedilError(
                f"head and context return {scores.shape[1]} channels: expected {self.num_outputs}, one for each class "
                "(1 for a Regressor)"
            )
        strides = tuple(pixels // cells for pixels, cells in zip(x.shape[2:], scores.shape[2:], strict=True))
        height, width = (-(-pixels // stride) for pixels, stride in zip(image.shape[2:], strides, strict=True))
        return scores[:, :, :height, :width], axes_value(strides)

    def _scores(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        scores = self.head(features)
        return scores if self.context is None else self.context(scores)

    def _traced(self, image: Tensor) -> Tensor:
        """:meth:`forward` for torch.export: no checks and branches, which would fix the size of the image.

        The refinement is not part of it.
        """
        size = image.shape[2:]
        height, width = ((pixels + s - 1) // s * s for pixels, s in zip(size, self.strides, strict=True))
        x = F.pad((image - self.mean) / self.std, (0, width - size[1], 0, height - size[0]))
        scores = self._scores(self.backbone(x))
        strides = [pixels // cells for pixels, cells in zip((height, width), scores.shape[2:], strict=True)]
        for axis, (pixels, s) in enumerate(zip(size, strides, strict=True), 2):
            scores = first_cells(scores, axis, (pixels + s - 1) // s)
        return upsample_traced(scores, size, strides, self.align)

    def upsample_scores(self, image: Tensor, scores: Tensor, stride: int | tuple[int, int]) -> Tensor:
        """Upsamples the result of :meth:`coarse_scores` to pixels and applies the refinement, if there is one."""
        scores = upsample(scores, image.shape[2:], stride=stride, align=self.align)
        if self.refinement is None:
            return scores
        return self.refinement((image * 255).round().clamp(0, 255).byte(), scores)
