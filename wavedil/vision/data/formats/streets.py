"""Street scenes: Cityscapes and Mapillary Vistas."""

from pathlib import Path
from typing import Any, Literal

from wavedil.errors import WavedilError, shown
from wavedil.shards import is_folder
from wavedil.vision.data.formats.base import ImageFormat, read_json
from wavedil.vision.data.labels import IGNORED, LabelScheme
from wavedil.vision.data.pairs import FolderLayout, ImagePair, pair_files, stems
from wavedil.weights import register

#: Name, id, and color of the classes that are evaluated, in the order of their train ids.
CITYSCAPES = (
    ("road", 7, (128, 64, 128)), ("sidewalk", 8, (244, 35, 232)), ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)), ("fence", 13, (190, 153, 153)), ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)), ("traffic sign", 20, (220, 220, 0)), ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)), ("sky", 23, (70, 130, 180)), ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)), ("car", 26, (0, 0, 142)), ("truck", 27, (0, 0, 70)), ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)), ("motorcycle", 32, (0, 0, 230)), ("bicycle", 33, (119, 11, 32)),
)  # fmt: skip
CITYSCAPES_IDS = 34  # 0 to 33
MAX_CONFIG_BYTES = 2**24


@register
class Cityscapes(ImageFormat):
    """Cityscapes: ``leftImg8bit/SET/CITY/*_leftImg8bit.png`` and ``gtFine/SET/CITY/*_gtFine_labelIds.png``.

    The classes are the 19 that are evaluated; pixels of the other ids are ignored.

    Args:
        train, val: names of the sets.
        annotations: folder of the masks; ``gtCoarse`` also has the set ``train_extra``.
        labels: ``labelIds``: masks with the ids 0 to 33; ``labelTrainIds``: masks with 0 to 18, and 255 for ignored.

    Source: Cordts et al. 2016, arXiv 1604.01685, and cityscapesScripts.
    """

    def __init__(
        self,
        train: str = "train",
        val: str | None = "val",
        annotations: Literal["gtFine", "gtCoarse"] = "gtFine",
        labels: Literal["labelIds", "labelTrainIds"] = "labelIds",
    ):
        self.train, self.val, self.annotations, self.labels = train, val, annotations, labels

    def label_scheme(self, root: Path) -> LabelScheme:
        names, ids, colors = (list(column) for column in zip(*CITYSCAPES, strict=True))
        if self.labels == "labelTrainIds":
            return LabelScheme(names, ignore_label=IGNORED, palette=colors)
        others = [value for value in range(CITYSCAPES_IDS) if value not in ids]
        return LabelScheme(names, ids, others, colors)

    def find(self, root: Path, name: str) -> list[ImagePair]:
        images, masks = f"leftImg8bit/{name}", f"{self.annotations}/{name}"
        for folder in (images, masks):
            if not is_folder(root / folder):
                raise WavedilError(f"{root} has no folder {folder}: expected a data set of the format Cityscapes")
        layout = FolderLayout(images, masks, "_leftImg8bit", f"_{self.annotations}_{self.labels}")
        if not stems(root, layout)[1]:
            raise WavedilError(
                f"{root / masks} has no *{layout.mask_ending}.png: expected the masks, or set labels of the format"
            )
        return pair_files(root, layout)


@register
class MapillaryVistas(ImageFormat):
    """Mapillary Vistas: ``training`` and ``validation`` with ``images`` and label images, classes of ``config_*.json``.

    Label ids whose classes are not evaluated are ignored.

    Args:
        train, val: names of the sets.
        version: of the labels: ``v1.2``, with 65 evaluated classes, or ``v2.0``, with 123. The masks are in
            ``SET/VERSION/labels`` and the classes in ``config_VERSION.json``, or in ``SET/labels`` and ``config.json``
            as in the first release.

    Source: Neuhold et al. 2017, The Mapillary Vistas Dataset.
    """

    def __init__(
        self, train: str = "training", val: str | None = "validation", version: Literal["v1.2", "v2.0"] = "v1.2"
    ):
        self.train, self.val, self.version = train, val, version

    def label_scheme(self, root: Path) -> LabelScheme:
        path = root / f"config_{self.version}.json"
        if not path.exists() and (root / "config.json").exists():
            path = root / "config.json"
        labels = read_json(path, MAX_CONFIG_BYTES, "the classes of Mapillary Vistas")
        labels = labels.get("labels") if isinstance(labels, dict) else None
        if not isinstance(labels, list) or not labels:
            raise WavedilError(f"{path} has no list labels: expected the classes of Mapillary Vistas")
        evaluated = [value for value, label in enumerate(labels) if self._is_evaluated(path, value, label)]
        others = [value for value in range(len(labels)) if value not in set(evaluated)]
        readable = [labels[value].get("readable") for value in evaluated]
        names = [
            text if text and readable.count(text) == 1 else labels[value]["name"]
            for value, text in zip(evaluated, readable, strict=True)
        ]
        try:
            return LabelScheme(names, evaluated, others or None, [labels[value]["color"] for value in evaluated])
        except WavedilError as error:
            raise WavedilError(f"{path}: {error}") from None

    @staticmethod
    def _is_evaluated(path: Path, value: int, label: Any) -> bool:
        fields = {"name": str, "readable": str | None, "color": list, "evaluate": bool | None}
        if not isinstance(label, dict) or any(not isinstance(label.get(key), kind) for key, kind in fields.items()):
            raise WavedilError(
                f"{path}: label {value} is {shown(label)}: expected a dictionary with name, color and evaluate"
            )
        return label.get("evaluate") is not False

    def find(self, root: Path, name: str) -> list[ImagePair]:
        tried = [f"{name}/{self.version}/labels", f"{name}/labels"]
        masks = next((folder for folder in tried if is_folder(root / folder)), None)
        if masks is None:
            raise WavedilError(f"{root} has no folder {tried[0]}: expected a data set of the format MapillaryVistas")
        return pair_files(root, FolderLayout(f"{name}/images", masks))
