"""Applies effect models to tensors and to files of any length."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from wavedil.audio.data import audio_files
from wavedil.audio.data.levels import Levels, check_level
from wavedil.audio.data.resampling import resampled_length
from wavedil.audio.data.streams import read_blocks, written_blocks
from wavedil.audio.effects.live import LiveEffect
from wavedil.audio.models.effect_model import EffectModel
from wavedil.core.schema import AnyPath, checked
from wavedil.errors import WavedilError
from wavedil.outputs import claim_file

#: Samples per pass, to bound memory; the state is carried from one pass to the next.
CHUNK = 2**15


@torch.inference_mode()
def apply_model(model: EffectModel, x: Tensor, knobs: Tensor | None = None) -> Tensor:
    """The model's output for x, both ``(batch, 1, time)``, computed in chunks to bound memory.

    The result is float32, on the model's device; ``knobs`` are ``(batch, knobs)``.

    Raises:
        WavedilError: x is of integers, or its peak exceeds 16.
    """
    check_level(x, "x", Levels())
    device = next(model.parameters()).device
    knobs = knobs.to(device) if model.knobs else None
    state, parts = None, []
    for chunk in x.to(device).split(CHUNK, dim=2):
        y, state = model.step(chunk, state, knobs)
        parts.append(y.float())
    return torch.cat(parts, dim=2)


@checked
def process_file(
    model: EffectModel,
    source: AnyPath,
    target: AnyPath,
    knobs: Mapping[str, float] | None = None,
    *,
    resample: bool = False,
    subtype: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Applies an effect to a sound file of any length, in constant memory, each channel separately.

    Args:
        model: the effect.
        source, target: sound files. The suffix of ``target`` sets its format; it is created when it is complete.
        knobs: settings by name.
        resample: resample a file of another rate to the model's; the target has the model's rate.
        subtype: coding of the target, see :func:`wavedil.audio.data.audio_files.write`.
        progress: called with (finished, total) samples.

    Returns:
        A dict of ``file``, ``seconds`` of sound, ``sample_rate``, ``channels``, ``real_time_factor`` and ``clipped``,
        the number of samples outside [-1, 1] that the coding could not represent.

    Raises:
        WavedilError: for another sample rate without ``resample``, the same file as source and target, unknown knobs,
            or a peak above 16.
    """
    info = audio_files.info(source)
    rate = model.sample_rate
    if info.sample_rate != rate and not resample:
        raise WavedilError(f"{source} has {info.sample_rate} Hz and the model {rate} Hz: set resample (--resample)")
    effect = LiveEffect(model, knobs, info.channels, source)
    total = resampled_length(info.frames, info.sample_rate, rate)
    clipped = done = 0
    with claim_file(target, [source]), written_blocks(target, rate, info.channels, subtype) as append:
        for block in read_blocks(source, CHUNK, rate):
            clipped += append(effect.process(block))
            done += block.shape[1]
            if progress is not None:
                progress(done, total)
    effect.levels.warn()
    return {
        "file": str(target),
        "seconds": done / rate,
        "sample_rate": rate,
        "channels": info.channels,
        "real_time_factor": round(effect.real_time_factor, 2),
        "clipped": clipped,
    }
