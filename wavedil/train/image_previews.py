"""What a run of dense prediction lets you see."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import nn

from wavedil.train.budget import BudgetModule
from wavedil.train.callbacks import Previews
from wavedil.vision.images import write_image
from wavedil.vision.labels import IGNORED
from wavedil.vision.palette import overlay

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


class ImagePreviews(Previews):
    """Held-out images, always the same: image, truth and prediction side by side.

    Args:
        first: step of the first.
        every: steps between the others.
        num: images at a time.
    """

    def __init__(self, first: int = 100, every: int = 500, num: int = 3):
        super().__init__(first, every)
        self.num = num

    def show_targets(self, trainer: L.Trainer, module: BudgetModule) -> None:
        """Nothing: the truth is beside every prediction."""

    def show(self, trainer: L.Trainer, module: BudgetModule, step: int) -> None:
        data = trainer.datamodule
        for number, index in enumerate(data.spread(self.num)):
            panel = side_by_side(module.network, *data.valid.read(index))
            write_image(self.folder(trainer) / f"step_{step:06d}_{number}.png", panel)
            for board in self.boards(trainer):
                board.add_image(f"image_{number}", panel, step, dataformats="HWC")


class ImageSamples:
    """The held-out images that a run leaves in ``RUN/samples``: image, truth and prediction side by side.

    Args:
        num: how many, evenly over all.
    """

    def __init__(self, num: int = 8):
        self.num = num

    def leave(self, network: nn.Module, data: L.LightningDataModule, folder: Path) -> str:
        """Writes them; the lines that a run ends with."""
        for number, index in enumerate(data.spread(self.num)):
            panel = side_by_side(network, *data.valid.read(index))
            write_image(folder / "samples" / f"image_{number:03d}.png", panel)
        return (
            f"Look: {folder / 'report.html'}\nmore images: wavedil segment {folder / 'model'} IMAGE... --out labelled"
        )
