"""Previews during training and samples at the end: base classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from wavedil.audio.data.audio_files import write
from wavedil.outputs import BestEffort
from wavedil.progress import say
from wavedil.report import write_report
from wavedil.report.spectrogram import spectrogram_png
from wavedil.train.loggers import log_file
from wavedil.train.module import TrainingModule
from wavedil.writing import atomic_write


class Previews(Callback):
    """Base of the previews: targets when training starts, then outputs at step ``first`` and every ``every`` steps.

    Files are written to ``RUN/previews`` and by the loggers that can: TensorBoard, W&B, MLflow, trackio. A data module
    that lacks a method of ``needs`` gets no previews, and a message is printed. So are previews that cannot be written.

    Args:
        first: step of the first preview.
        every: steps between later previews.
    """

    #: Methods of the data module that the previews call.
    needs: Sequence[str] = ()

    def __init__(self, first: int, every: int):
        self.first, self.every = first, every

    def data_methods(self, network: nn.Module) -> Sequence[str]:
        """Methods of the data module that the previews of this network call; default ``needs``."""
        return self.needs

    def write_targets(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Writes the targets, once."""

    def write_outputs(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """Writes outputs of ``module.eval_network``, which is in evaluation mode."""
        raise NotImplementedError

    def on_train_start(self, trainer: L.Trainer, module: TrainingModule) -> None:
        self._last_step = trainer.global_step
        self._enabled = trainer.is_global_zero and has_methods(
            trainer.datamodule, self.data_methods(module.network), "previews"
        )
        self._best_effort = BestEffort(self.folder(trainer))
        if self._enabled:
            with self._best_effort:
                self.write_targets(trainer, module)

    def write_page(self, trainer: L.Trainer) -> None:
        """Writes the page of a run in training; a trainer without a run folder has none."""
        folder = Path(trainer.default_root_dir)
        if self._enabled and (folder / "config.yaml").is_file():
            with self._best_effort:
                write_report(folder, running=True)

    def on_validation_end(self, trainer: L.Trainer, module: TrainingModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and (Path(trainer.default_root_dir) / "report.html").exists():
            self.write_page(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: TrainingModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = step == self.first or (step > self.first and step % self.every == 0)
        if not due or step == self._last_step:  # a step may have several batches
            return
        self._last_step = step
        with module.complete_network():
            if self._enabled:
                module.eval()
                with self._best_effort:
                    self.write_outputs(trainer, module, step)
                module.train()
                self.write_page(trainer)

    @staticmethod
    def folder(trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "previews"

    def write_clip(
        self,
        trainer: L.Trainer,
        clip: torch.Tensor,
        sample_rate: int,
        name: str,
        tag: str,
        step: int,
        picture: bytes | None = None,
    ) -> None:
        """Writes a sound ``(time,)`` and a PNG, by default its spectrogram; ``tag`` is its name in loggers."""
        folder = self.folder(trainer)
        write(folder / f"{name}.wav", clip.unsqueeze(0), sample_rate)
        if picture is None:
            picture = spectrogram_png(clip.numpy(), sample_rate, title=name)
        with atomic_write(folder / f"{name}.png") as beside:
            beside.write_bytes(picture)
        for suffix in (".wav", ".png"):
            log_file(trainer, folder / f"{name}{suffix}", tag, step)


class Samples:
    """Base of the samples that a run writes at its end; ``needs`` and ``data_methods`` as in :class:`Previews`."""

    needs: Sequence[str] = ()
    data_methods = Previews.data_methods

    def write(self, network: nn.Module, data: L.LightningDataModule | None, folder: Path) -> str:
        """Writes the samples of a trained network to the run folder and returns the last lines of the run."""
        raise NotImplementedError


def has_methods(data: L.LightningDataModule | None, names: Sequence[str], purpose: str) -> bool:
    """Whether a data module has these methods; if not, prints that ``purpose`` is skipped."""
    missing = [name for name in names if not hasattr(data, name)]
    if missing:
        say(f"{purpose} skipped: {type(data).__name__} has no method {' or '.join(missing)}")
    return not missing


def preview_names(data: L.LightningDataModule | None, num: int) -> list[str | None]:
    """Names of the files of ``num`` previews; None without the optional method ``preview_names`` of the data module."""
    names = list(data.preview_names(num)) if hasattr(data, "preview_names") else []
    return [*names, *[None] * num][:num]
