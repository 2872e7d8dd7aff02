"""Encoding of classes in mask files."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np

from wavedil.core.schema import Range
from wavedil.errors import WavedilError, count_text, shown
from wavedil.vision.data.palette import Color, default_palette

#: The label of ignored pixels in all tensors and arrays of this package. Mask files may use another (``ignore_label``).
IGNORED = 255
MAX_CLASSES = IGNORED
#: An ``ignore_label`` for masks in which all values that are not listed are ignored.
REST = "rest"

Value = Annotated[int, Range(0, 2**16 - 1)] | Color
#: A value, several of them, ``"rest"``, or None.
Ignored = Value | str | Sequence[Value] | None
_SHOWN = 8  # unknown values in a message


@dataclass(frozen=True)
class LabelScheme:
    """Maps the values in masks to classes 0 to num_classes - 1.

    Args:
        classes: class names.
        mask_values: the value of each class in masks: gray values, or colors ``(r, g, b)``; None for 0, 1, 2, ...
        ignore_label: the value of ignored pixels in masks, or a list of values; ``"rest"`` for all values that are not
            in ``mask_values``; None if no pixels are ignored.
        palette: the color of each class in overlays and label maps; default ``mask_values`` if these are colors, else
            the colors of Pascal VOC.

    Raises:
        WavedilError: lists of different lengths, one name or value for two classes, or more than 255 classes.
    """

    classes: Sequence[str]
    mask_values: Sequence[Value] | None = None
    ignore_label: Ignored = IGNORED
    palette: Sequence[Color] | None = None

    def __post_init__(self) -> None:
        count = len(self.classes)
        if not 1 <= count <= MAX_CLASSES:
            raise WavedilError(
                f"classes has {count_text(count, 'name')}: expected 1 to {MAX_CLASSES} classes, since "
                "label maps have 8 bits"
            )
        if len(set(self.classes)) != count:
            raise WavedilError(f"classes is {shown(list(self.classes))}: expected a different name for each class")
        for name, values in (("mask_values", self.mask_values), ("palette", self.palette)):
            if values is not None and len(values) != count:
                raise WavedilError(
                    f"{name} has {count_text(len(values), 'entry')}: expected one for each of {count} classes"
                )
        if not all(_is_color(value) for value in self.palette or ()):
            raise WavedilError(f"palette is {self.palette!r}: expected [red, green, blue] of 0 to 255 for each class")
        values = self._values
        if not (all(map(_is_gray, values)) or all(map(_is_color, values))):
            raise WavedilError(
                f"mask_values is {self.mask_values!r}: expected gray values of 0 to 65535, or [red, green, blue] of 0 "
                "to 255, for each class"
            )
        if len(set(values)) != count:
            raise WavedilError(f"mask_values is {self.mask_values!r}: expected a different value for each class")
        if self.ignore_label == REST:
            if self.mask_values is None:
                raise WavedilError("ignore_label is 'rest': expected the values of the classes in mask_values")
        elif not all(map(_is_color if self.by_color else _is_gray, self.ignored)) or len(set(self.ignored)) != len(
            self.ignored
        ):
            raise WavedilError(
                f"ignore_label is {self.ignore_label!r}: expected {'a color' if self.by_color else 'a gray value'} as "
                "in mask_values, or a list of different ones, or rest, or null"
            )

    @property
    def by_color(self) -> bool:
        """Whether masks are color images."""
        return self.mask_values is not None and _is_color(self.mask_values[0])

    @property
    def ignored(self) -> tuple[Value, ...]:
        """The values of ignored pixels in masks; empty for ``"rest"`` and None."""
        found = self.ignore_label
        if found is None or found == REST:
            return ()
        if not isinstance(found, Sequence) or isinstance(found, str) or (self.by_color and _is_color(found)):
            found = [found]
        return tuple(tuple(value) if isinstance(value, list) else value for value in found)

    @property
    def colors(self) -> tuple[Color, ...]:
        """The color of each class in overlays and label maps."""
        chosen = self.palette or (self.mask_values if self.by_color else default_palette(len(self.classes)))
        return tuple(tuple(value) for value in chosen)

    def encode(self, mask: np.ndarray, path: Path) -> np.ndarray:
        """Labels ``(height, width)`` uint8, 255 for ignored pixels, of a mask ``(height, width)`` or ``(..., 3)``.

        Raises:
            WavedilError: naming ``path``, for a value that belongs to no class.
        """
        codes = _pack(mask) if self.by_color else mask.astype(np.int64)
        values, labels = self._table
        index = np.searchsorted(values, codes).clip(max=len(values) - 1)
        found = values[index] == codes
        if self.ignore_label != REST and not found.all():
            row, column = (int(position[0]) for position in np.nonzero(~found))
            unknown = np.unique(mask[~found], axis=0).tolist()
            listed = ", ".join(map(str, unknown[:_SHOWN])) + (" ..." if len(unknown) > _SHOWN else "")
            others = f" (unknown values in this mask: {listed})" if len(unknown) > 1 else ""
            raise WavedilError(
                f"{path}: value {mask[row, column].tolist()} at row {row}, column {column} is none of the "
                f"{len(self.classes)} classes and not the ignore_label {shown(self.ignore_label)}{others}: expected "
                f"{self._allowed()}; set mask_values or ignore_label, or correct the mask"
            )
        return np.where(found, labels[index], IGNORED).astype(np.uint8)

    def _allowed(self) -> str:
        """The values of the classes, for messages."""
        if self.mask_values is None:
            return f"0 to {len(self.classes) - 1}"
        return shown(list(self.mask_values))

    @property
    def _values(self) -> list[Value]:
        values = range(len(self.classes)) if self.mask_values is None else self.mask_values
        return [value if isinstance(value, int) else tuple(value) for value in values]

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """All mask values, sorted, and the label of each."""
        values, labels = self._values, list(range(len(self.classes)))
        # An ignored value may be one of the classes, e.g. "void": its pixels are then ignored.
        labels = [IGNORED if value in self.ignored else label for value, label in zip(values, labels, strict=True)]
        others = [value for value in self.ignored if value not in values]
        values, labels = [*values, *others], [*labels, *[IGNORED] * len(others)]
        codes = _pack(np.array(values)) if self.by_color else np.array(values)
        order = np.argsort(codes)
        return codes[order], np.array(labels)[order]


def _pack(colors: np.ndarray) -> np.ndarray:
    """Colors ``(..., 3)`` as one integer each."""
    red, green, blue = np.moveaxis(colors.astype(np.int64), -1, 0)
    return red << 16 | green << 8 | blue


def _is_gray(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**16


def _is_color(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(_is_gray(part) and part < 256 for part in value)
