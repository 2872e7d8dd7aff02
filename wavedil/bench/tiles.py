"""Prediction in tiles: time, memory and exactness, with VGG front end and large context module on a large image."""

import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from wavedil.bench.runner import summary_row
from wavedil.errors import WavedilError
from wavedil.vision import ContextModule, Conv1x1Head, Segmenter, VGGFrontEnd
from wavedil.vision.tiles import score_map

CLASSES = 21


def bench_tiles(
    device: str,
    *,
    height: int = 1500,
    width: int = 2000,
    tile: int = 1024,
    part: int = 448,
    widths: Sequence[int] = (64, 128, 256, 512, 512),
    hidden_channels: int = 4096,
) -> dict[str, Any]:
    """Measures a prediction in tiles of ``tile`` pixels, and compares one in tiles with one of the complete image.

    The comparison uses a corner of ``part`` x ``part`` pixels, and tiles of half of that. Peak memory is that of this
    process, so nothing larger may have run in it before.
    """
    if device != "cpu":
        raise WavedilError(f"device is {device!r}: memory is measured on the CPU, so use cpu")
    torch.manual_seed(0)
    front = VGGFrontEnd(None, widths=widths, hidden_channels=hidden_channels)
    context = ContextModule(CLASSES, "large")
    model = Segmenter(front, Conv1x1Head(hidden_channels, CLASSES), context, num_classes=CLASSES).eval()
    image = torch.randint(256, (3, height, width), dtype=torch.uint8)
    before = _peak()
    started = time.perf_counter()
    score_map(model, image, tile)
    seconds, peak = time.perf_counter() - started, _peak()
    corner = image[:, :part, :part]
    complete, tiled = score_map(model, corner)[0], score_map(model, corner, part // 2)[0]
    difference = ((complete - tiled).abs().max() / complete.abs().max()).item()
    name = f"{width}x{height}, tiles of {tile}"
    rows = [
        summary_row(f"{name}: time", "s", [seconds]),
        summary_row(f"{name}: peak memory", "GB", [peak]),
        summary_row("peak memory before the first tile", "GB", [before]),
        summary_row(
            f"{part}x{part} in tiles of {part // 2}: largest difference to no tiles", "of the largest", [difference]
        ),
    ]
    return {"rows": rows, "notes": []}


def _peak() -> float:
    """Peak memory of this process so far, in GB."""
    try:
        import resource
    except ImportError:
        raise WavedilError("this system does not report peak memory: run bench tiles on Linux or macOS") from None
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte / 1e9
