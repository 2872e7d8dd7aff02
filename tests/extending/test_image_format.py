"""An image format of another package: labels in the file names of crops."""

from dataclasses import dataclass

import numpy as np

from wavedil.registry import register
from wavedil.train.run import train
from wavedil.vision import ImageFormat, LabelScheme, load
from wavedil.vision.data.formats import find_format
from wavedil.vision.data.images import image_size, list_images, write_image
from wavedil.vision.data.pairs import ImagePair


@dataclass(frozen=True)
class NamePair(ImagePair):
    """A pair whose mask is filled with the digit in the name of the image."""

    def read_mask(self, colors):
        return np.full(image_size(self.image), int(self.image.stem[-1]), np.uint8)


@register
class Digits(ImageFormat):
    """Images ``SET/*_LABEL.png``, one label for all pixels.

    Args:
        train, val: names of the sets.
    """

    def __init__(self, train: str = "a", val: str | None = "b"):
        self.train, self.val = train, val

    def label_scheme(self, root):
        return LabelScheme(["none", "one", "two"])

    def find(self, root, name):
        return [NamePair(path, path) for path in list_images(root / name)]


def test_an_image_format_of_another_package(tmp_path):
    assert type(find_format("Digits")) is Digits
    for name in ("a/x_0", "a/y_2", "b/z_1"):
        write_image(tmp_path / "data" / f"{name}.png", np.zeros((16, 16, 3), np.uint8))
    options = ["--model.backbone.channels=8", "--model.context=null", "--data.crop=[16, 16]", "--data.batch_size=2"]
    options += ["--trainer.max_steps=1", "--trainer.val_check_interval=1", f"--data.root={tmp_path / 'data'}"]
    run = train("tiny", str(tmp_path / "run"), overrides=[*options, f"--data.format={__name__}.Digits"])
    assert list(load(run / "model").classes) == ["none", "one", "two"]
