"""The interface between effect models and their C source: a model makes a program, the writer reads it.

A program computes some samples of one audio channel. Its buffers hold one row of samples for each channel; buffer 0 is
the sound. Each operation writes one new buffer, :attr:`Program.output` is the result. A convolution also reads earlier
samples of its source: the compiled code keeps as many as it needs, and before time 0 they are ``start``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from wavedil.audio.effects.compiled.functions import Function, function_of
from wavedil.audio.generation.plan import checked_weight
from wavedil.core import DilatedConv, DilatedStack
from wavedil.core.padded_conv import PaddedConv
from wavedil.core.stream import State
from wavedil.errors import WavedilError, with_article

MAX_WEIGHTS = 2**21  # 25 MB of C
MAX_STATE = 2**26


@dataclass(frozen=True)
class Term:
    """A causal convolution of a buffer: ``weight`` (out, in / groups, taps), oldest tap first.

    ``delays`` are those of the taps in samples, where they are not multiples of ``dilation``.
    """

    source: int
    weight: Tensor
    dilation: int = 1
    groups: int = 1
    delays: tuple[int, ...] | None = None

    @property
    def span(self) -> int:
        if self.delays is not None:
            return max(self.delays)
        return (self.weight.shape[2] - 1) * self.dilation


@dataclass(frozen=True)
class Product:
    """The sum of a bias, convolutions and, with ``add``, a buffer.

    ``knobs``: weights (out, condition) of a further term, the condition that is computed from the knobs.
    """

    bias: Tensor
    terms: tuple[Term, ...]
    add: int | None = None
    knobs: Tensor | None = None


@dataclass(frozen=True)
class Sum:
    """The sum of two buffers."""

    first: int
    second: int


@dataclass(frozen=True)
class Map:
    """A function of every sample."""

    source: int
    function: Function


@dataclass(frozen=True)
class Gate:
    """``primary(a) * secondary(b)`` of the first and second half a, b of the channels.

    If ``blended``: ``a + (primary(a) - a) * secondary(b)``.
    """

    source: int
    primary: Function
    secondary: Function
    blended: bool = False


@dataclass(frozen=True)
class Modulate:
    """``scale * source``, or ``scale * source + shift``; scale and shift are the halves of ``modulation``."""

    source: int
    modulation: int
    shift: bool


@dataclass(frozen=True)
class OnePole:
    """Low-pass filters of one channel, ``s = decay * s + (1 - decay) * x``, from ``charges``: both (filters,)."""

    source: int
    decay: Tensor
    charges: Tensor


@dataclass(frozen=True)
class Recurrent:
    """A layer of LSTM cells, or of GRU cells, which have no ``cell``; hidden and cell are the values at time 0.

    ``weight`` (4 * hidden, in + hidden) and ``bias`` are those of four sums for each cell. LSTM: the gates in torch's
    order. GRU: the gates r and z, and the two parts of n, from the input and from the hidden values.
    """

    source: int
    weight: Tensor
    bias: Tensor
    hidden: Tensor
    cell: Tensor | None


Operation = Product | Sum | Map | Gate | Modulate | OnePole | Recurrent


@dataclass(frozen=True)
class Program:
    """Operation i writes buffer i + 1; ``channels`` and ``starts`` have one entry per buffer, as its rows.

    ``condition`` are layers (weight, bias, whether a tanh follows) from the knobs, scaled to [-1, 1], to the vector of
    which :attr:`Product.knobs` are the weights.
    """

    operations: tuple[Operation, ...]
    channels: tuple[int, ...]
    starts: tuple[Tensor | None, ...]
    sample_rate: int
    settle: float
    title: str
    knobs: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    condition: tuple[tuple[Tensor, Tensor, bool], ...] = ()

    @property
    def output(self) -> int:
        return len(self.operations)

    @property
    def condition_widths(self) -> list[int]:
        """Number of knobs, and of outputs of each layer of ``condition``."""
        return [len(self.knobs), *(len(bias) for _, bias, _ in self.condition)]

    @property
    def spans(self) -> list[int]:
        """Number of earlier samples that are needed, for each buffer."""
        spans = [0] * len(self.channels)
        for operation in self.operations:
            for term in operation.terms if isinstance(operation, Product) else ():
                spans[term.source] = max(spans[term.source], term.span)
        return spans


class Builder:
    """Makes a :class:`Program`. Its methods add an operation and return the number of the buffer that it writes.

    Args:
        start: the model's state before the first sample, batch size 1; None is zero.
    """

    def __init__(self, start: State | None = None):
        self.operations: list[Operation] = []
        self.channels, self.starts = [1], [None]
        self.start = start
        self.sound = 0

    def conv(self, conv: PaddedConv, source: int, name: str = "", **options: Any) -> int:
        """A causal convolution, of which ``name`` is the key in the model's state; see :meth:`product`."""
        return self.product([self.term(conv, source, name)], conv.bias, **options)

    def term(self, conv: PaddedConv, source: int, name: str = "") -> Term:
        """The term of a causal convolution; its history in the model's state becomes the start of its source."""
        if conv.span != (0,):
            if conv.padding != ("causal",) or conv.stride != (1,):
                raise WavedilError(f"{name or 'a convolution'} is not causal: a stream needs causal convolutions")
            if self.start is not None:
                self.starts[source] = self.start[f"{name}.history"][0, :, -1].float()
        if isinstance(conv, DilatedConv):
            return Term(source, _weight(conv.weight), conv.dilation[0], conv.groups)
        weight, offsets = conv.taps()
        delays = tuple(conv.span[0] - offset for (offset,) in offsets)
        return Term(source, _weight(weight), groups=conv.groups, delays=delays)

    def product(
        self,
        terms: Sequence[Term],
        bias: Tensor | None = None,
        *,
        add: int | None = None,
        knobs: Tensor | None = None,
        scale: float = 1.0,
    ) -> int:
        """The sum of bias, terms and the buffer ``add``; ``scale`` multiplies the first two."""
        channels = terms[0].weight.shape[0]
        bias = torch.zeros(channels) if bias is None else _weight(bias)
        if scale != 1:
            terms = [replace(term, weight=term.weight * scale) for term in terms]
            bias = bias * scale
        for term in terms:
            out, width = term.weight.shape[0], term.weight.shape[1] * term.groups
            assert out == channels and width == self.channels[term.source], (term.weight.shape, term.groups)
        assert add is None or self.channels[add] == channels
        return self._write(Product(bias, tuple(terms), add, None if knobs is None else _weight(knobs)), channels)

    def gated_stack(self, stack: DilatedStack, x: int, name: str) -> int:
        """The sum of the skips of a causal stack of :class:`GatedBlock`; its condition is the knobs'."""
        gates = []
        for index, layer in enumerate(stack.layers):
            knobs = None if layer.condition is None else layer.condition.weight.flatten(1)
            h = self.conv(layer.conv, x, f"{name}.layers.{index}.conv", knobs=knobs)
            functions = nn.Tanh(), nn.Sigmoid()
            gates.append(self.gate(h, *(functions if layer.gate_order == "tanh_first" else functions[::-1])))
            if layer.residual is not None:
                x = self.conv(layer.residual, gates[-1], add=x)
            if layer.residual_scale != 1:
                raise WavedilError(f"residual_scale is {layer.residual_scale:g}: expected 1, for C")
        weight, bias = stack.skip_product()
        parts = weight.split([self.channels[gate] for gate in gates], dim=1)
        return self.product([Term(gate, _weight(part)) for gate, part in zip(gates, parts, strict=True)], bias)

    def sum(self, first: int, second: int) -> int:
        assert self.channels[first] == self.channels[second]
        return self._write(Sum(first, second), self.channels[first])

    def map(self, source: int, activation: nn.Module) -> int:
        """An activation; see :func:`wavedil.audio.effects.compiled.functions.function_of`."""
        function = function_of(activation)
        return source if function.name == "identity" else self._write(Map(source, function), self.channels[source])

    def gate(self, source: int, primary: nn.Module, secondary: nn.Module, blended: bool = False) -> int:
        half = self.channels[source] // 2
        return self._write(Gate(source, function_of(primary), function_of(secondary), blended), half)

    def modulate(self, source: int, modulation: int, shift: bool) -> int:
        assert self.channels[modulation] == self.channels[source] * (2 if shift else 1)
        return self._write(Modulate(source, modulation, shift), self.channels[source])

    def one_pole(self, source: int, decay: Tensor, charges: Sequence[float]) -> int:
        values = torch.tensor(charges, dtype=torch.float64)
        return self._write(OnePole(source, decay.detach().double().cpu(), values), len(charges))

    def recurrent(
        self, module: nn.LSTM | nn.GRU, source: int, hidden: Tensor, cell: Tensor | None = None, layer: int = 0
    ) -> int:
        """A layer of an LSTM or GRU of torch, of one direction, from its values at time 0; ``cell`` is for an LSTM."""
        inputs, own, first, second = (
            getattr(module, f"{name}_l{layer}").detach() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        size = len(hidden)
        if isinstance(module, nn.GRU):  # r multiplies only the part of n from the hidden values: two separate sums
            inputs, first = _with_zeros(inputs, 3 * size, size), _with_zeros(first, 3 * size, size)
            own, second = _with_zeros(own, 2 * size, size), _with_zeros(second, 2 * size, size)
        weight, bias = torch.cat([inputs, own], dim=1), first + second
        assert weight.shape == (4 * size, self.channels[source] + size)
        start = _weight(hidden), None if cell is None else _weight(cell)
        return self._write(Recurrent(source, _weight(weight), _weight(bias), *start), size)

    def program(self, model: nn.Module, sample_rate: int, settle: float = 0.0, **options: Any) -> Program:
        """The program whose result is the buffer of the last operation.

        Raises:
            WavedilError: the model is too large.
        """
        assert self.channels[-1] == 1
        program = Program(
            tuple(self.operations), tuple(self.channels), tuple(self.starts), sample_rate, settle,
            type(model).__name__, **options,
        )  # fmt: skip
        weights = sum(parameter.numel() for parameter in model.parameters())
        state = sum(c * span for c, span in zip(program.channels, program.spans, strict=True))
        if weights > MAX_WEIGHTS or state > MAX_STATE:
            raise WavedilError(
                f"the model has {weights} weights and {state} values of state: expected at most {MAX_WEIGHTS} and "
                f"{MAX_STATE} for C"
            )
        return program

    def _write(self, operation: Operation, channels: int) -> int:
        self.operations.append(operation)
        self.channels.append(channels)
        self.starts.append(None)
        return len(self.operations)


def _with_zeros(rows: Tensor, at: int, count: int) -> Tensor:
    """Rows with ``count`` rows of zeros inserted before row ``at``."""
    return torch.cat([rows[:at], rows.new_zeros(count, *rows.shape[1:]), rows[at:]])


def _weight(weight: Tensor) -> Tensor:
    return checked_weight(weight.detach().float().cpu())


def lower(model: nn.Module) -> Program:
    """The program of a model.

    Raises:
        WavedilError: the model has none, in one line that says why.
    """
    if "program" not in vars(type(model)):  # a subclass may compute something else than the class that it extends
        raise no_program(model)
    with torch.no_grad():
        return model.program()


def no_program(model: nn.Module) -> WavedilError:
    """The error for a model that has no C source."""
    layers = (layer for layer in model.modules() if isinstance(layer, PaddedConv) and layer.ndim == 1)
    why = "expected an Effect, a LayerChain, a model of .nam files, or a TCN from sound to sound"
    if any(layer.span != (0,) and layer.padding != ("causal",) for layer in layers):
        why = "its convolutions are not causal, so its output depends on later input, which a stream does not have yet"
    return WavedilError(f"{with_article(model)} has no C source: {why}")
