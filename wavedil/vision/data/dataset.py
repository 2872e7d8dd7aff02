"""Images and masks as data: their classes, whole images, random crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from wavedil.errors import WavedilError
from wavedil.vision.data.images import read_image, read_mask, read_target, resize, resize_mask, scaled_size
from wavedil.vision.data.labels import IGNORED, LabelScheme
from wavedil.vision.data.pairs import Pair

CACHE_BYTES = 2**30  # of decoded images that are kept
MEAN_COLOR = (124, 116, 104)  # of ImageNet


def count_values(pairs: Sequence[Pair]) -> np.ndarray:
    """How many pixels of all masks have each gray value, ``(highest + 1,)``.

    Raises:
        WavedilError: a mask in color, naming it.
    """
    counts = np.zeros(1, np.int64)
    for pair in pairs:
        found = np.bincount(_gray(pair.mask).ravel())
        counts, found = sorted((counts, found), key=len, reverse=True)
        counts[: len(found)] += found
    return counts


def scheme_of(
    pairs: Sequence[Pair],
    classes: Sequence[str] | int | None = None,
    mask_values: Sequence | None = None,
    ignore_label=IGNORED,
    palette: Sequence | None = None,
) -> LabelScheme:
    """The label scheme of a data set: what is not said of its classes is read from its masks.

    Args:
        classes: names, their number, or None: as many as ``mask_values`` lists, or up to the highest value in a mask.
        mask_values, ignore_label, palette: see :class:`LabelScheme`.

    Raises:
        WavedilError: masks that leave no or one class, or whose values leave a number out.
    """
    if classes is None and mask_values is not None:
        classes = len(mask_values)
    if classes is None:
        counts = count_values(pairs)
        if isinstance(ignore_label, int) and ignore_label < len(counts):
            counts[ignore_label] = 0
        values = np.flatnonzero(counts).tolist()
        shown = ", ".join(map(str, values[:10])) + (" …" if len(values) > 10 else "")
        # A number that is left out is a class that no image shows, or a stray value: only the user knows.
        if len(values) < 2 or values != list(range(len(values))) or values[-1] >= IGNORED:
            raise WavedilError(
                f"{pairs[0].mask.parent}: {f'values {shown}' if values else 'no value'} besides the ignore_label "
                f"{ignore_label!r}, which are not classes 0, 1, 2 …: say how many or which there are with classes, or "
                "what stands for each, e.g. mask_values [0, 255] and ignore_label null"
            )
        classes = values[-1] + 1
    names = [str(label) for label in range(classes)] if isinstance(classes, int) else list(classes)
    return LabelScheme(names, mask_values, ignore_label, palette)


class MaskedImages(Dataset[dict[str, Tensor]]):
    """Images with their labels, whole: what validation and evaluation read.

    Items are ``{"image": float32 (3, height, width) in [0, 1], "labels": int64 (height, width)}``, 255 where a pixel
    counts nowhere. What has been decoded is kept, up to 1 GiB.

    Args:
        pairs: the files.
        scheme: what stands in masks for which class.
        scale: images and masks are resized by it as they are read.
    """

    #: What stands beyond the image's edges in the truth of a crop.
    fill: float = IGNORED

    def __init__(self, pairs: Sequence[Pair], scheme: LabelScheme, scale: float = 1.0):
        if not 0 < scale <= 16:
            raise WavedilError(f"scale is {scale}: expected a factor on the images' size, above 0 and at most 16")
        self.pairs, self.scheme, self.scale = list(pairs), scheme, scale
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int, keep: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Image ``(height, width, 3)`` uint8 and labels ``(height, width)`` uint8; kept for the next time, or not."""
        if index in self._kept:
            return self._kept[index]
        image = read_image(self.pairs[index].image)
        image, labels = resize(image, scaled_size(image.shape[:2], self.scale)), self._labels(index)
        size = image.nbytes + labels.nbytes
        if keep and self._bytes + size <= CACHE_BYTES:
            self._bytes += size
            self._kept[index] = image, labels
        return image, labels

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        image, labels = map(torch.from_numpy, self.read(index))
        return self.item(image.permute(2, 0, 1) / 255, labels)

    @staticmethod
    def item(image: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"image": image, "labels": labels.long()}

    def count_labels(self, progress: Callable[[int], None] | None = None) -> Tensor:
        """Pixels of each class in each image, int64 ``(images, num_classes)``."""
        rows = []
        for index in range(len(self)):
            labels = self._kept[index][1] if index in self._kept else self._labels(index)
            counts = np.bincount(labels.ravel(), minlength=IGNORED + 1)
            rows.append(counts[: len(self.scheme.classes)])
            if progress is not None:
                progress(index + 1)
        return torch.from_numpy(np.stack(rows))

    def _labels(self, index: int) -> np.ndarray:
        path = self.pairs[index].mask
        mask = read_mask(path, colors=True) if self.scheme.by_color else _gray(path)
        return self.scheme.encode(resize_mask(mask, scaled_size(mask.shape[:2], self.scale)), path)


class ImagesWithTargets(MaskedImages):
    """Images with a value at every pixel: items ``{"image", "targets"}``, targets float32 ``(height, width)``.

    NaN where none is known: pixels that are 0, NaN or infinite in the file.

    Args:
        pairs: the files; see :func:`wavedil.vision.data.images.read_target`.
        step: what a gray level is worth.
        scale: images and targets are resized by it as they are read.
    """

    fill = float("nan")

    def __init__(self, pairs: Sequence[Pair], step: float = 1.0, scale: float = 1.0):
        super().__init__(pairs, LabelScheme(["value"]), scale)
        if step <= 0:
            raise WavedilError(f"step is {step}: expected what a gray level of a target is worth, above 0")
        self.step = step

    @staticmethod
    def item(image: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"image": image, "targets": targets}

    def moments(self) -> tuple[int, float, float]:
        """Pixels whose value is known, the mean of their values and its deviation."""
        count, total, squares = 0, 0.0, 0.0
        for index in range(len(self)):
            values = self._labels(index).astype(np.float64)
            known = values[~np.isnan(values)]
            count, total, squares = count + len(known), total + known.sum(), squares + np.square(known).sum()
        mean = total / max(count, 1)
        return count, float(mean), float(np.sqrt(max(0.0, squares / max(count, 1) - mean**2)))

    def _labels(self, index: int) -> np.ndarray:
        values = read_target(self.pairs[index].mask, self.step)
        return resize_mask(values, scaled_size(values.shape, self.scale))


class RandomImageCrops(Dataset[dict[str, Tensor]]):
    """Random crops of images, rescaled and mirrored.

    Each image comes once before any comes again. Item i depends on ``seed`` and i only: a run that resumes after n
    items goes on with item n and sees the crops it would have seen.

    Args:
        images: where crops come from.
        size: (height, width) of each crop. Where the rescaled image is smaller, it is filled up around with pixels
            that count nowhere, in the mean color of ImageNet.
        scales: each crop shows the image at a factor between these two, every ratio equally likely.
        flip: mirror every other crop, left and right.
        seed: any non-negative integer.
        length: how many crops the data set holds.
    """

    def __init__(
        self,
        images: MaskedImages,
        size: tuple[int, int],
        *,
        scales: tuple[float, float] = (0.5, 2.0),
        flip: bool = True,
        seed: int = 0,
        length: int = 2**31,
    ):
        if len(size) != 2 or min(size) < 1:
            raise WavedilError(f"crop is {list(size)}: expected [height, width] in pixels")
        if len(scales) != 2 or not 0 < scales[0] <= scales[1]:
            raise WavedilError(f"scales is {list(scales)}: expected [least, greatest] factor, above 0")
        self.images, self.size, self.scales, self.flip = images, tuple(size), tuple(scales), flip
        self.seed, self.length = seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.length:
            raise IndexError(f"crop {index} of {self.length}")
        turn, place = divmod(index, len(self.images))
        order = np.random.default_rng([self.seed, 0, turn]).permutation(len(self.images))
        image, labels = self.images.read(int(order[place]))
        generator = np.random.default_rng([self.seed, 1, index])
        low, high = np.log(self.scales)
        scale = float(np.exp(generator.uniform(low, high)))
        # The window of the image that the crop shows, in the image's pixels; it may reach beyond the image.
        window = [max(1, round(side / scale)) for side in self.size]
        slack = [side - part for side, part in zip(labels.shape, window, strict=True)]
        start = [int(generator.integers(min(0, s), max(0, s) + 1)) for s in slack]
        mirrored = self.flip and bool(generator.integers(2))
        shown = _window(image, start, window, MEAN_COLOR).permute(2, 0, 1).unsqueeze(0) / 255
        shown = F.interpolate(shown, self.size, mode="bilinear", antialias=scale < 1, align_corners=False)[0]
        truth = _window(labels, start, window, self.images.fill)[None, None].float()
        truth = F.interpolate(truth, self.size, mode="nearest-exact")[0, 0]
        return self.images.item(*((shown.flip(-1), truth.flip(-1)) if mirrored else (shown, truth)))


def _window(pixels: np.ndarray, start: Sequence[int], size: Sequence[int], fill: Sequence[int] | float) -> Tensor:
    """A window of ``(height, width, …)`` pixels that may reach over the edges, where it holds ``fill``."""
    out = np.empty((*size, *pixels.shape[2:]), pixels.dtype)
    out[:] = fill
    there = [slice(max(0, s), max(0, s + n)) for s, n in zip(start, size, strict=True)]
    part = pixels[there[0], there[1]]
    row, column = max(0, -start[0]), max(0, -start[1])
    out[row : row + part.shape[0], column : column + part.shape[1]] = part
    return torch.from_numpy(out)


def _gray(path: Path) -> np.ndarray:
    mask = read_mask(path, colors=False)
    if mask.min() < 0 or mask.max() >= 2**16:
        raise WavedilError(f"{path} has values from {mask.min()} to {mask.max()}: expected 0 to 65535")
    return mask
