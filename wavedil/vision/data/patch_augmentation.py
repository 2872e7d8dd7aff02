"""Augmentation of patches of volumes: flips, rotations by 90 degrees, and changes of intensity."""

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np

from wavedil.core.schema import Range
from wavedil.errors import WavedilError
from wavedil.weights import register

AXES = ("depth", "height", "width")
#: Voxel sizes of two axes that are equal up to this share may be exchanged.
_EQUAL = 0.01
Exponent = Annotated[float, Range(0, 10, exclude_low=True)]


@register
class PatchAugmentation:
    """Random changes of patches of volumes, after the normalization.

    In this order: mirror images; rotations by multiples of 90 degrees; a contrast of gamma; factor, offset and noise of
    the intensities. Labels follow the mirror images and rotations. The random numbers of each channel are drawn alone.

    Args:
        flip: axes along which half of the patches are mirrored.
        rotate: rotate in each plane of two axes in which the patch has equal sides, and the volume equal voxel sizes up
            to 1 %; each of the four orientations has the same probability.
        scale: intensities are multiplied by a factor from 1 - scale to 1 + scale.
        shift: a number from -shift to shift is added to them.
        noise: maximum standard deviation of the normal noise that is added to them; its minimum is 0.
        gamma: minimum and maximum exponent of the intensities, which are mapped to [0, 1] and back for it; its
            logarithm is uniformly distributed. Null: no such change.

    Raises:
        WavedilError: unknown axes, or a minimum above the maximum.
    """

    def __init__(
        self,
        flip: Sequence[Literal["depth", "height", "width"]] = AXES,
        rotate: bool = True,
        scale: Annotated[float, Range(0, 1)] = 0.1,
        shift: Annotated[float, Range(0, 1e3)] = 0.1,
        noise: Annotated[float, Range(0, 1e3)] = 0.0,
        gamma: tuple[Exponent, Exponent] | None = None,
    ):
        if gamma is not None and gamma[0] > gamma[1]:
            raise WavedilError(f"gamma is {list(gamma)}: expected [minimum, maximum] exponent")
        self.flip, self.rotate, self.scale, self.shift, self.noise = tuple(flip), rotate, scale, shift, noise
        self.gamma = gamma

    def __call__(
        self,
        image: np.ndarray,
        labels: np.ndarray,
        voxel_size: Sequence[float],
        generator: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The changed patch ``(channels, depth, height, width)`` float32 and its labels ``(depth, height, width)``.

        Args:
            voxel_size: of the volume, along (depth, height, width).
            generator: of all random numbers.
        """
        mirrored = [axis for axis in range(3) if AXES[axis] in self.flip and generator.integers(2)]
        turns = [(plane, int(generator.integers(4))) for plane in self._planes(labels.shape, voxel_size)]
        image = np.flip(image, [axis + 1 for axis in mirrored])
        labels = np.flip(labels, mirrored)
        for (one, other), turn in turns:
            image = np.rot90(image, turn, (one + 1, other + 1))
            labels = np.rot90(labels, turn, (one, other))
        # Copies, since torch takes no negative stride.
        return self._changed_intensities(np.array(image, order="C"), generator), np.array(labels, order="C")

    def _planes(self, size: Sequence[int], voxel_size: Sequence[float]) -> list[tuple[int, int]]:
        return [
            (one, other)
            for one, other in itertools.combinations(range(3), 2)
            if self.rotate
            and size[one] == size[other]
            and abs(voxel_size[one] - voxel_size[other]) <= _EQUAL * max(voxel_size[one], voxel_size[other])
        ]

    def _changed_intensities(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        def draw(low: float, high: float) -> np.ndarray:
            return generator.uniform(low, high, (len(image), 1, 1, 1)).astype(np.float32)

        if self.gamma is not None:
            exponent = np.exp(draw(*np.log(self.gamma)))
            low, high = (each(image, axis=(1, 2, 3), keepdims=True) for each in (np.min, np.max))
            width = np.where(high > low, high - low, 1)  # a constant patch stays as it is
            image = ((image - low) / width) ** exponent * width + low
        image = image * draw(1 - self.scale, 1 + self.scale) + draw(-self.shift, self.shift)
        if self.noise:
            image += draw(0, self.noise) * generator.standard_normal(image.shape, np.float32)
        return image
