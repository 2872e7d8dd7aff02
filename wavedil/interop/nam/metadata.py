"""Metadata of ``.nam`` files: what players show and set their levels by."""

import datetime
import functools
import math
from collections.abc import Sequence
from importlib.resources import as_file, files
from typing import Any

import torch
from torch import Tensor

from wavedil.audio.data import audio_files
from wavedil.audio.effects.process import apply_model
from wavedil.audio.models.effect_model import EffectModel
from wavedil.errors import WavedilError, one_of

GEAR_TYPES = ("amp", "pedal", "pedal_amp", "amp_cab", "amp_pedal_cab", "preamp", "studio")
TONE_TYPES = ("clean", "overdrive", "crunch", "hi_gain", "fuzz")
#: The keys that users set: text, one of some names, or a number.
KEYS: dict[str, type | tuple[str, ...]] = {
    "name": str,
    "modeled_by": str,
    "gear_type": GEAR_TYPES,
    "gear_make": str,
    "gear_model": str,
    "tone_type": TONE_TYPES,
    "input_level_dbu": float,  # dBu of the analog input that is 0 dBFS
    "output_level_dbu": float,
}
GAINS = 11  # input levels, from 0 to 1


def parse_metadata(settings: Sequence[str]) -> dict[str, Any]:
    """Parses ``["name=Klon", "input_level_dbu=12.5"]``.

    Raises:
        WavedilError: a key is unknown or given twice, or its value is not one that it can have.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign or key not in KEYS:
            raise WavedilError(f"--metadata {setting}: expected KEY=VALUE, with {one_of(key, KEYS)}")
        if key in values:
            raise WavedilError(f"--metadata {key} is given twice: expected each key once")
        kind = KEYS[key]
        if isinstance(kind, tuple) and text not in kind:
            raise WavedilError(f"--metadata {setting}: expected {one_of(text, kind)}")
        values[key] = _number(text, setting) if kind is float else text
    return values


def _number(text: str, setting: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= 200:
        raise WavedilError(f"--metadata {setting}: expected a number of dBu, e.g. 12.5")
    return value


def completed(model: EffectModel) -> dict[str, Any]:
    """The model's metadata, with date, loudness and gain where it has none.

    ``loudness`` in dB and ``gain`` from 0 (linear) to 1 (compressed to one level) are those of neural-amp-modeler 0.13:
    the RMS of the output for its second of guitar, and the mean output over inputs from 0 to this level.
    """
    metadata = {"date": now(), **(model.metadata or {})}
    if not {"loudness", "gain"} <= metadata.keys():
        metadata = _levels(model) | metadata
    return metadata


def now() -> dict[str, int]:
    now = datetime.datetime.now()
    return {name: getattr(now, name) for name in ("year", "month", "day", "hour", "minute", "second")}


def _levels(model: EffectModel) -> dict[str, float]:
    x = torch.linspace(0, 1, GAINS).view(-1, 1, 1) * _loudness_input()
    levels = apply_model(model, x).double().square().mean((1, 2)).sqrt()
    largest = levels[-1].item() * GAINS
    if not largest > 0:
        return {}  # silent: it has no level in dB
    gain = (levels.sum().item() - 0.5 * largest) / (0.5 * largest)
    return {"loudness": 20 * math.log10(levels[-1].item()), "gain": min(max(gain, 0.0), 1.0)}


@functools.cache
def _loudness_input() -> Tensor:
    """``(1, 1, time)``; part of neural-amp-modeler, under the license in ``loudness_input.LICENSE``."""
    with as_file(files("wavedil.interop.nam") / "loudness_input.flac") as path:
        return torch.from_numpy(audio_files.read(path)[0]).view(1, 1, -1)
