"""Names of generated clips, and a page to listen to them."""

import html
import logging
import os
import re
from pathlib import Path

from wavedil.audio.data.streams import FORMATS
from wavedil.errors import WavedilError, one_of
from wavedil.outputs import BestEffort, check_folder_name
from wavedil.writing import atomic_write

MIDI = (".mid", ".midi")
PAGE = "index.html"
MAX_LISTED = 1000  # clips on a page
_MARK = '<meta name="generator" content="wavedil sample">'
_STYLE = "body { font: 16px/1.5 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto } audio { width: 100% }"
_NAME = re.compile(r"clip_\d+[\w.+-]*\.(wav|flac|ogg|mp3)")

_log = logging.getLogger("wavedil")


class Clips:
    """The files of one call: in a folder, or one file that is named.

    The names in a folder show what was generated: ``clip_000_theo_seed1_t0.8.wav`` is clip 0 of the speaker theo, of
    seed 1, at temperature 0.8 (left out if it is 1). If a clip of these names exists, all get a number:
    ``clip_000_seed1-2.wav``.

    Args:
        out: a folder, or a file.
        num: number of clips.
        suffixes: of the files that are written for each clip; a named file may have that of any audio file, or of MIDI
            if one of them is ``.mid``.
        seed, temperature, speaker: for the names.

    Raises:
        WavedilError: several clips for one file, or a file of another kind.
    """

    def __init__(
        self,
        out: str | Path,
        num: int,
        suffixes: tuple[str, ...],
        seed: int = 0,
        temperature: float = 1.0,
        speaker: str | int | None = None,
    ):
        self.out, self.num, self.suffixes = Path(out), num, suffixes
        suffix, allowed = self.out.suffix.lower(), (*FORMATS, *(MIDI if ".mid" in suffixes else ()))
        self.is_file = suffix in (*FORMATS, *MIDI) and not self.out.is_dir()
        if self.is_file and suffix not in allowed:
            raise WavedilError(f"out {out}: expected a folder, or a file that ends with {one_of(suffix, allowed)}")
        if not self.is_file:
            check_folder_name("out", out, f", or an audio file, e.g. {self.out.with_suffix('.wav').name}")
        if self.is_file and num > 1:
            raise WavedilError(f"num is {num}, but out {out} is one file: name a folder, or generate one clip")
        label = "" if speaker is None else "_" + re.sub(r"[^\w-]+", "-", str(speaker))[:40]
        self.label = f"{label}_seed{seed}" + (f"_t{temperature:g}" if temperature != 1 else "")
        self.folder = self.out.parent if self.is_file else self.out
        if self.is_file:
            self.suffixes = (self.out.suffix,)

    def names(self, index: int) -> list[str]:
        """Names in the folder of the files of a clip; with more than 1000 clips, in a subfolder for each thousand."""
        if self.is_file:
            return [self.out.name]
        digits = max(3, len(str(self.num - 1)))
        folder = f"{index // 1000:0{digits - 3}d}/" if self.num > 1000 else ""
        return [f"{folder}clip_{index:0{digits}d}{self.label}{suffix}" for suffix in self.suffixes]

    def keep_others(self) -> None:
        """Chooses names that no file has; a file that was named will be replaced."""
        if self.is_file:
            self.is_replaced = self.out.exists()
            return
        label, number = self.label, 2
        while any((self.folder / name).exists() for index in range(self.num) for name in self.names(index)):
            self.label, number = f"{label}-{number}", number + 1

    def finish(self, title: str) -> None:
        """Writes ``index.html`` with a player for each clip in the folder, the newest first.

        For a clip with a name of its own, only logs if an earlier file was replaced.
        """
        path = self.folder / PAGE
        if self.is_file and self.is_replaced:
            _log.warning("%s exists and is replaced", self.out)
        if self.is_file or (path.exists() and _MARK not in path.read_text(encoding="utf-8", errors="replace")[:1000]):
            return
        found = [each for each in os.scandir(self.folder) if _NAME.fullmatch(each.name)]
        found.sort(key=lambda each: (-int(each.stat().st_mtime), each.name))
        rows = [
            f'<p>{html.escape(each.name)}<br><audio controls preload="none" src="{html.escape(each.name)}"></audio></p>'
            for each in found[:MAX_LISTED]
        ]
        head = f'<!doctype html><html lang="en"><head><meta charset="utf-8">{_MARK}<title>{html.escape(title)}</title>'
        text = f"{head}<style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        with BestEffort(path), atomic_write(path) as beside:
            beside.write_text("\n".join([text, *rows, "</body></html>\n"]), encoding="utf-8")
