"""Writes the operations of a program as C: calls of the functions in ``c_kernels``, and the array of all weights."""

from math import ceil, lcm

import torch
from torch import Tensor

from wavedil.audio.effects.compiled import c_kernels
from wavedil.audio.effects.compiled.c_kernels import LANES
from wavedil.audio.effects.compiled.layout import Layout
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
from wavedil.errors import WavedilError

MAX_CALLS = 4000  # in the source, so that a compiler takes less than a minute
PART = 64  # operations in one function
_PART = """\
KERNEL void {name}(amp_state *s, int n, int m, int moving) {{
  (void)n, (void)moving;
{body}
}}
"""


class Operations:
    """The C code of all operations.

    Attributes:
        body: lines that compute a block, by calls of ``parts``.
        parts: text of functions of some operations each, since compilers take long for one long function.
        functions: text of the functions that they call, by name.
        knob_biases: C statements that compute the biases for the values to which the knobs move.

    Raises:
        WavedilError: there are too many operations.
    """

    def __init__(self, program: Program, layout: Layout):
        self.program, self.layout = program, layout
        self.weights: list[float] = []
        self.functions: dict[str, str] = {}
        self.parts: list[str] = []
        self.knob_biases: list[str] = []
        calls = sum(
            lcm(*(term.groups for term in op.terms)) if isinstance(op, Product) else 1 for op in program.operations
        )
        if calls > MAX_CALLS:
            raise WavedilError(
                f"the model has {calls} operations (layers times groups): expected at most {MAX_CALLS} for C"
            )
        lines = [self._operation(index + 1, op) for index, op in enumerate(program.operations)]
        self.body = []
        for start in range(0, len(lines), PART):
            self.body.append(f"  part_{start}(s, n, m, moving);")
            body = "\n".join(line for part in lines[start : start + PART] for line in part)
            self.parts.append(_PART.format(name=f"part_{start}", body=body))

    def add(self, values: Tensor) -> str:
        """The C expression of the address of numbers that are added to the weights."""
        return f"weights + {self.offset(values)}"

    def offset(self, values: Tensor) -> int:
        """The index of numbers that are added to the weights."""
        offset = len(self.weights)
        self.weights += values.flatten().tolist()
        return offset

    def weight_array(self) -> str:
        """The C array of all weights that were added."""
        numbers = [number(value) for value in self.weights or [0.0]]
        rows = [", ".join(numbers[i : i + 8]) for i in range(0, len(numbers), 8)]
        return f"static const float weights[{len(numbers)}] = {{\n    " + ",\n    ".join(rows) + "};\n"

    def _operation(self, target: int, op: Operation) -> list[str]:
        layout, program = self.layout, self.program
        y, step, rows = layout.pointer(target), layout.step(target), program.channels[target]
        if isinstance(op, Product):
            return self._product(target, op)
        if isinstance(op, Sum):
            self.functions["sum"] = c_kernels.SUM
            sources = ", ".join(f"{layout.pointer(b)}, {layout.step(b)}" for b in (op.first, op.second))
            return [f"  sum({sources}, {y}, {step}, {rows}, m);"]
        source = f"{layout.pointer(op.source)}, {layout.step(op.source)}"
        if isinstance(op, Map):
            name, text = c_kernels.map_loop(op.function)
            self.functions[name] = text
            return [f"  {name}({source}, {y}, {step}, {rows}, m{self._parameters(op.function)});"]
        if isinstance(op, Gate):
            name, text = c_kernels.gate_loop(op.primary, op.secondary, op.blended)
            self.functions[name] = text
            half = rows * layout.step(op.source)
            parameters = self._parameters(op.primary) + self._parameters(op.secondary)
            return [f"  {name}({source}, {half}, {y}, {step}, {rows}, m{parameters});"]
        if isinstance(op, Modulate):
            self.functions["modulate"] = c_kernels.MODULATE
            scale = layout.pointer(op.modulation)
            shift = f"{scale} + {rows * layout.step(op.modulation)}" if op.shift else "0"
            scales = f"{scale}, {shift}, {layout.step(op.modulation)}"
            return [f"  modulate({source}, {scales}, {y}, {step}, {rows}, m);"]
        if isinstance(op, OnePole):
            self.functions["one_pole"] = c_kernels.ONE_POLE
            name = f"filters_{target}"
            self.functions[name] = f"static const double {name}[] = {{{', '.join(map(repr, op.decay.tolist()))}}};\n"
            held = f"s->data + {layout.held[target]}"
            return [f"  one_pole({layout.pointer(op.source)}, {name}, {held}, {y}, {step}, {rows}, n);"]
        return self._recurrent(target, op)

    def _product(self, target: int, op: Product) -> list[str]:
        layout, rows = self.layout, self.program.channels[target]
        groups = lcm(*(term.groups for term in op.terms))
        lines, moving = [], []
        bias_offset = self.offset(op.bias)
        bias = f"weights + {bias_offset}"
        if op.knobs is not None:
            knobs, bias = self.add(_tiles(op.knobs)), f"s->data + {layout.held[target]}"
            numbers = f"weights + {bias_offset}, s->data + {layout.target_condition}, {bias}"
            self.knob_biases.append(f"  knob_bias({knobs}, {numbers}, {rows}, {op.knobs.shape[1]});")
            y = f"{layout.pointer(target)}, {layout.step(target)}"
            row = f"{{s->data + {layout.condition[-1]}, BLOCK, {op.knobs.shape[1]}}}"
            moving = ["  if (moving)", *_call([row], f"{knobs}, zeros, {y}, {y}, {rows}")]
        size = rows // groups
        for group in range(groups):
            part = slice(group * size, (group + 1) * size)
            parts, columns = [], []
            for term in op.terms:
                width = term.weight.shape[1]
                first = (group * term.groups // groups) * width
                taps = term.weight.shape[2]
                step = layout.step(term.source)
                base = layout.pointer(term.source)
                origin = first * step - term.span
                if term.delays is not None:
                    parts += [f"{{{base}{_plus(first * step - delay)}, {step}, {width}}}" for delay in term.delays]
                    columns += term.weight[part].unbind(2)
                elif taps <= width:
                    parts += [
                        f"{{{base}{_plus(origin + tap * term.dilation)}, {step}, {width}}}" for tap in range(taps)
                    ]
                    columns += term.weight[part].unbind(2)
                else:
                    parts += [f"{{{base}{_plus(origin + c * step)}, {term.dilation}, {taps}}}" for c in range(width)]
                    columns += term.weight[part].unbind(1)
            add = "0, 0"
            if op.add is not None:
                add_step = layout.step(op.add)
                add = f"{layout.pointer(op.add)}{_plus(group * size * add_step)}, {add_step}"
            step = layout.step(target)
            weights = self.add(_tiles(torch.cat(columns, dim=1)))
            y = f"{layout.pointer(target)}{_plus(group * size * step)}, {step}"
            lines += _call(parts, f"{weights}, {bias}{_plus(group * size)}, {add}, {y}, {size}")
        return lines + moving

    def condition(self) -> list[str]:
        """C statements that compute the condition of ``m`` samples from the rows of the knobs."""
        lines = []
        places = [f"s->data + {offset}" for offset in self.layout.condition]
        for x, y, (weight, bias, squashed) in zip(places, places[1:], self.program.condition, strict=False):
            rows, width = weight.shape
            numbers = f"{self.add(_tiles(weight))}, {self.add(bias)}"
            lines += _call([f"{{{x}, BLOCK, {width}}}"], f"{numbers}, 0, 0, {y}, BLOCK, {rows}")
            if squashed:
                name, text = c_kernels.map_loop(c_kernels.Function("tanh"))
                self.functions[name] = text
                lines.append(f"  {name}({y}, BLOCK, {y}, BLOCK, {rows}, m);")
        return lines

    def _recurrent(self, target: int, op: Recurrent) -> list[str]:
        layout, rows = self.layout, self.program.channels[target]
        size = ceil(rows / LANES) * LANES
        padded = torch.zeros(op.weight.shape[1], 4, size)
        padded[:, :, :rows] = op.weight.T.unflatten(1, (4, rows))
        bias = torch.zeros(4, size)
        bias[:, :rows] = op.bias.view(4, rows)
        held = layout.held[target]
        state = ", ".join(f"s->data + {held + index * size}" for index in range(3))  # hidden, cell, sums
        name = "gru" if op.cell is None else "lstm"
        self.functions |= {"sums": c_kernels.SUMS, name: c_kernels.GRU if op.cell is None else c_kernels.LSTM}
        source = f"{layout.pointer(op.source)}, {layout.step(op.source)}, {self.program.channels[op.source]}"
        return [
            f"  {name}({source}, {self.add(padded)}, {self.add(bias)}, {state}, {layout.pointer(target)}, "
            f"{layout.step(target)}, {rows}, {size}, n);"
        ]

    def _parameters(self, function: c_kernels.Function) -> str:
        numbers = c_kernels.parameters(function)
        return f", {self.add(torch.tensor(numbers))}" if numbers else ""


def _tiles(weight: Tensor) -> Tensor:
    """``(rows, columns)`` in the order in which the product reads it: tiles of 4 rows, then single rows."""
    whole = len(weight) // 4 * 4
    return torch.cat([weight[:whole].unflatten(0, (-1, 4)).transpose(1, 2).flatten(), weight[whole:].flatten()])


def _call(terms: list[str], arguments: str) -> list[str]:
    """A statement that calls ``product`` for a block."""
    rows = f",\n{26 * ' '}".join(terms)
    return [
        "  {",
        f"    const term terms[] = {{{rows}}};",
        f"    product(terms, {len(terms)}, {arguments}, m);",
        "  }",
    ]


def _plus(number: int) -> str:
    return "" if number == 0 else f" {'+' if number > 0 else '-'} {abs(number)}"


def number(value: float) -> str:
    """A float in C."""
    text = f"{value:.9g}"
    return f"{text if set(text) & set('.e') else text + '.0'}f"
