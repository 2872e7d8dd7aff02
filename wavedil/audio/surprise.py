"""How surprised a model is by each moment of a recording: clicks, cuts and foreign sounds take many bits."""

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from wavedil.audio.conditioning.conditioner import Speaker
from wavedil.audio.data import audio_files
from wavedil.audio.data.levels import check_level
from wavedil.audio.evaluation import nll_by_chunk
from wavedil.audio.models.wavenet import WaveNet
from wavedil.audio.spectrogram import hann_stft
from wavedil.core.schema import AnyPath, Range, checked
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError, with_article
from wavedil.writing import atomic_write

Milliseconds = Annotated[float, Range(0.1, 60_000)]
_MOMENTS = 5  # that a summary lists


@dataclass(frozen=True)
class Surprise:
    """Bits per sample over time.

    Args:
        bits: ``(windows,)``, the mean of each window.
        window: samples per window; the last one may be shorter.
        sample_rate: in Hz.
        mean: bits per sample of the entire recording.
    """

    bits: np.ndarray
    window: int
    sample_rate: int
    mean: float

    @property
    def seconds(self) -> np.ndarray:
        """Start of each window."""
        return np.arange(len(self.bits)) * self.window / self.sample_rate

    def moments(self, count: int = _MOMENTS) -> list[dict[str, float]]:
        """The starts, in seconds, and bits of the most surprising windows, at least three windows apart."""
        found, bits = [], self.bits.copy()
        for _ in range(min(count, len(bits))):
            index = int(bits.argmax())
            if bits[index] == -math.inf:
                break
            found.append({"seconds": round(float(self.seconds[index]), 4), "bits": round(float(self.bits[index]), 3)})
            bits[max(0, index - 2) : index + 3] = -math.inf
        return found

    def __str__(self) -> str:
        lines = [f"{self.mean:.3f} bits per sample; the most surprising moments:"]
        return "\n".join([*lines, *(f"{each['seconds']:9.3f} s  {each['bits']:.2f} bits" for each in self.moments())])

    def as_json(self) -> str:
        return json.dumps(
            {"bits_per_sample": self.mean, "windows": len(self.bits), "moments": self.moments()}, indent=2
        )


@checked
@torch.inference_mode()
def surprise(
    model: nn.Module,
    sound: Tensor | np.ndarray,
    *,
    speaker: Speaker | None = None,
    window_ms: Milliseconds = 10.0,
    progress: Callable[[int, int], None] | None = None,
) -> Surprise:
    """Measures the bits that a model needs for each window of a recording, each with all samples before it.

    Args:
        model: a :class:`wavedil.audio.WaveNet`.
        sound: ``(time,)`` in [-1, 1] at the model's sample rate.
        speaker: for a model with speakers.
        window_ms: length of a window in milliseconds, at least one sample.
        progress: called with (finished, total) samples.

    Raises:
        WavedilError: the model does not predict sound, or the sound has no samples or another shape.
    """
    if not isinstance(model, WaveNet):
        raise WavedilError(f"model is {with_article(model)}, which has no distribution of sound: expected a WaveNet")
    sound = to_tensor("sound", sound)
    if sound.ndim != 1 or not len(sound):
        raise WavedilError(f"sound has shape {tuple(sound.shape)}: expected (time,), with at least one sample")
    sound = check_level(sound).to(next(model.parameters()).device).unsqueeze(0)
    parts, done = [], 0
    conditioning = model.conditioning(model.features(sound), speaker)
    for part in nll_by_chunk(model, model.encode(sound), conditioning):
        parts.append(part.double().cpu() / math.log(2))
        done += len(part)
        if progress is not None:
            progress(done, sound.shape[1])
    bits = torch.cat(parts).numpy()
    window = max(1, round(window_ms * model.sample_rate / 1000))
    starts = np.arange(0, len(bits), window)
    counts = np.diff(np.append(starts, len(bits)))
    return Surprise(np.add.reduceat(bits, starts) / counts, window, model.sample_rate, float(bits.mean()))


def surprise_of_file(model: nn.Module, path: AnyPath, **options: Any) -> tuple[Surprise, np.ndarray]:
    """:func:`surprise` of an audio file, resampled to the model's rate and mixed to one channel; and this sound."""
    sound = audio_files.read(path, sample_rate=model.sample_rate)[0][0]
    return surprise(model, torch.from_numpy(sound), **options), sound


def write_csv(result: Surprise, path: AnyPath) -> None:
    """Writes the columns ``seconds`` (start of each window) and ``bits`` (per sample)."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["seconds", "bits"])
    rows.writerows([f"{second:.6g}", f"{bits:.6g}"] for second, bits in zip(result.seconds, result.bits, strict=True))
    with atomic_write(path) as beside:
        beside.write_text(text.getvalue(), encoding="utf-8", newline="")


def _spectrogram_db(sound: np.ndarray, rate: int) -> np.ndarray:
    """Spectrogram ``(frequencies, frames)`` in dB relative to the loudest bin, at least -80; hop 8 ms."""
    size = max(64, int(0.032 * rate))
    padded = np.pad(np.asarray(sound, np.float32), (0, max(0, size - len(sound))))
    magnitude = hann_stft(torch.from_numpy(padded), size, size // 4).abs()
    return (20 * torch.log10(magnitude / magnitude.max().clamp(min=1e-9) + 1e-12)).clamp(min=-80).numpy()


def draw(result: Surprise, sound: np.ndarray, path: AnyPath, title: str = "") -> None:
    """Writes a picture, .png, .svg or .pdf: the spectrogram of the sound, and under it the bits over time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from wavedil.figures import write_figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    seconds = len(sound) / result.sample_rate
    above.imshow(
        _spectrogram_db(sound, result.sample_rate),
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, result.sample_rate / 2000),
        cmap="magma",
    )
    above.set(ylabel="kHz", title=title)
    below.plot(result.seconds, result.bits, drawstyle="steps-post", linewidth=1)
    below.axhline(result.mean, linestyle="--", linewidth=1, color="gray")
    below.set(xlabel="seconds", ylabel="bits per sample", xlim=(0, seconds), ylim=(0, None))
    write_figure(figure, path)
