"""Clips of an effect model: input, target and output."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import nn

from wavedil.audio.data.audio_files import write
from wavedil.audio.data.recordings import Segment
from wavedil.audio.effects.process import apply_model
from wavedil.core.schema import Seconds, checked
from wavedil.report import add_captions
from wavedil.train.data import Count, OptionalCount
from wavedil.train.module import TrainingModule
from wavedil.train.previews import Previews, Samples


def process_segment(network: nn.Module, segment: Segment) -> np.ndarray:
    """Output for a segment without its first ``skip`` samples, ``(time,)``."""
    x = torch.from_numpy(segment.input).view(1, 1, -1)
    return apply_model(network, x, network.knob_values(segment.knobs).unsqueeze(0))[0, 0, segment.skip :].cpu().numpy()


def _facts(segment: Segment) -> dict[str, Any]:
    return {"file": Path(segment.name).name, "knobs": segment.knobs}


def _clip(sound: np.ndarray, seconds: float, sample_rate: int) -> np.ndarray:
    """The first ``seconds``. Peaks above 1 are clipped for playback only, so no warning is given."""
    return sound[: round(seconds * sample_rate)].clip(-1, 1)


class EffectPreviews(Previews):
    """Held-out segments, the same at every step: input and target when training starts, then the output.

    Args:
        first: step of the first preview.
        every: steps between later previews.
        seconds: maximum length of each clip.
        num: segments per preview, evenly spaced over the held-out ones.
    """

    needs = ["preview_segments"]

    @checked
    def __init__(self, first: OptionalCount = 100, every: Count = 1000, seconds: Seconds = 3.0, num: Count = 1):
        super().__init__(first, every)
        self.seconds, self.num = seconds, num

    def write_targets(self, trainer: L.Trainer, module: TrainingModule) -> None:
        for index, segment in enumerate(trainer.datamodule.preview_segments(self.num)):
            for kind, sound in (("input", segment.input), ("target", segment.target)):
                name = f"target_{index}_{kind}"
                self._write(trainer, module, sound[segment.skip :], name, name, 0)
            add_captions(self.folder(trainer), {f"row_{index}": _facts(segment)})

    def write_outputs(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        for index, segment in enumerate(trainer.datamodule.preview_segments(self.num)):
            output = process_segment(module.eval_network, segment)
            self._write(trainer, module, output, f"step_{step:06d}_{index}", f"output_{index}", step)

    def _write(
        self, trainer: L.Trainer, module: TrainingModule, sound: np.ndarray, name: str, tag: str, step: int
    ) -> None:
        sample_rate = module.network.sample_rate
        clip = torch.from_numpy(_clip(sound, self.seconds, sample_rate))
        self.write_clip(trainer, clip, sample_rate, name, tag, step)


class EffectSamples(Samples):
    """Input, target and output of held-out segments in ``RUN/samples``.

    Args:
        num: number of segments, evenly spaced over the held-out ones.
        seconds: maximum length of each clip.
    """

    needs = ["preview_segments"]

    @checked
    def __init__(self, num: OptionalCount = 3, seconds: Seconds = 10.0):
        self.num, self.seconds = num, seconds

    def write(self, network: nn.Module, data: L.LightningDataModule | None, folder: Path) -> str:
        for index, segment in enumerate(data.preview_segments(self.num)):
            add_captions(folder / "samples", {f"row_{index}": _facts(segment)})
            sounds = {"1_input": segment.input[segment.skip :], "2_target": segment.target[segment.skip :]}
            for kind, sound in {**sounds, "3_output": process_segment(network, segment)}.items():
                clip = _clip(sound, self.seconds, network.sample_rate)
                write(folder / "samples" / f"sample_{index:03d}_{kind}.wav", clip, network.sample_rate)
        knobs = "".join(f" --knob {name}={(low + high) / 2:g}" for name, (low, high) in network.knobs.items())
        return f"Listen: {folder / 'report.html'}\nmore: wavedil process {folder / 'model'} IN.wav OUT.wav{knobs}"
