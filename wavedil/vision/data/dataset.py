"""Datasets of images with masks or targets, and random crops of them."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from wavedil.errors import WavedilError
from wavedil.skipped import SkippedFiles
from wavedil.vision.data.augmentation import ClassBalance, JointTransforms
from wavedil.vision.data.images import (
    full_scale,
    read_image,
    read_target,
    resize,
    resize_mask,
    scaled_pixels,
    scaled_size,
)
from wavedil.vision.data.labels import IGNORED, Ignored, LabelScheme, Value
from wavedil.vision.data.pairs import ImagePair
from wavedil.vision.data.palette import Color

CACHE_BYTES = 2**30  # maximum size of the decoded images in memory
MEAN_COLOR = (124, 116, 104)  # mean of ImageNet


class ImageDataset(Dataset[dict[str, Tensor]]):
    """Images with ground truth at every pixel. Decoded images are cached in memory, up to 1 GiB.

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
        self.pairs, self.scale, self.channels = list(pairs), scale, channels
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        image, truth = self.read(index)
        return self.make_item(scaled_pixels(image), torch.from_numpy(truth))

    def read(self, index: int, cache: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Image ``(height, width, channels)`` and ground truth ``(height, width)``, from the cache if possible."""
        if index in self._cache:
            return self._cache[index]
        image = read_image(self.pairs[index].image, self.channels)
        image, truth = resize(image, scaled_size(image.shape[:2], self.scale)), self.read_truth(index)
        if image.shape[:2] != truth.shape:
            pair = self.pairs[index]
            raise WavedilError(
                f"{pair.mask} has the size {truth.shape} and {pair.image} {image.shape[:2]}: expected the same "
                "(height, width); was one of them replaced?"
            )
        size = image.nbytes + truth.nbytes
        if cache and self._cached_bytes + size <= CACHE_BYTES:
            self._cached_bytes += size
            self._cache[index] = image, truth
        return image, truth

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
        mask = pair.read_mask(colors=True) if self.label_scheme.by_color else _read_gray_mask(pair)
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


class RandomImageCrops(Dataset[dict[str, Tensor]]):
    """Random crops of images, randomly scaled and mirrored.

    Each image is used once before any is used again. Item i depends only on ``seed``, i and the files, so a run that
    resumes after n items sees the same crops as an uninterrupted one. If an image or its mask cannot be read, a random
    other image replaces it, up to ``max_skipped`` images; see :class:`wavedil.skipped.SkippedFiles`.

    Args:
        images: the images to crop.
        size: (height, width) of the crops. If the scaled image is smaller, it is padded on all sides with the mean
            color of ImageNet, or its mean if it is not RGB, and the ground truth with ``images.fill_value`` (ignored or
            unknown).
        scales: smallest and largest scale factor; its logarithm is uniformly distributed between them.
        flip: mirror half of the crops left to right.
        balance: chooses some of the crops for a class, see :class:`wavedil.vision.ClassBalance`; None for none.
        transforms: transforms of ``torchvision.transforms.v2`` for image and mask; their random numbers depend on
            ``seed`` and i.
        seed: any non-negative integer.
        max_skipped: largest number of images that cannot be read.
    """

    def __init__(
        self,
        images: ImageDataset,
        size: tuple[int, int],
        *,
        scales: tuple[float, float] = (0.5, 2.0),
        flip: bool = True,
        balance: ClassBalance | None = None,
        transforms: Sequence[nn.Module] | None = None,
        seed: int = 0,
        max_skipped: int = 0,
    ):
        if len(size) != 2 or min(size) < 1:
            raise WavedilError(f"crop is {list(size)}: expected [height, width] in pixels")
        if len(scales) != 2 or not 0 < scales[0] <= scales[1] < math.inf:
            raise WavedilError(f"scales is {list(scales)}: expected [smallest, largest] scale factor, above 0")
        self.balance = balance
        self.transforms = JointTransforms(transforms, images.fill_value) if transforms else None
        self.images, self.size, self.scales, self.flip = images, tuple(size), tuple(scales), flip
        self.seed, self.skipped = seed, SkippedFiles(len(images), max_skipped)

    def __len__(self) -> int:
        return 2**31

    def _image(self, index: int, attempt: int) -> tuple[int, int | None]:
        """Number of the image of item ``index``, or of its replacement number ``attempt``, and the class to contain."""
        if self.balance is not None:
            chosen = self.balance.choose(np.random.default_rng([self.seed, 3, index, attempt]))
            if chosen is not None:
                return chosen
        return self._unbalanced(index, attempt), None

    def _unbalanced(self, index: int, attempt: int) -> int:
        if attempt:
            return int(np.random.default_rng([self.seed, 2, index, attempt]).integers(len(self.images)))
        epoch, position = divmod(index, len(self.images))
        return int(np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.images))[position])

    def origin(self, index: int) -> str:
        """Image file of crop ``index``, for messages."""
        return str(self.images.pairs[self.skipped.origin(lambda attempt: self._image(index, attempt))[0]].image)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"crop {index} of {len(self)}")
        image, truth, label = self.skipped.read(lambda attempt: self._image(index, attempt), self._read)
        generator = np.random.default_rng([self.seed, 1, index])
        low, high = np.log(self.scales)
        scale = float(np.exp(generator.uniform(low, high)))
        # The crop in pixels of the unscaled image; it may extend beyond the image.
        window = [max(1, round(side / scale)) for side in self.size]
        slack = [side - part for side, part in zip(truth.shape, window, strict=True)]
        places = [(min(0, s), max(0, s)) for s in slack]  # first and last start of the crop
        pixels = np.argwhere(truth == label) if label is not None else ()
        if len(pixels):
            pixel = pixels[np.random.default_rng([self.seed, 4, index]).integers(len(pixels))].tolist()
            places = [
                (max(low, at - side + 1), min(high, at))
                for (low, high), at, side in zip(places, pixel, window, strict=True)
            ]
        start = [int(generator.integers(low, high + 1)) for low, high in places]
        mirrored = self.flip and bool(generator.integers(2))
        fill = MEAN_COLOR if image.shape[2] == 3 else image.mean((0, 1)).astype(image.dtype)
        image = scaled_pixels(_crop(image, start, window, fill)).unsqueeze(0)
        image = F.interpolate(image, self.size, mode="bilinear", antialias=scale < 1, align_corners=False)[0]
        truth = torch.from_numpy(_crop(truth, start, window, self.images.fill_value))[None, None].float()
        truth = F.interpolate(truth, self.size, mode="nearest-exact")[0, 0]
        image, truth = (image.flip(-1), truth.flip(-1)) if mirrored else (image, truth)
        if self.transforms is not None:
            truth = truth.to(torch.uint8) if self.images.fill_value == IGNORED else truth
            image, truth = self.transforms(image, truth, [self.seed, 5, index])
        return self.images.make_item(image, truth)

    def _read(self, number: int, label: int | None) -> tuple[np.ndarray, np.ndarray, int | None]:
        return (*self.images.read(number), label)


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
    if classes is None and mask_values is not None:
        classes = len(mask_values)
    if classes is None:
        counts = count_values(pairs)
        ignored = ignore_label if isinstance(ignore_label, list | tuple) else [ignore_label]
        for value in ignored:
            if isinstance(value, int) and value < len(counts):
                counts[value] = 0
        values = np.flatnonzero(counts).tolist()
        # A missing number is either a class that occurs in no image or the sign of a stray value.
        if len(values) < 2 or values != list(range(len(values))) or values[-1] >= IGNORED:
            listed = ", ".join(map(str, values[:10])) + (" ..." if len(values) > 10 else "")
            raise WavedilError(
                f"{pairs[0].mask.parent}: masks have {f'values {listed}' if values else 'no value'} besides the "
                f"ignore_label {ignore_label!r}: expected 0, 1, 2 ...; set classes to their number or names, or "
                "mask_values to their values, e.g. mask_values [0, 255] and ignore_label null"
            )
        classes = values[-1] + 1
    names = [str(label) for label in range(classes)] if isinstance(classes, int) else list(classes)
    return LabelScheme(names, mask_values, ignore_label, palette)


def count_values(pairs: Sequence[ImagePair]) -> np.ndarray:
    """Number of pixels of each gray value over all masks, ``(largest value + 1,)``.

    Raises:
        WavedilError: naming the file, for a mask in color.
    """
    counts = np.zeros(1, np.int64)
    for pair in pairs:
        found = np.bincount(_read_gray_mask(pair).ravel())
        counts, found = sorted((counts, found), key=len, reverse=True)
        counts[: len(found)] += found
    return counts


def _crop(pixels: np.ndarray, start: Sequence[int], size: Sequence[int], fill: Sequence[int] | float) -> np.ndarray:
    """A crop of ``(height, width, ...)`` pixels, with ``fill`` where it extends beyond the image."""
    out = np.empty((*size, *pixels.shape[2:]), pixels.dtype)
    out[:] = fill
    rows, columns = (slice(max(0, s), max(0, s + n)) for s, n in zip(start, size, strict=True))
    part = pixels[rows, columns]
    row, column = max(0, -start[0]), max(0, -start[1])
    out[row : row + part.shape[0], column : column + part.shape[1]] = part
    return out


def _read_gray_mask(pair: ImagePair) -> np.ndarray:
    mask = pair.read_mask(colors=False)
    if mask.min() < 0 or mask.max() >= 2**16:
        raise WavedilError(f"{pair.mask} has values from {mask.min()} to {mask.max()}: expected 0 to 65535")
    return mask
