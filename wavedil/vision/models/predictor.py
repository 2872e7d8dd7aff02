"""What models of dense prediction share: normalization, parts in sequence, and the way back to pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.errors import WavedilError
from wavedil.vision.models.upsample import ALIGNMENTS, upsample
from wavedil.weights import load

#: Of ImageNet's images in [0, 1], red, green and blue: what networks that were trained on it expect.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_predictor(folder: str | Path, device: str = "cpu") -> DensePredictor:
    """The model in a folder; raises as :func:`wavedil.weights.load` does, and for anything but a dense predictor."""
    return load(folder, device, expect=DensePredictor)


class DensePredictor(nn.Module):
    """Maps at every pixel: ``(batch, 3, height, width) in [0, 1] -> (batch, num_maps, height, width)``.

    Arguments as in :class:`wavedil.vision.Segmenter`, which is one; num_maps is its num_classes.
    """

    #: In messages.
    title = "a Segmenter or Regressor"

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        context: nn.Module | None,
        refinement: nn.Module | None,
        num_maps: int,
        scale: float,
        align: str | None,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        super().__init__()
        missing = [name for name in ("channels", "output_stride") if not hasattr(backbone, name)]
        if missing:
            raise WavedilError(f"backbone is a {type(backbone).__name__} without {' and '.join(missing)}")
        align = align or getattr(backbone, "align", "center")
        if align not in ALIGNMENTS:
            raise WavedilError(f"align is {align!r}: expected one of {', '.join(ALIGNMENTS)}")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise WavedilError(f"mean is {mean} and std {std}: expected three each, std above 0")
        self.backbone, self.head, self.context, self.refinement = backbone, head, context, refinement
        self.num_maps, self.scale, self.align = num_maps, scale, align
        # They are in the config: what is stored beside the weights is stored once.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1), persistent=False)

    @property
    def output_stride(self) -> int:
        """Pixels of the image per feature of the backbone's last map, along each axis."""
        return self.backbone.output_stride

    @property
    def receptive_field(self) -> int | None:
        """Pixels that one of :meth:`scores` sees, along each axis, at most; None for the whole image, or unknown."""
        parts = [(self.backbone, 1), (self.head, self.output_stride), (self.context, self.output_stride)]
        fields = [(getattr(part, "receptive_field", None), step) for part, step in parts if part is not None]
        if any(field is None for field, _ in fields):
            return None
        return 1 + sum((max(field) - 1 if isinstance(field, tuple) else field - 1) * step for field, step in fields)

    @staticmethod
    def inspection() -> tuple[Callable[[DensePredictor], dict[str, Any]], Callable[[dict[str, Any]], str]]:
        """The functions behind ``wavedil inspect``: numbers of a model, and their text."""
        from wavedil.vision.inspection import inspect_predictor, render_predictor

        return inspect_predictor, render_predictor

    def forward(self, image: Tensor) -> Tensor:
        scores, stride = self.scores(image)
        return self.enlarged(image, scores, stride)

    def enlarged(self, image: Tensor, scores: Tensor, stride: int) -> Tensor:
        """Scores of :meth:`scores` at every pixel of their image, and refined there."""
        scores = upsample(scores, image.shape[2:], stride=stride, align=self.align)
        if self.refinement is None:
            return scores
        return self.refinement((image * 255).round().clamp(0, 255).byte(), scores)

    def scores(self, image: Tensor) -> tuple[Tensor, int]:
        """Scores at the resolution of the head, ``(batch, num_maps, ceil(height / n), ceil(width / n))``, and n."""
        if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point() or 0 in image.shape:
            raise WavedilError(
                f"image is {image.dtype} of shape {tuple(image.shape)}: expected floats in [0, 1] of "
                "(batch, 3, height, width)"
            )
        x = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        height, width = image.shape[2:]
        bottom, right = -height % self.output_stride, -width % self.output_stride
        scores = self.head(self.backbone(F.pad(x, (0, right, 0, bottom)) if bottom or right else x))
        if self.context is not None:
            scores = self.context(scores)
        if scores.shape[1] != self.num_maps:
            raise WavedilError(
                f"head and context give {scores.shape[1]} maps: expected {self.num_maps}, one for each class or value"
            )
        stride = (height + bottom) // scores.shape[2]
        return scores[:, :, : -(-height // stride), : -(-width // stride)], stride
