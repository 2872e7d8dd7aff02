"""The picture of a confusion matrix."""

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wavedil.figures import check_figure_path, write_figure
from wavedil.vision.metrics import ConfusionMatrix

NUMBERS = 24  # classes: with more, the cells are too small for numbers


def draw_confusion(matrix: ConfusionMatrix, names: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Writes a picture, .png, .svg or .pdf: rows are true classes, columns predicted ones, in % of the row's pixels.

    Raises:
        WavedilError: another suffix.
    """
    check_figure_path(path)
    shares, count = 100 * matrix.row_shares.cpu().numpy(), len(names)
    side = min(3 + 0.42 * count, 30)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    size = min(9, 600 / count)
    labels = [name if len(name) <= 30 else f"{name[:29]}…" for name in names]
    axes.set_xticks(range(count), labels, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(count), labels, fontsize=size, parse_math=False)
    axes.set(xlabel="predicted class", ylabel="true class")
    if count <= NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            color = "white" if share > 50 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(image, label="% of the pixels of the true class", shrink=0.8)
    write_figure(figure, path)
