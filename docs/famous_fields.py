"""Draws docs/famous_fields_images.png and docs/famous_fields_sound.png: receptive fields of well-known networks.

python docs/famous_fields.py also prints the tables of docs/tutorials/famous_fields.md. Weights are random, nothing is
downloaded. It takes about 10 minutes of CPU time, almost all of it for ResNet-50 at stride 8.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

from wavedil import measure_receptive_field
from wavedil.audio import WaveNet
from wavedil.audio.models.nam import NAM
from wavedil.audio.models.tcn import TCN
from wavedil.core.measured_field import MeasuredField
from wavedil.figures import write_figure
from wavedil.inspection.drawings import draw_energy, draw_profile
from wavedil.inspection.model import measure_model
from wavedil.progress import Bar
from wavedil.vision import ASPP, ContextModule, to_dense
from wavedil.vision.networks import build_network, measure_network


def in_cells(module: nn.Module, channels: int, size: int) -> Callable[..., MeasuredField]:
    return lambda progress: measure_receptive_field(module.eval(), channels, 2, size=size, seeds=2, progress=progress)


def resnet_at_8(progress: Callable[[int, int], None]) -> MeasuredField:
    dense = to_dense(build_network("torchvision:resnet50"), 8)
    return measure_receptive_field(dense, 3, 2, size=488, seeds=1, progress=progress)


def of_classifier(name: str) -> Callable[..., MeasuredField]:
    return lambda progress: measure_network(build_network(name), progress)


IMAGES = {
    "VGG-16, stride 32": of_classifier("torchvision:vgg16"),
    "ResNet-50, stride 32": of_classifier("torchvision:resnet50"),
    "ResNet-50, stride 8": resnet_at_8,
    "ResNet-18, stride 32": of_classifier("torchvision:resnet18"),
    "DeepLab v3 head, in cells": in_cells(ASPP(32, 21, channels=32, image_pooling=False), 32, 80),
    "Context module, in cells": in_cells(ContextModule(8, "large", init="random"), 8, 72),
}
SOUND = {
    "WaveNet, 3 x 1..512": lambda progress: measure_model(WaveNet(16, 16, "1..512 x3"), progress),
    "NAM A1 standard, 2 x 1..512": lambda progress: measure_model(NAM("standard"), progress),
    "NAM A2, 8 channels": lambda progress: measure_model(NAM("a2_8"), progress),
    "TCN, 1..64, kernel 3": lambda progress: measure_model(TCN(8, 8, 16, "1..64"), progress),
}


def coarse(field: MeasuredField) -> MeasuredField:
    """The field with energies averaged in blocks of 6 pixels, so that the picture is a smaller file."""
    energy = field.energy[None, None]
    if energy.shape[-1] < 100:
        return field
    blocks = F.avg_pool2d(energy, 6, ceil_mode=True, count_include_pad=False)
    return replace(field, energy=F.interpolate(blocks, scale_factor=6)[0, 0, : energy.shape[2], : energy.shape[3]])


def draw(networks: dict, draw_panel: Callable, rows: int, columns: int, size: tuple[float, float], path: Path) -> None:
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", facecolor="white")
    for axis, (name, measure) in zip(axes.flat, networks.items(), strict=True):
        torch.manual_seed(0)
        with Bar(name) as bar:
            field = measure(bar.update)
        draw_panel(axis, field)
        axis.set_title(name, fontsize=9, loc="left")
        axis.set_xlabel("")
        sizes = [" x ".join(f"{n:,}" for n in each) for each in (field.extent, field.effective)]
        print(f"| {name} | {sizes[0]} | {sizes[1]} |", flush=True)
    write_figure(figure, path)


def main() -> None:
    here = Path(__file__).parent
    draw(SOUND, draw_profile, 2, 2, (7, 4.4), here / "famous_fields_sound.png")
    draw(
        IMAGES,
        lambda axis, field: draw_energy(axis, coarse(field)),
        2,
        3,
        (6.8, 4.8),
        here / "famous_fields_images.png",
    )


if __name__ == "__main__":
    main()
