"""Inputs of :mod:`wavedil.vision.crf`: layouts of images and scores, unary energies, pairwise terms."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wavedil.core.schema import Positive, Range, check, checked
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError, count_text, shown
from wavedil.ops.memory import check_memory

MIN_PROBABILITY = 1e-5  # as in pydensecrf's unary_from_softmax: a label with probability 0 would stay at 0

Weight = Annotated[float, Range(0, 1e6)]
LabelCount = Annotated[int, Range(2, 2**10)]
Confidence = Annotated[float, Range(0, 1, exclude_low=True, exclude_high=True)]
LabelValue = Annotated[int, Range(-(2**62), 2**62)]
Pixels = Annotated[int, Range(1, 2**31)]
Deviations = Positive | Sequence[Positive]

_IMAGE_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class Pairwise:
    """A pairwise term of :class:`DenseCRF` with any features: ``weight * exp(-|f_i - f_j|^2 / 2)``.

    Args:
        features: tensor or array ``(dims, *space)`` or ``(dims, points)``, the same for all items of a batch; or
            ``(batch, dims, *space)``. Each feature is divided by its standard deviation, e.g. with
            :func:`position_features`.
        weight: weight of the term.
        compatibility: as in :class:`DenseCRF`; None for that of the CRF.

    Raises:
        WavedilError: no numbers, or an invalid weight or compatibility.
    """

    features: Any
    weight: Weight = 1.0
    compatibility: Any = None

    def __post_init__(self) -> None:
        features = to_tensor("features", self.features).detach().float().cpu()
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "weight", check("weight", self.weight, Weight))
        if self.compatibility is not None:
            object.__setattr__(self, "compatibility", read_compatibility(self.compatibility))

    def features_for(self, space: tuple[int, ...], item: int, batch: int) -> Tensor:
        """Features ``(dims, points)`` of one item of a batch.

        Raises:
            WavedilError: features of another size.
        """
        found = self.features
        if found.ndim == len(space) + 2 and len(found) == batch:
            found = found[item]
        if found.ndim < 2 or tuple(found.shape[1:]) not in (space, (math.prod(space),)):
            raise WavedilError(
                f"features have shape {tuple(self.features.shape)}: expected (dims, {', '.join(map(str, space))}), as "
                "the scores have"
            )
        return found.flatten(1)


@checked
def position_features(size: Sequence[Pixels], deviation: Deviations) -> Tensor:
    """Positions in standard deviations, ``(axes, *size)`` float32, for :class:`Pairwise`.

    Args:
        size: positions along each axis, e.g. (depth, height, width).
        deviation: standard deviation in positions, one number or one for each axis, e.g. 3 divided by the spacing.
    """
    if not size:
        raise WavedilError("size is empty: expected positions along each axis, e.g. (depth, height, width)")
    deviations = per_axis_deviations("deviation", deviation, len(size), "axes of size")
    check_memory(8 * len(size) * math.prod(size), f"size is {tuple(size)}", "use a smaller size")
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
    return torch.stack([axis / deviation for axis, deviation in zip(axes, deviations, strict=True)])


@checked
def unary_from_labels(
    labels: Any, num_labels: LabelCount, confidence: Confidence, ignored: LabelValue | None = None
) -> np.ndarray:
    """Unary energies -log p, float32 ``(num_labels, *space)``, of a label map, for ``DenseCRF()(image, unary=...)``.

    The label of a position has the probability ``confidence``, and all others share the rest equally.

    Args:
        labels: integers ``(*space)`` from 0 to ``num_labels - 1``.
        num_labels: number of labels.
        confidence: probability of the label, above 0 and below 1.
        ignored: value of positions without a label, where all labels have the same probability.

    Raises:
        WavedilError: labels out of range, or no integers.
    """
    found = to_tensor("labels", labels, floating=False).cpu().long()
    unknown = torch.zeros_like(found, dtype=torch.bool) if ignored is None else found == ignored
    wrong = found[((found < 0) | (found >= num_labels)) & ~unknown]
    if len(wrong):
        remedy = "; set ignored to the value of positions without a label" if ignored is None else ""
        raise WavedilError(f"labels have the value {int(wrong[0])}: expected 0 to {num_labels - 1}{remedy}")
    energies = np.full((num_labels, *found.shape), -np.log((1 - confidence) / (num_labels - 1)), np.float32)
    found = found.masked_fill(unknown, 0).numpy()
    np.put_along_axis(energies, found[None], -np.log(confidence), 0)
    energies[:, unknown.numpy()] = np.log(num_labels)
    return energies


def unary_from_softmax(probabilities: Any, scale: float | None = None) -> np.ndarray:
    """Unary energies -log p, float32 ``(labels, *space)``. A CRF also accepts the probabilities themselves, as scores.

    Args:
        probabilities: ``(labels, *space)``, clipped at 1e-5.
        scale: confidence in them, above 0 and at most 1: p is replaced by scale * p + (1 - scale) / labels.

    Raises:
        WavedilError: numbers outside [0, 1].
    """
    p = to_tensor("probabilities", probabilities, floating=True).detach().float().cpu()
    if p.ndim < 2 or not p.numel() or not (p.min() >= 0 and p.max() <= 1.001):
        raise WavedilError("probabilities are not from 0 to 1: expected the result of a softmax over the first axis")
    if scale is not None:
        scale = check("scale", scale, Annotated[float, Range(0, 1, exclude_low=True)])
        p = scale * p + (1 - scale) / len(p)
    return (-p.clamp(min=MIN_PROBABILITY).log()).numpy()


def read_compatibility(value: Any) -> Tensor | str:
    """``"potts"``, or the matrix (labels, labels) of costs.

    Raises:
        WavedilError: anything else.
    """
    if isinstance(value, str) and value == "potts":
        return value
    if isinstance(value, str):
        raise WavedilError(f"compatibility is {shown(value)}: expected 'potts', or a matrix")
    matrix = to_tensor("compatibility", value).detach().float().cpu()
    matrix = torch.diag(matrix) if matrix.ndim == 1 else matrix
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.isfinite().all():
        raise WavedilError(
            f"compatibility has shape {tuple(matrix.shape)}: expected 'potts', or finite numbers (labels, labels) or "
            "(labels,), the diagonal"
        )
    return matrix


def per_axis_deviations(name: str, value: Deviations, count: int, what: str) -> tuple[float, ...]:
    """One number for each axis or channel."""
    values = (value,) * count if isinstance(value, int | float) else tuple(value)
    if len(values) != count:
        raise WavedilError(
            f"{name} has {count_text(len(values), 'number')}: expected one, or one for each of {count} {what}"
        )
    return values


class CRFInputs(NamedTuple):
    """Inputs of a CRF with a batch axis.

    Attributes:
        images: ``(batch, channels, *space)`` on the CPU; None if there is no image.
        scores: logits ``(batch, labels, *space)``.
        is_single: whether the scores were given without a batch axis.
    """

    images: Tensor | None
    scores: Tensor
    is_single: bool

    @property
    def space(self) -> tuple[int, ...]:
        return tuple(self.scores.shape[2:])


def read_inputs(image: Any, scores: Any, name: str = "scores") -> CRFInputs:
    """Checks and converts an image (or None) and scores or unary energies; ``name`` is the argument of the latter.

    Raises:
        WavedilError: invalid types or shapes; the message names axes in another order.
    """
    scores = to_tensor(name, scores)
    if not scores.is_floating_point():
        raise WavedilError(f"{name} are {_dtype_name(scores)}: expected floating point, logits before a softmax")
    if image is None:
        images, is_single = None, True
        if scores.ndim < 2:
            raise WavedilError(f"{name} have shape {tuple(scores.shape)}: expected (labels, *space)")
    else:
        image = to_tensor("image", image)
        if image.dtype not in _IMAGE_DTYPES:
            raise WavedilError(
                f"image is {_dtype_name(image)}: expected uint8, 0 to 255, before any normalization, or other integers "
                "in the unit of bilateral_srgb; for real numbers pass image None and terms=[Pairwise(features)]"
            )
        images, is_single = _with_batch(image, scores, name)
    batch = scores[None] if is_single else scores
    if not batch.numel():
        raise WavedilError(f"{name} have shape {tuple(scores.shape)}: expected at least one pixel")
    if batch.shape[1] < 2:
        raise WavedilError(f"{name} have 1 label: expected at least 2; pass both scores of a binary problem")
    if not all(bound.isfinite() for bound in torch.aminmax(batch.detach())):
        raise WavedilError(f"{name} contain NaN or infinity: expected finite numbers")
    return CRFInputs(None if images is None else images.cpu(), batch, is_single)


def _with_batch(image: Tensor, scores: Tensor, name: str) -> tuple[Tensor, bool]:
    """The image as ``(batch, channels, *space)``, and whether image and scores have no batch axis."""
    pixels, found = tuple(image.shape), tuple(scores.shape)
    gray = len(pixels) >= 2 and pixels == found[1:]
    channels_last = len(pixels) >= 3 and pixels[:-1] == found[1:]
    if len(pixels) >= 4 and len(pixels) == len(found) and pixels[:1] + pixels[2:] == found[:1] + found[2:]:
        return image, False
    if channels_last:
        return image.movedim(-1, 0)[None], True
    if gray:
        return image[None, None], True
    raise WavedilError(_layout_error(pixels, found, name))


def _layout_error(pixels: tuple[int, ...], found: tuple[int, ...], name: str) -> str:
    """Why the shapes of an image and of scores do not fit."""
    space = pixels[:-1] if len(pixels) == len(found) else pixels  # of an image without batch axis
    axes = {1: "width", 2: "height, width", 3: "depth, height, width"}
    one = f"(labels, {axes.get(len(space), '*space')})"
    many = f"(batch, labels, {axes.get(len(found) - 2, '*space')})"
    if min(len(pixels), len(found) - 1) < 2:
        return f"image has shape {pixels} and {name} have shape {found}: expected at least two space axes"
    if found[:-1] == space or found[:-1] == pixels[:-1] and len(pixels) == len(found):
        return f"{name} have shape {found}: expected {one}; move the last axis to the front: np.moveaxis(x, -1, 0)"
    if len(pixels) == len(found) > 2:
        if pixels[0] == found[0] and pixels[2:] == found[1:-1]:
            return f"{name} have shape {found}: expected {many}; move the last axis: np.moveaxis(x, -1, 1)"
        if pixels[0] == found[0] and pixels[1:-1] == found[2:]:
            return f"image has shape {pixels}: expected (batch, channels, *space); np.moveaxis(image, -1, 1) moves them"
        if pixels[1:] == found[1:]:
            expected = "(height, width, 3) or (batch, 3, height, width)" if len(pixels) == 3 else "(*space, channels)"
            return f"image has shape {pixels}: expected {expected}; np.moveaxis(image, 0, -1) moves the channels"
    if sorted(space) == sorted(found[1:]):
        return f"image is {_size(space)} and {name} are {_size(found[1:])}: axes are in another order; transpose {name}"
    if len(pixels) == len(found):
        parts = (pixels[:-1], found[1:]) if len(pixels) < 4 else (pixels[:1] + pixels[2:], found[:1] + found[2:])
        sizes = [_size(part) for part in parts]
        return f"image is {sizes[0]} and {name} are {sizes[1]}: expected the same size; resize the {name}"
    if len(pixels) == len(found) - 1 and pixels[-1] not in (1, 3, 4):
        sizes = _size(pixels), _size(found[1:])
        return f"image is {sizes[0]} and {name} are {sizes[1]}: expected the same size; resize the {name}"
    expected = one if len(space) != 3 else "(labels, height, width)"
    return f"image has shape {pixels} and {name} have shape {found}: expected {expected} for this shape of image"


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def log_probabilities(scores: Tensor) -> Tensor:
    """Logits ``(labels, *space)`` unchanged; the logarithm of probabilities.

    Raises:
        WavedilError: unary energies, or sums close to 1 but not 1.
    """
    if scores.min() < 0:
        return scores
    deviation = _deviation(scores)
    if deviation > 0.1:
        if is_energy(scores):
            raise WavedilError(
                "scores are at least 0 and exp(-scores) sums to 1 at each pixel: these are unary energies, -log p, as "
                "pydensecrf takes them; pass them as unary=, or -energies as scores"
            )
        return scores
    if deviation > 0.01:
        raise WavedilError(
            f"scores are at least 0 and their sums at each pixel differ from 1 by up to {deviation:.2g}: expected "
            "probabilities that sum to 1, or logits"
        )
    return scores.clamp(min=MIN_PROBABILITY).log()


def logits_of_energies(unary: Tensor) -> Tensor:
    """-unary, ``(labels, *space)``.

    Raises:
        WavedilError: the numbers are probabilities or their logarithms.
    """
    kinds = {"probabilities": unary.min() >= 0 and _deviation(unary) < 0.01, "log-probabilities": is_energy(-unary)}
    for kind, matches in kinds.items():
        if matches:
            raise WavedilError(f"unary holds {kind}: expected energies, -log p; pass these as scores")
    return -unary


def is_energy(values: Tensor) -> bool:
    """Whether ``values (labels, *space)`` are -log p, perhaps of probabilities clipped at 1e-5."""
    return bool(values.min() >= 0) and _deviation(torch.exp(-values)) < 0.01 + MIN_PROBABILITY * len(values)


def _deviation(values: Tensor) -> float:
    return (values.sum(0) - 1).abs().max().item()


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
