"""Published data sets by their names in ``torchvision.datasets``."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wavedil.errors import WavedilError, one_of
from wavedil.extras import install
from wavedil.files import walk_files
from wavedil.matlab import read_field
from wavedil.shards import is_folder
from wavedil.vision.data.formats.base import ImageFormat, images_by_stem, named, read_names
from wavedil.vision.data.formats.streets import Cityscapes
from wavedil.vision.data.formats.voc import VOC_CLASSES, OxfordPets, PascalVOC
from wavedil.vision.data.labels import IGNORED, LabelScheme
from wavedil.vision.data.pairs import ImagePair
from wavedil.weights import register


@register
class SBD(ImageFormat):
    """Semantic Boundaries: images of Pascal VOC in ``img``, with masks in the MATLAB files of ``cls``.

    Args:
        train, val: names of the lists ``NAME.txt``; ``train_noval`` has no image of VOC 2012's validation set.

    Source: Hariharan et al. 2011, Semantic Contours from Inverse Detectors.
    """

    def __init__(self, train: str = "train", val: str | None = "val"):
        self.train, self.val = train, val

    def label_scheme(self, root: Path) -> LabelScheme:
        return LabelScheme(list(VOC_CLASSES), ignore_label=IGNORED)

    def find(self, root: Path, name: str) -> list[ImagePair]:
        source, masks = root / f"{name}.txt", root / "cls"
        names = read_names(source)
        images = named(names, source, images_by_stem(root / "img"), root / "img", "image")
        found = {path.stem: path for path in walk_files(masks, (".mat",))} if is_folder(masks) else {}
        pairs = zip(images, named(names, source, found, masks, "mask"), strict=True)
        return sorted((MatlabPair(*pair) for pair in pairs), key=lambda pair: pair.image)


@dataclass(frozen=True)
class MatlabPair(ImagePair):
    """An image and its mask in a MATLAB file of SBD."""

    def mask_size(self) -> None:
        return None

    def read_mask(self, colors: bool) -> np.ndarray:
        found = read_field(self.mask, "GTcls", "Segmentation")
        if found.ndim != 2 or 0 in found.shape or found.dtype.kind not in "iu":
            raise WavedilError(
                f"{self.mask}: GTcls.Segmentation is {found.dtype} of shape {found.shape}: expected integers (height, "
                "width)"
            )
        return found


@dataclass(frozen=True)
class Published:
    """A data set of torchvision.

    Args:
        format: makes the format.
        folder: below torchvision's ``root``.
        options: arguments of torchvision's class for a download; None if it downloads nothing.
    """

    format: Callable[[], ImageFormat]
    folder: str = "."
    options: dict[str, Any] | None = field(default_factory=dict)


PUBLISHED = {
    "VOCSegmentation": Published(PascalVOC, "VOCdevkit/VOC2012", {"year": "2012", "image_set": "trainval"}),
    "SBDataset": Published(SBD, ".", {"mode": "segmentation"}),
    "Cityscapes": Published(Cityscapes, ".", None),
    "OxfordIIITPet": Published(OxfordPets, "oxford-iiit-pet", {"target_types": "segmentation"}),
}
for _year in range(2007, 2012):
    PUBLISHED[f"VOCSegmentation/{_year}"] = Published(
        PascalVOC,
        f"{'TrainVal/' if _year == 2011 else ''}VOCdevkit/VOC{_year}",
        {"year": str(_year), "image_set": "trainval"},
    )


@register
class TorchvisionDataset(ImageFormat):
    """A data set by its name in ``torchvision.datasets``, in the folders that torchvision writes below its ``root``.

    Args:
        dataset: ``VOCSegmentation`` (2012; ``VOCSegmentation/2007`` to ``/2011``), ``SBDataset``, ``Cityscapes``, or
            ``OxfordIIITPet``, whose trimaps have the classes background and pet.
        download: download it with torchvision if it is missing; Cityscapes must be downloaded by hand.
    """

    def __init__(self, dataset: str, download: bool = False):
        if dataset not in PUBLISHED:
            raise WavedilError(f"dataset is {dataset!r}: expected {one_of(dataset, PUBLISHED)}")
        self.dataset, self.download = dataset, download
        self._published = PUBLISHED[dataset]
        self._format = self._published.format()
        self.train, self.val = self._format.train, self._format.val
        if download and self._published.options is None:
            raise WavedilError(f"download is true, but torchvision cannot download {dataset}: download it by hand")

    def label_scheme(self, root: Path) -> LabelScheme:
        return self._format.label_scheme(root / self._published.folder)

    def find(self, root: Path, name: str) -> list[ImagePair]:
        folder = root / self._published.folder
        if not is_folder(folder):
            raise WavedilError(f"{folder} is not a folder: expected {self.dataset} below {root}; or set download")
        return self._format.find(folder, name)

    def prepare(self, root: Path) -> None:
        folder = root / self._published.folder
        if not self.download or (folder.is_dir() and any(folder.iterdir())):
            return
        try:
            from torchvision import datasets
        except (ImportError, OSError, RuntimeError) as error:  # the last two: built for another torch version
            raise WavedilError(
                f"download of {self.dataset} needs torchvision, which fails ({type(error).__name__}): "
                f"{install('torchvision')}"
            ) from None
        root.mkdir(parents=True, exist_ok=True)
        name = self.dataset.partition("/")[0]
        try:
            getattr(datasets, name)(root=str(root), download=True, **self._published.options)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise WavedilError(f"{self.dataset} could not be downloaded to {root}: {reason}") from None
