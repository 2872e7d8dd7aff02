"""Checks recordings before training: broken files, silence, clipping, offsets, odd formats, duplicates."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wavedil.audio.data.audio_files import info, list_audio_files
from wavedil.audio.data.corpus import SILENCE
from wavedil.audio.data.levels import OUTSIDE
from wavedil.audio.data.streams import read_blocks
from wavedil.data_check import BROKEN, DataCheck
from wavedil.files import excluded_paths

FULL_SCALE = 0.999
CLIPPED_RUN = 3  # samples in a row at full scale
OFFSET = 0.01  # mean, as a fraction of full scale
QUIET_DB = -40.0  # peak, relative to full scale
_BLOCK = 2**18  # samples


def check_recordings(
    root: str | Path, *, exclude: str | None = None, progress: Callable[[int, int], None] | None = None
) -> DataCheck:
    """Decodes every audio file below a folder.

    Findings are ``broken`` (cannot be decoded, is empty, or has NaN or infinity), ``silent`` (peak below -80 dB of full
    scale), ``quiet`` (peak below -40 dB), ``level`` (samples outside [-1, 1]), ``clipped`` (three or more samples in a
    row at full scale), ``offset`` (mean beyond 1 % of full scale), ``duplicate`` (the same samples as an earlier file),
    ``rate`` and ``channels`` (not those of most files).

    Args:
        root: a folder, or one file.
        exclude: files to leave out; see :func:`wavedil.files.excluded_paths`.
        progress: called with the numbers of finished and of all files.

    Raises:
        WavedilError: the folder is missing or has no audio files.
    """
    paths = list_audio_files(root)
    if exclude is not None:
        excluded = excluded_paths(paths, exclude)
        paths = [path for path in paths if path not in excluded]
    check = DataCheck(str(root), len(paths))
    usable, seen = [], {}
    for number, path in enumerate(paths, 1):
        found = check.attempt(path, BROKEN, lambda path: (info(path), _Sound(path)), path)
        if found is not None:
            sound = found[1]
            usable.append((path, *found))
            for kind, text in sound.findings():
                check.add(path, kind, text)
            if sound.digest in seen:
                check.add(path, "duplicate", f"has the samples of {seen[sound.digest]}")
            seen.setdefault(sound.digest, path)
        if progress is not None:
            progress(number, len(paths))
    for kind, unit in (("rate", " Hz"), ("channels", " channels")):
        values = [(path, each.sample_rate if kind == "rate" else each.channels) for path, each, _ in usable]
        counts = Counter(value for _, value in values).most_common()
        check.facts["sample rates in Hz" if kind == "rate" else kind] = dict(counts)
        for path, value in values:
            if value != counts[0][0]:
                check.add(path, kind, f"{value}{unit}; most files have {counts[0][0]}")
    check.facts["formats"] = dict(Counter(f"{each.format} {each.subtype}" for _, each, _ in usable).most_common())
    seconds = [sound.frames / properties.sample_rate for _, properties, sound in usable]
    levels = [sound.peak_db for _, _, sound in usable if sound.peak > SILENCE]
    check.facts["hours"] = sum(seconds) / 3600
    if seconds:
        check.facts["seconds per file"] = f"{min(seconds):.2f} to {max(seconds):.2f}, median {np.median(seconds):.2f}"
    if levels:
        check.facts["peaks in dB of full scale"] = (
            f"{min(levels):.1f} to {max(levels):.1f}, median {np.median(levels):.1f}"
        )
    check.distributions = {"seconds": seconds, "peak in dB of full scale": levels}
    return check


class _Sound:
    """Level, clipping, offset and checksum of the samples of a file, decoded in blocks."""

    def __init__(self, path: Path):
        self.frames, self.peak, self.clipped, total = 0, 0.0, 0, 0.0
        digest, tail = hashlib.blake2b(digest_size=16), None
        for block in read_blocks(path, _BLOCK):
            digest.update(np.ascontiguousarray(block.T))
            self.peak = max(self.peak, float(np.abs(block).max()))
            total = total + block.sum(axis=1, dtype=np.float64)
            loud = np.abs(block) >= FULL_SCALE
            if tail is not None:  # runs may cross the border of two blocks
                loud = np.concatenate([tail, loud], axis=1)
            runs = loud[:, 2:] & loud[:, 1:-1] & loud[:, :-2]
            self.clipped += int(runs.sum())
            tail = loud[:, -(CLIPPED_RUN - 1) :]
            self.frames += block.shape[1]
        self.offset = float(np.abs(total).max() / self.frames)
        self.digest = digest.digest()

    @property
    def peak_db(self) -> float:
        return 20 * math.log10(max(self.peak, 1e-12))

    def findings(self) -> list[tuple[str, str]]:
        found = []
        if self.peak < SILENCE:
            found.append(("silent", f"peak {self.peak_db:.0f} dB of full scale"))
        elif self.peak_db < QUIET_DB:
            found.append(("quiet", f"peak {self.peak_db:.0f} dB of full scale"))
        if self.clipped:
            found.append(("clipped", f"{self.clipped} times {CLIPPED_RUN} samples in a row at full scale"))
        if self.peak > OUTSIDE:
            found.append(("level", f"peak {self.peak:.4g}: outside [-1, 1]"))
        if self.offset > OFFSET and self.peak >= SILENCE:
            found.append(("offset", f"mean {self.offset:.3f} of full scale"))
        return found
