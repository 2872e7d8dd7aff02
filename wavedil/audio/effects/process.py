"""Applies effect models to tensors and to files of any length."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavedil.audio.data import audio_files
from wavedil.audio.data.levels import Levels, check_level
from wavedil.audio.data.resampling import resampled_length
from wavedil.audio.data.streams import coding, read_blocks, written_blocks
from wavedil.audio.effects.live import LiveEffect
from wavedil.audio.models.effect_model import EffectModel
from wavedil.core.schema import AnyPath, checked
from wavedil.errors import WavedilError
from wavedil.outputs import check_folder_name, claim_file, claim_folder, name_outputs

#: Samples per pass, to bound memory; the state is carried from one pass to the next.
CHUNK = 2**15

_log = logging.getLogger("wavedil")


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
    """Applies an effect to an audio file of any length, in constant memory, each channel separately.

    Tags of the source (title, artist …) are copied if the format of the target supports them.

    Args:
        model: the effect.
        source, target: audio files. The suffix of ``target`` sets its format. It is written atomically.
        knobs: settings by name.
        resample: resample a file of another rate to the model's; the target has the model's rate.
        subtype: coding of the target, see :func:`wavedil.audio.data.audio_files.write`. Default: that of the source if
            the target's format has it, 24-bit PCM in place of more bits, else 16-bit PCM.
        progress: called with (finished, total) samples.

    Returns:
        A dict of ``file``, ``seconds`` of sound, ``sample_rate``, ``channels``, ``real_time_factor`` and ``clipped``,
        the number of samples outside [-1, 1] that the coding could not represent.

    Raises:
        WavedilError: for another sample rate without ``resample``, the same file as source and target, unknown knobs,
            or a peak above 16.
    """
    task = _Task(model, knobs, resample, subtype)
    info, total = task.examine(source)
    result = task.process(info, target, None if progress is None else lambda done: progress(done, total))
    task.levels.warn()
    return result


@checked
def process_files(
    model: EffectModel,
    sources: Sequence[AnyPath],
    out: AnyPath,
    knobs: Mapping[str, float] | None = None,
    *,
    resample: bool = False,
    subtype: str | None = None,
    inputs: Iterable[AnyPath] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Applies an effect to files and folders of sound, as :func:`process_file` does to each file.

    The results have the names of the sources, and the subfolders of a folder are kept. A file that cannot be read or
    written is logged, and the others are processed.

    Args:
        sources: audio files, and folders of them.
        out: folder for the results. Files in it with the names of results are replaced.
        inputs: further files and folders that must not be written to.
        progress: called with (finished, total) samples of all files.
        model, knobs, resample, subtype: as for :func:`process_file`.

    Returns:
        For each file a dict of ``input`` (its path) and the items of :func:`process_file`, or ``error``, a message.

    Raises:
        WavedilError: an unknown knob, a subtype that a result's format does not have, two results of one name, or a
            result that would replace an input. Nothing is written then.
    """
    check_folder_name("out", out)
    model.knob_values(knobs)
    found = name_outputs(sources, out, audio_files.list_audio_files, lambda path: [path.as_posix()])
    for name in found:
        coding(Path(out, name), subtype)
    results: list[dict[str, Any]] = [{"input": str(path)} for path in found.values()]
    task, finished = _Task(model, knobs, resample, subtype), 0
    with claim_folder(out, list(found), [*found.values(), *inputs]):
        replaced = sum(Path(out, name).exists() for name in found)
        if replaced:
            _log.info("%s: %d of %d files are replaced", out, replaced, len(found))
        examined = [_attempt(result, task.examine, path) for result, path in zip(results, found.values(), strict=True)]
        total = sum(each[1] for each in examined if each)
        for name, result, each in zip(found, results, examined, strict=True):
            if each is not None:
                before = finished
                report = None if progress is None else lambda done, before=before: progress(before + done, total)
                result |= _attempt(result, task.process, each[0], Path(out, name), report) or {}
                finished += each[1]
    task.levels.warn()
    return results


def _attempt(result: dict[str, Any], function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function; of an error it logs the message, adds it to the result of the file, and returns None."""
    try:
        return function(*arguments)
    except WavedilError as error:
        _log.error("error: %s", error)
        result["error"] = str(error)
        return None


class _Task:
    """Processes files with the same settings."""

    def __init__(self, model: EffectModel, knobs: Mapping[str, float] | None, resample: bool, subtype: str | None):
        self.model, self.knobs, self.resample, self.subtype = model, knobs, resample, subtype
        self.levels = Levels()
        self._effects: dict[int, tuple[LiveEffect, dict[str, Tensor]]] = {}  # with their first states, by channels

    def examine(self, source: str | Path) -> tuple[audio_files.AudioInfo, int]:
        """Properties of a file, and the number of its samples at the model's rate."""
        info, rate = audio_files.info(source), self.model.sample_rate
        if info.sample_rate != rate and not self.resample:
            raise WavedilError(f"{source} has {info.sample_rate} Hz and the model {rate} Hz: set resample (--resample)")
        return info, resampled_length(info.frames, info.sample_rate, rate)

    def process(
        self, info: audio_files.AudioInfo, target: str | Path, progress: Callable[[int], None] | None
    ) -> dict[str, Any]:
        """Processes a file; ``progress`` is called with the number of finished samples."""
        effect, rate = self._effect(info), self.model.sample_rate
        subtype = coding(Path(target), self.subtype, info.subtype)[1]
        before, clipped, done = effect.seconds, 0, 0
        with (
            claim_file(target, [info.path]),
            written_blocks(target, rate, info.channels, subtype, info.tags) as append,
        ):
            for block in read_blocks(info.path, CHUNK, rate):
                clipped += append(effect.process(block))
                done += block.shape[1]
                if progress is not None:
                    progress(done)
        return {
            "file": str(target),
            "seconds": done / rate,
            "sample_rate": rate,
            "channels": info.channels,
            "real_time_factor": round(done / rate / (effect.seconds - before), 2),
            "clipped": clipped,
        }

    def _effect(self, info: audio_files.AudioInfo) -> LiveEffect:
        """An effect in its first state. To make one takes 0.1 s, as long as a short file."""
        if info.channels not in self._effects:
            effect = LiveEffect(self.model, self.knobs, info.channels, info.path)
            effect.levels = self.levels
            self._effects[info.channels] = effect, effect.state()
        effect, start = self._effects[info.channels]
        effect.source = info.path
        effect.restore(start)
        return effect
