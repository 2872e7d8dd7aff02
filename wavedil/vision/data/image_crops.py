"""Random crops of images with their ground truth."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from wavedil.errors import WavedilError
from wavedil.skipped import SkippedFiles
from wavedil.vision.data.augmentation import ClassBalance, JointTransforms
from wavedil.vision.data.dataset import ImageDataset
from wavedil.vision.data.labels import IGNORED
from wavedil.vision.data.pixels import scaled_pixels

MEAN_COLOR = (124, 116, 104)  # mean of ImageNet


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


def _crop(pixels: np.ndarray, start: Sequence[int], size: Sequence[int], fill: Sequence[int] | float) -> np.ndarray:
    """A crop of ``(height, width, ...)`` pixels, with ``fill`` where it extends beyond the image."""
    out = np.empty((*size, *pixels.shape[2:]), pixels.dtype)
    out[:] = fill
    rows, columns = (slice(max(0, s), max(0, s + n)) for s, n in zip(start, size, strict=True))
    part = pixels[rows, columns]
    row, column = max(0, -start[0]), max(0, -start[1])
    out[row : row + part.shape[0], column : column + part.shape[1]] = part
    return out
