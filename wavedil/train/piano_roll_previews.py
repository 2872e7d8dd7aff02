"""What a run of a model of polyphonic music lets you hear."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import lightning as L
import torch
from torch import nn

from wavedil.audio.data.audio_files import write
from wavedil.audio.piano_rolls import collate, evaluate_rolls, play, sample_rolls
from wavedil.files import written_beside
from wavedil.train.base import TrainingModule
from wavedil.train.sound_previews import SoundPreviews

RATE = 32000  # Hz: the highest key of a piano, plucked, needs 25 kHz
BEGINNING = 8  # steps of a held-out piece that a model goes on from


class RollPreviews(SoundPreviews):
    """Beginnings of held-out pieces, and how the model goes on with them. Fixed seed: all steps can be compared.

    Args:
        first: step of the first.
        every: steps between the others.
        length: time steps of each clip, the beginning's with them.
        num: clips at a time.
    """

    def __init__(self, first: int = 100, every: int = 1000, length: int = 40, num: int = 1):
        super().__init__(first, every, num=num)
        self.length = length

    def show_targets(self, trainer: L.Trainer, module: TrainingModule) -> None:
        for index, roll in enumerate(trainer.datamodule.rolls.valid[: self.num]):
            self._keep(trainer, torch.from_numpy(play(roll[: self.length], RATE)), RATE, f"target_{index}", 0)

    def show(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        rolls = trainer.datamodule.rolls.valid[: self.num]
        for index, roll in enumerate(continue_rolls(module.eval_network, rolls, self.length)):
            self._keep(trainer, torch.from_numpy(play(roll, RATE)), RATE, f"step_{step:06d}_{index}", step)


class RollSamples:
    """What a run leaves: the likelihood of validation and test pieces in ``RUN/likelihood.json``, and clips to hear.

    Args:
        num: clips in ``RUN/samples``: beginnings of test pieces, which the model goes on with.
        length: time steps of each, the beginning's with them.
    """

    def __init__(self, num: int = 4, length: int = 64):
        self.num, self.length = num, length

    def leave(self, network: nn.Module, data: L.LightningDataModule, folder: Path) -> str:
        """Writes them; the lines that a run ends with."""
        valid, test = (evaluate_rolls(network, rolls) for rolls in (data.rolls.valid, data.rolls.test))
        with written_beside(folder / "likelihood.json") as beside:
            text = json.dumps({"valid": vars(valid), "test": vars(test)}, indent=2)
            beside.write_text(text + "\n", encoding="utf-8")
        for index, roll in enumerate(continue_rolls(network, data.rolls.test[: self.num], self.length)):
            write(folder / "samples" / f"sample_{index:03d}.wav", torch.from_numpy(play(roll, RATE))[None], RATE)
        return (
            f"Best on validation: {valid.nll_nats_per_step:.3f} nats per step; test: {test.nll_nats_per_step:.3f}\n"
            f"Listen: {folder / 'report.html'}"
        )


def continue_rolls(network: nn.Module, rolls: list, length: int) -> Iterable:
    """The first steps of each piece and what the network goes on with: ``(length, 88)`` arrays."""
    if not rolls:
        return []
    start = collate([roll[:BEGINNING] for roll in rolls])["roll"].to(next(network.parameters()).device)
    drawn = sample_rolls(network, start, max(1, length - start.shape[2]))
    return torch.cat([start, drawn], 2).transpose(1, 2).to(torch.uint8).cpu().numpy()
