"""Draws docs/tiles.png: tiles with their margins, and their difference to one pass. python docs/tiles.py"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle
from torch import nn

from wavedil.figures import write_figure
from wavedil.vision import tile_exactly
from wavedil.vision.data.shapes import draw
from wavedil.vision.exact_tiles import tile_margin

BLUE, ORANGE = "#2f6fb7", "#e8862e"


def make_network() -> nn.Module:
    """Strides 2 and 4 inside, and dilation; the output has the size of the image. Random weights."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
    for dilation in (1, 2, 4):
        layers += [nn.Conv2d(16, 16, 3, padding=dilation, dilation=dilation), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(16, 1, 1), nn.Upsample(scale_factor=4)).double().eval()


def main() -> None:
    model, tile = make_network(), 96
    image, _ = draw(240, np.random.default_rng(3))
    x = torch.from_numpy(image).double().permute(2, 0, 1)[None] / 255
    margin = tile_margin(model, x)
    with torch.no_grad():
        whole = model(x)
    figure, panels = plt.subplots(1, 3, figsize=(7, 2.35), layout="constrained", facecolor="white")
    panels[0].imshow(image // 64 * 64 + 32)  # fewer colors: a smaller file
    for top in range(0, 240, tile):
        for left in range(0, 240, tile):
            panels[0].add_patch(Rectangle((left, top), tile, tile, fill=False, edgecolor=BLUE, linewidth=1.5))
    first = tile - margin
    panels[0].add_patch(
        Rectangle((first, first), tile + 2 * margin, tile + 2 * margin, fill=False, edgecolor=ORANGE, linewidth=2)
    )
    panels[0].add_patch(Rectangle((tile, tile), tile, tile, facecolor=ORANGE, alpha=0.3))
    panels[0].set_title(f"tiles of {tile} pixels, margin {margin}", fontsize=8, loc="left")
    for panel, width in zip(panels[1:], (0, None), strict=True):
        error = (tile_exactly(model, x, tile, margin=width) - whole).abs()[0, 0] / whole.std()
        shown = panel.imshow(error.clamp(min=1e-12), norm=LogNorm(1e-12, 1), cmap="magma")
        name = "difference without margin" if width == 0 else "difference with margin"
        panel.set_title(f"{name}: {error.max():.0e}", fontsize=8, loc="left")
        print(f"largest {name}: {error.max():.1e} standard deviations of the output")
    figure.colorbar(shown, ax=panels[1:], shrink=0.8)
    for panel in panels:
        panel.set(xticks=[], yticks=[], xlim=(-0.5, 239.5), ylim=(239.5, -0.5))
    write_figure(figure, Path(__file__).with_name("tiles.png"))


if __name__ == "__main__":
    main()
