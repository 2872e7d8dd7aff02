"""Applies effect models to tensors and to files of any length, and evaluates them against targets."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.data import audio_files
from wavedil.audio.data.recordings import Segment
from wavedil.audio.data.resampling import resampled_length
from wavedil.audio.data.streams import read_blocks, written_blocks
from wavedil.audio.effects.live import LiveEffect
from wavedil.audio.models.effect_model import EffectModel
from wavedil.errors import WavedilError

#: Samples per pass, to bound memory; the state is carried from one pass to the next.
CHUNK = 2**15

DEFINITION = (
    "100 * sum((target - output)^2) / sum(target^2) over all counted samples of all segments, at {rate} Hz; every "
    "segment starts from {beginning}, and its first {skip} samples are processed but not counted"
)


@torch.inference_mode()
def apply_model(model: EffectModel, x: Tensor, knobs: Tensor | None = None) -> Tensor:
    """The model's output for x, both ``(batch, 1, time)``, computed in chunks to bound memory.

    The result is float32, on the model's device; ``knobs`` are ``(batch, knobs)``.
    """
    device = next(model.parameters()).device
    knobs = knobs.to(device) if model.knobs else None
    state, parts = None, []
    for chunk in x.to(device).split(CHUNK, dim=2):
        y, state = model.step(chunk, state, knobs)
        parts.append(y.float())
    return torch.cat(parts, dim=2)


def process_file(
    model: EffectModel,
    source: str | Path,
    target: str | Path,
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
        WavedilError: for another sample rate without ``resample``, the same file as source and target, unknown knobs.
    """
    info = audio_files.info(source)
    rate = model.sample_rate
    if info.sample_rate != rate and not resample:
        raise WavedilError(
            f"{source}: the file has {info.sample_rate} Hz and the model {rate} Hz: pass resample=True (--resample)"
        )
    if Path(target).resolve() == Path(source).resolve():
        raise WavedilError(f"target {target} is the input file: choose another name")
    effect = LiveEffect(model, knobs, info.channels)
    total = resampled_length(info.frames, info.sample_rate, rate)
    clipped = done = 0
    with written_blocks(target, rate, info.channels, subtype) as append:
        for block in read_blocks(source, CHUNK, rate):
            clipped += append(effect.process(block))
            done += block.shape[1]
            if progress is not None:
                progress(done, total)
    return {
        "file": str(target),
        "seconds": done / rate,
        "sample_rate": rate,
        "channels": info.channels,
        "real_time_factor": round(effect.real_time_factor, 2),
        "clipped": clipped,
    }


@dataclass(frozen=True)
class ErrorToSignal:
    """Result of :func:`evaluate_pairs`."""

    esr_percent: float
    count: int  # number of samples
    segments: int
    settings: dict[str, float]  # ESR in percent at each knob setting
    definition: str

    def __str__(self) -> str:
        lines = [f"{name:<20} {esr:.3f} %" for name, esr in self.settings.items()] if len(self.settings) > 1 else []
        lines.append(f"ESR {self.esr_percent:.3f} % over {self.count} samples of {self.segments} segments")
        return "\n".join([*lines, f"({self.definition})"])


def evaluate_pairs(
    model: EffectModel, segments: Iterable[Segment], progress: Callable[[int], None] | None = None
) -> ErrorToSignal:
    """Error-to-signal ratio (ESR) in percent over segments, each processed from the initial state.

    ``progress`` is called with the number of samples finished.
    """
    energies: dict[str, np.ndarray] = {}
    count, skips = 0, []
    for segment in segments:
        knobs = model.knob_values(segment.knobs).unsqueeze(0)
        output = (
            apply_model(model, torch.from_numpy(segment.input).view(1, 1, -1), knobs)[0, 0, segment.skip :]
            .cpu()
            .double()
        )
        target = torch.from_numpy(segment.target[segment.skip :]).double()
        name = ", ".join(f"{knob} {value:g}" for knob, value in segment.knobs.items()) or "all"
        energy = np.array([(target - output).square().sum().item(), target.square().sum().item()])
        energies[name] = energies.get(name, 0) + energy
        count += len(target)
        skips.append(segment.skip)
        if progress is not None:
            progress(count)
    error, signal = sum(energies.values())
    return ErrorToSignal(
        esr_percent=100 * error / signal,
        count=count,
        segments=len(skips),
        settings={name: 100 * e / s for name, (e, s) in energies.items()},
        definition=DEFINITION.format(
            rate=model.sample_rate, beginning=model.start_description, skip=" or ".join(map(str, sorted(set(skips))))
        ),
    )
