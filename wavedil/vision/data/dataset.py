"""Data sets of images with masks or targets."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from wavedil.errors import WavedilError
from wavedil.vision.data.images import read_image, read_target
from wavedil.vision.data.labels import IGNORED, Ignored, LabelScheme, Value
from wavedil.vision.data.pair_dataset import PairDataset
from wavedil.vision.data.pairs import ImagePair
from wavedil.vision.data.palette import Color
from wavedil.vision.data.pixels import full_scale, resize, resize_mask, scaled_pixels, scaled_size


class ImageDataset(PairDataset):
    """Images with ground truth at every pixel.

    Subclasses define ``read_truth``, ``make_item`` and ``fill_value``.

    Args:
        pairs: image and mask files.
        scale: images and masks are resized by this factor when they are read.
        channels: bands of the images, those of the network; see :func:`wavedil.vision.read_image`.
    """

    #: Ground truth outside the image in random crops.
    fill_value: float

    def __init__(self, pairs: Sequence[ImagePair], scale: float = 1.0, channels: int = 3):
        if not 0 < scale <= 16:
            raise WavedilError(f"scale is {scale}: expected a resize factor above 0 and at most 16")
        super().__init__(pairs)
        self.scale, self.channels = scale, channels

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image ``(height, width, channels)`` and ground truth ``(height, width)``."""
        image = read_image(self.pairs[index].image, self.channels)
        image, truth = resize(image, scaled_size(image.shape[:2], self.scale)), self.read_truth(index)
        if image.shape[:2] != truth.shape:
            pair = self.pairs[index]
            raise WavedilError(
                f"{pair.mask} has the size {truth.shape} and {pair.image} {image.shape[:2]}: expected the same "
                "(height, width); was one of them replaced?"
            )
        return image, truth

    def item(self, image: np.ndarray, truth: np.ndarray) -> dict[str, Tensor]:
        return self.make_item(scaled_pixels(image), torch.from_numpy(truth))

    def read_truth(self, index: int) -> np.ndarray:
        """Reads the ground truth of an image, resized by ``scale``, ``(height, width)``."""
        raise NotImplementedError

    def band_statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each band in [0, 1], over at most 200 evenly spaced images."""
        count, sums, squares = 0, 0.0, 0.0
        for index in range(0, len(self), -(-len(self) // 200)):
            image = self.read(index)[0]
            values = image.reshape(-1, image.shape[2]).astype(np.float64) / full_scale(image)
            count, sums, squares = count + len(values), sums + values.sum(0), squares + np.square(values).sum(0)
        deviations = np.sqrt((squares / count - (sums / count) ** 2).clip(min=0))
        return (sums / count).tolist(), np.where(deviations > 1e-6, deviations, 1.0).tolist()

    @staticmethod
    def make_item(image: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """The item of an image ``(channels, height, width)`` in [0, 1] and its ground truth ``(height, width)``."""
        raise NotImplementedError


class SegmentationDataset(ImageDataset):
    """Images with class labels, for validation and evaluation.

    Items are ``{"image": float32 (channels, height, width) in [0, 1], "labels": int64 (height, width)}``; ignored
    pixels have label 255.

    Args:
        pairs: image and mask files.
        label_scheme: encoding of the classes in the masks.
        scale, channels: see :class:`ImageDataset`.
    """

    fill_value = IGNORED

    def __init__(self, pairs: Sequence[ImagePair], label_scheme: LabelScheme, scale: float = 1.0, channels: int = 3):
        super().__init__(pairs, scale, channels)
        self.label_scheme = label_scheme

    def read_truth(self, index: int) -> np.ndarray:
        pair = self.pairs[index]
        mask = read_values(pair, self.label_scheme.by_color)
        return self.label_scheme.encode(resize_mask(mask, scaled_size(mask.shape[:2], self.scale)), pair.mask)

    @staticmethod
    def make_item(image: Tensor, truth: Tensor) -> dict[str, Tensor]:
        return {"image": image, "labels": truth.long()}

    def count_labels(self, progress: Callable[[int, int], None] | None = None) -> Tensor:
        """Number of pixels of each class in each image, int64 ``(images, num_classes)``."""
        rows = []
        for index in range(len(self)):
            labels = self._cache[index][1] if index in self._cache else self.read_truth(index)
            counts = np.bincount(labels.ravel(), minlength=IGNORED + 1)
            rows.append(counts[: len(self.label_scheme.classes)])
            if progress is not None:
                progress(index + 1, len(self))
        return torch.from_numpy(np.stack(rows))


class RegressionDataset(ImageDataset):
    """Images with a target value at every pixel.

    Items are ``{"image": float32 (channels, height, width) in [0, 1], "targets": float32 (height, width)}``. Targets
    that are 0, NaN or infinite in the file are unknown: NaN.

    Args:
        pairs: image and target files; see :func:`wavedil.vision.data.images.read_target`.
        step: value of one gray level of a target image.
        scale, channels: see :class:`ImageDataset`.
    """

    fill_value = float("nan")

    def __init__(self, pairs: Sequence[ImagePair], step: float = 1.0, scale: float = 1.0, channels: int = 3):
        super().__init__(pairs, scale, channels)
        if not 0 < step < math.inf:
            raise WavedilError(f"step is {step}: expected the value of one gray level of a target, above 0")
        self.step = step

    def read_truth(self, index: int) -> np.ndarray:
        values = read_target(self.pairs[index].mask, self.step)
        return resize_mask(values, scaled_size(values.shape, self.scale))

    @staticmethod
    def make_item(image: Tensor, truth: Tensor) -> dict[str, Tensor]:
        return {"image": image, "targets": truth}

    def target_statistics(self) -> tuple[int, float, float]:
        """Number of pixels with a known target, and the mean and standard deviation of their targets."""
        count, total, squares = 0, 0.0, 0.0
        for index in range(len(self)):
            values = self.read_truth(index).astype(np.float64)
            known = values[~np.isnan(values)]
            count, total, squares = count + len(known), total + known.sum(), squares + np.square(known).sum()
        mean = total / max(count, 1)
        return count, float(mean), float(np.sqrt(max(0.0, squares / max(count, 1) - mean**2)))


def find_label_scheme(
    pairs: Sequence[ImagePair],
    classes: Sequence[str] | int | None = None,
    mask_values: Sequence[Value] | None = None,
    ignore_label: Ignored = IGNORED,
    palette: Sequence[Color] | None = None,
) -> LabelScheme:
    """The label scheme of a dataset; counts the classes in the masks by default.

    Args:
        classes: class names, or their number. Default: the number of ``mask_values``, or else of the values in the
            masks.
        mask_values, ignore_label, palette: see :class:`LabelScheme`.

    Raises:
        WavedilError: the masks have fewer than two classes, or their values are not 0, 1, 2 and so on.
    """
    scheme = known_scheme(classes, mask_values, ignore_label, palette)
    if scheme is None:
        classes = count_classes(count_values(pairs), ignore_label, str(pairs[0].mask.parent))
        scheme = known_scheme(classes, mask_values, ignore_label, palette)
    return scheme


def known_scheme(
    classes: Sequence[str] | int | None,
    mask_values: Sequence[Value] | None,
    ignore_label: Ignored,
    palette: Sequence[Color] | None,
) -> LabelScheme | None:
    """As :func:`find_label_scheme`; None if the classes have to be counted in the masks."""
    if classes is None and mask_values is None:
        return None
    classes = len(mask_values) if classes is None else classes
    names = [str(label) for label in range(classes)] if isinstance(classes, int) else list(classes)
    return LabelScheme(names, mask_values, ignore_label, palette)


def count_classes(counts: np.ndarray, ignore_label: Ignored, source: str) -> int:
    """Number of classes of masks by the number of pixels of each gray value.

    Raises:
        WavedilError: there are fewer than two, or their values are not 0, 1, 2 and so on; ``source`` names the masks.
    """
    counts = counts.copy()
    for value in ignore_label if isinstance(ignore_label, list | tuple) else [ignore_label]:
        if isinstance(value, int) and value < len(counts):
            counts[value] = 0
    values = np.flatnonzero(counts).tolist()
    # A missing number is either a class that occurs in no image or the sign of a stray value.
    if len(values) < 2 or values != list(range(len(values))) or values[-1] >= IGNORED:
        listed = ", ".join(map(str, values[:10])) + (" ..." if len(values) > 10 else "")
        raise WavedilError(
            f"{source}: masks have {f'values {listed}' if values else 'no value'} besides the "
            f"ignore_label {ignore_label!r}: expected 0, 1, 2 ...; set classes to their number or names, or "
            "mask_values to their values, e.g. mask_values [0, 255] and ignore_label null"
        )
    return len(values)


def count_values(pairs: Sequence[ImagePair]) -> np.ndarray:
    """Number of pixels of each gray value over all masks, ``(largest value + 1,)``.

    Raises:
        WavedilError: naming the file, for a mask in color.
    """
    counts = np.zeros(1, np.int64)
    for pair in pairs:
        found = np.bincount(read_values(pair).ravel())
        counts, found = sorted((counts, found), key=len, reverse=True)
        counts[: len(found)] += found
    return counts


def read_values(pair: ImagePair, by_color: bool = False) -> np.ndarray:
    """The gray values ``(height, width)`` of a mask, 0 to 65535, or its colors ``(height, width, 3)``.

    Raises:
        WavedilError: naming the file.
    """
    mask = pair.read_mask(colors=by_color)
    if not by_color and (mask.min() < 0 or mask.max() >= 2**16):
        raise WavedilError(f"{pair.mask} has values from {mask.min()} to {mask.max()}: expected 0 to 65535")
    return mask
