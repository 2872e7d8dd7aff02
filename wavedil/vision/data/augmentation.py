"""Crops that contain rare classes, and transforms of torchvision for images and masks together."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from wavedil.core.schema import Range
from wavedil.errors import WavedilError, count_text, first_line, one_of, with_article
from wavedil.extras import install
from wavedil.weights import register


@register
class ClassBalance:
    """Chooses crops so that rare classes are in them with a known probability.

    With ``probability``, a crop is chosen for a class: the class is drawn from ``classes``, each with the same
    probability; the image, from the training images that have a pixel of the class, each with the same probability;
    and a pixel of the class in the image, each with the same probability. The place of the crop is then uniformly
    distributed over all places that contain this pixel. Otherwise, the crop is the one that would be used without a
    ``ClassBalance``. So each of n classes is in at least ``probability / n`` of the crops. This is exact for the part
    of the image that a crop shows; resizing it, and transforms, may remove a class of few pixels.

    Args:
        probability: of choosing a crop for a class.
        classes: names of the classes; null: all that are in the training masks.
    """

    def __init__(self, probability: Annotated[float, Range(0, 1)] = 0.5, classes: Sequence[str] | None = None):
        if classes is not None and not classes:
            raise WavedilError("classes of ClassBalance is []: expected names of classes, or null for all")
        self.probability, self.classes = probability, classes
        self._images: list[tuple[int, np.ndarray]] = []

    def set_counts(self, counts: Tensor, names: Sequence[str]) -> None:
        """Sets the number of pixels of each class in each training image, ``(images, classes)``.

        Raises:
            WavedilError: a class is unknown, or not in the images.
        """
        for name in self.classes or ():
            if name not in names:
                raise WavedilError(f"classes of ClassBalance has {name!r}: expected {one_of(name, names, some=True)}")
        present = [(label, np.flatnonzero(counts[:, label].numpy())) for label in range(len(names))]
        chosen = names if self.classes is None else self.classes
        self._images = [(label, images) for label, images in present if names[label] in chosen and len(images)]
        missing = [name for name in self.classes or () if name not in [names[label] for label, _ in self._images]]
        if missing:
            raise WavedilError(f"classes of ClassBalance has {missing[0]!r}, which no training mask has: leave it out")

    def choose(self, generator: np.random.Generator) -> tuple[int, int] | None:
        """Number of an image, and the class that the crop must contain; None for a crop without a chosen class."""
        if generator.random() >= self.probability:
            return None
        label, images = self._images[generator.integers(len(self._images))]
        return int(images[generator.integers(len(images))]), label


class JointTransforms:
    """Transforms of ``torchvision.transforms.v2``, applied to a crop and its ground truth together.

    Geometric transforms of the ground truth take the nearest pixel, and ``fill_value`` where they fill the crop.

    Args:
        transforms: applied in order.
        fill_value: of the ground truth.

    Raises:
        WavedilError: torchvision is missing, or a transform is not one of ``torchvision.transforms.v2``.
    """

    def __init__(self, transforms: Sequence[nn.Module], fill_value: float):
        try:
            from torchvision import tv_tensors
            from torchvision.transforms import v2
        except (ImportError, OSError, RuntimeError):  # the last two: built for another torch version
            raise WavedilError(f"transforms needs torchvision: {install('torchvision')}") from None
        self.transforms, self.fill_value = list(transforms), fill_value
        for transform in _with_parts(self.transforms):
            if not isinstance(transform, v2.Transform):
                raise WavedilError(
                    f"transforms has {with_article(transform)}: expected those of torchvision.transforms.v2, which "
                    "change the mask together with the image"
                )
            for module in transform.modules():
                if hasattr(module, "_fill"):  # not public: only this sets the fill of masks alone
                    module._fill = {**module._fill, tv_tensors.Mask: 0}

    def __call__(self, image: Tensor, truth: Tensor, seed: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The transformed image ``(channels, height, width)`` and ground truth ``(height, width)``.

        Args:
            seed: of all random numbers; those of the process are left unchanged.

        Raises:
            WavedilError: a transform fails, or returns another size, type, or range of pixels.
        """
        from torchvision import tv_tensors

        # A second map is 1 where the ground truth is known: some transforms fill with 0 whatever their options are.
        pair = tv_tensors.Image(image), tv_tensors.Mask(torch.stack([truth, torch.ones_like(truth)]))
        with _seeded(seed):
            for transform in self.transforms:
                name = type(transform).__name__
                try:
                    pair = transform(*pair)
                except Exception as error:  # transforms raise errors of many kinds, e.g. for four bands
                    raise WavedilError(
                        f"transforms: {name} fails for an image of shape {tuple(image.shape)} ({first_line(error)})"
                    ) from None
                if not all(isinstance(each, Tensor) for each in pair) or pair[0].dtype != torch.float32:
                    found = " and ".join(str(getattr(each, "dtype", type(each).__name__)) for each in pair)
                    raise WavedilError(
                        f"transforms: {name} returns {found}: expected a torch.float32 tensor and its mask; leave out "
                        "transforms of the type"
                    )
                if pair[0].shape != image.shape or pair[1].shape[1:] != truth.shape:
                    found, expected = (_size(each) for each in (pair[0], image))
                    raise WavedilError(f"transforms: {name} returns {found}: expected {expected}, the crop")
                # Arithmetic makes plain tensors, and a transform would leave a plain tensor that is the mask unchanged.
                pair = tv_tensors.Image(pair[0]), tv_tensors.Mask(pair[1])
        low, high = float(pair[0].amin()), float(pair[0].amax())
        if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):
            names = ", ".join(type(each).__name__ for each in self.transforms)
            raise WavedilError(
                f"transforms: {names} return pixels from {low:.4g} to {high:.4g}: expected 0 to 1; set fill to such a "
                "value, and leave out Normalize, which the network does"
            )
        truth, known = pair[1].as_subclass(Tensor)
        return pair[0].as_subclass(Tensor), torch.where(known == 1, truth, self.fill_value)


_OVERSHOOT = 0.5  # of bicubic interpolation at edges


def _size(image: Tensor) -> str:
    bands, height, width = image.shape
    return f"{height} x {width} pixels of {count_text(bands, 'band')}"


def _with_parts(transforms: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """Transforms, and those that they apply: containers of torchvision hold them in plain lists."""
    for transform in transforms:
        yield transform
        yield from _with_parts(getattr(transform, "transforms", ()))


@contextmanager
def _seeded(seed: Sequence[int]) -> Iterator[None]:
    """Seeds the random numbers on the CPU of torch, NumPy and Python, and restores their states afterwards."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    first, second, third = np.random.SeedSequence(seed).generate_state(3).tolist()
    torch.default_generator.manual_seed(first)  # torch.manual_seed would also seed the GPU
    np.random.seed(second)
    random.seed(third)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
