"""Clips of a model of piano rolls, played on plucked strings."""

import json
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import nn

from wavedil.audio.data.audio_files import write
from wavedil.audio.piano_rolls import LOWEST, collate, evaluate_rolls, play, sample_rolls
from wavedil.core.schema import checked
from wavedil.report import add_captions
from wavedil.report.png import indexed_png
from wavedil.train.data import Count, OptionalCount
from wavedil.train.module import TrainingModule
from wavedil.train.previews import Previews, Samples
from wavedil.writing import atomic_write

SAMPLE_RATE = 32000  # Hz: the highest key of a piano, plucked, needs 25 kHz
PROMPT_STEPS = 8  # time steps of a held-out piece that the model continues
FACTS = {"given": f"the first {PROMPT_STEPS} steps of the held-out piece, in blue", "lines": "the keys C"}
_ROLL_COLORS = ((20, 22, 28), (86, 180, 233), (255, 200, 60), (60, 66, 78))  # none, prompt, continuation, C


class RollPreviews(Previews):
    """Held-out pieces and continuations of their first steps. The seed is fixed, so all steps can be compared.

    Args:
        first: step of the first preview.
        every: steps between later previews.
        length: time steps of each clip, including the steps that are continued.
        num: clips per preview.
    """

    needs = ["valid_rolls"]

    @checked
    def __init__(self, first: OptionalCount = 100, every: Count = 1000, length: Count = 40, num: Count = 1):
        super().__init__(first, every)
        self.length, self.num = length, num

    def write_targets(self, trainer: L.Trainer, module: TrainingModule) -> None:
        for index, roll in enumerate(trainer.datamodule.valid_rolls()[: self.num]):
            self._write(trainer, roll[: self.length], f"target_{index}", 0)
            add_captions(self.folder(trainer), {f"row_{index}": {"belongs": True, **FACTS}})

    def write_outputs(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        rolls = trainer.datamodule.valid_rolls()[: self.num]
        for index, roll in enumerate(continue_rolls(module.eval_network, rolls, self.length)):
            self._write(trainer, roll, f"step_{step:06d}_{index}", step)

    def _write(self, trainer: L.Trainer, roll: np.ndarray, name: str, step: int) -> None:
        clip = torch.from_numpy(play(roll, SAMPLE_RATE))
        picture = roll_picture(roll)
        self.write_clip(trainer, clip, SAMPLE_RATE, name, name.split("_")[0], step, picture)
        add_captions(self.folder(trainer), {name: {"picture": "piano roll"}})


class RollSamples(Samples):
    """Likelihood of validation and test pieces in ``RUN/likelihood.json``, and clips in ``RUN/samples``.

    Args:
        num: number of clips: continuations of the first steps of test pieces.
        length: time steps of each clip, including the steps that are continued.
    """

    needs = ["valid_rolls", "test_rolls"]

    @checked
    def __init__(self, num: OptionalCount = 4, length: Count = 64):
        self.num, self.length = num, length

    def write(self, network: nn.Module, data: L.LightningDataModule | None, folder: Path) -> str:
        valid, test = (evaluate_rolls(network, rolls) for rolls in (data.valid_rolls(), data.test_rolls()))
        with atomic_write(folder / "likelihood.json") as beside:
            text = json.dumps({"valid": vars(valid), "test": vars(test)}, indent=2)
            beside.write_text(text + "\n", encoding="utf-8")
        originals = data.test_rolls()[: self.num]
        for index, roll in enumerate(continue_rolls(network, originals, self.length)):
            for name, each in (("", roll), ("_original", originals[index][: self.length])):
                path = folder / "samples" / f"sample_{index:03d}{name}.wav"
                write(path, torch.from_numpy(play(each, SAMPLE_RATE))[None], SAMPLE_RATE)
                with atomic_write(path.with_suffix(".png")) as beside:
                    beside.write_bytes(roll_picture(each))
                add_captions(path.parent, {path.stem: {"picture": "piano roll"}, f"row_{index}": FACTS})
        return (
            f"Best on validation: {valid.nll_nats_per_step:.3f} nats per step; test: {test.nll_nats_per_step:.3f}\n"
            f"Listen: {folder / 'report.html'}\n"
            f"more pieces: wavedil sample {folder} --steps 64 --num 4 --seed 1 --out clips"
        )


def roll_picture(roll: np.ndarray) -> bytes:
    """PNG of a piece ``(time, 88)``: time to the right, high keys at the top, the first ``PROMPT_STEPS`` in blue."""
    colors = roll.T[::-1].astype(np.uint8)
    colors[:, PROMPT_STEPS:] *= 2
    is_c = (np.arange(len(colors))[::-1] + LOWEST) % 12 == 0
    colors[(colors == 0) & is_c[:, None]] = 3
    return indexed_png(colors.repeat(3, axis=0).repeat(8, axis=1), np.array(_ROLL_COLORS, np.uint8))


def continue_rolls(network: nn.Module, rolls: Sequence[np.ndarray], length: int) -> Sequence[np.ndarray]:
    """Continues the first steps of each piece up to ``length`` steps; returns ``(length, 88)`` arrays."""
    if not rolls:
        return []
    prompt = collate([roll[:PROMPT_STEPS] for roll in rolls])["roll"].to(next(network.parameters()).device)
    sampled = sample_rolls(network, prompt, max(1, length - prompt.shape[2]))
    return torch.cat([prompt, sampled], 2).transpose(1, 2).to(torch.uint8).cpu().numpy()
