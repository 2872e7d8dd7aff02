"""Writes a program as portable C99: one source file and its header."""

import re
import shlex
from dataclasses import dataclass
from math import ceil

from wavedil.audio.effects.compiled import c_frame, c_kernels
from wavedil.audio.effects.compiled.c_kernels import BLOCK, LANES
from wavedil.audio.effects.compiled.c_operations import Operations, number
from wavedil.audio.effects.compiled.c_vectors import VECTORS
from wavedil.audio.effects.compiled.layout import Layout
from wavedil.audio.effects.compiled.program import OnePole, Product, Program, Recurrent
from wavedil.errors import WavedilError, shortened

MAX_NAME = 200  # characters of a file name without suffix, of the 255 that file systems allow
C_HEADERS = frozenset(
    "assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg stdatomic "
    "stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar wchar wctype".split()
)
RAMP_SECONDS = 0.02  # in which a knob moves to a new value


@dataclass(frozen=True)
class Source:
    """The C source of a program: the contents of ``NAME.c`` and ``NAME.h``, of which the first includes the second."""

    code: str
    header: str


def write_c(program: Program, name: str = "amp") -> Source:
    """The C source of a program; ``name`` is the file name without suffix and the prefix of the functions.

    Raises:
        WavedilError: no functions can have this prefix; see :func:`function_prefix`.
    """
    return _Writer(program, name, function_prefix(name)).source()


def function_prefix(name: str) -> str:
    """The prefix of the functions in ``NAME.c``: the name with ``_`` for hyphens, dots and spaces.

    Raises:
        WavedilError: the name does not begin with a letter, has other characters than letters, digits and these, is too
            long, or is that of a header of C.
    """
    if not re.fullmatch(r"[A-Za-z][-A-Za-z0-9_. ]*", name) or len(name) > MAX_NAME:
        raise WavedilError(
            f"{shortened(name)}.c: expected a letter, then letters, digits, - and _, at most {MAX_NAME} in all, since "
            "functions start with this name"
        )
    if name.lower() in C_HEADERS:
        raise WavedilError(f"{name}.c: its header would hide <{name.lower()}.h> of C, choose another name")
    return re.sub(r"[-_. ]+", "_", name).rstrip("_")


def ramp_samples(sample_rate: int) -> int:
    """Number of samples in which a knob moves to a new value."""
    return max(1, round(RAMP_SECONDS * sample_rate))


class _Writer:
    def __init__(self, program: Program, name: str, prefix: str):
        self.program, self.name, self.prefix = program, name, prefix
        self.layout = Layout(program)
        self.operations = Operations(program, self.layout)

    def source(self) -> Source:
        program = self.program
        control = self._control()
        start = self._start()
        layout = self.layout
        products = any(isinstance(op, Product) for op in program.operations)
        shared = [VECTORS]
        if products:
            shared += [c_kernels.PRODUCT_HEAD, c_kernels.tile(1), c_kernels.tile(4), c_kernels.PRODUCT]
        count = len(layout.histories)
        histories = ",\n".join(
            f"    {{{h.offset}, {h.channels}, {h.span}, {h.room}, {h.step}}}" for h in layout.histories
        )
        run = c_frame.RUN.format(
            sound=layout.pointer(0),
            move="  make_room(s, n);\n" if count else "",
            moving="move_knobs(s, n)" if program.knobs else "0",
            body="\n".join(self.operations.body),
            output=layout.pointer(program.output),
            done=c_frame.ADVANCE.format(count=count) if count else "",
        )
        init = c_frame.INIT.format(
            variables=("  double charge;\n" if any("charge" in line for line in start) else "")
            + ("  int i, t;\n" if any("for" in line for line in start) else ""),
            knobs="".join(
                f"  s->target[{i}] = {number((low + high) / 2)};\n"
                for i, (low, high) in enumerate(program.knobs.values())
            ),
            start="".join(start),
            control="  control(s);\n" if program.knobs else "",
        )
        process = c_frame.PROCESS.format(started="  if (n > 0) s->started = 1;\n" if program.knobs else "")
        top = (
            f"/* {self._title()} Compile: cc -O3 -march=native -c {shlex.quote(self.name + '.c')} */\n"
            f'#include "{self.name}.h"\n\n#include <stdint.h>\n#include <string.h>\n\n'
        )
        parts = [
            f"#define BLOCK {BLOCK} /* samples computed together */\n",
            *shared,
            *self.operations.functions.values(),
            self.operations.weight_array(),
            c_frame.HISTORIES.format(count=count, rows=histories) if count else "",
            control,
            init,
            c_frame.SET_KNOB if program.knobs else c_frame.SET_NO_KNOB,
            *self.operations.parts,
            run,
            process,
        ]
        return Source(top + self._named("\n".join(parts)), f"/* {self._title()}\n{self._named(self._header())}")

    def _named(self, text: str) -> str:
        """Text of C with the names that begin with ``amp`` renamed to the prefix."""
        text = re.sub(r"\bAMP_", f"{self.prefix.upper()}_", text)
        return re.sub(r"\bamp_(?=state|init|set_knob|process)", f"{self.prefix}_", text)

    def _title(self) -> str:
        rate = f", {self.program.sample_rate} Hz" if self.program.sample_rate else ""
        title = re.sub(r"[^ -~]", "?", self.program.title)  # Python's names may have any letters
        return f"{title}{rate}, written by wavedil."

    def _start(self) -> list[str]:
        """C statements that initialize the values that are not zero at time 0."""
        layout, lines = self.layout, []
        for history in layout.histories:
            start = self.program.starts[history.buffer]
            if start is not None and bool(start.any()):
                value = f"weights[{self.operations.offset(start)} + i]"
                lines.append(
                    f"  for (i = 0; i < {history.channels}; i++)\n    for (t = 0; t < {history.span}; t++) "
                    f"s->data[{history.offset} + i * {history.step} + t] = {value};\n"
                )
        for index, op in enumerate(self.program.operations):
            held = layout.held.get(index + 1)
            values = {}
            if isinstance(op, OnePole):
                for i, charge in enumerate(op.charges.tolist()):
                    lines.append(f"  charge = {charge!r}, memcpy(s->data + {held + 2 * i}, &charge, sizeof charge);\n")
            elif isinstance(op, Recurrent):
                size = ceil(len(op.hidden) / LANES) * LANES
                values = {held: op.hidden} | ({} if op.cell is None else {held + size: op.cell})
            for offset, numbers in values.items():
                if bool(numbers.any()):
                    address = self.operations.add(numbers)
                    lines.append(f"  memcpy(s->data + {offset}, {address}, {len(numbers)} * sizeof(float));\n")
        return lines

    def _control(self) -> str:
        """The C functions of the knobs."""
        program, layout = self.program, self.layout
        if not program.knobs:
            return ""
        products = (op for op in program.operations if isinstance(op, Product) and op.knobs is not None)
        return c_frame.CONTROL.format(
            samples=ramp_samples(program.sample_rate),
            most=max((len(product.bias) for product in products), default=1),
            ends=", ".join(f"{{{number(low)}, {number(high)}}}" for low, high in program.knobs.values()),
            condition="".join(f"{line}\n" for line in self.operations.condition()),
            first=layout.condition[0],
            last=layout.condition[-1],
            target=layout.target_condition,
            width=program.condition_widths[-1],
            biases="\n".join(self.operations.knob_biases),
        )

    def _header(self) -> str:
        program, layout = self.program, self.layout
        knobs = list(program.knobs.items())
        taken: list[str] = []
        for name, _ in knobs:
            plain = re.sub(r"[^A-Za-z0-9]", "_", name).upper()
            while plain in taken:
                plain += "_2"
            taken.append(plain)
        names = "".join(
            f"#define AMP_KNOB_{plain} {i} /* {low:g} to {high:g} */\n"
            for i, (plain, (_, (low, high))) in enumerate(zip(taken, knobs, strict=True))
        )
        fields = f"  float data[{layout.size}];\n"
        fields += f"  int at[{len(layout.histories)}];\n" if layout.histories else ""
        if knobs:
            fields += f"  float target[{len(knobs)}], span[{len(knobs)}], slope[{len(knobs)}];\n"
            fields += f"  int left[{len(knobs)}], started;\n"
        return c_frame.HEADER.format(
            milliseconds=round(1000 * RAMP_SECONDS),
            rate=program.sample_rate,
            any_rate="" if program.sample_rate else "; 0: the model has none",
            knobs=len(knobs),
            names=names,
            settle=ceil(program.settle * program.sample_rate),
            fields=fields,
        )
