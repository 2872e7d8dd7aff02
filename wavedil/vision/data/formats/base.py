"""Base class of image formats, and what formats share: lists of names, and images by name."""

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wavedil.errors import WavedilError, count_text, shown
from wavedil.files import check_regular_file, excluded_paths, normalized, unique_names
from wavedil.shards import is_folder
from wavedil.splits import describe_split, hold_out
from wavedil.vision.data.images import list_images
from wavedil.vision.data.labels import LabelScheme
from wavedil.vision.data.pairs import ImagePair, all_excluded, check_sizes

MAX_LIST_BYTES = 2**26  # of a list of names: 2 million images


class ImageFormat(ABC):
    """A published layout of images and masks: where the files are, and what the values in masks mean.

    Subclasses define :meth:`label_scheme` and :meth:`find`. With ``@register`` their arguments have types and ranges
    that are checked.

    Attributes:
        train, val: names of the training and validation set; ``val`` None: a tenth of the training set is held out.
    """

    train: str
    val: str | None

    @abstractmethod
    def label_scheme(self, root: Path) -> LabelScheme:
        """Classes, their values in masks, and the ignored values."""

    @abstractmethod
    def find(self, root: Path, name: str) -> list[ImagePair]:
        """Images of the set ``name`` with their masks, sorted by path."""

    def prepare(self, root: Path) -> None:  # noqa: B027
        """Called before the files are read, e.g. to download them."""

    def split(
        self, root: str | Path, validation: str | None = None, exclude: str | None = None
    ) -> tuple[list[ImagePair], list[ImagePair], str]:
        """Pairs for training, pairs for validation, and a text about the split.

        Args:
            root: folder of the data set.
            validation: only if :attr:`val` is None: a regular expression on the paths of the images to hold out.
            exclude: images or masks to leave out; see :func:`wavedil.files.excluded_paths`.

        Raises:
            WavedilError: a file or folder is missing or damaged, an image is in both sets, or no pair is left to train
                or to validate on.
        """
        if self.val is not None and validation is not None:
            raise WavedilError(
                f"validation is {validation!r}, but the format {type(self).__name__} has the set {self.val}: leave it "
                "out, or set val of the format to null"
            )
        train = self._pairs(root, self.train, exclude)
        if self.val is not None:
            valid, rule = self._pairs(root, self.val, exclude), f"sets {self.train} and {self.val}"
            self._check_disjoint(train, valid)
        else:
            held, rule = hold_out([pair.image for pair in train], validation, kind="images")
            sides = [[pair for pair, out in zip(train, held, strict=True) if out == side] for side in (False, True)]
            train, valid = sides
        return train, valid, f"{type(self).__name__}, {describe_split(rule, len(train), len(valid), 'images')}"

    def sets(
        self, root: str | Path, validation: str | None = None, exclude: str | None = None
    ) -> dict[str, list[ImagePair]]:
        """The pairs of :meth:`split` by the name of their set, without reading the sizes in the files.

        A set may be empty, and an image in both.
        """
        train = self._listed(root, self.train, exclude)
        if self.val is None:
            held, _ = hold_out([pair.image for pair in train], validation, kind="images")
            return {
                name: [pair for pair, out in zip(train, held, strict=True) if out == side]
                for name, side in (("train", False), ("val", True))
            }
        valid = self._listed(root, self.val, exclude)
        if self.train == self.val:
            self._check_disjoint(train, valid)
        return {self.train: train, self.val: valid}

    def pairs_to_evaluate(
        self, root: str | Path, held_out: bool = False, validation: str | None = None, exclude: str | None = None
    ) -> list[ImagePair]:
        """All pairs; with ``held_out`` or ``validation`` those that :meth:`split` validates on."""
        if self.val is None and (held_out or validation is not None):
            return self.split(root, validation, exclude)[1]
        if validation is not None:
            raise WavedilError(f"validation is {validation!r}: the format {type(self).__name__} has the set {self.val}")
        names = [self.val] if held_out else [name for name in (self.train, self.val) if name is not None]
        sets = [self._pairs(root, name, exclude) for name in names]
        if len(sets) == 2:
            self._check_disjoint(*sets)
        return [pair for pairs in sets for pair in pairs]

    def _check_disjoint(self, train: Sequence[ImagePair], valid: Sequence[ImagePair]) -> None:
        """Raises WavedilError if an image is in both sets: its figures would be those of training."""
        shared = {pair.image for pair in train} & {pair.image for pair in valid}
        if shared:
            raise WavedilError(
                f"train is {self.train!r} and val {self.val!r}: {count_text(len(shared), 'image')} of both sets are "
                f"the same, e.g. {min(shared)}; name other sets, or set val to null"
            )

    def _pairs(self, root: str | Path, name: str, exclude: str | None) -> list[ImagePair]:
        pairs = self._listed(root, name, exclude)
        check_sizes(pairs)
        return pairs

    def _listed(self, root: str | Path, name: str, exclude: str | None) -> list[ImagePair]:
        if not is_folder(root):
            raise WavedilError(f"{root} is not a folder: expected a data set of the format {type(self).__name__}")
        pairs = self.find(Path(root), name)
        if exclude is not None:
            masks = [pair.mask for pair in pairs]
            masks = masks if len(set(masks)) == len(masks) else []  # one file may hold them all
            excluded = excluded_paths([*(pair.image for pair in pairs), *masks], exclude)
            kept = [pair for pair in pairs if not {pair.image, pair.mask} & excluded]
            if not kept:
                raise all_excluded(exclude, len(pairs))
            pairs = kept
        return pairs


def _formats(cls: type = ImageFormat) -> Iterator[type]:
    for each in cls.__subclasses__():
        yield each
        yield from _formats(each)


def known_formats() -> dict[str, type[ImageFormat]]:
    """All format classes that are imported, by name."""
    return {cls.__name__: cls for cls in _formats()}


def read_names(path: Path) -> list[str]:
    """The first word of each line of a list of images; empty lines and those that begin with ``#`` are skipped.

    Raises:
        WavedilError: the file is missing, too large, not UTF-8 or empty, or a name is a path out of the folder, or
            twice in the list.
    """
    check_regular_file(path, "a list of images")
    try:
        if os.path.getsize(path) > MAX_LIST_BYTES:
            raise WavedilError(f"{path} has more than {MAX_LIST_BYTES:,} bytes: expected a list of images")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise missing_list(path) from None
    except OSError as error:
        raise WavedilError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WavedilError(f"{path} is not UTF-8: expected a list with the name of an image in each line") from None
    words = [line.split() for line in text.splitlines()]
    names = [normalized(line[0]) for line in words if line and not line[0].startswith("#")]
    if not names:
        raise WavedilError(f"{path} is empty: expected the name of an image in each line")
    seen: set[str] = set()
    for name in names:
        check_name(path, name)
        if name in seen:
            raise WavedilError(f"{path} has {shown(name)} twice: remove one of the lines")
        seen.add(name)
    return names


def missing_list(path: Path) -> WavedilError:
    """The error about a missing list, with the lists that its folder has."""
    others = sorted(each.stem for each in path.parent.glob(f"*{path.suffix}")) if path.parent.is_dir() else []
    found = f"; {path.parent} has {', '.join(others[:10])}" if others else ""
    return WavedilError(f"{path} does not exist: expected the list of the set {path.stem}{found}")


def check_name(source: Path, name: str) -> None:
    """Raises WavedilError for the name of a file, in the file ``source``, that is not a path below its folder."""
    parts = re.split(r"[/\\]", name)
    if not name or "\0" in name or name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", name):
        raise WavedilError(f"{source} has the name {shown(name)}: expected a file below the folder of the data set")


def images_by_stem(folder: Path) -> dict[str, Path]:
    """The pictures in a folder by their path in it without suffix."""
    names = ((path.relative_to(folder).with_suffix("").as_posix(), path) for path in list_images(folder))
    return unique_names(names, "image")


def named(names: Sequence[str], source: Path, files: Mapping[str, Path], folder: Path, kind: str) -> list[Path]:
    """The files of a list of names.

    Args:
        source: the list, for messages.
        files: by name.
        folder: that holds them, for messages.
        kind: noun for a file.

    Raises:
        WavedilError: a file is missing.
    """
    missing = [name for name in names if name not in files]
    if missing:
        raise WavedilError(
            f"{source} names {shown(missing[0])}, which {folder} does not have ({len(missing)} of {len(names)} "
            f"{kind}s are missing): add them, or remove the lines"
        )
    return [files[name] for name in names]


def read_json(path: Path, max_bytes: int, expected: str) -> Any:
    """The content of a JSON file.

    Raises:
        WavedilError: it is missing, has more than ``max_bytes``, or is not JSON; ``expected`` is a noun for it.
    """
    check_regular_file(path, expected)
    try:
        size = os.path.getsize(path)
        if size > max_bytes:
            raise WavedilError(f"{path} has {size:,} bytes: expected {expected}, at most {max_bytes:,}")
        with open(path, "rb") as file:
            return json.load(file)
    except FileNotFoundError:
        raise WavedilError(f"{path} does not exist: expected {expected}") from None
    except OSError as error:
        raise WavedilError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # also of bytes that are not UTF-8, and of numbers of 5000 digits
        if isinstance(error, WavedilError):
            raise
        reason = "nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]
        raise WavedilError(f"{path} is not JSON: {reason}; expected {expected}") from None
