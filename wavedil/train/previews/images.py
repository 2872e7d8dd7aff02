"""Images of a dense predictor: image, ground truth and prediction side by side."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import nn

from wavedil.core.schema import checked
from wavedil.report import add_captions
from wavedil.train.data import Count, OptionalCount
from wavedil.train.loggers import log_file
from wavedil.train.module import TrainingModule
from wavedil.train.previews import Previews, Samples, preview_names
from wavedil.vision.data.images import write_image
from wavedil.vision.data.labels import IGNORED
from wavedil.vision.data.multilabel import unpack
from wavedil.vision.data.palette import overlay, overlay_masks
from wavedil.vision.data.pixels import scaled_pixels, to_rgb
from wavedil.vision.models.multilabel import MultilabelSegmenter
from wavedil.vision.models.predictor import DensePredictor
from wavedil.vision.models.segmenter import Segmenter

GAP = 4  # pixels between images

#: Captions, and image, ground truth and prediction side by side, of each held-out item.
Panels = Iterator[tuple[dict[str, Any], np.ndarray]]
UNKNOWN = (40, 80, 160)  # color of unknown targets


def side_by_side(*images: np.ndarray) -> np.ndarray:
    gap = np.full((images[0].shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([part for image in images for part in (gap, image)][1:], axis=1)


def panel(network: DensePredictor, image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Image, ground truth and prediction side by side, ``(height, 3 * width + 2 * GAP, 3)`` uint8.

    Classes are overlays, without color where pixels are ignored. Values are gray: black is the minimum of the targets
    and white their maximum; unknown targets are blue.
    """
    with torch.inference_mode():
        output = network(scaled_pixels(image).to(network.mean.device).unsqueeze(0))[0]
    image = to_rgb(image)
    if isinstance(network, MultilabelSegmenter):
        labels = unpack(torch.from_numpy(truth), network.num_classes)
        predicted = network.decide(network.probabilities(output, 0)).cpu() & (labels != IGNORED)
        masks = ((labels == 1).numpy(), predicted.numpy())
        return side_by_side(image, *(overlay_masks(image, each, network.palette) for each in masks))
    if isinstance(network, Segmenter):
        predicted = output.argmax(0).to(torch.uint8).cpu().numpy()
        predicted[truth == IGNORED] = IGNORED
        return side_by_side(image, *(overlay(image, each, network.palette) for each in (truth, predicted)))
    known = truth[~np.isnan(truth)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    shares = (
        np.nan_to_num((each - low) / max(high - low, 1e-12)).clip(0, 1) for each in (truth, output[0].cpu().numpy())
    )
    grays = [np.repeat(share[..., None] * 255, 3, axis=2).astype(np.uint8) for share in shares]
    grays[0][np.isnan(truth)] = UNKNOWN
    return side_by_side(image, *grays)


def image_panels(network: DensePredictor, data: L.LightningDataModule, num: int) -> Panels:
    """The panels of held-out images."""
    names = preview_names(data, num)
    for name, (image, truth) in zip(names, data.preview_images(num), strict=False):
        yield {"file": name}, panel(network, image, truth)


class ImagePreviews(Previews):
    """Held-out images, the same at every step: image, ground truth and prediction side by side.

    Args:
        first: step of the first preview.
        every: steps between later previews.
        num: images per preview.
    """

    needs = ["preview_images"]
    panels = staticmethod(image_panels)

    @checked
    def __init__(self, first: OptionalCount = 100, every: Count = 500, num: Count = 3):
        super().__init__(first, every)
        self.num = num

    def write_outputs(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        for number, (facts, picture) in enumerate(self.panels(module.eval_network, trainer.datamodule, self.num)):
            name = f"step_{step:06d}_{number}"
            write_image(self.folder(trainer) / f"{name}.png", picture)
            add_captions(self.folder(trainer), {name: facts})
            log_file(trainer, self.folder(trainer) / f"{name}.png", f"image_{number}", step)


class ImageSamples(Samples):
    """Held-out images in ``RUN/samples``: image, ground truth and prediction side by side.

    Args:
        num: number of images, evenly spaced over the held-out ones.
    """

    needs = ["preview_images"]
    panels = staticmethod(image_panels)
    kind, example = "images", "IMAGE... --out labeled"

    @checked
    def __init__(self, num: OptionalCount = 8):
        self.num = num

    def write(self, network: nn.Module, data: L.LightningDataModule | None, folder: Path) -> str:
        for number, (facts, picture) in enumerate(self.panels(network, data, self.num)):
            add_captions(folder / "samples", {f"image_{number:03d}": facts})
            write_image(folder / "samples" / f"image_{number:03d}.png", picture)
        return f"Look: {folder / 'report.html'}\nmore {self.kind}: wavedil segment {folder / 'model'} {self.example}"
