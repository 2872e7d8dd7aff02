"""Networks of neural-amp-modeler by name."""

from wavedil.audio.models.nam.array import LayerArray

_FIRST = "1..64"
_SECOND = (128, 256, 512, *(2**i for i in range(10)))
_A2_DILATIONS = (*(1, 3, 7, 17, 41, 101, 239) * 2, 1, 13, 1, 3, 7, 17, 41, 101, 239)

#: Channels of the two arrays of the first generation (A1), and their dilations.
_A1 = {
    "standard": (16, 8, "1..512", "1..512"),
    "lite": (12, 6, _FIRST, _SECOND),
    "feather": (8, 4, _FIRST, _SECOND),
    "nano": (4, 2, _FIRST, _SECOND),
}
#: Channels of the networks of the second generation (A2), which neural-amp-modeler 0.13 trains as a pair.
_A2 = {"a2_3": 3, "a2_8": 8}
NAMES = (*_A1, *_A2)


def preset(name: str) -> tuple[list[LayerArray], float]:
    """Layer arrays of one of :data:`NAMES`, and their ``head_scale``."""
    if name in _A1:
        first, second, *dilations = _A1[name]
        return [
            LayerArray(1, first, second, dilations[0]),
            LayerArray(first, second, 1, dilations[1], head_bias=True),
        ], 0.02
    sizes = [15 if index in (14, 15) else 6 for index in range(len(_A2_DILATIONS))]
    options = {"activation": {"type": "LeakyReLU", "negative_slope": 0.01}, "head_kernel_size": 16, "head_bias": True}
    return [LayerArray(1, _A2[name], 1, _A2_DILATIONS, sizes, **options)], 0.01
