"""What a run of dense prediction lets you see."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import nn

from wavedil.train.base import TrainingModule
from wavedil.train.callbacks import Previews
from wavedil.vision.data.images import write_image
from wavedil.vision.data.labels import IGNORED
from wavedil.vision.data.palette import overlay

GAP = 4  # pixels between images that lie side by side


def side_by_side(network: nn.Module, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The image, the truth over it and the prediction over it, the last without what counts nowhere."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        pixels = torch.from_numpy(image).to(device).permute(2, 0, 1).unsqueeze(0) / 255
        predicted = network(pixels)[0].argmax(0).to(torch.uint8).cpu().numpy()
    predicted[labels == IGNORED] = IGNORED
    gap = np.full((image.shape[0], GAP, 3), 255, np.uint8)
    truth, guess = (overlay(image, each, network.palette) for each in (labels, predicted))
    return np.concatenate([image, gap, truth, gap, guess], axis=1)


def values_side_by_side(network: nn.Module, image: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The image, the targets and the values in gray, black the least and white the greatest of the targets."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        pixels = torch.from_numpy(image).to(device).permute(2, 0, 1).unsqueeze(0) / 255
        values = network(pixels)[0, 0].cpu().numpy()
    known = targets[~np.isnan(targets)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    gray = [np.nan_to_num((each - low) / max(high - low, 1e-12)).clip(0, 1) * 255 for each in (targets, values)]
    gap = np.full((image.shape[0], GAP, 3), 255, np.uint8)
    truth, guess = (np.repeat(each[..., None], 3, axis=2).astype(np.uint8) for each in gray)
    return np.concatenate([image, gap, truth, gap, guess], axis=1)


class ImagePreviews(Previews):
    """Held-out images, always the same: image, truth and prediction side by side.

    Args:
        first: step of the first.
        every: steps between the others.
        num: images at a time.
    """

    panel = staticmethod(side_by_side)

    def __init__(self, first: int = 100, every: int = 500, num: int = 3):
        super().__init__(first, every)
        self.num = num

    def show_targets(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Nothing: the truth is beside every prediction."""

    def show(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        data = trainer.datamodule
        for number, index in enumerate(data.spread(self.num)):
            panel = self.panel(module.eval_network, *data.valid.read(index))
            write_image(self.folder(trainer) / f"step_{step:06d}_{number}.png", panel)
            for board in self.boards(trainer):
                board.add_image(f"image_{number}", panel, step, dataformats="HWC")


class ImageSamples:
    """The held-out images that a run leaves in ``RUN/samples``: image, truth and prediction side by side.

    Args:
        num: how many, evenly over all.
    """

    panel = staticmethod(side_by_side)

    def __init__(self, num: int = 8):
        self.num = num

    def leave(self, network: nn.Module, data: L.LightningDataModule, folder: Path) -> str:
        """Writes them; the lines that a run ends with."""
        for number, index in enumerate(data.spread(self.num)):
            panel = self.panel(network, *data.valid.read(index))
            write_image(folder / "samples" / f"image_{number:03d}.png", panel)
        return f"Look: {folder / 'report.html'}\nmore images: wavedil segment {folder / 'model'} IMAGE... --out labeled"


class ValuePreviews(ImagePreviews):
    """Held-out images, always the same: image, targets and values side by side.

    Args:
        first: step of the first.
        every: steps between the others.
        num: images at a time.
    """

    panel = staticmethod(values_side_by_side)


class ValueSamples(ImageSamples):
    """The held-out images that a run leaves in ``RUN/samples``: image, targets and values side by side.

    Args:
        num: how many, evenly over all.
    """

    panel = staticmethod(values_side_by_side)
