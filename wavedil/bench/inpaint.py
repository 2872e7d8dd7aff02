"""``wavedil bench inpaint``: gaps in held-out recordings, filled by a model and by linear prediction alone.

Each recording gets gaps at random places whose level is above a sixth of the recording's loudest 50 ms. The
signal-to-noise ratio (SNR) counts the samples of the gap, the log-spectral distance (LSD) the frames of 16 ms, 4 ms
apart, that overlap it.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.data.audio_files import list_audio_files
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.split import split_files
from wavedil.audio.inpainting import CONTEXT_MS, MAX_GAP_MS, inpaint
from wavedil.audio.models.wavenet import WaveNet
from wavedil.audio.spectrogram import hann_stft
from wavedil.bench.runner import summary_row, torch_threads
from wavedil.errors import WavedilError
from wavedil.weights import load

_QUIET = 1 / 6


def add_options(parser: argparse.ArgumentParser) -> None:
    from wavedil.cli.options import find_model

    parser.add_argument("--model", metavar="MODEL", type=find_model, required=True, help="a WaveNet without features")
    parser.add_argument("--recordings", metavar="ROOT", required=True, help="folder; every tenth file is used")
    parser.add_argument("--gap-ms", type=float, nargs="+", default=[5.0, 10.0, 20.0, 50.0], help="lengths of the gaps")
    parser.add_argument("--gaps", type=int, default=1, metavar="N", help="of each length in each file (default 1)")
    parser.add_argument("--candidates", type=int, nargs="+", default=[0, 32], help="0 is linear prediction alone")
    parser.add_argument("--temperature", type=float, default=0.7, help="of the candidates (default 0.7)")


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints a line for each length and number of candidates; returns their rows."""
    wrong = [each for each in arguments.gap_ms if not 0.1 <= each <= MAX_GAP_MS]
    if wrong:
        raise WavedilError(f"--gap-ms {wrong[0]:g}: expected 0.1 to {MAX_GAP_MS:g}")
    if arguments.gaps < 1:
        raise WavedilError(f"--gaps is {arguments.gaps}: expected at least 1")
    model = load(arguments.model, expect=WaveNet)
    files = split_files(list_audio_files(Path(arguments.recordings))).validation
    corpus = Corpus(files, model.sample_rate)
    sounds = [corpus.sound(index) for index in range(len(corpus))]
    rows = []
    with torch_threads(1):
        for length in arguments.gap_ms:
            random = np.random.default_rng(0)
            places = [
                (sound, *place) for sound in sounds for place in _places(sound, length, model, random, arguments.gaps)
            ]
            if not places:
                raise WavedilError(f"--recordings {arguments.recordings}: no file is long enough for gaps")
            for candidates in arguments.candidates:
                rows += _measure(model, places, length, candidates, arguments.temperature)
    return rows


def _places(
    sound: np.ndarray, length: float, model: WaveNet, random: np.random.Generator, count: int
) -> list[tuple[int, int]]:
    """Starts and stops of gaps, in samples, where the sound is not quiet."""
    rate = model.sample_rate
    size, margin = max(1, round(length * rate / 1000)), round(5 * CONTEXT_MS * rate / 1000)
    window = round(0.05 * rate)
    if len(sound) < size + 2 * margin:
        return []
    level = np.sqrt(np.maximum(np.convolve(sound.astype(float) ** 2, np.full(window, 1 / window), "same"), 0))
    starts = np.arange(margin, len(sound) - size - margin + 1)
    starts = starts[level[starts + size // 2] > _QUIET * level.max()]
    chosen = random.permutation(starts)[:count]
    return [(int(start), int(start) + size) for start in chosen]


def _measure(
    model: WaveNet, places: list[tuple[np.ndarray, int, int]], length: float, candidates: int, temperature: float
) -> list[dict[str, Any]]:
    rate, ratios, distances, times = model.sample_rate, [], [], []
    inpaint(model, places[0][0], [(places[0][1] / rate, places[0][2] / rate)], candidates=candidates)  # compiles
    for index, (sound, start, stop) in enumerate(places):
        began = time.perf_counter()
        options = {"candidates": candidates, "temperature": temperature, "seed": index}
        filled = inpaint(model, sound, [(start / rate, stop / rate)], **options)
        times.append(time.perf_counter() - began)
        recording = torch.from_numpy(sound)
        error = (filled - recording)[start:stop].square().sum().clamp(min=1e-12)
        ratios.append(float(10 * torch.log10(recording[start:stop].square().sum() / error)))
        distances.append(_distance(filled, recording, start, stop, rate))
    name = f"gaps of {length:g} ms, " + (f"{candidates} candidates" if candidates else "linear prediction")
    found = {"dB SNR": ratios, "dB LSD": distances, "s per gap": times}
    print(
        f"{name}: SNR {np.median(ratios):.1f} dB (mean {np.mean(ratios):.1f}), LSD {np.mean(distances):.1f} dB, "
        f"{np.median(times):.3f} s per gap, {len(places)} gaps",
        flush=True,
    )
    return [summary_row(name, unit, values) | {"mean": float(np.mean(values))} for unit, values in found.items()]


def _distance(sound: Tensor, recording: Tensor, start: int, stop: int, rate: int) -> float:
    """Log-spectral distance in dB of the frames that overlap the gap; spectra below -80 dB count as -80 dB."""
    hop = max(1, round(0.004 * rate))
    size = 4 * hop
    part = slice(start - size + hop, stop + size - hop)
    ours, theirs = (
        20 * torch.log10(hann_stft(each[part].double(), size, hop, center=False).abs().clamp(min=1e-4))
        for each in (sound, recording)
    )
    return float((ours - theirs).square().mean(0).sqrt().mean())
