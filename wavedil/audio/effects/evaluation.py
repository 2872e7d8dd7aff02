"""Error-to-signal ratio of effect models on recordings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from wavedil.audio.data.recording_files import find_recordings
from wavedil.audio.data.recordings import Segment, read_recordings, split_recordings
from wavedil.audio.effects.process import apply_model
from wavedil.audio.models.effect_model import EffectModel
from wavedil.errors import count_text, printable

DEFINITION = (
    "100 * sum((target - output)^2) / sum(target^2) over all counted samples of all segments, at {rate} Hz; every "
    "segment starts from {beginning}, and its first {skip} samples are processed but not counted"
)


@dataclass(frozen=True)
class ErrorToSignal:
    """Result of :func:`evaluate_pairs`."""

    esr_percent: float
    count: int  # number of samples
    segments: int
    settings: dict[str, float]  # ESR in percent at each knob setting
    definition: str
    findings: tuple[str, ...] = ()  # about the recordings

    def __str__(self) -> str:
        lines = [f"{name:<20} {esr:.3f} %" for name, esr in self.settings.items()] if len(self.settings) > 1 else []
        lines.append(
            f"ESR {self.esr_percent:.3f} % over {self.count} samples of {count_text(self.segments, 'segment')}"
        )
        return "\n".join([*map(printable, self.findings[:20]), *lines, f"({self.definition})"])


def evaluate_pairs(
    model: EffectModel, segments: Sequence[Segment], progress: Callable[[int, int], None] | None = None
) -> ErrorToSignal:
    """Error-to-signal ratio (ESR) in percent over segments, each processed from the initial state.

    ``progress`` is called with the numbers of finished and of all samples.
    """
    energies: dict[str, np.ndarray] = {}
    count, total = 0, sum(len(segment) - segment.skip for segment in segments)
    for segment in segments:
        knobs = model.knob_values(segment.knobs).unsqueeze(0)
        output = apply_model(model, torch.from_numpy(segment.input).view(1, 1, -1), knobs)
        output = output[0, 0, segment.skip :].cpu().double()
        target = torch.from_numpy(segment.target[segment.skip :]).double()
        name = ", ".join(f"{knob} {value:g}" for knob, value in segment.knobs.items()) or "all"
        energy = np.array([(target - output).square().sum().item(), target.square().sum().item()])
        energies[name] = energies.get(name, 0) + energy
        count += len(target)
        if progress is not None:
            progress(count, total)
    error, signal = sum(energies.values())
    return ErrorToSignal(
        esr_percent=100 * error / signal,
        count=count,
        segments=len(segments),
        settings={name: 100 * e / s for name, (e, s) in energies.items()},
        definition=DEFINITION.format(
            rate=model.sample_rate,
            beginning=model.start_description,
            skip=" or ".join(map(str, sorted({segment.skip for segment in segments}))),
        ),
    )


def evaluate_effect(
    model: EffectModel,
    data: str | Path,
    *,
    held_out: bool = False,
    validation: str | None = None,
    resample: bool = False,
    align: str = "auto",
    quality: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ErrorToSignal:
    """Error-to-signal ratio in percent over recordings of an effect, also by knob setting.

    Args:
        data: recordings; see :func:`wavedil.audio.data.recording_files.find_recordings`.
        held_out: only the held-out part: set by the table, else every tenth recording or the last tenth of each.
        validation: only recordings whose path matches this regular expression, as in a recipe's data.
        resample: resample recordings to the model's sample rate.
        align: auto removes the delay of each target, as in training; none keeps it; a number removes that many samples.
        quality: for models with several networks: from 0 (fastest) to 1 (best, default).
        progress: called with the numbers of finished and of all samples.

    Raises:
        WavedilError: the recordings cannot be read, or do not fit the model.
    """
    if quality is not None:
        model = model.at_quality(quality)
    recordings, rate = find_recordings(data), model.sample_rate
    options = {"context": model.receptive_field - 1, "resample": resample, "align": align}
    if held_out or validation:
        _, segments, findings = split_recordings(recordings, rate, validation=validation, **options)
    else:
        found, findings = read_recordings(recordings, rate, **options)
        segments = [segment for parts in found for segment in parts]
    return replace(evaluate_pairs(model, segments, progress), findings=tuple(findings.lines))
