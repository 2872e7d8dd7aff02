"""Clips of a vocoder: held-out recordings, generated from their log-mels."""

from pathlib import Path

import lightning as L
import torch
from torch import nn

from wavedil.audio.data.audio_files import write
from wavedil.core.schema import Seconds, checked
from wavedil.report import add_captions
from wavedil.train.data import Count, OptionalCount
from wavedil.train.module import TrainingModule
from wavedil.train.previews import Previews, Samples, has_methods
from wavedil.train.previews.sound import facts_of, write_griffin_lim


class VocoderPreviews(Previews):
    """Held-out recordings, and the same generated from their log-mels, with spectrograms.

    Args:
        first: step of the first preview.
        every: steps between later previews.
        seconds: length of each clip.
        num: clips per preview.
    """

    needs = ("preview_sounds",)

    @checked
    def __init__(self, first: OptionalCount = 100, every: Count = 1000, seconds: Seconds = 2.0, num: Count = 2):
        super().__init__(first, every)
        self.seconds, self.num = seconds, num

    def write_targets(self, trainer: L.Trainer, module: TrainingModule) -> None:
        rate = module.network.sample_rate
        for index, sound in enumerate(_originals(trainer.datamodule, self.num, self.seconds, rate)):
            self.write_clip(trainer, sound[0], rate, f"target_{index}", "target", 0)
            facts = {"belongs": True} | facts_of(trainer.datamodule, index)
            add_captions(self.folder(trainer), {f"row_{index}": facts})

    def write_outputs(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        network = module.eval_network
        for index, sound in enumerate(_originals(trainer.datamodule, self.num, self.seconds, network.sample_rate)):
            clip = resynthesize(network, sound)[0]
            self.write_clip(trainer, clip, network.sample_rate, f"step_{step:06d}_{index}", "step", step)


class VocoderSamples(Samples):
    """Held-out recordings in ``RUN/samples``, the same generated from their log-mels, and Griffin-Lim's.

    Args:
        num: number of clips, at most 4.
        seconds: length of each clip.
    """

    needs = ("preview_sounds",)

    @checked
    def __init__(self, num: OptionalCount = 4, seconds: Seconds = 4.0):
        self.num, self.seconds = num, seconds

    def write(self, network: nn.Module, data: L.LightningDataModule | None, folder: Path) -> str:
        samples, rate = folder / "samples", network.sample_rate
        if has_methods(data, self.needs, "samples"):
            for index, original in enumerate(_originals(data, self.num, self.seconds, rate)):
                add_captions(samples, {f"row_{index}": facts_of(data, index)})
                write(samples / f"sample_{index:03d}_original.wav", original, rate)
                write_griffin_lim(network, original, samples / f"sample_{index:03d}_griffin_lim.wav")
                write(samples / f"sample_{index:03d}.wav", resynthesize(network, original), rate)
        return (
            f"Listen: {folder / 'report.html'}\n"
            f"another recording: wavedil sample {folder / 'model'} --condition FILE --out clips"
        )


def resynthesize(network: nn.Module, sound: torch.Tensor) -> torch.Tensor:
    """Sound ``(1, time)`` generated from the log-mels of ``sound``, on the CPU."""
    device = next(network.parameters()).device
    return network(network.features(sound.to(device)))[0, :, : sound.shape[1]].cpu()


def _originals(data: L.LightningDataModule, num: int, seconds: float, sample_rate: int) -> list[torch.Tensor]:
    """The starts of held-out recordings, ``(1, time)`` each."""
    sounds = data.preview_sounds()[:num]
    return [torch.as_tensor(sound)[None, : max(1, round(seconds * sample_rate))] for sound in sounds]
