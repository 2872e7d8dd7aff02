"""What a run of an audio generator lets you hear."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import lightning as L
import torch
from matplotlib.image import imread
from torch import nn

from wavedil.audio.data.audio_files import write
from wavedil.audio.generation.generate import generate
from wavedil.files import written_beside
from wavedil.report import spectrogram_png
from wavedil.train.base import TrainingModule
from wavedil.train.callbacks import Previews


class SoundPreviews(Previews):
    """Sound and spectrogram of held-out and of generated sound. Fixed seed: the clips of all steps can be compared.

    Args:
        first: step of the first.
        every: steps between the others.
        seconds: length of each clip.
        num: clips at a time.
    """

    def __init__(self, first: int = 100, every: int = 1000, seconds: float = 1.0, num: int = 1):
        super().__init__(first, every)
        self.seconds, self.num = seconds, num

    def show_targets(self, trainer: L.Trainer, module: TrainingModule) -> None:
        network = module.network
        for index, sound in enumerate(trainer.datamodule.preview_sounds()[: self.num]):
            clip = torch.as_tensor(sound)[: round(self.seconds * network.sample_rate)]
            self._keep(trainer, network.decode(network.encode(clip)), network.sample_rate, f"target_{index}", 0)

    def show(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        network = module.eval_network
        samples = max(1, round(self.seconds * network.sample_rate))
        given = trainer.datamodule.preview_conditioning(network, samples, self.num)
        sound = generate(network, samples, num=self.num, seed=0, **given)
        if sound.shape[2] < samples:
            raise KeyboardInterrupt  # it was for the run, not for the preview
        for index, clip in enumerate(sound[:, 0]):
            self._keep(trainer, clip.cpu(), network.sample_rate, f"step_{step:06d}_{index}", step)

    def _keep(self, trainer: L.Trainer, clip: torch.Tensor, rate: int, name: str, step: int) -> None:
        folder = self.folder(trainer)
        write(folder / f"{name}.wav", clip.unsqueeze(0), rate)
        picture = spectrogram_png(clip.numpy(), rate, title=name)
        with written_beside(folder / f"{name}.png") as beside:
            beside.write_bytes(picture)
        for board in self.boards(trainer):
            kind = name.split("_")[0]
            board.add_audio(kind, clip, step, sample_rate=rate)
            board.add_image(kind, imread(BytesIO(picture)), step, dataformats="HWC")


class SoundSamples:
    """The sounds that a run leaves in ``RUN/samples``.

    Args:
        num: clips to make at the end.
        seconds: length of each.
        temperature: see :func:`wavedil.audio.generate`.
    """

    def __init__(self, num: int = 4, seconds: float = 4.0, temperature: float = 1.0):
        self.num, self.seconds, self.temperature = num, seconds, temperature

    def leave(self, network: nn.Module, data: L.LightningDataModule, folder: Path) -> str:
        """Writes them; the lines that a run ends with."""
        total = max(1, round(self.seconds * network.sample_rate))
        tty = sys.stderr.isatty()

        def progress(done: int, total: int) -> None:
            if tty or done == total:
                end = "\n" if done == total else ""
                print(f"\rsampling {done / total:.0%}", end=end, file=sys.stderr, flush=True)

        given = data.preview_conditioning(network, total, self.num)
        sound = generate(network, total, num=self.num, temperature=self.temperature, progress=progress, **given)
        for index, clip in enumerate(sound):
            write(folder / "samples" / f"sample_{index:03d}.wav", clip.cpu(), network.sample_rate)
        return (
            f"Listen: {folder / 'report.html'}\n"
            f"more sound: wavedil sample {folder / 'model'}{_asked(network)} --num 4 --seed 1 --out clips"
        )


def _asked(network: nn.Module) -> str:
    """The options that sampling needs for this network."""
    length = " --condition FILE" if network.conditioner.local is not None else " --seconds 4"
    return length + (f" --speaker {network.speakers[0]}" if network.speakers else "")
