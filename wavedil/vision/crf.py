"""Fully connected conditional random fields: labels that follow the edges of the image.

:class:`DenseCRF` refines what a network says (Krähenbühl & Koltun 2011, arXiv 1210.5644); :class:`CRFRNN` is the same
mean field as a layer with learned weights (Zheng et al. 2015, arXiv 1502.03240). Both tie all pairs of pixels i, j by

    w1 exp(-|p_i - p_j|^2 / 2 sxy1^2) + w2 exp(-|p_i - p_j|^2 / 2 sxy2^2 - |c_i - c_j|^2 / 2 srgb^2),

p in pixels and c in steps of 0 to 255, with sums on a permutohedral lattice. As in the authors' program the sums take
in j = i, and each kernel is divided by the square roots of its sums at i and at j.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wavedil.errors import WavedilError
from wavedil.ops.permutohedral import build_lattice, exact_mean_field, lattice_filter, mean_field
from wavedil.weights import register

_KERNELS = ("gaussian_sxy", "gaussian_weight", "bilateral_sxy", "bilateral_srgb", "bilateral_weight")
PRESETS = {
    "densecrf": (3, 3, 80, 13, 10),  # the example of the authors' own program, densecrf v2.2
    "deeplab_largefov": (3, 3, 49, 5, 4),  # DeepLab's own script for LargeFOV; 10 iterations
    "deeplab_v2_resnet101": (1, 3, 67, 3, 4),  # kazuto1011/deeplab-pytorch, configs/voc12.yaml; 10 iterations
    "crfasrnn": (3, 3, 160, 3, 5),  # what the authors' layer starts from, sadeepj/crfasrnn_pytorch, params.py
}
_CLIP = 1e-5  # of probabilities, as pydensecrf's unary_from_softmax has it: a label at 0 could never come back
_EXACT_PIXELS = 10_000  # 400 MB for a kernel's matrix


@dataclass(frozen=True, eq=False)
class DenseCRF:
    """Mean field of a fully connected CRF. Nothing in it is learned, and no gradient goes through it.

    Args:
        iterations: of the mean field.
        gaussian_sxy, gaussian_weight: of the kernel of positions alone, which removes specks.
        bilateral_sxy, bilateral_srgb, bilateral_weight: of the kernel that ties pixels of like color.
        compatibility: what a label costs beside another: ``"potts"`` is 1 for any two that differ; or a matrix
            (labels, labels), whose rows are the labels that pay.

    The defaults are DeepLab LargeFOV's; :meth:`preset` takes others by name.

    Raises:
        WavedilError: numbers out of their range, or a compatibility that is neither.
    """

    iterations: int = 10
    gaussian_sxy: float = 3.0
    gaussian_weight: float = 3.0
    bilateral_sxy: float = 49.0
    bilateral_srgb: float = 5.0
    bilateral_weight: float = 4.0
    compatibility: Any = "potts"

    def __post_init__(self):
        _check_iterations(self.iterations)
        for name in _KERNELS:
            _check_number(name, getattr(self, name), zero=name.endswith("weight"))
        if isinstance(self.compatibility, str) and self.compatibility == "potts":
            return
        matrix = _tensor("compatibility", self.compatibility).detach().float().cpu()
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.isfinite().all():
            raise WavedilError(
                f"compatibility has shape {tuple(matrix.shape)}: expected 'potts', or (labels, labels) finite numbers"
            )
        object.__setattr__(self, "compatibility", matrix)

    @classmethod
    def preset(cls, name: str, **changes) -> DenseCRF:
        """One of :data:`PRESETS` by name, with changes to it.

        Raises:
            WavedilError: an unknown name.
        """
        if name not in PRESETS:
            raise WavedilError(f"CRF preset {name!r} is unknown: take one of {', '.join(PRESETS)}")
        return cls(**(dict(zip(_KERNELS, PRESETS[name], strict=True)) | changes))

    def __call__(self, image: Any, scores: Any) -> Tensor:
        """Probabilities, float32, in the shape and on the device of the scores. The work is done on the CPU.

        Args:
            image: uint8 tensor or array, (height, width, 3), or (batch, 3, height, width).
            scores: tensor or array, (labels, height, width), or (batch, labels, height, width). Logarithms of
                probabilities up to a number of each pixel, as a network has before its softmax; or probabilities, told
                from those by being 0 or more and summing to 1 at each pixel, and held above 1e-5.

        Raises:
            WavedilError: other shapes or types, sizes that differ, fewer than two labels, numbers that are not finite,
                or numbers of 0 or more with sums near 1 that are neither.
        """
        return self._run(image, scores, _on_lattices)

    def exact(self, image: Any, scores: Any) -> Tensor:
        """The same with exact sums over all pairs of pixels, which the lattice is near: up to 10,000 pixels."""
        return self._run(image, scores, _in_full)

    def _run(self, image: Any, scores: Any, infer: Callable[..., Tensor]) -> Tensor:
        images, all_scores, alone = _checked(image, scores)
        penalty = None if isinstance(self.compatibility, str) else self.compatibility
        if penalty is not None and len(penalty) != all_scores.shape[1]:
            raise WavedilError(
                f"compatibility is of {len(penalty)} labels and scores of {all_scores.shape[1]}: expected the same"
            )
        done = []
        for colors, given in zip(images, all_scores.detach().float().cpu(), strict=True):
            features = _features(colors, self.gaussian_sxy, self.bilateral_sxy, self.bilateral_srgb)
            strengths = self.gaussian_weight, self.bilateral_weight
            q = infer(_log_probabilities(given).flatten(1), features, strengths, penalty, self.iterations)
            done.append(q.view_as(given))
        return (done[0] if alone else torch.stack(done)).to(all_scores.device)


@register
class CRFRNN(nn.Module):
    """Mean field of a fully connected CRF as a layer.

    ``forward(image, scores)``: uint8 image (batch, 3, height, width) and scores (batch, num_classes, height, width) to
    refined scores of the same shape, before their softmax; or (height, width, 3) and (num_classes, height, width).

    ``gaussian_weight`` and ``bilateral_weight`` (num_classes,) and ``compatibility`` (num_classes, num_classes) are
    learned; they start as :class:`DenseCRF` with these numbers and Potts' compatibility. The deviations are fixed.
    Gradients with respect to the scores and to what is learned are exact for the lattice's sums; the image has none.
    Scores are what comes before a softmax, never probabilities. On a GPU the scores are brought to the CPU and back.

    Raises:
        WavedilError: as :class:`DenseCRF` does.
    """

    def __init__(
        self,
        num_classes: int,
        iterations: int = 5,
        *,
        gaussian_sxy: float = 3.0,
        gaussian_weight: float = 3.0,
        bilateral_sxy: float = 160.0,
        bilateral_srgb: float = 3.0,
        bilateral_weight: float = 5.0,
    ):
        super().__init__()
        if not isinstance(num_classes, int) or num_classes < 2:
            raise WavedilError(f"num_classes is {num_classes!r}: expected an integer of at least 2")
        _check_iterations(iterations)
        deviations = {"gaussian_sxy": gaussian_sxy, "bilateral_sxy": bilateral_sxy, "bilateral_srgb": bilateral_srgb}
        for name, value in deviations.items():
            _check_number(name, value, zero=False)
        for name, value in (("gaussian_weight", gaussian_weight), ("bilateral_weight", bilateral_weight)):
            _check_number(name, value, zero=True)
        self.num_classes, self.iterations, self.deviations = num_classes, iterations, tuple(deviations.values())
        self.gaussian_weight = nn.Parameter(torch.full((num_classes,), float(gaussian_weight)))
        self.bilateral_weight = nn.Parameter(torch.full((num_classes,), float(bilateral_weight)))
        self.compatibility = nn.Parameter(1 - torch.eye(num_classes))

    def forward(self, image: Any, scores: Tensor) -> Tensor:
        images, all_scores, alone = _checked(image, scores)
        if all_scores.shape[1] != self.num_classes:
            raise WavedilError(f"scores have {all_scores.shape[1]} labels: this CRFRNN was made for {self.num_classes}")
        dtype = torch.promote_types(all_scores.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):
            rows = all_scores.to("cpu", dtype).flatten(2).transpose(1, 2)  # (batch, points, classes)
            weights = [w.to("cpu", dtype) for w in (self.gaussian_weight, self.bilateral_weight)]
            compatibility = self.compatibility.to("cpu", dtype)
            refined = torch.stack(
                [
                    self._refine(_features(colors, *self.deviations), given, weights, compatibility)
                    for colors, given in zip(images, rows, strict=True)
                ]
            )
        refined = refined.transpose(1, 2).reshape(all_scores.shape).to(all_scores)
        return refined[0] if alone else refined

    def _refine(self, features: list[Tensor], scores: Tensor, weights: list[Tensor], compatibility: Tensor) -> Tensor:
        lattices = [build_lattice(f) for f in features]
        refined = scores
        for _ in range(self.iterations):
            q = torch.softmax(refined, 1)
            message = sum(
                weight * lattice_filter(q, lattice) for weight, lattice in zip(weights, lattices, strict=True)
            )
            refined = scores - message @ compatibility.t()
        return refined


def _on_lattices(scores: Tensor, features: list[Tensor], *options: Any) -> Tensor:
    return mean_field(scores, [build_lattice(f) for f in features], *options)


def _in_full(scores: Tensor, features: list[Tensor], *options: Any) -> Tensor:
    if scores.shape[1] > _EXACT_PIXELS:
        raise WavedilError(
            f"image has {scores.shape[1]} pixels: exact sums are for up to {_EXACT_PIXELS}, so call the CRF itself"
        )
    return exact_mean_field(scores, features, *options)


def _features(colors: Tensor, gaussian_sxy: float, bilateral_sxy: float, bilateral_srgb: float) -> list[Tensor]:
    """From an image (3, height, width): x and y, (2, points), and these with color, (5, points), in deviations."""
    height, width = colors.shape[1:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([x, y]).flatten(1).float()
    return [places / gaussian_sxy, torch.cat([places / bilateral_sxy, colors.flatten(1).float() / bilateral_srgb])]


def _log_probabilities(scores: Tensor) -> Tensor:
    """Scores as they are, or the logarithms of probabilities."""
    if scores.min() < 0:
        return scores
    off = (scores.sum(0) - 1).abs().max().item()
    if off > 0.1:
        return scores
    if off > 0.01:
        raise WavedilError(
            f"scores are 0 or more and sum to 1 up to {off:.2g} at each pixel: "
            "expected probabilities that sum to 1, or scores before their softmax"
        )
    return scores.clamp(min=_CLIP).log()


def _checked(image: Any, scores: Any) -> tuple[Tensor, Tensor, bool]:
    """Images (batch, 3, height, width) on the CPU, scores (batch, labels, height, width), whether they came alone."""
    image, scores = _tensor("image", image), _tensor("scores", scores)
    if image.dtype != torch.uint8:
        raise WavedilError(f"image is {_kind(image)}: expected uint8, 0 to 255, as it was before any normalization")
    if not scores.is_floating_point():
        raise WavedilError(f"scores are {_kind(scores)}: expected floating point, scores before a softmax")
    alone = image.ndim == 3
    images = image.movedim(-1, 0)[None] if alone else image
    if images.ndim != 4 or images.shape[1] != 3:
        raise WavedilError(
            f"image has shape {tuple(image.shape)}: expected (height, width, 3) or (batch, 3, height, width)"
        )
    if scores.ndim != image.ndim:
        expected = "(labels, height, width)" if alone else "(batch, labels, height, width)"
        raise WavedilError(f"scores have shape {tuple(scores.shape)}: expected {expected} beside such an image")
    all_scores = scores[None] if alone else scores
    if images.shape[0] != all_scores.shape[0] or images.shape[2:] != all_scores.shape[2:]:
        sizes = ["x".join(str(n) for n in (t.shape[0], *t.shape[2:])[alone:]) for t in (images, all_scores)]
        raise WavedilError(f"image is {sizes[0]} and scores are {sizes[1]}: expected the same, so resize the scores")
    if not all_scores.numel():
        raise WavedilError(f"scores have shape {tuple(scores.shape)}: expected at least one pixel")
    if all_scores.shape[1] < 2:
        raise WavedilError("scores have 1 label: expected two or more; for a yes or no give the scores of both")
    if not all(bound.isfinite() for bound in torch.aminmax(all_scores.detach())):
        raise WavedilError("scores hold NaN or infinity: expected finite numbers")
    return images.cpu(), all_scores, alone


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        return torch.from_numpy(np.require(value, requirements=["C", "W"]))  # pictures are often read-only arrays
    except (TypeError, ValueError) as error:
        raise WavedilError(f"{name} is no array of numbers ({error}): expected a tensor or an array") from None


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_iterations(value: Any) -> None:
    if not isinstance(value, int) or value < 1:
        raise WavedilError(f"iterations is {value!r}: expected an integer of at least 1")


def _check_number(name: str, value: Any, *, zero: bool) -> None:
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise WavedilError(f"{name} is {value!r}: expected a finite number {'of 0 or more' if zero else 'above 0'}")
