"""Sound clips in a page: one row for each clip, one column for each recording, model or step."""

import io
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wavedil.errors import WavedilError
from wavedil.report.files import Budget, data_uri, short, text
from wavedil.report.spectrogram import spectrogram_picture

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PICTURE = 125_000  # bytes of a spectrogram of noise in a page
MIN_SECONDS = 1.0  # a clip that would be shorter than this in the page is left out


@dataclass
class Clip:
    """A sound in a row.

    Args:
        label: what the sound is: the name of its column.
        path: an audio file; or None with ``sound`` ``(time,)`` and ``rate`` in Hz.
        facts: shown below the clip, by name.
        picture: a PNG to show instead of the spectrogram, which spans ``picture_seconds`` of the sound.
        alt: what the picture is, for screen readers.
        reference: sound whose loudest frequency is the brightest of the spectrogram; None: this one.
    """

    label: str
    path: Path | None = None
    sound: np.ndarray | None = None
    rate: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    picture: bytes | None = None
    alt: str = "Spectrogram"
    reference: np.ndarray | None = None

    def load(self, seconds: float | None = None) -> tuple[np.ndarray, int, float]:
        """The first ``seconds`` ``(time,)``, the rate, and the length in seconds of the complete sound."""
        if self.sound is None:
            from wavedil.audio.data.audio_files import info, read

            about = info(self.path)
            frames = None if seconds is None else max(1, round(seconds * about.sample_rate))
            return read(self.path, frames=frames)[0][0], about.sample_rate, about.seconds
        length = len(self.sound) / self.rate
        return self.sound if seconds is None else self.sound[: round(seconds * self.rate)], self.rate, length


@dataclass
class Row:
    """Clips that belong together, and are switched at the same position."""

    title: str
    clips: list[Clip]
    facts: Mapping[str, Any] = field(default_factory=dict)


def wav(sound: np.ndarray, rate: int) -> bytes:
    """A WAV file of int16 samples."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def rows_html(rows: Sequence[Row], budget: Budget, share: float = 1.0) -> str:
    """HTML of rows. Clips that do not fit in the page are shortened or left out, and the page says so.

    Args:
        share: of what is left of the budget; the clips divide it.
    """
    count = max(1, sum(len(row.clips) for row in rows))
    limit = int(share * budget.left / count)  # bytes of each clip
    parts, dropped = [], 0
    for row in rows:
        clips = []
        for clip in row.clips:
            try:
                html = clip_html(clip, _key(len(clips)), limit)
            except WavedilError as error:
                budget.notes.append(f"skipped: {clip.path.name if clip.path else clip.label}: {error}")
                continue
            if html and budget.take(html):
                clips.append((clip, html))
            else:
                dropped += 1
        if clips:
            parts.append(_row_html(row, clips))
    if dropped:
        budget.notes.append(f"{dropped} clips are not in this page, which may have 20 MB: they are in the run folder")
    return "".join(parts)


def _row_html(row: Row, clips: Sequence[tuple[Clip, str]]) -> str:
    switch = ""
    if len(clips) > 1:
        buttons = (
            f"<button type=button data-switch={index} aria-pressed=false><kbd>{_key(index)}</kbd> "
            f"{text(clip.label)}</button>"
            for index, (clip, _) in enumerate(clips)
        )
        switch = f"<div class=switch role=group aria-label='Switch at the same position'>{''.join(buttons)}</div>"
    return (
        f"<section class=row aria-label='{text(row.title)}'><h3>{text(row.title)}</h3>{facts_html(row.facts)}{switch}"
        f"<div class=clips>{''.join(html for _, html in clips)}</div></section>"
    )


def _key(index: int) -> str:
    """The letter that switches to a clip of a row; its number if there are more clips than letters."""
    return LETTERS[index] if index < len(LETTERS) else str(index + 1)


def facts_html(facts: Mapping[str, Any]) -> str:
    """Facts by name as one line; empty values are left out."""
    shown = [(name, _value(value)) for name, value in facts.items() if value not in (None, "", {}, [])][:30]
    items = (f"<span><b>{text(short(name))}</b> {text(short(value))}</span>" for name, value in shown)
    line = " ".join(items)
    return f"<p class=facts>{line}</p>" if line else ""


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def clip_html(clip: Clip, letter: str, limit: int) -> str:
    """A clip with player and picture, or an empty text if it does not fit in ``limit`` bytes."""
    _, rate, _ = clip.load(0.01)
    seconds = max(limit - PICTURE, 0.4 * limit) / (8 / 3 * rate)  # base64 of int16
    sound, rate, length = clip.load(seconds)
    shown = len(sound) / rate
    if shown < min(length, MIN_SECONDS):
        return ""
    facts = dict(clip.facts)
    if shown < length - 0.5 / rate:
        facts["shortened"] = f"the first {shown:.1f} of {length:.1f} s"
    picture = clip.picture if clip.picture is not None else spectrogram_picture(sound, rate, clip.reference)
    label = text(clip.label)
    name = text(clip.path.name if clip.path is not None else f"{clip.label}.wav")
    axis = f"<span class=top>{rate / 2000:g} kHz</span>" if clip.picture is None else ""
    kind = "" if clip.picture is None else " class=roll"
    return (
        f"<figure class=clip data-seconds={shown:.4f} data-name='{name}' tabindex=0 aria-label='{letter}: {label}'>"
        f"<figcaption><kbd>{letter}</kbd> {label}</figcaption>"
        f"<div class=picture><img{kind} alt='{clip.alt} of {label}' src='{data_uri(picture, 'image/png')}'>"
        f"{axis}<div class=playhead></div></div>"
        f"<div class=controls hidden><button type=button class=play aria-label='Play {letter}: {label}'>▶</button>"
        f"<input type=range class=seek min=0 max={shown:.4f} step=any value=0 aria-label='Position in seconds'>"
        f"<span class=time>0.0 / {shown:.1f} s</span><a class=save download='{name}'>WAV</a></div>"
        f"<audio controls preload=none src='{data_uri(wav(sound, rate), 'audio/wav')}'></audio>"
        f"{facts_html(facts)}</figure>"
    )
