"""Folders of Pascal VOC, and data sets with its classes: SBD, and Oxford-IIIT Pets."""

from collections.abc import Sequence
from pathlib import Path

from wavedil.errors import WavedilError
from wavedil.shards import is_folder
from wavedil.vision.data.formats.base import ImageFormat, images_by_stem, named, read_names
from wavedil.vision.data.labels import IGNORED, LabelScheme
from wavedil.vision.data.pairs import ImagePair
from wavedil.weights import register

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@register
class PascalVOC(ImageFormat):
    """Folders of Pascal VOC: ``JPEGImages``, palette PNGs in ``SegmentationClass``, and lists in ``ImageSets``.

    The index of a pixel's color is its class; 255, the color of outlines, is ignored. Sets are the lists
    ``ImageSets/Segmentation/NAME.txt``. The root may also be a folder above, as torchvision has it:
    ``root/VOCdevkit/VOC2012``.

    Args:
        train, val: names of the lists; ``val`` null: every tenth image of ``train`` validates.
        masks: folder of the masks, e.g. ``SegmentationClassAug``.
        classes: names of the classes 0, 1, 2, …; null: the 21 of Pascal VOC.

    Source: Everingham et al. 2010, The Pascal Visual Object Classes Challenge.
    """

    def __init__(
        self,
        train: str = "train",
        val: str | None = "val",
        masks: str = "SegmentationClass",
        classes: Sequence[str] | None = None,
    ):
        self.train, self.val, self.masks, self.classes = train, val, masks, classes

    def label_scheme(self, root: Path) -> LabelScheme:
        return LabelScheme(list(VOC_CLASSES if self.classes is None else self.classes), ignore_label=IGNORED)

    def find(self, root: Path, name: str) -> list[ImagePair]:
        root = self._folder(root)
        source = root / "ImageSets" / "Segmentation" / f"{name}.txt"
        names = read_names(source)
        return list_pairs(names, source, root / "JPEGImages", root / self.masks)

    @staticmethod
    def _folder(root: Path) -> Path:
        """The folder that has ``JPEGImages``."""
        if is_folder(root / "JPEGImages"):
            return root
        found = sorted(
            path.parent for pattern in ("VOC*", "VOCdevkit/VOC*") for path in root.glob(f"{pattern}/JPEGImages")
        )
        if len(found) > 1:
            raise WavedilError(f"{root} has {' and '.join(path.name for path in found)}: name one of them as the root")
        if not found:
            raise WavedilError(f"{root} has no folder JPEGImages: expected a data set of the format PascalVOC")
        return found[0]


@register
class OxfordPets(ImageFormat):
    """Oxford-IIIT Pets: ``images`` and the trimaps in ``annotations``; classes background and pet.

    Outlines, the value 3 of a trimap, are ignored.

    Args:
        train, val: names of the lists ``annotations/NAME.txt``.

    Source: Parkhi et al. 2012, Cats and Dogs.
    """

    def __init__(self, train: str = "trainval", val: str | None = "test"):
        self.train, self.val = train, val

    def label_scheme(self, root: Path) -> LabelScheme:
        return LabelScheme(["background", "pet"], mask_values=[2, 1], ignore_label=3)

    def find(self, root: Path, name: str) -> list[ImagePair]:
        source = root / "annotations" / f"{name}.txt"
        return list_pairs(read_names(source), source, root / "images", root / "annotations" / "trimaps")


def list_pairs(names: Sequence[str], source: Path, images: Path, masks: Path) -> list[ImagePair]:
    """The images and masks of a list of names."""
    found = (
        named(names, source, images_by_stem(folder), folder, kind)
        for folder, kind in ((images, "image"), (masks, "mask"))
    )
    return sorted((ImagePair(*pair) for pair in zip(*found, strict=True)), key=lambda pair: pair.image)
