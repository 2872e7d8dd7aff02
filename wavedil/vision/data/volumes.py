"""Reading and writing of volumes in NIfTI files, .nii and .nii.gz. nibabel decodes their headers."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from wavedil.core.schema import AnyPath, Channels, Classes, checked
from wavedil.errors import WavedilError, count_text, first_line, shown
from wavedil.extras import import_extra
from wavedil.files import check_regular_file
from wavedil.ops.memory import check_memory
from wavedil.shards import open_file
from wavedil.vision.data.labels import IGNORED, MAX_CLASSES
from wavedil.writing import atomic_write

SUFFIXES = (".nii", ".nii.gz")
MAX_VOXELS = 2**29  # of all channels; 2 GB as float32
MAX_RATIO = 1032  # deflate compresses no data more
SMALLEST, LARGEST = 1e-6, 1e6  # of a voxel size in mm
_MILLIMETERS = {"meter": 1e3, "micron": 1e-3}


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume, or its labels, with its place in space.

    The axes of the array are (depth, height, width), which are the axes (k, j, i) of the file.

    Attributes:
        values: float32 ``(channels, depth, height, width)``; of labels, int64 ``(depth, height, width)``.
        affine: float64 ``(4, 4)``, from ``(i, j, k, 1)`` to millimeters ``(x, y, z, 1)``.
        voxel_size: millimeters along (depth, height, width).
    """

    values: np.ndarray
    affine: np.ndarray
    voxel_size: tuple[float, float, float]


@checked
def read_volume(path: AnyPath, channels: Channels = 1) -> Volume:
    """Reads an image from a NIfTI file, with the intensity scale of its header.

    Args:
        channels: of the image; a file of several has them along its fourth axis.

    Raises:
        WavedilError: naming the file, if nibabel is missing, or the file is not NIfTI, is damaged or truncated, has
            other axes or channels, more than ``MAX_VOXELS`` values, values that are not finite, or no affine, or one
            that is singular or not finite.
    """
    values, affine = _read(path, channels)
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise WavedilError(
            f"{path}: NaN, or too large for float32, at {count_text(bad, 'voxel')}: replace it, e.g. by 0"
        )
    return Volume(values, affine, voxel_sizes(affine))


@checked
def read_label_volume(path: AnyPath, num_classes: Classes | None = None) -> Volume:
    """Reads labels from a NIfTI file, int64.

    Args:
        num_classes: labels are 0 to num_classes - 1, or 255 for ignored voxels; None: any that are 0 or more.

    Raises:
        WavedilError: as :func:`read_volume`, or values that are not integers, or not classes.
    """
    values, affine = _read(path, 1)
    values = values[0]
    if values.dtype.kind == "f":
        bad = ~np.isfinite(values) | (values != np.round(values)) | (abs(values) >= 2**53)
        if bad.any():
            raise WavedilError(f"{path}: value {values[bad][0]} is not an integer: expected a volume of labels")
    low, high = int(values.min()), int(values.max())
    if num_classes is not None:
        check_classes(values, num_classes, path)
    elif low < 0 or high >= 2**31:
        raise WavedilError(f"{path}: values from {low} to {high}: expected classes, 0 or more")
    return Volume(values.astype(np.int64), affine, voxel_sizes(affine))


def check_classes(values: np.ndarray, num_classes: int | None, path: Any) -> np.ndarray:
    """Labels as uint8, 255 where they are ignored.

    Args:
        num_classes: labels are below it; None for at most 255 classes.

    Raises:
        WavedilError: naming ``path``, for another value.
    """
    high = MAX_CLASSES if num_classes is None else num_classes
    known = ((values >= 0) & (values < high)) | (values == IGNORED)
    if not known.all():
        raise WavedilError(
            f"{path}: value {int(values[~known][0])} is not a class: expected 0 to {high - 1}, or {IGNORED} where "
            "voxels are ignored"
        )
    return values.astype(np.uint8)


@checked
def write_label_volume(path: AnyPath, labels: np.ndarray, affine: np.ndarray) -> None:
    """Writes labels as a NIfTI file with an affine, e.g. that of the image.

    The file is written beside and renamed, so that an interruption leaves none that is incomplete.

    Args:
        path: ends in .nii, or in .nii.gz to compress.
        labels: integers ``(depth, height, width)`` from 0 to 2**31 - 1.
        affine: see :class:`Volume`.

    Raises:
        WavedilError: other labels, an affine that :func:`read_volume` would refuse, another suffix, or no nibabel.
    """
    nibabel = import_extra("nibabel", "medical")
    if not is_volume(path):
        raise WavedilError(f"{path}: expected a name that ends in .nii or .nii.gz")
    if labels.ndim != 3 or labels.dtype.kind not in "iu" or 0 in labels.shape:
        raise WavedilError(
            f"labels is {labels.dtype} of shape {labels.shape}: expected integers of shape (depth, height, width)"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= 2**31:
        raise WavedilError(f"labels span {low} to {high}: expected 0 to {2**31 - 1}")
    if max(labels.shape) >= 2**15:
        raise WavedilError(f"labels has shape {labels.shape}: NIfTI has at most {2**15 - 1} voxels along an axis")
    affine = check_affine(affine, "affine")
    smallest = np.uint8 if high < 2**8 else np.uint16 if high < 2**16 else np.int32
    image = nibabel.Nifti1Image(labels.astype(smallest).transpose(), affine)
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    if os.fspath(path).lower().endswith(".gz"):
        content = gzip.compress(content, compresslevel=6, mtime=0)
    with atomic_write(path) as beside:
        beside.write_bytes(content)


def count_channels(path: str | os.PathLike[str]) -> int:
    """Channels of a volume by its header: the length of its fourth axis, or 1."""
    with _opened(path) as (stream, _, _):
        shape = _understand(_read_header(stream, path), path)[0]
    return shape[3] if len(shape) > 3 else 1


def is_volume(path: str | os.PathLike[str]) -> bool:
    """Whether the name of a file is that of a volume."""
    return os.fspath(path).lower().endswith(SUFFIXES)


def check_same_grid(image: Volume, labels: Volume, image_path: Any, label_path: Any) -> None:
    """Raises WavedilError unless labels have the shape and the affine of their image."""
    shape = image.values.shape[1:]
    if labels.values.shape != shape:
        raise WavedilError(
            f"{label_path} has shape {labels.values.shape} and its image {image_path} {shape}: expected the same "
            "(depth, height, width)"
        )
    corners = np.array([*np.ndindex(2, 2, 2)]) * (np.array(shape[::-1]) - 1)
    moved = corners @ (labels.affine - image.affine)[:3, :3].T + (labels.affine - image.affine)[:3, 3]
    distance = float(np.linalg.norm(moved, axis=1).max())
    if distance > 0.1 * min(image.voxel_size):  # files store affines with 4 to 7 digits
        raise WavedilError(
            f"{label_path} has another affine than its image {image_path}: its corners are up to {distance:.3g} mm "
            "elsewhere; resample it to the grid of the image"
        )


def check_affine(affine: np.ndarray, name: Any) -> np.ndarray:
    """An affine as float64; raises WavedilError if it is singular or not finite."""
    affine = np.asarray(affine)
    if affine.shape != (4, 4) or affine.dtype.kind not in "iuf":
        raise WavedilError(f"{name}: the affine is {affine.dtype} of shape {affine.shape}: expected numbers (4, 4)")
    affine = affine.astype(np.float64)
    if not np.isfinite(affine).all():
        raise WavedilError(f"{name}: the affine has values that are not finite: correct the header")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if abs(affine[:3]).max() > 1e9 or (sizes < SMALLEST).any() or (sizes > LARGEST).any():
        listed = " x ".join(f"{size:.4g}" for size in sizes)
        raise WavedilError(f"{name}: voxels of {listed} mm by the affine: expected {SMALLEST:g} to {LARGEST:g}")
    if abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-4 or affine[3].tolist() != [0, 0, 0, 1]:
        raise WavedilError(f"{name}: the affine is singular, so its axes span no space: correct the header")
    return affine


def voxel_sizes(affine: np.ndarray) -> tuple[float, float, float]:
    """Millimeters of a voxel along (depth, height, width)."""
    return tuple(float(size) for size in np.linalg.norm(affine[:3, :3], axis=0)[::-1])


def _read(path: str | os.PathLike[str], channels: int) -> tuple[np.ndarray, np.ndarray]:
    """The scaled values ``(channels, depth, height, width)`` and the affine in millimeters."""
    with _opened(path) as (stream, size, is_compressed):
        header = _read_header(stream, path)
        shape, dtype, affine, offset, slope, inter = _understand(header, path)
        shape = _with_channels(shape, channels, path)
        count = int(np.prod(shape, dtype=np.float64))
        if count > MAX_VOXELS:
            raise WavedilError(f"{path} has {count:,} values by its header: expected at most {MAX_VOXELS:,}")
        needed = offset + count * dtype.itemsize
        if needed > size * (MAX_RATIO if is_compressed else 1):
            raise WavedilError(f"{path} is too short for the {count:,} values of its header: it is truncated")
        check_memory(count * (dtype.itemsize + 12), f"{path} has {count:,} values", "crop or downsample it")
        if offset > (start := header.template_dtype.itemsize):
            _skip(stream, offset - start)
        values = np.empty(count, dtype)
        _fill(stream, memoryview(values.view(np.uint8)))
        stream.read(1)  # at the end of compressed data, this compares the checksum
    values = values.reshape(shape[::-1])  # the first axis of the file changes fastest
    values = values.astype(dtype.newbyteorder("="), copy=False)
    if slope is not None and (slope, inter) != (1, 0):
        with np.errstate(over="ignore", invalid="ignore"):
            values = values * np.float64(slope) + np.float64(inter)
    return values, affine


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, int, bool]]:
    """The decompressed stream of a file, the size of the file, and whether it is compressed."""
    check_regular_file(path, "a NIfTI file")
    try:
        with open_file(path) as file:
            is_compressed = file.read(2) == b"\x1f\x8b"
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            yield gzip.GzipFile(fileobj=file) if is_compressed else file, size, is_compressed
    except FileNotFoundError:
        raise WavedilError(f"{path} does not exist: expected a NIfTI file") from None
    except EOFError:
        raise WavedilError(f"{path} ends before its last value: it is truncated") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise WavedilError(f"{path} is damaged: {first_line(error)}") from None


def _fill(stream: BinaryIO, buffer: memoryview) -> None:
    """Reads exactly as many bytes as the buffer has; raises EOFError if there are fewer."""
    while len(buffer):
        read = stream.readinto(buffer[: 2**24])
        if not read:
            raise EOFError
        buffer = buffer[read:]


def _skip(stream: BinaryIO, count: int) -> None:
    while count > 0:
        read = len(stream.read(min(count, 2**20)))
        if not read:
            raise EOFError
        count -= read


def _read_header(stream: BinaryIO, path: Any) -> Any:
    """The header of a file as nibabel has it; extensions behind it are skipped."""
    nibabel = import_extra("nibabel", "medical")
    expected = "expected NIfTI, version 1 or 2, in one file (.nii or .nii.gz)"
    block = stream.read(348)
    for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
        missing = kind.template_dtype.itemsize - len(block)
        block += stream.read(missing) if missing > 0 and kind is nibabel.Nifti2Header else b""
        if len(block) == kind.template_dtype.itemsize and kind.may_contain_header(block):
            header = kind(block, check=False)
            if bytes(header["magic"].item())[:3] not in (b"n+1", b"n+2"):
                raise WavedilError(f"{path} is the header of a pair of files: {expected}")
            return header
    raise WavedilError(f"{path} is not a NIfTI file: {expected}")


def _understand(header: Any, path: Any) -> tuple[tuple[int, ...], np.dtype, np.ndarray, int, Any, Any]:
    """Shape, type, affine in millimeters, offset of the values, slope and intercept, of a header."""
    try:
        shape = tuple(int(size) for size in header.get_data_shape())
        dtype = header.get_data_dtype()
        coded = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
        affine = header.get_best_affine()
        slope, inter = header.get_slope_inter()
        offset = float(header["vox_offset"])
        unit = header.get_xyzt_units()[0]
    except Exception as error:  # nibabel raises errors of many kinds for damaged headers
        raise WavedilError(f"{path}: the header is damaged: {first_line(error)}") from None
    if not shape or min(shape) < 1:
        raise WavedilError(
            f"{path} has shape {shown(shape)} by its header: expected at least one voxel along each axis"
        )
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise WavedilError(f"{path} has values of type {dtype}: expected real numbers of at most 64 bits")
    if not header.template_dtype.itemsize <= offset < 2**40:
        raise WavedilError(f"{path}: vox_offset is {offset:g} in the header, which is damaged")
    if not coded:
        raise WavedilError(
            f"{path} has no affine (sform_code and qform_code are 0), so its place and its axes in space are unknown: "
            "write it again with one"
        )
    affine = np.array(affine, np.float64)
    affine[:3] *= _MILLIMETERS.get(unit, 1.0)
    return shape, dtype, check_affine(affine, path), int(offset), slope, inter


def _with_channels(shape: tuple[int, ...], channels: int, path: Any) -> tuple[int, ...]:
    """The shape (width, height, depth, channels) of a file."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    found = shape if len(shape) == 4 else (*shape, 1)
    if len(shape) not in (3, 4) or found[3] != channels:
        expected = "3 axes" if channels == 1 else f"4 axes, the last for {channels} channels"
        raise WavedilError(
            f"{path} has {count_text(len(shape), 'axis')}, {' x '.join(map(str, shape))}: expected {expected}"
        )
    return found


def stem_of(path: Path) -> str:
    """The name of a volume without .nii or .nii.gz."""
    return path.name[: -len(".nii.gz")] if path.name.lower().endswith(".gz") else path.name[: -len(".nii")]
