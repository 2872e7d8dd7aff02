"""Evaluates an effect model on a table or folder of recordings: the function behind ``wavedil evaluate``."""

from collections.abc import Callable
from pathlib import Path

from wavedil.audio.data.recordings import find_recordings, read_segments, split
from wavedil.audio.effects.process import ErrorToSignal, evaluate_pairs
from wavedil.audio.models.effect_model import EffectModel


def evaluate_effect(
    model: EffectModel,
    data: str | Path,
    *,
    held_out: bool = False,
    validation: str | None = None,
    resample: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ErrorToSignal:
    """Error-to-signal ratio in percent over recordings of an effect, also by knob setting.

    Args:
        data: a table or folder of recordings; see :func:`wavedil.audio.data.recordings.find_recordings`.
        held_out: only what a recipe holds out: by the table, every tenth recording, or the last tenth of each.
        validation: only recordings whose path matches this regular expression, as in a recipe's data.
        resample: convert recordings to the model's sample rate.
        progress: called with the samples finished so far and their total.

    Raises:
        WavedilError: the recordings cannot be read, or do not fit the model.
    """
    recordings, rate = find_recordings(data), model.sample_rate
    if held_out or validation:
        context = model.receptive_field - 1
        segments = split(recordings, rate, context=context, validation=validation, resample=resample)[1]
    else:
        segments = [segment for recording in recordings for segment in read_segments(recording, rate, resample)]
    total = sum(len(segment) - segment.skip for segment in segments)
    return evaluate_pairs(model, segments, None if progress is None else lambda done: progress(done, total))
