"""The receptive field of any module, measured by gradient: theoretical and effective.

Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks",
arXiv 1701.04128.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wavedil.core.conv import DilatedConv
from wavedil.errors import WavedilError

# Sizes of an axis that `measure_receptive_field` tries by itself, by number of axes.
_FIRST_SIZE = {1: 64, 2: 32, 3: 16}
_LARGEST_SIZE = {1: 65536, 2: 512, 3: 64}
_WITH_KERNELS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, DilatedConv),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
)


@dataclass(frozen=True)
class MeasuredField:
    """What one output position of a module depends on; every tuple has one entry per space axis.

    Attributes:
        extent: size of the smallest box that holds all inputs the output depends on.
        left, right: how far that box reaches before and behind the output's own position (for a
            strided or a valid module: the input at the same place, ends counted alike). 0 to the
            right along a causal axis; negative if the box does not come up to the position.
        reached: number of positions in the box that the output depends on.
        holes: number of positions in the box that it does not (gridding).
        effective: size of the shortest interval that holds `coverage` of the gradient's energy; 0
            if the module's own weights let no gradient through (an output layer of zeros).
        std: standard deviation of the energy's distribution, in positions.
        energy: mean squared gradient over the box, `extent`-shaped, with the module's own weights.
        coverage: the share of the energy that `effective` holds.
        size: space axes of the input that was measured with.
    """

    extent: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    reached: int
    holes: int
    effective: tuple[int, ...]
    std: tuple[float, ...]
    energy: Tensor
    coverage: float
    size: tuple[int, ...]


def measure_receptive_field(
    module: nn.Module,
    example: int | Tensor,
    ndim: int = 1,
    *,
    size: int | Sequence[int] | None = None,
    seeds: int = 8,
    coverage: float = 0.95,
) -> MeasuredField:
    """The receptive field of the output in the middle, by gradient, theoretical and effective.

    The theoretical field is the set of inputs with a gradient on a float64 copy of the module whose
    parameters are redrawn small and positive, for positive inputs: then no ReLU dies, no gate
    saturates and no two paths cancel. (Max pooling passes gradients to the largest input only; the
    union over `seeds` draws sees through small windows.) The effective field takes the module's own
    weights, random normal inputs and random output gradients (Luo et al., arXiv 1701.04128).

    Args:
        module: maps `(batch, channels, *space)` to a tensor `(batch, channels, *space)` or a tuple
            that begins with one. It is copied; the caller's stays as it is.
        example: number of input channels, or an input whose shape is used (its batch counts as 1).
        ndim: number of space axes, 1 to 3.
        size: space axes of the input, an integer for all; taken from `example` when it is a tensor.
            None: enlarged until the field fits, up to 65536, 512 and 64 positions an axis in 1, 2
            and 3 dimensions.
        seeds: random draws.
        coverage: share of the gradient's energy for the effective field.

    Raises:
        WavedilError: the input does not hold the field (says which axis and a size to use), the
            module does not take float64 input or its output does not depend on it.
    """
    if ndim not in _FIRST_SIZE:
        raise WavedilError(f"ndim must be 1, 2 or 3, got {ndim!r}")
    if not 0 < coverage < 1:
        raise WavedilError(f"coverage must lie between 0 and 1, got {coverage!r}")
    if isinstance(example, Tensor):
        if not example.is_floating_point():
            raise WavedilError(
                f"an input of {example.dtype} has no gradient; measure the part of the module "
                "behind the embedding, with its number of channels"
            )
        if example.dim() != ndim + 2:
            raise WavedilError(
                f"example has shape {tuple(example.shape)}; expected (batch, channels, *space) with {ndim} space axes"
            )
        channels, size = example.shape[1], tuple(example.shape[2:]) if size is None else size
    else:
        channels = example
    own = _float64_copy(module)
    positive = _float64_copy(module)
    _redraw_positive(positive)
    if size is None:
        shape, box, reached = _grow(positive, channels, ndim, seeds)
    else:
        shape = (size,) * ndim if isinstance(size, int) else tuple(size)
        if len(shape) != ndim:
            raise WavedilError(f"size must be an integer or {ndim} of them, got {size!r}")
        box, reached = _footprint(positive, channels, shape, seeds)
        if touched := _touched(box, shape):
            raise WavedilError(_too_small(shape, touched))
    energy = torch.zeros(shape, dtype=torch.float64)
    for seed in range(seeds):
        gradient, position = _gradient(own, channels, shape, seed, positive=False)
        energy += gradient.square() / seeds
    energy = energy[tuple(slice(low, high + 1) for low, high in box)]
    extent = _extent(box)
    lines = _marginals(energy)
    return MeasuredField(
        extent=extent,
        left=tuple(at - low for (low, _), at in zip(box, position, strict=True)),
        right=tuple(high - at for (_, high), at in zip(box, position, strict=True)),
        reached=reached,
        holes=math.prod(extent) - reached,
        effective=tuple(_shortest_interval(line, coverage) for line in lines),
        std=tuple(_standard_deviation(line) for line in lines),
        energy=energy,
        coverage=coverage,
        size=shape,
    )


Box = list[tuple[int, int]]  # first and last reached position of each axis


def _grow(module: nn.Module, channels: int, ndim: int, seeds: int) -> tuple[tuple[int, ...], Box, int]:
    """The first of growing input sizes that holds the field, each axis grown on its own."""
    shape, largest = (_FIRST_SIZE[ndim],) * ndim, _LARGEST_SIZE[ndim]
    while True:
        try:
            box, reached = _footprint(module, channels, shape, seeds=1)
            touched = _touched(box, shape)
            if not touched:
                safe = _safe_shape(module, channels, shape, largest)
                if safe != shape and _extent(_footprint(module, channels, safe, seeds=1)[0]) != _extent(box):
                    shape = safe
                    continue
                # Further draws only fill in what the first left out, e.g. behind max pooling.
                box, reached = _footprint(module, channels, shape, seeds)
                touched = _touched(box, shape)
            if not touched:
                return shape, box, reached
            error = WavedilError(_too_small(shape, touched))
        except _Refused as refusal:
            # Unpadded modules need a least size; any other cause stays until the largest size.
            error, touched = refusal, list(range(ndim))
        if any(shape[axis] >= largest for axis in touched):
            raise WavedilError(f"{error} (tried sizes up to {max(shape)}; give size=...)")
        shape = tuple(2 * n if axis in touched else n for axis, n in enumerate(shape))


def _safe_shape(module: nn.Module, channels: int, shape: tuple[int, ...], largest: int) -> tuple[int, ...]:
    """The input size, at most ``largest``, that shows whatever the output may see.

    A smaller one may hide a part of the field without a sign at its border: the taps of a wide dilation, beside
    narrower branches or behind one another, lie in the padding. What all kernels span bounds how far a path goes.
    """
    spans = torch.zeros(len(shape))

    def add(part: nn.Module, inputs: tuple, _output: object) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].dim() == len(shape) + 2:
            jump = (torch.tensor(shape) / torch.tensor(inputs[0].shape[2:])).round().clamp(min=1)
            spans.add_((torch.as_tensor(part.kernel_size) - 1) * torch.as_tensor(getattr(part, "dilation", 1)) * jump)

    hooks = [part.register_forward_hook(add) for part in module.modules() if isinstance(part, _WITH_KERNELS)]
    try:
        _gradient(module, channels, shape, 0, positive=True)
    finally:
        for hook in hooks:
            hook.remove()
    needed = 2 * spans.long() + 2  # the output is in the middle, and the field may be on one side of it
    return tuple(max(n, min(int(least), largest)) for n, least in zip(shape, needed, strict=True))


def _extent(box: Box) -> tuple[int, ...]:
    return tuple(high - low + 1 for low, high in box)


class _Refused(WavedilError):
    """The module raised on random input."""


def _gradient(
    module: nn.Module, channels: int, shape: tuple[int, ...], seed: int, positive: bool
) -> tuple[Tensor, tuple[int, ...]]:
    """Size of the input's gradient `shape` (CPU) and the input position of the output measured.

    The size is the root of the sum of squares over channels, for an output gradient that is random
    over channels: positive (for the footprint) or normal.
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    x = torch.empty(1, channels, *shape, dtype=torch.float64)
    x = x.uniform_(0.1, 1.0, generator=generator) if positive else x.normal_(generator=generator)
    x = x.to(device).requires_grad_()
    try:
        y = module(x)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise _Refused(
            f"the module does not take float64 input of shape {tuple(x.shape)}: {error}. If it "
            "takes codes (an embedding), measure the part behind the embedding"
        ) from error
    y = y[0] if isinstance(y, tuple | list) else y
    if y.dim() != x.dim():
        raise WavedilError(
            f"the module's output has shape {tuple(y.shape)}; expected (batch, channels, *space) "
            f"with {len(shape)} space axes, as its input has"
        )
    middle = tuple(n // 2 for n in y.shape[2:])
    at_output = y[(0, slice(None), *middle)]
    cotangent = torch.empty(at_output.shape, dtype=torch.float64)
    if positive:
        # Deep stacks of small positive weights have tiny gradients: start far from underflow.
        cotangent.uniform_(1e100, 2e100, generator=generator)
    else:
        cotangent.normal_(generator=generator)
    gradient = None
    if y.requires_grad:
        (gradient,) = torch.autograd.grad(at_output, x, cotangent.to(y.device, y.dtype), allow_unused=True)
    if gradient is None:
        raise WavedilError("the module's output does not depend on its input: nothing to measure")
    # The input position at the same place, with both ends counted alike (exact for equal sizes).
    position = tuple(((2 * at + 1) * n - m) // (2 * m) for at, n, m in zip(middle, shape, y.shape[2:], strict=True))
    size = gradient[0].abs().amax(0) if positive else gradient[0].square().sum(0).sqrt()
    return size.cpu(), position


def _footprint(module: nn.Module, channels: int, shape: tuple[int, ...], seeds: int) -> tuple[Box, int]:
    """The box of positions with a gradient in any of `seeds` draws, and how many there are."""
    reached = torch.zeros(shape, dtype=torch.bool)
    for seed in range(seeds):
        reached |= _gradient(module, channels, shape, seed, positive=True)[0] != 0
    if not reached.any():
        raise WavedilError("the module's output does not depend on its input: nothing to measure")
    places = reached.nonzero()
    lows, highs = places.amin(0).tolist(), places.amax(0).tolist()
    return list(zip(lows, highs, strict=True)), len(places)


def _touched(box: Box, shape: tuple[int, ...]) -> list[int]:
    """Axes along which the footprint comes up to the input's border, so may go on behind it."""
    sides = enumerate(zip(box, shape, strict=True))
    return [axis for axis, ((low, high), n) in sides if low == 0 or high == n - 1]


def _too_small(shape: tuple[int, ...], touched: list[int]) -> str:
    axes = " and ".join(f"{axis} (size {shape[axis]})" for axis in touched)
    sizes = tuple(2 * n if axis in touched else n for axis, n in enumerate(shape))
    return (
        f"the receptive field reaches the border of the input along space axis {axes}; use "
        f"size={sizes} or more. A module that looks at its whole input (attention, global pooling, "
        "group norm) never fits"
    )


def _float64_copy(module: nn.Module) -> nn.Module:
    # Old-style weight norm keeps computed weights, which deepcopy refuses: give it plain copies.
    computed: dict[int, object] = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, computed).double().eval().requires_grad_(False)


def _redraw_positive(module: nn.Module) -> None:
    """Small positive parameters: averages over the inputs, a tenth in size.

    So a residual sum grows slowly and gates stay where they have a slope. Normalization layers get
    a gain near one tenth as well, and neutral statistics.
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
        if parameter.dim() > 1 and fan_in == 1:  # weight norm's gain: one value per output channel
            fan_in = len(parameter)
        drawn = torch.empty(parameter.shape, dtype=torch.float64)
        drawn.uniform_(0.05 / fan_in, 0.15 / fan_in, generator=generator)
        parameter.copy_(drawn)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.reset_running_stats()


def _marginals(energy: Tensor) -> list[Tensor]:
    axes = range(energy.dim())
    return [energy.sum([a for a in axes if a != axis]) if len(axes) > 1 else energy for axis in axes]


def _shortest_interval(line: Tensor, share: float) -> int:
    """Length of the shortest interval that holds `share` of the sum of `line`."""
    if not line.any():
        return 0
    total = torch.cat([torch.zeros(1, dtype=line.dtype), line.cumsum(0)])
    # From each start, the first end at which the sum is enough; a rounding's width of slack.
    ends = torch.searchsorted(total, total + (share - 1e-12) * total[-1])
    lengths = ends - torch.arange(len(total))
    return int(lengths[ends < len(total)].min())


def _standard_deviation(line: Tensor) -> float:
    if not line.any():
        return 0.0
    places = torch.arange(len(line), dtype=line.dtype)
    weight = line / line.sum()
    mean = (weight * places).sum()
    return float((weight * (places - mean).square()).sum().sqrt())
