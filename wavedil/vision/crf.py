"""Fully connected conditional random fields, which align labels with the edges of the image.

:class:`DenseCRF` refines the scores of a network (Krähenbühl & Koltun 2011, arXiv 1210.5644). :class:`CRFRNN` is the
same mean-field inference as a layer with learned weights (Zheng et al. 2015, arXiv 1502.03240). The pairwise potential
of pixels i and j with positions p in pixels and colors c from 0 to 255 is

    w1 exp(-|p_i - p_j|^2 / 2 sxy1^2) + w2 exp(-|p_i - p_j|^2 / 2 sxy2^2 - |c_i - c_j|^2 / 2 srgb^2),

a Gaussian and a bilateral kernel, summed on a permutohedral lattice. As in the authors' program, the sums include
j = i, and each kernel is divided by the square roots of its sums at i and at j.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Self, get_type_hints

import torch
from torch import Tensor, nn

from wavedil.core.schema import Positive, Range, check
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError, one_of, shown
from wavedil.ops.permutohedral import build_lattice, exact_mean_field, lattice_filter, mean_field
from wavedil.weights import register

_KERNELS = ("gaussian_sxy", "gaussian_weight", "bilateral_sxy", "bilateral_srgb", "bilateral_weight")
PRESETS = {
    "densecrf": (3, 3, 80, 13, 10),  # the example in the authors' program, densecrf v2.2
    "deeplab_largefov": (3, 3, 49, 5, 4),  # DeepLab's script for LargeFOV; 10 iterations
    "deeplab_v2_resnet101": (1, 3, 67, 3, 4),  # kazuto1011/deeplab-pytorch, configs/voc12.yaml; 10 iterations
    "crfasrnn": (3, 3, 160, 3, 5),  # initial values of sadeepj/crfasrnn_pytorch, params.py
}
_MIN_PROBABILITY = 1e-5  # as in pydensecrf's unary_from_softmax: a label with probability 0 would stay at 0
_MAX_EXACT_PIXELS = 10_000  # the matrix of one kernel then has 400 MB

Iterations = Annotated[int, Range(1, 1000)]
Weight = Annotated[float, Range(0, 1e6)]
LabelCount = Annotated[int, Range(2, 2**10)]


@dataclass(frozen=True, eq=False)
class DenseCRF:
    """Mean-field inference in a fully connected CRF, without learned weights or gradients.

    The defaults are those of DeepLab-LargeFOV; :meth:`preset` has other published ones.

    Args:
        iterations: number of mean-field iterations.
        gaussian_sxy, gaussian_weight: standard deviation and weight of the Gaussian kernel, which removes small
            regions.
        bilateral_sxy, bilateral_srgb, bilateral_weight: standard deviations and weight of the bilateral kernel, which
            favors equal labels for similar colors.
        compatibility: cost of a label next to another: ``"potts"``, 1 for different labels; or a matrix (labels,
            labels), where row i holds the costs of label i.

    Raises:
        WavedilError: numbers out of range, or an invalid compatibility.
    """

    iterations: Iterations = 10
    gaussian_sxy: Positive = 3.0
    gaussian_weight: Weight = 3.0
    bilateral_sxy: Positive = 49.0
    bilateral_srgb: Positive = 5.0
    bilateral_weight: Weight = 4.0
    compatibility: Any = "potts"

    def __post_init__(self) -> None:
        for name in ("iterations", *_KERNELS):
            check(name, getattr(self, name), get_type_hints(DenseCRF, include_extras=True)[name])
        if isinstance(self.compatibility, str) and self.compatibility == "potts":
            return
        if isinstance(self.compatibility, str):
            raise WavedilError(f"compatibility is {shown(self.compatibility)}: expected 'potts', or a matrix")
        matrix = to_tensor("compatibility", self.compatibility).detach().float().cpu()
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.isfinite().all():
            raise WavedilError(
                f"compatibility has shape {tuple(matrix.shape)}: expected 'potts', or finite numbers (labels, labels)"
            )
        object.__setattr__(self, "compatibility", matrix)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """A CRF with the parameters of one of :data:`PRESETS`; keyword arguments replace some of them.

        Raises:
            WavedilError: an unknown name.
        """
        if not isinstance(name, str) or name not in PRESETS:
            raise WavedilError(f"CRF preset is {name!r}: expected {one_of(name, PRESETS)}")
        return cls(**(dict(zip(_KERNELS, PRESETS[name], strict=True)) | changes))

    def __call__(self, image: Any, scores: Any) -> Tensor:
        """Probabilities, float32, in the shape and on the device of the scores. Computed on the CPU.

        Args:
            image: uint8 tensor or array, (height, width, 3) or (batch, 3, height, width).
            scores: tensor or array, (labels, height, width) or (batch, labels, height, width). Either logits, i.e.
                log-probabilities up to a constant per pixel, or probabilities. Scores that are all at least 0 and sum
                to 1 at each pixel are taken as probabilities, clipped at 1e-5.

        Raises:
            WavedilError: invalid shapes or types, different sizes, fewer than two labels, numbers that are not finite,
                or nonnegative scores with sums close to 1 but not 1.
        """
        return self._infer(image, scores, exact=False)

    def exact(self, image: Any, scores: Any) -> Tensor:
        """As calling the CRF, but with exact sums over all pairs of pixels, for up to 10,000 pixels."""
        return self._infer(image, scores, exact=True)

    def _infer(self, image: Any, scores: Any, exact: bool) -> Tensor:
        images, batch, is_single = _to_batch(image, scores)
        penalty = None if isinstance(self.compatibility, str) else self.compatibility
        if penalty is not None and len(penalty) != batch.shape[1]:
            raise WavedilError(
                f"compatibility has {len(penalty)} labels and scores have {batch.shape[1]}: expected the same number"
            )
        count = batch.shape[2] * batch.shape[3]
        if exact and count > _MAX_EXACT_PIXELS:
            raise WavedilError(
                f"image has {count} pixels: expected at most {_MAX_EXACT_PIXELS} for exact sums; call the CRF"
            )
        results = []
        for colors, logits in zip(images, batch.detach().float().cpu(), strict=True):
            features = _kernel_features(colors, self.gaussian_sxy, self.bilateral_sxy, self.bilateral_srgb)
            kernels = features if exact else [build_lattice(f) for f in features]
            infer = exact_mean_field if exact else mean_field
            weights = self.gaussian_weight, self.bilateral_weight
            q = infer(_log_probabilities(logits).flatten(1), kernels, weights, penalty, self.iterations)
            results.append(q.view_as(logits))
        return (results[0] if is_single else torch.stack(results)).to(batch.device)


@register
class CRFRNN(nn.Module):
    """Mean-field inference in a fully connected CRF as a layer with learned weights.

    ``forward(image, scores)`` takes a uint8 image (batch, 3, height, width) and logits (batch, num_classes, height,
    width), or (height, width, 3) and (num_classes, height, width), and returns refined logits of the same shape.
    Probabilities are not accepted as scores. The computation is on the CPU, also for scores on a GPU.

    Learned are ``gaussian_weight`` and ``bilateral_weight`` (num_classes,) and ``compatibility`` (num_classes,
    num_classes), which starts as the Potts model. The standard deviations are fixed. Gradients with respect to scores
    and weights are exact for the sums on the lattice; there is no gradient with respect to the image.

    Args:
        num_classes: number of labels, at least 2.
        iterations, gaussian_sxy, gaussian_weight, bilateral_sxy, bilateral_srgb, bilateral_weight: as in
            :class:`DenseCRF`; the weights are initial values.

    Raises:
        WavedilError: as :class:`DenseCRF`.
    """

    def __init__(
        self,
        num_classes: LabelCount,
        iterations: Iterations = 5,
        *,
        gaussian_sxy: Positive = 3.0,
        gaussian_weight: Weight = 3.0,
        bilateral_sxy: Positive = 160.0,
        bilateral_srgb: Positive = 3.0,
        bilateral_weight: Weight = 5.0,
    ):
        super().__init__()
        self.num_classes, self.iterations = num_classes, iterations
        self.deviations = gaussian_sxy, bilateral_sxy, bilateral_srgb
        self.gaussian_weight = nn.Parameter(torch.full((num_classes,), float(gaussian_weight)))
        self.bilateral_weight = nn.Parameter(torch.full((num_classes,), float(bilateral_weight)))
        self.compatibility = nn.Parameter(1 - torch.eye(num_classes))

    def forward(self, image: Any, scores: Tensor) -> Tensor:
        images, batch, is_single = _to_batch(image, scores)
        if batch.shape[1] != self.num_classes:
            raise WavedilError(f"scores have {batch.shape[1]} labels: expected num_classes {self.num_classes}")
        dtype = torch.promote_types(batch.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):
            rows = batch.to("cpu", dtype).flatten(2).transpose(1, 2)  # (batch, points, classes)
            weights = [w.to("cpu", dtype) for w in (self.gaussian_weight, self.bilateral_weight)]
            compatibility = self.compatibility.to("cpu", dtype)
            refined = torch.stack(
                [
                    self._refine(_kernel_features(colors, *self.deviations), logits, weights, compatibility)
                    for colors, logits in zip(images, rows, strict=True)
                ]
            )
        refined = refined.transpose(1, 2).reshape(batch.shape).to(batch)
        return refined[0] if is_single else refined

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


def _kernel_features(colors: Tensor, gaussian_sxy: float, bilateral_sxy: float, bilateral_srgb: float) -> list[Tensor]:
    """Features of both kernels in standard deviations: (x, y), (2, points), and (x, y, r, g, b), (5, points)."""
    height, width = colors.shape[1:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    positions, colors = torch.stack([x, y]).flatten(1).float(), colors.flatten(1).float()
    return [positions / gaussian_sxy, torch.cat([positions / bilateral_sxy, colors / bilateral_srgb])]


def _log_probabilities(scores: Tensor) -> Tensor:
    """Logits unchanged; the logarithm of probabilities."""
    if scores.min() < 0:
        return scores
    deviation = (scores.sum(0) - 1).abs().max().item()
    if deviation > 0.1:
        return scores
    if deviation > 0.01:
        raise WavedilError(
            f"scores are at least 0 and their sums at each pixel differ from 1 by up to {deviation:.2g}: expected "
            "probabilities that sum to 1, or logits"
        )
    return scores.clamp(min=_MIN_PROBABILITY).log()


def _to_batch(image: Any, scores: Any) -> tuple[Tensor, Tensor, bool]:
    """Checks and converts the inputs.

    Returns:
        Images (batch, 3, height, width) on the CPU, scores (batch, labels, height, width), and whether the inputs have
        no batch axis.
    """
    image, scores = to_tensor("image", image), to_tensor("scores", scores)
    if image.dtype != torch.uint8:
        raise WavedilError(f"image is {_dtype_name(image)}: expected uint8, 0 to 255, before any normalization")
    if not scores.is_floating_point():
        raise WavedilError(f"scores are {_dtype_name(scores)}: expected floating point, logits before a softmax")
    is_single = image.ndim == 3
    images = image.movedim(-1, 0)[None] if is_single else image
    if images.ndim != 4 or images.shape[1] != 3:
        raise WavedilError(
            f"image has shape {tuple(image.shape)}: expected (height, width, 3) or (batch, 3, height, width)"
        )
    if scores.ndim != image.ndim:
        expected = "(labels, height, width)" if is_single else "(batch, labels, height, width)"
        raise WavedilError(f"scores have shape {tuple(scores.shape)}: expected {expected} for this shape of image")
    batch = scores[None] if is_single else scores
    if images.shape[0] != batch.shape[0] or images.shape[2:] != batch.shape[2:]:
        sizes = ["x".join(str(n) for n in (t.shape[0], *t.shape[2:])[is_single:]) for t in (images, batch)]
        raise WavedilError(f"image is {sizes[0]} and scores are {sizes[1]}: expected the same size; resize the scores")
    if not batch.numel():
        raise WavedilError(f"scores have shape {tuple(scores.shape)}: expected at least one pixel")
    if batch.shape[1] < 2:
        raise WavedilError("scores have 1 label: expected at least 2; pass both scores of a binary problem")
    if not all(bound.isfinite() for bound in torch.aminmax(batch.detach())):
        raise WavedilError("scores contain NaN or infinity: expected finite numbers")
    return images.cpu(), batch, is_single


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
