"""What a run of a paired model lets you hear."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import lightning as L
import numpy as np
import torch
from matplotlib.image import imread
from torch import nn

from wavedil.audio.data.audio_files import write
from wavedil.audio.data.recordings import Segment
from wavedil.audio.effects.process import run
from wavedil.files import written_beside
from wavedil.report import spectrogram_png
from wavedil.train.base import TrainingModule
from wavedil.train.callbacks import Previews


def apply(network: nn.Module, segment: Segment) -> np.ndarray:
    """What the network makes of a segment's input, ``(time,)``, from where it counts."""
    x = torch.from_numpy(segment.input).view(1, 1, -1)
    return run(network, x, network.knob_values(segment.knobs).unsqueeze(0))[0, 0, segment.skip :].cpu().numpy()


class EffectPreviews(Previews):
    """Held-out segments, always the same: input and target at the start, the output on the way.

    Args:
        first: step of the first.
        every: steps between the others.
        seconds: at most so much of each.
        num: segments at a time, evenly over all.
    """

    def __init__(self, first: int = 100, every: int = 1000, seconds: float = 3.0, num: int = 1):
        super().__init__(first, every)
        self.seconds, self.num = seconds, num

    def show_targets(self, trainer: L.Trainer, module: TrainingModule) -> None:
        for index, segment in enumerate(trainer.datamodule.spread(self.num)):
            for kind, sound in (("input", segment.input), ("target", segment.target)):
                self._keep(trainer, module, sound[segment.skip :], f"target_{index}_{kind}", 0)

    def show(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        for index, segment in enumerate(trainer.datamodule.spread(self.num)):
            self._keep(trainer, module, apply(module.eval_network, segment), f"step_{step:06d}_{index}", step)

    def _keep(self, trainer: L.Trainer, module: TrainingModule, sound: np.ndarray, name: str, step: int) -> None:
        rate, folder = module.network.sample_rate, self.folder(trainer)
        clip = sound[: round(self.seconds * rate)].clip(-1, 1)  # what is louder sounds clipped, and is not worth a word
        write(folder / f"{name}.wav", clip, rate)
        picture = spectrogram_png(clip, rate, title=name)
        with written_beside(folder / f"{name}.png") as beside:
            beside.write_bytes(picture)
        kind = name if name.startswith("target") else f"output_{name.rpartition('_')[2]}"
        for board in self.boards(trainer):
            board.add_audio(kind, torch.from_numpy(clip), step, sample_rate=rate)
            board.add_image(kind, imread(BytesIO(picture)), step, dataformats="HWC")


class EffectSamples:
    """The sounds that a run leaves in ``RUN/samples``: input, target and output of held-out segments.

    Args:
        num: how many, evenly over all.
        seconds: at most so much of each.
    """

    def __init__(self, num: int = 3, seconds: float = 10.0):
        self.num, self.seconds = num, seconds

    def leave(self, network: nn.Module, data: L.LightningDataModule, folder: Path) -> str:
        """Writes them; the lines that a run ends with."""
        for index, segment in enumerate(data.spread(self.num)):
            sounds = {"1_input": segment.input[segment.skip :], "2_target": segment.target[segment.skip :]}
            for kind, sound in {**sounds, "3_output": apply(network, segment)}.items():
                clip = sound[: round(self.seconds * network.sample_rate)].clip(-1, 1)
                write(folder / "samples" / f"sample_{index:03d}_{kind}.wav", clip, network.sample_rate)
        turned = "".join(f" --knob {name}={(low + high) / 2:g}" for name, (low, high) in network.knobs.items())
        return f"Listen: {folder / 'report.html'}\nmore: wavedil process {folder / 'model'} IN.wav OUT.wav{turned}"
