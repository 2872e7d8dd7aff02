"""Writes a program as portable C99: one source file and its header."""

import re
from dataclasses import dataclass
from math import ceil, lcm

import torch
from torch import Tensor

from wavedil.audio.effects.compiled import c_frame, c_kernels
from wavedil.audio.effects.compiled.c_kernels import BLOCK, LANES
from wavedil.audio.effects.compiled.layout import Layout
from wavedil.audio.effects.compiled.program import (
    LSTM,
    Gate,
    Map,
    Modulate,
    OnePole,
    Operation,
    Product,
    Program,
    Sum,
)  # fmt: skip
from wavedil.errors import WavedilError

RAMP_SECONDS = 0.02  # in which a knob moves to a new value
RAMP_STEP_RATE = 3000  # in Hz, of the steps: 16 samples at 48 kHz


@dataclass(frozen=True)
class Source:
    """The C source of a program: the contents of ``NAME.c`` and ``NAME.h``, of which the first includes the second."""

    code: str
    header: str


def write_c(program: Program, name: str = "amp") -> Source:
    """The C source of a program; ``name`` is that of the files without suffix, and the prefix of its functions.

    Raises:
        WavedilError: ``name`` is no identifier, apart from hyphens, dots and spaces.
    """
    prefix = re.sub(r"[-. ]", "_", name)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", prefix):
        raise WavedilError(f"{name}.c: expected a name of letters, digits, - and _, since functions start with it")
    return _Writer(program, name, prefix).source()


def knob_ramp(sample_rate: int) -> tuple[int, int]:
    """Number of steps in which a knob moves to a new value, and the samples of each."""
    samples = max(1, sample_rate // RAMP_STEP_RATE)
    return max(1, round(RAMP_SECONDS * sample_rate / samples)), samples


class _Writer:
    def __init__(self, program: Program, name: str, prefix: str):
        self.program, self.name, self.prefix = program, name, prefix
        self.layout = Layout(program)
        self.steps, self.step_samples = knob_ramp(program.sample_rate)
        self.weights: list[float] = []
        self.functions: dict[str, str] = {}  # text by name
        self.knob_biases: list[tuple[int, int, int, int]] = []  # rows, offsets of bias, weights and state

    def source(self) -> Source:
        program = self.program
        body = [line for index, op in enumerate(program.operations) for line in self._operation(index + 1, op)]
        control = self._control()
        start = self._start()
        layout = self.layout
        products = any(isinstance(op, Product) for op in program.operations)
        shared = [c_kernels.VECTORS]
        if products:
            shared += [c_kernels.PRODUCT_HEAD, c_kernels.tile(1), c_kernels.tile(4), c_kernels.PRODUCT]
        count = len(layout.histories)
        histories = ",\n".join(
            f"    {{{h.offset}, {h.channels}, {h.span}, {h.room}, {h.step}}}" for h in layout.histories
        )
        run = c_frame.RUN.format(
            sound=layout.pointer(0),
            move="  make_room(s, n);\n" if count else "",
            body="\n".join(body),
            output=layout.pointer(program.output),
            done=c_frame.ADVANCE.format(count=count) if count else "",
        )
        init = c_frame.INIT.format(
            variables=("  double charge;\n" if any("charge" in line for line in start) else "")
            + ("  int i, t;\n" if any("for" in line for line in start) else ""),
            knobs="".join(
                f"  s->knob[{i}] = s->target[{i}] = {_number((low + high) / 2)};\n"
                for i, (low, high) in enumerate(program.knobs.values())
            ),
            start="".join(start),
            control="  control(s);\n" if program.knobs else "",
        )
        process = c_frame.PROCESS_WITH_KNOBS.format(samples=self.step_samples) if program.knobs else c_frame.PROCESS
        parts = [
            f"/* {self._title()} Compile: cc -O3 -march=native -c {self.name}.c */",
            f'#include "{self.name}.h"\n\n#include <stdint.h>\n#include <string.h>\n',
            f"#define BLOCK {BLOCK} /* samples computed together */\n",
            *shared,
            *self.functions.values(),
            self._weight_array(),
            c_frame.HISTORIES.format(count=count, rows=histories) if count else "",
            control,
            init,
            self._set_knob(),
            run,
            process,
        ]
        return Source(self._named("\n".join(parts)), self._named(self._header()))

    def _named(self, text: str) -> str:
        """Text of C with the names that begin with ``amp`` renamed to the prefix."""
        text = re.sub(r"\bAMP_", f"{self.prefix.upper()}_", text)
        return re.sub(r"\bamp_(?=state|init|set_knob|process)", f"{self.prefix}_", text)

    def _title(self) -> str:
        rate = f", {self.program.sample_rate} Hz" if self.program.sample_rate else ""
        return f"{self.program.title}{rate}, written by wavedil."

    # -- operations

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
        self.functions["lstm"] = c_kernels.LSTM
        return self._lstm(target, op)

    def _product(self, target: int, op: Product) -> list[str]:
        layout, rows = self.layout, self.program.channels[target]
        groups = lcm(*(term.groups for term in op.terms))
        lines = []
        bias_offset = len(self.weights)
        self._add(op.bias)
        bias = f"weights + {bias_offset}"
        if op.knobs is not None:
            state = layout.knob_bias(target)
            self.knob_biases.append((rows, bias_offset, self._offset(op.knobs), state))
            bias = f"s->data + {state}"
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
                if taps == 1 or width > 1:
                    for tap in range(taps):
                        shift = first * step - (taps - 1 - tap) * term.dilation
                        parts.append(f"{{{base}{_plus(shift)}, {step}, {width}}}")
                        columns.append(term.weight[part, :, tap])
                else:
                    shift = first * step - (taps - 1) * term.dilation
                    parts.append(f"{{{base}{_plus(shift)}, {term.dilation}, {taps}}}")
                    columns.append(term.weight[part, 0])
            add = "0, 0"
            if op.add is not None:
                add_step = layout.step(op.add)
                add = f"{layout.pointer(op.add)}{_plus(group * size * add_step)}, {add_step}"
            step = layout.step(target)
            weights = self._add(_tiles(torch.cat(columns, dim=1)))
            lines += [
                "  {",
                f"    const term terms[] = {{{', '.join(parts)}}};".replace("}, {", "},\n                          {"),
                f"    product(terms, {len(parts)}, {weights}, {bias}{_plus(group * size)}, {add}, "
                f"{layout.pointer(target)}{_plus(group * size * step)}, {step}, {size}, m);",
                "  }",
            ]
        return lines

    def _lstm(self, target: int, op: LSTM) -> list[str]:
        layout, rows = self.layout, self.program.channels[target]
        size = ceil(rows / LANES) * LANES
        padded = torch.zeros(op.weight.shape[1], 4, size)
        padded[:, :, :rows] = op.weight.T.unflatten(1, (4, rows))
        bias = torch.zeros(4, size)
        bias[:, :rows] = op.bias.view(4, rows)
        held = layout.held[target]
        state = ", ".join(f"s->data + {held + index * size}" for index in range(3))  # hidden, cell, gates
        source = f"{layout.pointer(op.source)}, {layout.step(op.source)}, {self.program.channels[op.source]}"
        return [
            f"  lstm({source}, {self._add(padded)}, {self._add(bias)}, {state}, {layout.pointer(target)}, "
            f"{layout.step(target)}, {rows}, {size}, n);"
        ]

    # -- weights

    def _offset(self, values: Tensor) -> int:
        offset = len(self.weights)
        self.weights += values.flatten().tolist()
        return offset

    def _add(self, values: Tensor) -> str:
        """The C expression of the address of numbers that are added to the weights."""
        return f"weights + {self._offset(values)}"

    def _parameters(self, function: c_kernels.Function) -> str:
        numbers = c_kernels.parameters(function)
        return f", {self._add(torch.tensor(numbers))}" if numbers else ""

    def _weight_array(self) -> str:
        numbers = [_number(value) for value in [*self.weights, *[0.0] * (not self.weights)]]
        rows = [", ".join(numbers[i : i + 8]) for i in range(0, len(numbers), 8)]
        return f"static const float weights[{len(numbers)}] = {{\n    " + ",\n    ".join(rows) + "};\n"

    # -- start and knobs

    def _start(self) -> list[str]:
        """Lines of the initialization: what is not zero at time 0."""
        layout, lines = self.layout, []
        for history in layout.histories:
            start = self.program.starts[history.buffer]
            if start is not None and bool(start.any()):
                lines.append(
                    f"  for (i = 0; i < {history.channels}; i++)\n    for (t = 0; t < {history.span}; t++) "
                    f"s->data[{history.offset} + i * {history.step} + t] = weights[{self._offset(start)} + i];\n"
                )
        for index, op in enumerate(self.program.operations):
            held = layout.held.get(index + 1)
            values = {}
            if isinstance(op, OnePole):
                for i, charge in enumerate(op.charges.tolist()):
                    lines.append(f"  charge = {charge!r}, memcpy(s->data + {held + 2 * i}, &charge, sizeof charge);\n")
            elif isinstance(op, LSTM):
                size = ceil(len(op.hidden) / LANES) * LANES
                values = {held: op.hidden, held + size: op.cell}
            for offset, numbers in values.items():
                if bool(numbers.any()):
                    address = self._add(numbers)
                    lines.append(f"  memcpy(s->data + {offset}, {address}, {len(numbers)} * sizeof(float));\n")
        return lines

    def _control(self) -> str:
        """The C function that computes the biases for the present values of the knobs."""
        program = self.program
        if not program.knobs:
            return ""
        lines = []
        width = len(program.knobs)
        sizes = [width, *[len(bias) for _, bias, _ in program.condition]]
        lines += [f"  float c{i}[{size}];" for i, size in enumerate(sizes)]
        lines += ["  int i, j;"]
        for i, (low, high) in enumerate(program.knobs.values()):
            center, half = (low + high) / 2, (high - low) / 2
            lines.append(f"  c0[{i}] = (s->knob[{i}] - {_number(center)}) / {_number(half)};")
        for index, (weight, bias, squashed) in enumerate(program.condition):
            lines += [
                f"  for (i = 0; i < {len(bias)}; i++) {{",
                f"    const float *w = {self._add(weight)} + i * {weight.shape[1]};",
                f"    float sum = ({self._add(bias)})[i];",
                f"    for (j = 0; j < {weight.shape[1]}; j++) sum += w[j] * c{index}[j];",
                f"    c{index + 1}[i] = sum;",
                "  }",
            ]
            if squashed:
                lines.append(f"  for (i = 0; i < {len(bias)}; i++) c{index + 1}[i] = tanh_1(c{index + 1}[i]);")
        last, size = len(program.condition), sizes[-1]
        for rows, bias, weight, state in self.knob_biases:
            lines += [
                f"  for (i = 0; i < {rows}; i++) {{",
                f"    const float *w = weights + {weight} + i * {size};",
                f"    float sum = weights[{bias} + i];",
                f"    for (j = 0; j < {size}; j++) sum += w[j] * c{last}[j];",
                f"    s->data[{state} + i] = sum;",
                "  }",
            ]
        return c_frame.CONTROL.format(body="\n".join(lines))

    def _set_knob(self) -> str:
        if not self.program.knobs:
            return c_frame.SET_NO_KNOB
        ends = ", ".join(f"{{{_number(low)}, {_number(high)}}}" for low, high in self.program.knobs.values())
        return c_frame.SET_KNOB.format(ends=ends, steps=self.steps, samples=self.step_samples)

    def _header(self) -> str:
        program, layout = self.program, self.layout
        knobs, upper = list(program.knobs.items()), self.prefix.upper()
        taken: list[str] = []
        for name, _ in knobs:
            plain = re.sub(r"[^A-Za-z0-9]", "_", name).upper()
            taken.append(plain if plain not in taken else f"{plain}_{len(taken)}")
        names = "".join(
            f"#define {upper}_KNOB_{plain} {i} /* {low:g} to {high:g} */\n"
            for i, (plain, (_, (low, high))) in enumerate(zip(taken, knobs, strict=True))
        )
        fields = f"  float data[{layout.size}];\n"
        fields += f"  int at[{len(layout.histories)}];\n" if layout.histories else ""
        if knobs:
            fields += f"  float knob[{len(knobs)}], target[{len(knobs)}], delta[{len(knobs)}];\n"
            fields += f"  int left[{len(knobs)}], clock, started;\n"
        return c_frame.HEADER.format(
            title=self._title(),
            upper=upper,
            milliseconds=round(1000 * RAMP_SECONDS),
            rate=program.sample_rate,
            any_rate="" if program.sample_rate else "; 0: the model has none",
            knobs=len(knobs),
            names=names,
            settle=ceil(program.settle * program.sample_rate),
            fields=fields,
        )


def _tiles(weight: Tensor) -> Tensor:
    """``(rows, columns)`` in the order in which the product reads it: tiles of 4 rows, then single rows."""
    whole = len(weight) // 4 * 4
    return torch.cat([weight[:whole].unflatten(0, (-1, 4)).transpose(1, 2).flatten(), weight[whole:].flatten()])


def _plus(number: int) -> str:
    return "" if number == 0 else f" {'+' if number > 0 else '-'} {abs(number)}"


def _number(value: float) -> str:
    text = f"{torch.tensor(value).item():.9g}"
    return f"{text if set(text) & set('.e') else text + '.0'}f"
