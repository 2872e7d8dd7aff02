"""A large image through the paper's front end and the large context module, in tiles: time, memory, and exactness."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from wavedil.bench.runner import figures
from wavedil.errors import WavedilError
from wavedil.vision import ContextModule, Conv1x1Head, Segmenter, VGGFrontEnd
from wavedil.vision.tiles import score_map

CLASSES = 21


def run(
    device: str,
    *,
    height: int = 1500,
    width: int = 2000,
    tile: int = 1024,
    part: int = 448,
    widths: Sequence[int] = (64, 128, 256, 512, 512),
    hidden_channels: int = 4096,
) -> dict[str, Any]:
    """Peak memory is that of this process, so nothing else may have run in it before.

    ``part``: side of the piece of the image that goes through the network whole as well, and in tiles of half of it.
    """
    if device != "cpu":
        raise WavedilError(f"device is {device!r}: memory is measured on the CPU, so take cpu")
    torch.manual_seed(0)
    front = VGGFrontEnd(None, widths=widths, hidden_channels=hidden_channels)
    context = ContextModule(CLASSES, "large")
    model = Segmenter(front, Conv1x1Head(hidden_channels, CLASSES), context, num_classes=CLASSES).eval()
    image = torch.randint(256, (3, height, width), dtype=torch.uint8)
    before = _peak()
    started = time.perf_counter()
    score_map(model, image, tile)
    seconds, peak = time.perf_counter() - started, _peak()
    piece = image[:, :part, :part]
    whole, cut = score_map(model, piece)[0], score_map(model, piece, part // 2)[0]
    far = ((whole - cut).abs().max() / whole.abs().max()).item()
    name = f"{width}x{height}, tiles of {tile}"
    rows = [
        figures(f"{name}: time", "s", [seconds]),
        figures(f"{name}: peak memory", "GB", [peak]),
        figures("the same process before the first tile", "GB", [before]),
        figures(f"{part}x{part} in tiles of {part // 2}: largest difference to the whole", "of the largest", [far]),
    ]
    return {"rows": rows, "notes": []}


def _peak() -> float:
    """Of this process so far, in GB."""
    try:
        import resource
    except ImportError:
        raise WavedilError("this system does not tell a process its peak memory: measure on Linux or macOS") from None
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte / 1e9
