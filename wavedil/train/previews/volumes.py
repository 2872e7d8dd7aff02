"""Slices of volumes: image, ground truth and prediction side by side."""

import lightning as L
import numpy as np

from wavedil.train.previews.images import ImagePreviews, ImageSamples, Panels, side_by_side
from wavedil.vision.data.labels import IGNORED
from wavedil.vision.data.palette import overlay
from wavedil.vision.models.volume_segmenter import VolumeSegmenter
from wavedil.vision.volume_prediction import label_slice

SHOWN = (0.5, 99.5)  # percentiles of the intensities of a slice that are black and white


def volume_panels(network: VolumeSegmenter, data: L.LightningDataModule, num: int) -> Panels:
    """A panel of each held-out volume: the slice, along the depth, with the most voxels of other classes than 0."""
    for name, volume, truth in data.preview_volumes(num):
        index = int(((truth != 0) & (truth != IGNORED)).sum((1, 2)).argmax())
        image, labels = _gray(volume[0, index]), truth[index]
        predicted = np.where(labels == IGNORED, IGNORED, label_slice(network, volume, index))
        overlays = (overlay(image, each, network.label_scheme.colors) for each in (labels, predicted))
        yield {"file": name, "slice": f"{index + 1} of {len(truth)}"}, side_by_side(image, *overlays)


def _gray(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, SHOWN)
    share = ((values - low) / max(high - low, 1e-12)).clip(0, 1)
    return np.repeat((255 * share).round().astype(np.uint8)[..., None], 3, axis=2)


class VolumePreviews(ImagePreviews):
    """A slice of held-out volumes, the same at every step: image, ground truth and prediction side by side.

    Args:
        first: step of the first preview.
        every: steps between later previews.
        num: volumes per preview.
    """

    needs = ["preview_volumes"]
    panels = staticmethod(volume_panels)


class VolumeSamples(ImageSamples):
    """A slice of held-out volumes in ``RUN/samples``: image, ground truth and prediction side by side.

    Args:
        num: number of volumes, evenly spaced over the held-out ones.
    """

    needs = ["preview_volumes"]
    panels = staticmethod(volume_panels)
    kind, example = "volumes", "VOLUME... --out labeled"
