"""The theoretical and the effective receptive field of any module, measured by gradient.

Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", arXiv 1701.04128.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from wavedil.core.learned import LearnedDilation
from wavedil.core.padded_conv import PaddedConv
from wavedil.core.schema import Channels, Dimensions, Range, checked
from wavedil.errors import WavedilError, first_line, shown
from wavedil.ops.memory import check_memory

Positions = Annotated[int, Range(1, 2**62)]  # the memory limits them

# Range of sizes per axis that ``measure_receptive_field`` tries, by number of axes.
_FIRST_SIZE = {1: 64, 2: 32, 3: 16}
_LARGEST_SIZE = {1: 65536, 2: 512, 3: 64}
_WITH_KERNELS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, PaddedConv),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
)


@dataclass(frozen=True)
class MeasuredField:
    """The receptive field of one output position; tuples have one entry per space axis.

    Attributes:
        extent: size of the smallest box that contains all inputs on which the output depends.
        left, right: distance from the output's position to the first and the last position of the box. For strided or
            unpadded modules the output's position is scaled by the ratio of the sizes. ``right`` is 0 along a causal
            axis; one of them is negative if the box does not contain the position.
        reached: number of positions in the box on which the output depends.
        holes: number of positions in the box on which it does not depend (gridding).
        effective: length of the shortest interval that contains the fraction ``coverage`` of the gradient's energy; 0
            if the gradient is zero, e.g. with an output layer of zeros.
        std: standard deviation of the distribution of the energy, in positions.
        energy: mean squared gradient in the box, of shape ``extent``, with the module's weights.
        coverage: fraction of the energy for ``effective``.
        size: space axes of the input used for the measurement.
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


@checked
def measure_receptive_field(
    module: nn.Module,
    example: Channels | Tensor,
    ndim: Dimensions = 1,
    *,
    size: Positions | Sequence[Positions] | None = None,
    seeds: Annotated[int, Range(1, 10_000)] = 8,
    coverage: Annotated[float, Range(0, 1, exclude_low=True, exclude_high=True)] = 0.95,
    progress: Callable[[int, int], None] | None = None,
) -> MeasuredField:
    """Measures the theoretical and the effective receptive field of the middle output position, by gradient.

    The theoretical field is the set of inputs with a nonzero gradient, in a float64 copy of the module with small
    positive random parameters and positive inputs, so that no ReLU is off, no gate saturates and no two paths cancel.
    (Max pooling passes the gradient to the largest input only; the union over ``seeds`` draws covers small windows.)
    The effective field uses the module's weights, normal random inputs and random output gradients (Luo et al., arXiv
    1701.04128).

    Args:
        module: maps ``(batch, channels, *space)`` to a tensor ``(batch, channels, *space)`` or a tuple whose first
            element is one. The module is copied and not modified.
        example: number of input channels, or an input whose shape is used with a batch size of 1.
        ndim: number of space axes, 1 to 3.
        size: space axes of the input, or one integer for all; default that of ``example`` if it is a tensor, else
            increased until the field fits, up to 65536, 512 and 64 positions per axis in 1, 2 and 3 dimensions.
        seeds: number of random draws.
        coverage: fraction of the gradient's energy for the effective field.
        progress: called after each pass with the number of positions that the passes so far and all planned passes
            compute; the second number grows if a larger input is needed. Deep networks take a minute.

    Raises:
        WavedilError: the field is larger than the input (the message has the axis and a size to use), the module does
            not accept float64 input, or its output does not depend on the input.
    """
    if isinstance(example, Tensor):
        if not example.is_floating_point():
            raise WavedilError(
                f"example has dtype {example.dtype}: expected floating point; for a model with an embedding, measure "
                "the module after the embedding, with its number of channels"
            )
        if example.dim() != ndim + 2:
            raise WavedilError(
                f"example has shape {tuple(example.shape)}: expected (batch, channels, *space) with {ndim} space axes"
            )
        channels, size = example.shape[1], tuple(example.shape[2:]) if size is None else size
    else:
        channels = example
    original = float64_copy(module)
    positive = float64_copy(module)
    _redraw_positive(positive)
    passes = _Passes(progress)
    if size is None:
        shape, box, reached = _grow(positive, channels, ndim, seeds, passes)
    else:
        shape = (size,) * ndim if isinstance(size, int) else tuple(size)
        if len(shape) != ndim:
            raise WavedilError(f"size is {size!r}: expected an integer, or one for each of {ndim} axes")
        passes.left = 2 * seeds
        box, reached = _footprint(positive, channels, shape, seeds, passes)
        if touched := _touched_axes(box, shape):
            raise _too_small(shape, touched)
    energy = torch.zeros(shape, dtype=torch.float64)
    for seed in range(seeds):
        gradient, position = _gradient(original, channels, shape, seed, passes, positive=False)
        energy += gradient.square() / seeds
    energy = energy[tuple(slice(low, high + 1) for low, high in box)]
    extent = _extent(box)
    axes = set(range(ndim))  # below, the energy along each axis is summed over the others
    lines = [energy.sum(tuple(axes - {axis})) if ndim > 1 else energy for axis in axes]
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


Box = list[tuple[int, int]]  # first and last position per axis


class _Passes:
    """Reports finished and planned passes, each by its number of positions.

    Attributes:
        left: planned passes at the present size of the input.
    """

    def __init__(self, progress: Callable[[int, int], None] | None):
        self.progress, self.left, self.done = progress, 0, 0

    def finished(self, shape: tuple[int, ...]) -> None:
        self.done, self.left = self.done + math.prod(shape), max(0, self.left - 1)
        if self.progress is not None:
            self.progress(self.done, self.done + self.left * math.prod(shape))


def _grow(module: nn.Module, channels: int, ndim: int, seeds: int, passes: _Passes) -> tuple[tuple[int, ...], Box, int]:
    """Doubles the input size axis by axis until the field fits; returns the size, and the footprint in it."""
    shape, largest = (_FIRST_SIZE[ndim],) * ndim, _LARGEST_SIZE[ndim]
    while True:
        try:
            passes.left = 2 + 2 * seeds
            box, reached = _footprint(module, channels, shape, 1, passes)
            touched = _touched_axes(box, shape)
            if not touched:
                safe = _safe_shape(module, channels, shape, largest, passes)
                if safe != shape and _extent(_footprint(module, channels, safe, 1, passes)[0]) != _extent(box):
                    shape = safe
                    continue
                passes.left = 2 * seeds
                # More draws only add positions that the first one missed, e.g. before max pooling.
                box, reached = _footprint(module, channels, shape, seeds, passes)
                touched = _touched_axes(box, shape)
            if not touched:
                return shape, box, reached
            error: WavedilError = _too_small(shape, touched)
        except _ForwardError as failure:
            # Unpadded modules need a minimum size; any other cause persists up to the largest size.
            error, touched = failure, list(range(ndim))
        if any(shape[axis] >= largest for axis in touched):
            raise WavedilError(f"{error} (tried sizes up to {max(shape)}; set size)")
        shape = tuple(2 * n if axis in touched else n for axis, n in enumerate(shape))


def _safe_shape(
    module: nn.Module, channels: int, shape: tuple[int, ...], largest: int, passes: _Passes
) -> tuple[int, ...]:
    """An input size, at most ``largest``, in which the receptive field certainly fits.

    In a smaller input the field can be incomplete without reaching the border: of a layer with a large dilation, all
    taps but one can be in the padding. No path is longer than the sum of all kernels' spans.
    """
    spans = torch.zeros(len(shape))

    def add(part: nn.Module, inputs: tuple, _output: object) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].dim() == len(shape) + 2:
            jump = (torch.tensor(shape) / torch.tensor(inputs[0].shape[2:])).round().clamp(min=1)
            if isinstance(part, PaddedConv):
                span = torch.as_tensor(part.span)
            else:
                span = (torch.as_tensor(part.kernel_size) - 1) * torch.as_tensor(getattr(part, "dilation", 1))
            spans.add_(span * jump)

    hooks = [part.register_forward_hook(add) for part in module.modules() if isinstance(part, _WITH_KERNELS)]
    try:
        _gradient(module, channels, shape, 0, passes, positive=True)
    finally:
        for hook in hooks:
            hook.remove()
    needed = 2 * spans.long() + 2  # the output is in the middle, and the field can be on one side of it
    return tuple(max(n, min(int(least), largest)) for n, least in zip(shape, needed, strict=True))


def _extent(box: Box) -> tuple[int, ...]:
    return tuple(high - low + 1 for low, high in box)


class _ForwardError(WavedilError):
    """The module raised an error for random input."""


def _gradient(
    module: nn.Module, channels: int, shape: tuple[int, ...], seed: int, passes: _Passes, positive: bool
) -> tuple[Tensor, tuple[int, ...]]:
    """The magnitude of the input's gradient, of shape ``shape`` on the CPU, and the measured position in the input.

    The output gradient is random over channels: positive (for the footprint; the magnitude is then the maximum over
    channels) or normal (the root of the sum of squares).
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    x = torch.empty(1, channels, *shape, dtype=torch.float64)
    x = x.uniform_(0.1, 1.0, generator=generator) if positive else x.normal_(generator=generator)
    x = x.to(device).requires_grad_()
    try:
        y = module(x)
    except Exception as error:  # a module of a user may raise any
        raise _ForwardError(
            f"the module does not accept float64 input of shape {tuple(x.shape)}: {first_line(error)}; if its input is "
            "codes, measure the module after the embedding"
        ) from error
    y = y[0] if isinstance(y, tuple | list) and y else y
    if not isinstance(y, Tensor):
        raise WavedilError(f"the module's output is {shown(y)}: expected a tensor, or a tuple that begins with one")
    if y.dim() != x.dim() or 0 in y.shape:
        raise WavedilError(
            f"the module's output has shape {tuple(y.shape)}: expected (batch, channels, *space) with {len(shape)} "
            f"space axes, as in its input{_where_to_cut(module, x)}"
        )
    middle = tuple(n // 2 for n in y.shape[2:])
    at_output = y[(0, slice(None), *middle)]
    cotangent = torch.empty(at_output.shape, dtype=torch.float64)
    if positive:
        # Gradients of deep stacks with small positive weights are tiny; this avoids underflow.
        cotangent.uniform_(1e100, 2e100, generator=generator)
    else:
        cotangent.normal_(generator=generator)
    gradient = torch.zeros_like(x)
    if y.requires_grad:
        options = {"allow_unused": True, "materialize_grads": True}
        (gradient,) = torch.autograd.grad(at_output, x, cotangent.to(y.device, y.dtype), **options)
    # The input position in proportion to the sizes, symmetric in both ends (exact for equal sizes).
    position = tuple(((2 * at + 1) * n - m) // (2 * m) for at, n, m in zip(middle, shape, y.shape[2:], strict=True))
    size = gradient[0].abs().amax(0) if positive else gradient[0].square().sum(0).sqrt()
    passes.finished(shape)
    return size.cpu(), position


def _where_to_cut(module: nn.Module, x: Tensor) -> str:
    """The end of an error about a classifier: the last part whose output is still a map."""
    found: list[str] = []

    def note(name: str) -> Callable:
        def hook(part: nn.Module, inputs: tuple, y: object) -> None:
            if (
                isinstance(y, Tensor)
                and y.dim() == x.dim()
                and not isinstance(part, nn.modules.pooling._AdaptiveAvgPoolNd)
            ):
                found.append(name)

        return hook

    hooks = [part.register_forward_hook(note(name)) for name, part in module.named_children()]
    try:
        with torch.no_grad():
            module(x)
    except Exception:  # the error that is reported is another
        return ""
    finally:
        for each in hooks:
            each.remove()
    if not found:
        return ""
    return (
        f"; measure the network up to {found[-1]}, its last part with a map: to_dense(model, stride) of "
        "wavedil.vision, or nn.Sequential of its parts"
    )


def _footprint(
    module: nn.Module, channels: int, shape: tuple[int, ...], seeds: int, passes: _Passes
) -> tuple[Box, int]:
    """The smallest box of all positions with a gradient in any of ``seeds`` draws, and their number."""
    needed = 64 * channels * math.prod(shape)  # the input, its gradient and at least as many activations, in float64
    check_memory(needed, f"size is {shape}", "use a smaller size or fewer channels")
    reached = torch.zeros(shape, dtype=torch.bool)
    for seed in range(seeds):
        reached |= _gradient(module, channels, shape, seed, passes, positive=True)[0] != 0
    if not reached.any():
        raise WavedilError("the module's output does not depend on its input: nothing to measure")
    places = reached.nonzero()
    lows, highs = places.amin(0).tolist(), places.amax(0).tolist()
    return list(zip(lows, highs, strict=True)), len(places)


def _touched_axes(box: Box, shape: tuple[int, ...]) -> list[int]:
    """Axes along which the footprint touches the input's border, so that it can be cut off."""
    sides = enumerate(zip(box, shape, strict=True))
    return [axis for axis, ((low, high), n) in sides if low == 0 or high == n - 1]


def _too_small(shape: tuple[int, ...], touched: list[int]) -> WavedilError:
    axes = " and ".join(f"{axis} (size {shape[axis]})" for axis in touched)
    sizes = tuple(2 * n if axis in touched else n for axis, n in enumerate(shape))
    return WavedilError(
        f"the receptive field reaches the border of the input along space axis {axes}; set size={sizes} or more. A "
        "module with a global operation (attention, global pooling, group norm) never fits"
    )


def float64_copy(module: nn.Module) -> nn.Module:
    """A copy in float64 and in evaluation mode, without gradients."""
    # Hook-based weight norm stores computed weights, which deepcopy refuses: replace them by detached copies.
    computed: dict[int, object] = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, computed).double().eval().requires_grad_(False)


def _redraw_positive(module: nn.Module) -> None:
    """Sets small positive parameters: each layer computes about a tenth of the mean of its inputs.

    So residual sums grow slowly and gates do not saturate. Normalization layers also get gains near one tenth, and
    their running statistics are reset.
    """
    generator = torch.Generator().manual_seed(0)
    learned = [part for part in module.modules() if isinstance(part, LearnedDilation)]
    positions = {id(parameter) for part in learned for parameter in (part.positions, part.sigma)}
    for parameter in module.parameters():
        if id(parameter) in positions:
            continue
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
        if parameter.dim() > 1 and fan_in == 1:  # the gain of weight norm, one value per output channel
            fan_in = len(parameter)
        drawn = torch.empty(parameter.shape, dtype=torch.float64)
        drawn.uniform_(0.05 / fan_in, 0.15 / fan_in, generator=generator)
        parameter.copy_(drawn)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.reset_running_stats()


def _shortest_interval(line: Tensor, share: float) -> int:
    """Length of the shortest interval that contains the fraction ``share`` of the sum of ``line``."""
    if not line.any():
        return 0
    total = torch.cat([torch.zeros(1, dtype=line.dtype), line.cumsum(0)])
    # For each start, the first end at which the sum suffices, with a tolerance for rounding.
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
