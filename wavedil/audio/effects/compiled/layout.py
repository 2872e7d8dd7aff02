"""Where the buffers of a program are in the state of its C code."""

from dataclasses import dataclass
from math import ceil

import numpy as np

from wavedil.audio.effects.compiled.c_kernels import BLOCK, LANES
from wavedil.audio.effects.compiled.program import (
    Gate,
    Map,
    Modulate,
    OnePole,
    Operation,
    Product,
    Program,
    Recurrent,
    Sum,
)  # fmt: skip


@dataclass(frozen=True)
class History:
    """A buffer whose earlier samples are read: rows of ``step`` numbers, of which ``span + room`` are samples.

    New samples are appended until ``room`` is full; then the last ``span`` samples are moved to the beginning.
    """

    buffer: int
    offset: int
    channels: int
    span: int
    room: int
    step: int


class Layout:
    """Offsets in ``data``, an array of ``size`` numbers.

    Attributes:
        histories: of buffers whose earlier samples are read. The other buffers hold one block, and share memory with
            those that are no longer read.
        held: offset of what one-pole filters and recurrent layers keep, and of biases that depend on knobs, by buffer.
        condition: offsets of the rows of a block from which :attr:`Program.condition` is computed: the knobs, then the
            output of each layer.
        target_condition: offset of the condition for the values to which the knobs move.
    """

    def __init__(self, program: Program):
        self.program, self.size = program, 0
        self.histories: list[History] = []
        self.held: dict[int, int] = {}
        self._index: dict[int, int] = {}  # of the histories
        self._offsets: dict[int, int] = {}  # of the other buffers
        for buffer, span in enumerate(program.spans):
            if span:
                room = _up(max(4 * BLOCK, min(span // 2, 16 * BLOCK)), BLOCK)
                step = _up(span + room + LANES, LANES)
                if step % 256 == 0:  # rows at the same place of a cache's page would evict each other
                    step += LANES
                channels = program.channels[buffer]
                self._index[buffer] = len(self.histories)
                self.histories.append(History(buffer, self._take(channels * step), channels, span, room, step))
        for index, operation in enumerate(program.operations):
            if isinstance(operation, OnePole):
                self.held[index + 1] = self._take(2 * len(operation.charges))
            elif isinstance(operation, Recurrent):
                self.held[index + 1] = self._take(6 * _up(len(operation.hidden), LANES))
            elif isinstance(operation, Product) and operation.knobs is not None:
                self.held[index + 1] = self._take(len(operation.bias))
        self.condition, self.target_condition = [], 0
        if program.knobs:
            self.condition = [self._take(width * BLOCK) for width in program.condition_widths]
            self.target_condition = self._take(program.condition_widths[-1])
        self._place_blocks()

    def pointer(self, buffer: int) -> str:
        """The C expression of the address of the present block."""
        if buffer in self._index:
            index = self._index[buffer]
            history = self.histories[index]
            return f"s->data + {history.offset + history.span} + s->at[{index}]"
        return f"s->data + {self._offsets[buffer]}"

    def step(self, buffer: int) -> int:
        """Numbers from one row to the next."""
        return self.histories[self._index[buffer]].step if buffer in self._index else BLOCK

    def _place_blocks(self) -> None:
        last_read: dict[int, int] = {}
        for index, operation in enumerate(self.program.operations):
            last_read |= dict.fromkeys(_sources(operation), index + 1)
        last_read[self.program.output] = self.program.output
        free: list[tuple[int, int]] = []  # (numbers, offset)
        ends: dict[int, list[tuple[int, int]]] = {}
        for buffer, channels in enumerate(self.program.channels):
            if buffer not in self._index:
                wanted = channels * BLOCK
                fitting = [piece for piece in free if piece[0] >= wanted]
                if fitting:
                    piece = min(fitting)
                    free.remove(piece)
                else:
                    piece = (wanted, self._take(wanted))
                self._offsets[buffer] = piece[1]
                ends.setdefault(last_read.get(buffer, buffer), []).append(piece)
            free += ends.pop(buffer, [])  # after the place of this buffer: an operation writes to none that it reads

    def _take(self, numbers: int) -> int:
        offset = self.size
        self.size += _up(numbers, LANES)
        return offset


def state_type(program: Program) -> np.dtype:
    """The fields of the C state, which the writer declares in this order; all of them have 4 bytes."""
    layout, knobs = Layout(program), len(program.knobs)
    fields = [("data", np.float32, layout.size)]
    if layout.histories:
        fields.append(("at", np.int32, len(layout.histories)))
    if knobs:
        fields += [(name, np.float32, knobs) for name in ("target", "span", "slope")]
        fields += [("left", np.int32, knobs), ("started", np.int32)]
    return np.dtype(fields)


def _sources(operation: Operation) -> list[int]:
    if isinstance(operation, Product):
        return [term.source for term in operation.terms] + ([] if operation.add is None else [operation.add])
    if isinstance(operation, Sum):
        return [operation.first, operation.second]
    if isinstance(operation, Modulate):
        return [operation.source, operation.modulation]
    assert isinstance(operation, Map | Gate | OnePole | Recurrent)
    return [operation.source]


def _up(number: int, multiple: int) -> int:
    return ceil(number / multiple) * multiple
