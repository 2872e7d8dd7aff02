"""Smaller networks inside slimmable ones (channel slicing, arXiv 2511.07470): the leading channels of every layer."""

import math
from typing import TYPE_CHECKING

import torch

from wavedil.audio.models.nam.array import LayerArray

if TYPE_CHECKING:
    from wavedil.audio.models.nam.model import NAM


def slimmed(model: "NAM", quality: float) -> "NAM":
    """A model of the leading channels of ``model``; ``model`` itself if that is all of them."""
    widths = [
        array.channels
        if array.slimmable is None
        else array.slimmable[min(math.floor(quality * len(array.slimmable)), len(array.slimmable) - 1)]
        for array in model.arrays
    ]
    if widths == [array.channels for array in model.arrays]:
        return model
    arrays: list[LayerArray] = []
    # From the last to the first, since the head signal of an array is as wide as the head terms of the next one.
    for array, width, channels_before in reversed(list(zip(model.arrays, widths, [1, *widths], strict=False))):
        config = dict(array.config, in_channels=channels_before, channels=width, slimmable=None)
        # Without layer1x1 the bottleneck is as wide as the array.
        config["bottleneck"] = max(1, array.bottleneck * width // array.channels)
        if arrays:
            config["head_channels"] = arrays[0].sum_channels
        arrays.insert(0, LayerArray(**config))
    options = {
        name: getattr(model, name) for name in ("head_scale", "condition", "sample_rate", "out_channels", "metadata")
    }
    small = type(model)(arrays, head=model.config["head"], start=model.start_up, **options)
    full = model.state_dict()
    with torch.no_grad():
        for name, tensor in small.state_dict().items():
            tensor.copy_(full[name][tuple(slice(size) for size in tensor.shape)])
    return small.train(model.training).to(next(model.parameters()))
