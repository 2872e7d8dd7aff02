"""Fully connected conditional random fields, which align labels with the edges of the image.

:class:`DenseCRF` refines the scores of a network (Krähenbühl & Koltun 2011, arXiv 1210.5644). :class:`CRFRNN` is the
same mean-field inference as a layer with learned weights (Zheng et al. 2015, arXiv 1502.03240). The pairwise potential
of pixels i and j with positions p in pixels and colors c from 0 to 255 is

    w1 exp(-|p_i - p_j|^2 / 2 sxy1^2) + w2 exp(-|p_i - p_j|^2 / 2 sxy2^2 - |c_i - c_j|^2 / 2 srgb^2),

a Gaussian and a bilateral kernel, summed on a permutohedral lattice. As in the authors' program, the sums include
j = i, and each kernel is divided by the square roots of its sums at i and at j.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self, get_type_hints

import torch
from torch import Tensor, nn

from wavedil.core.schema import Positive, Range, check
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError, count_text, one_of
from wavedil.ops.permutohedral import build_lattice, exact_mean_field, lattice_filter, mean_field
from wavedil.vision.crf_inputs import (
    Deviations,
    LabelCount,
    Pairwise,
    Weight,
    log_probabilities,
    logits_of_energies,
    per_axis_deviations,
    position_features,
    read_compatibility,
    read_inputs,
)
from wavedil.weights import register

_KERNELS = ("gaussian_sxy", "gaussian_weight", "bilateral_sxy", "bilateral_srgb", "bilateral_weight")
PRESETS = {
    "densecrf": (3, 3, 80, 13, 10),  # the example in the authors' program, densecrf v2.2
    "deeplab_largefov": (3, 3, 49, 5, 4),  # DeepLab's script for LargeFOV; 10 iterations
    "deeplab_v2_resnet101": (1, 3, 67, 3, 4),  # kazuto1011/deeplab-pytorch, configs/voc12.yaml; 10 iterations
    "crfasrnn": (3, 3, 160, 3, 5),  # initial values of sadeepj/crfasrnn_pytorch, params.py
}
_MAX_EXACT_PIXELS = 10_000  # the matrix of one kernel then has 400 MB

Iterations = Annotated[int, Range(1, 1000)]


@dataclass(frozen=True, eq=False)
class DenseCRF:
    """Mean-field inference in a fully connected CRF, without learned weights or gradients.

    For images, volumes and other arrays, with any number of space axes and channels. The defaults are those of
    DeepLab-LargeFOV; :meth:`preset` has other published ones.

    Args:
        iterations: number of mean-field iterations.
        gaussian_sxy, gaussian_weight: standard deviation in pixels, one number or one for each space axis, e.g.
            (height, width), and weight of the Gaussian kernel, which removes small regions. Weight 0: no such kernel.
        bilateral_sxy, bilateral_srgb, bilateral_weight: standard deviations, of positions as above and of the colors,
            one number or one for each channel, and weight of the bilateral kernel, which favors equal labels for
            similar colors.
        compatibility: cost of a label next to another: ``"potts"``, 1 for different labels; or a matrix (labels,
            labels), where row i holds the costs of label i; or its diagonal (labels,).

    Raises:
        WavedilError: numbers out of range, or an invalid compatibility.
    """

    iterations: Iterations = 10
    gaussian_sxy: Deviations = 3.0
    gaussian_weight: Weight = 3.0
    bilateral_sxy: Deviations = 49.0
    bilateral_srgb: Deviations = 5.0
    bilateral_weight: Weight = 4.0
    compatibility: Any = "potts"

    def __post_init__(self) -> None:
        for name in ("iterations", *_KERNELS):
            hint = get_type_hints(DenseCRF, include_extras=True)[name]
            object.__setattr__(self, name, check(name, getattr(self, name), hint))
        object.__setattr__(self, "compatibility", read_compatibility(self.compatibility))

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """A CRF with the parameters of one of :data:`PRESETS`; keyword arguments replace some of them.

        Raises:
            WavedilError: an unknown name.
        """
        if not isinstance(name, str) or name not in PRESETS:
            raise WavedilError(f"CRF preset is {name!r}: expected {one_of(name, PRESETS)}")
        return cls(**(dict(zip(_KERNELS, PRESETS[name], strict=True)) | changes))

    def __call__(self, image: Any, scores: Any = None, *, unary: Any = None, terms: Sequence[Pairwise] = ()) -> Any:
        """Probabilities, float32, in the shape of the scores. Computed on the CPU.

        Args:
            image: integers, e.g. uint8, ``(*space)``, ``(*space, channels)`` or ``(batch, channels, *space)``, where
                ``*space`` is (height, width) or any other number of axes. None if ``bilateral_weight`` is 0.
            scores: ``(labels, *space)`` or ``(batch, labels, *space)``. Either logits, i.e. log-probabilities up to a
                constant per pixel, or probabilities. Scores that are all at least 0 and sum to 1 at each pixel are
                taken as probabilities, clipped at 1e-5.
            unary: unary energies, -log p, instead of scores, in the same shape or ``(labels, points)``, as pydensecrf
                takes them.
            terms: more pairwise terms, with features of their own.

        Returns:
            An array if the scores are one, else a tensor on the device of the scores.

        Raises:
            WavedilError: invalid shapes or types, different sizes, fewer than two labels, numbers that are not finite,
                nonnegative scores with sums close to 1 but not 1, or energies as scores and the like.
        """
        return self._infer(image, scores, unary, terms, exact=False)

    def exact(self, image: Any, scores: Any = None, *, unary: Any = None, terms: Sequence[Pairwise] = ()) -> Any:
        """As calling the CRF, but with exact sums over all pairs of pixels, for up to 10,000 pixels."""
        return self._infer(image, scores, unary, terms, exact=True)

    def _infer(self, image: Any, scores: Any, unary: Any, terms: Sequence[Pairwise], exact: bool) -> Any:
        if (scores is None) == (unary is None):
            raise WavedilError("scores and unary: expected one of them, and not both")
        given = scores if unary is None else unary
        if unary is not None:
            unary = _unflattened(image, unary)
        inputs = read_inputs(image, *((scores, "scores") if unary is None else (unary, "unary energies")))
        if inputs.images is None and self.bilateral_weight:
            raise WavedilError("image is None: expected an image, or bilateral_weight 0 and terms with own features")
        count, (batch, labels) = math.prod(inputs.space), inputs.scores.shape[:2]
        if exact and count > _MAX_EXACT_PIXELS:
            raise WavedilError(
                f"image has {count} pixels: expected at most {_MAX_EXACT_PIXELS} for exact sums; call the CRF"
            )
        penalties = [self._penalty(each.compatibility, labels) for each in terms]
        results = []
        for item, values in enumerate(inputs.scores.detach().float().cpu()):
            logits = log_probabilities(values) if unary is None else logits_of_energies(values)
            colors = None if inputs.images is None else inputs.images[item]
            kernels = self._kernels(colors, inputs.space)
            kernels += [(each.features_for(inputs.space, item, batch), each.weight) for each in terms]
            costs = [self._penalty(None, labels)] * (len(kernels) - len(terms)) + penalties
            used = [(f, weight, cost) for (f, weight), cost in zip(kernels, costs, strict=True) if weight]
            if not used:
                results.append(logits.softmax(0))
                continue
            features, weights, costs = zip(*used, strict=True)
            prepared = features if exact else [build_lattice(f) for f in features]
            infer = exact_mean_field if exact else mean_field
            q = infer(logits.flatten(1), prepared, weights, costs, self.iterations)
            results.append(q.view_as(logits))
        result = results[0] if inputs.is_single else torch.stack(results)
        return result.to(given.device) if isinstance(given, Tensor) else result.numpy()

    def _kernels(self, colors: Tensor | None, space: tuple[int, ...]) -> list[tuple[Tensor, float]]:
        """Features and weight of the Gaussian kernel, and of the bilateral one if there is an image."""
        deviations = self.gaussian_sxy, self.bilateral_sxy, self.bilateral_srgb
        gaussian, bilateral = _kernel_features(colors, *deviations, space)
        return [(gaussian, self.gaussian_weight), (bilateral, self.bilateral_weight)][: 1 + (colors is not None)]

    def _penalty(self, compatibility: Any, labels: int) -> Tensor | None:
        """The matrix of a term; None for the Potts model."""
        found = self.compatibility if compatibility is None else compatibility
        if isinstance(found, str):
            return None
        if len(found) != labels:
            raise WavedilError(
                f"compatibility has {count_text(len(found), 'label')} and scores have {labels}: expected "
                "the same number"
            )
        return found


@register
class CRFRNN(nn.Module):
    """Mean-field inference in a fully connected CRF as a layer with learned weights.

    ``forward(image, scores)`` takes a uint8 image (batch, 3, height, width) and logits (batch, num_classes, height,
    width), or (height, width, 3) and (num_classes, height, width), and returns refined logits of the same shape. Other
    images and volumes are as for :class:`DenseCRF`. Probabilities are not accepted as scores. The computation is on the
    CPU, also for scores on a GPU.

    The learned parameters are ``gaussian_weight`` and ``bilateral_weight`` (num_classes,) and ``compatibility``
    (num_classes, num_classes), which is initialized to the Potts model. The standard deviations are fixed. Gradients
    with respect to scores and weights are exact for the sums on the lattice; there is no gradient with respect to the
    image.

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
        images, batch, is_single = read_inputs(image, scores)
        if images is None:
            raise WavedilError("image is None: expected an image")
        if batch.shape[1] != self.num_classes:
            raise WavedilError(
                f"scores have {count_text(batch.shape[1], 'label')}: expected num_classes {self.num_classes}"
            )
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

    def _refine(
        self, features: Sequence[Tensor], scores: Tensor, weights: list[Tensor], compatibility: Tensor
    ) -> Tensor:
        lattices = [build_lattice(f) for f in features]
        refined = scores
        for _ in range(self.iterations):
            q = torch.softmax(refined, 1)
            message = sum(
                weight * lattice_filter(q, lattice) for weight, lattice in zip(weights, lattices, strict=True)
            )
            refined = scores - message @ compatibility.t()
        return refined


def _kernel_features(
    colors: Tensor | None,
    gaussian_sxy: Deviations,
    bilateral_sxy: Deviations,
    bilateral_srgb: Deviations,
    space: tuple[int, ...] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Features of both kernels in standard deviations: positions, (axes, points), and positions and colors.

    Args:
        colors: (channels, *space); None for the Gaussian kernel only.
        space: positions along each axis, if there are no colors.
    """
    space = tuple(space if colors is None else colors.shape[1:])
    gaussian = _positions(space, gaussian_sxy, "gaussian_sxy")
    if colors is None:
        return gaussian, None
    channels = per_axis_deviations("bilateral_srgb", bilateral_srgb, len(colors), "channels")
    scaled = [channel.float() / deviation for channel, deviation in zip(colors.flatten(1), channels, strict=True)]
    return gaussian, torch.cat([_positions(space, bilateral_sxy, "bilateral_sxy"), torch.stack(scaled)])


def _positions(space: tuple[int, ...], deviation: Deviations, name: str) -> Tensor:
    """Positions in standard deviations, (axes, points), the last axis first."""
    deviations = per_axis_deviations(name, deviation, len(space), "space axes")
    return position_features(space, deviations).flip(0).flatten(1)


def _unflattened(image: Any, unary: Any) -> Any:
    """Energies (labels, points) as (labels, *space) of an image without batch axis; others unchanged."""
    unary = to_tensor("unary", unary)
    if image is not None and unary.ndim == 2:
        pixels = tuple(to_tensor("image", image).shape)
        for space in (pixels[:-1], pixels):
            if math.prod(space) == unary.shape[1]:
                return unary.reshape(len(unary), *space)
    return unary
