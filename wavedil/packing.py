"""Packs a folder of sounds, or of images and masks, into shards for training: see :mod:`wavedil.shards`.

Sound is stored as samples: int16 where the file's coding has at most 16 bits, else float32 as it is decoded. Crops of
the packed sound are therefore those of the files, bit for bit, and need no decoder. Other files are stored as they are.
A shard is a tar file, in which each sound is a WAV file, so other programs can unpack it.
"""

import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from wavedil.audio.data import audio_files
from wavedil.audio.data.streams import FORMATS, decoded_blocks, open_sound
from wavedil.batches import Batches, Record, fingerprint_paths
from wavedil.errors import WavedilError, check_positive
from wavedil.files import check_regular_file, excluded_paths, walk_files
from wavedil.outputs import check_folder_name, check_outputs
from wavedil.shards import COLUMNS, INDEX, VERSION, is_url, packed_files, shard_name
from wavedil.vision.data.images import SUFFIXES
from wavedil.writing import atomic_write

#: Codings whose samples are multiples of 1 / 32768.
_SHORT = {"PCM_16", "PCM_S8", "PCM_U8", "ULAW", "ALAW", "ALAC_16"}
_BLOCK = 512  # of tar files, in bytes
_COPY = 2**20  # bytes that are copied at a time
_LARGEST = 2**32 - 1  # size in the header of a WAV file


@dataclass(frozen=True)
class Packed:
    """Result of :func:`pack`: numbers of files and shards, and their sizes in bytes before and after."""

    files: int
    shards: int
    source_bytes: int
    packed_bytes: int
    made: int  # files that this call packed; the others were finished


def pack(
    data: str | os.PathLike[str],
    shards: str | os.PathLike[str],
    *,
    exclude: str | None = None,
    shard_bytes: int = 2**28,
    progress: Callable[[int, int], None] | None = None,
) -> Packed:
    """Writes the files of a data set to shards.

    After an interruption, the same call continues. Several processes that make it at once share the work.

    Args:
        data: a folder of audio files, with the .npy files of their features; one audio file; or a folder of images and
            masks.
        shards: a new or empty folder, or one of an interrupted call with the same arguments.
        exclude: audio files to leave out; see :func:`wavedil.files.excluded_paths`.
        shard_bytes: approximate size of a shard; a file is never divided.
        progress: called with the numbers of finished and of all files.

    Raises:
        WavedilError: there is nothing to pack, a file is broken, or ``shards`` has other files.
    """
    data, folder = Path(data), Path(shards)
    check_positive(shard_bytes=shard_bytes)
    if is_url(data) or is_url(shards):
        raise WavedilError(f"{data if is_url(data) else shards} is a URL: pack from and to a folder, and then copy it")
    if data.is_dir() and packed_files(data) is not None:
        raise WavedilError(f"{data} is packed already: expected a folder of audio files, or of images and masks")
    check_folder_name("SHARDS", shards)
    check_outputs([folder], [data])
    _check_folder(folder)
    root = data.parent if data.is_file() else data
    paths = _list_files(data, exclude)
    names = [os.fsencode(path.relative_to(root).as_posix()) for path in paths]
    states = [path.stat() for path in paths]
    source_bytes = sum(state.st_size for state in states)
    per_shard = max(1, round(len(paths) * shard_bytes / max(1, source_bytes)))
    kinds = [f"{os.fsdecode(n)}\0{s.st_size}\0{s.st_mtime_ns}" for n, s in zip(names, states, strict=True)]
    settings = {"work": "pack", "data": fingerprint_paths(kinds)}
    batches, finished = Batches(folder, len(paths), per_shard, settings), 0

    def update(done: int, total: int) -> None:
        nonlocal finished
        finished = done
        if progress is not None:
            progress(done, total)

    def work(items: range) -> list[Record]:
        number, records = items.start // per_shard, []
        with atomic_write(folder / shard_name(number)) as beside, beside.open("wb") as file:
            for done, index in enumerate(items, 1):
                record = {"name": os.fsdecode(names[index]), "shard": number}
                records.append(record | _append(file, paths[index], names[index]))
                if progress is not None:
                    progress(min(finished + done, len(paths)), len(paths))
            file.write(bytes(2 * _BLOCK))
        return [records[0] | {"files": {"shard": folder / shard_name(number)}}, *records[1:]]

    manifest, made = batches.run(work, update)
    if manifest is not None:
        sizes = [(folder / shard_name(number)).stat().st_size for number in range(len(batches))]
        _write_index(folder / INDEX, list(batches.records()), sizes)
        return Packed(len(paths), len(batches), source_bytes, sum(sizes), made)
    return Packed(len(paths), len(batches), source_bytes, 0, made)


def _check_folder(folder: Path) -> None:
    """Raises WavedilError for a folder with files of something else."""
    if folder.exists() and not folder.is_dir():
        raise WavedilError(f"{folder} is a file: expected a new folder for the shards")
    others = [path for path in folder.iterdir() if path.name != "batches"] if folder.is_dir() else []
    if others and not (folder / "batches" / "settings.json").exists():
        raise WavedilError(f"{folder} has other files, e.g. {min(others).name}: expected a new or empty folder")


def _list_files(data: Path, exclude: str | None) -> list[Path]:
    if data.is_file():
        return [data]
    if not data.is_dir():
        check_regular_file(data, "a folder of audio files, or of images and masks")
        raise WavedilError(f"{data} does not exist: expected a folder of audio files, or of images and masks")
    found = walk_files(data, (*FORMATS, *SUFFIXES, ".npy"))
    sounds, pictures, arrays = (
        [path for path in found if path.suffix.lower() in suffixes] for suffixes in (FORMATS, SUFFIXES, (".npy",))
    )
    if sounds:
        if exclude is not None:
            excluded = excluded_paths(sounds, exclude)
            sounds = [path for path in sounds if path not in excluded]
            if not sounds:
                raise WavedilError(f"exclude={exclude!r} matches all {len(excluded)} files: use a narrower expression")
        features = {path.with_suffix(".npy") for path in sounds}
        return sorted([*sounds, *(path for path in arrays if path in features)])
    if not pictures:
        raise WavedilError(f"{data} has no audio files and no images: expected files that end in .wav, .flac, .png, …")
    if exclude is not None:
        raise WavedilError(f"exclude is {exclude!r}: it is for sound; with images set data.exclude in training")
    return sorted([*pictures, *arrays])


def _append(file: BinaryIO, path: Path, name: bytes) -> Record:
    """Appends a file to a shard; returns its columns of the index."""
    if path.suffix.lower() in FORMATS:
        return _append_sound(file, path, name)
    size, crc = path.stat().st_size, 0
    file.write(_tar_header(name, size))
    record, offset, written = dict.fromkeys(COLUMNS[1:], 0), file.tell(), 0
    with path.open("rb") as source:
        while block := source.read(_COPY):
            crc, written = zlib.crc32(block, crc), written + len(block)
            file.write(block)
    _check_written(path, written, size)
    _pad(file, size)
    return record | {"offset": offset, "size": size, "crc": crc}


def _append_sound(file: BinaryIO, path: Path, name: bytes) -> Record:
    info, crc, written = audio_files.info(path), 0, 0
    if not info.frames:
        raise WavedilError(f"{path} is empty (0 samples): remove the file, or exclude it")
    floating = info.subtype not in _SHORT
    size = info.frames * info.channels * (4 if floating else 2)
    header = _wav_header(info.sample_rate, info.channels, floating, size)
    file.write(_tar_header(name if name.lower().endswith(b".wav") else name + b".wav", len(header) + size))
    file.write(header)
    offset = file.tell()
    for block in _samples(path, floating):
        crc, written = zlib.crc32(block, crc), written + len(block)
        file.write(block)
    _check_written(path, written, size)
    _pad(file, len(header) + size)
    sound = {"frames": info.frames, "rate": info.sample_rate, "channels": info.channels, "floating": int(floating)}
    return {"offset": offset, "size": size, "crc": crc} | sound


def _samples(path: Path, floating: bool) -> Iterator[bytes]:
    with open_sound(path) as sound:
        for block in decoded_blocks(sound, path):
            yield (block.astype("<f4") if floating else np.rint(block * 32768).astype("<i2")).tobytes()


def _check_written(path: Path, written: int, size: int) -> None:
    if written != size:
        raise WavedilError(f"{path} changed while it was packed ({written} bytes instead of {size}): start again")


def _tar_header(name: bytes, size: int) -> bytes:
    header = tarfile.TarInfo(os.fsdecode(name))
    header.size = size
    return header.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape")


def _pad(file: BinaryIO, size: int) -> None:
    file.write(bytes(-size % _BLOCK))


def _wav_header(rate: int, channels: int, floating: bool, size: int) -> bytes:
    width, coding = (4, 3) if floating else (2, 1)
    rest = min(36 + size, _LARGEST), b"WAVE", b"fmt ", 16, coding, channels, rate
    rates = min(rate * channels * width, _LARGEST), channels * width, 8 * width
    return struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", *rest, *rates, b"data", min(size, _LARGEST))


def _write_index(path: Path, records: Sequence[dict[str, Any]], sizes: Sequence[int]) -> None:
    from safetensors.numpy import save

    records = sorted(records, key=lambda record: os.fsencode(record["name"]))
    names = [os.fsencode(record["name"]) for record in records]
    arrays = {column: np.array([record[column] for record in records], np.int64) for column in COLUMNS}
    arrays["names"] = np.frombuffer(b"".join(names), np.uint8)
    arrays["name_ends"] = np.cumsum([len(name) for name in names], dtype=np.int64)
    arrays["shard_sizes"], arrays["version"] = np.array(sizes, np.int64), np.array([VERSION], np.int64)
    with atomic_write(path) as beside:
        beside.write_bytes(save(arrays))
