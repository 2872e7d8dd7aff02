"""Published formats of images and masks, each a class that recipes name in ``data.format``."""

import inspect
import json

from wavedil.errors import WavedilError, one_of
from wavedil.vision.data.formats.base import ImageFormat, known_formats
from wavedil.vision.data.formats.coco import COCO
from wavedil.vision.data.formats.published import SBD, TorchvisionDataset
from wavedil.vision.data.formats.streets import Cityscapes, MapillaryVistas
from wavedil.vision.data.formats.voc import OxfordPets, PascalVOC

__all__ = [
    "COCO",
    "SBD",
    "Cityscapes",
    "ImageFormat",
    "MapillaryVistas",
    "OxfordPets",
    "PascalVOC",
    "TorchvisionDataset",
    "find_format",
]


def find_format(text: str) -> ImageFormat:
    """A format by its name, or by a JSON object with ``class_path`` and ``init_args`` as in a recipe.

    Raises:
        WavedilError: an unknown name, or arguments that the class does not take.
    """
    name, arguments = text, {}
    if text.lstrip().startswith("{"):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict) or not {"class_path"} <= value.keys() <= {"class_path", "init_args"}:
            raise WavedilError(f"format is {text!r}: expected a name, or JSON with class_path and init_args")
        name, arguments = str(value["class_path"]), value.get("init_args", {})
    known = known_formats()
    cls = known.get(name.rpartition(".")[2])
    if cls is None:
        raise WavedilError(f"format is {name!r}: expected {one_of(name, known)}")
    known = inspect.signature(cls).parameters
    for key in arguments if isinstance(arguments, dict) else ["init_args"]:
        if key not in known:
            raise WavedilError(
                f"format is {text!r}: {cls.__name__} has no argument {key}: expected {one_of(key, known)}"
            )
    missing = [key for key, each in known.items() if each.default is each.empty and key not in arguments]
    if missing:
        arguments_text = json.dumps({"class_path": cls.__name__, "init_args": {missing[0]: "..."}})
        raise WavedilError(f"format is {text!r}: {cls.__name__} needs {missing[0]}: write '{arguments_text}'")
    return cls(**arguments)
