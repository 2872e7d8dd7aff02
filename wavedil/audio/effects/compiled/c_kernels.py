"""C code of the operations of programs.

Sums of products are computed for tiles of 4 rows and some vectors of samples, which stay in registers.
"""

from collections.abc import Iterable

from wavedil.audio.effects.compiled.functions import EXPRESSIONS, Function

BLOCK = 64  # samples computed together
LANES = 16  # largest number of samples in a vector; blocks are computed in complete vectors

PRODUCT_HEAD = """\
/* `count` rows of samples, `step` numbers apart */
typedef struct {
  const float *x;
  ptrdiff_t step;
  int count;
} term;
"""

PRODUCT = """\
/* y[o] = b[o] + add[o] + the sum over the rows x of all terms of weight * x, for n samples. The weights follow each
   other: for each tile of 4 rows o, 4 numbers for each x; then for each row o that is left, 1 for each x. */
KERNEL void product(const term *terms, int num, const float *w, const float *b, const float *add, ptrdiff_t add_step,
                    float *y, ptrdiff_t y_step, int rows, int n) {
  ptrdiff_t size = 0;
  int i, o = 0;
  for (i = 0; i < num; i++) size += terms[i].count;
  for (; o + 4 <= rows; o += 4, w += 4 * size) tile4(terms, num, w, b + o, add ? add + o * add_step : 0, add_step,
                                                     y + o * y_step, y_step, n);
  for (; o < rows; o++, w += size) tile1(terms, num, w, b + o, add ? add + o * add_step : 0, add_step,
                                         y + o * y_step, y_step, n);
}
"""


def tile(rows: int) -> str:
    """The C function of a tile of rows: as many vectors at a time as there are registers."""
    parts = [
        f"KERNEL void tile{rows}(const term *terms, int num, const float *w, const float *b, const float *add, "
        "ptrdiff_t add_step,\n                  float *y, ptrdiff_t y_step, int n) {\n  int t = 0, i, k;"
    ]
    for vectors in (4, 2, 1):
        lines = [f"  for (; t + {vectors} * LANES <= n; t += {vectors} * LANES) {{", "    const float *p = w;"]
        cells = [(r, v) for r in range(rows) for v in range(vectors)]
        lines += [f"    vec a{r}{v} = splat(b[{r}]);" for r, v in cells]
        lines.append("    if (add) {")
        lines += [f"      a{r}{v} += load(add + {r} * add_step + t + {v} * LANES);" for r, v in cells]
        lines += [
            "    }",
            "    for (i = 0; i < num; i++) {",
            "      const float *x = terms[i].x + t;",
            "      ptrdiff_t step = terms[i].step;",
            f"      for (k = terms[i].count; k > 0; k--, x += step, p += {rows}) {{",
        ]
        lines += [f"        vec x{v} = load(x + {v} * LANES);" for v in range(vectors)]
        lines += [f"        KEEP(x{v});" for v in range(vectors)]
        lines += [f"        a{r}{v} += p[{r}] * x{v};" for r, v in cells]
        lines += ["      }", "    }"]
        lines += [f"    store(y + {r} * y_step + t + {v} * LANES, a{r}{v});" for r, v in cells]
        lines.append("  }")
        text = "\n".join(lines)
        parts.append(f"#if LANES == 16\n{text}\n#endif" if vectors == 4 else text)
    return "\n".join([*parts, "}"])


LOOP = """\
KERNEL void {name}({arguments}) {{
  int r, t;
  for (r = 0; r < rows; r++{advance}) {{
{constants}    for (t = 0; t < n; t += LANES) {{
      {body}
    }}
  }}
}}
"""


def _constants(function: Function, pointer: str) -> str:
    """Lines that read the parameters of a function from the weights: one number, or one per row."""
    return "".join(
        f"    const vec {pointer}{index} = splat({pointer}[{offset} + {'r' if len(values) > 1 else '0'}]);\n"
        for index, (offset, values) in enumerate(_offsets(function))
    )


def _offsets(function: Function) -> Iterable[tuple[int, tuple[float, ...]]]:
    offset = 0
    for values in function.parameters:
        yield offset, values
        offset += len(values)


def parameters(function: Function) -> list[float]:
    """The parameters of a function as the C code reads them."""
    return [value for values in function.parameters for value in values]


def key(function: Function) -> str:
    """A name for a function and the form of its parameters."""
    return function.name + "".join("_each" if len(values) > 1 else "" for values in function.parameters)


def expression(function: Function, pointer: str) -> str:
    """The value of a function of x, with its parameters in the variables ``pointer`` 0, 1, …"""
    text = EXPRESSIONS[function.name]
    for index in range(len(function.parameters)):
        text = text.replace(f"p{index}", f"{pointer}{index}")
    return text


def map_loop(function: Function) -> tuple[str, str]:
    """Name and text of the C function of a map: y = f(x)."""
    name = f"map_{key(function)}"
    return name, LOOP.format(
        name=name,
        arguments="const float *in, ptrdiff_t in_step, float *y, ptrdiff_t y_step, int rows, int n"
        + (", const float *p" if function.parameters else ""),
        advance=", in += in_step, y += y_step",
        constants=_constants(function, "p"),
        body=f"vec x = load(in + t);\n      store(y + t, {expression(function, 'p')});",
    )


def gate_loop(primary: Function, secondary: Function, blended: bool) -> tuple[str, str]:
    """Name and text of the C function of a gate."""
    name = f"{'blend' if blended else 'gate'}_{key(primary)}_{key(secondary)}"
    value = "a + (first - a) * second" if blended else "first * second"
    body = (
        "vec a = load(in + t), x = a, first, second;\n"
        f"      first = {expression(primary, 'p')};\n"
        "      x = load(in + half + t);\n"
        f"      second = {expression(secondary, 'q')};\n"
        f"      store(y + t, {value});"
    )
    halves = "load(in + t)", "load(in + half + t)"
    if not blended and {primary.name, secondary.name} == {"tanh", "sigmoid"}:
        first, second = halves if primary.name == "tanh" else halves[::-1]
        body = f"store(y + t, gate_v({first}, {second}));"
    return name, LOOP.format(
        name=name,
        arguments="const float *in, ptrdiff_t in_step, ptrdiff_t half, float *y, ptrdiff_t y_step, int rows, int n"
        + (", const float *p" if primary.parameters else "")
        + (", const float *q" if secondary.parameters else ""),
        advance=", in += in_step, y += y_step",
        constants=_constants(primary, "p") + _constants(secondary, "q"),
        body=body,
    )


SUM = """\
KERNEL void sum(const float *a, ptrdiff_t a_step, const float *b, ptrdiff_t b_step, float *y, ptrdiff_t y_step,
                int rows, int n) {
  int r, t;
  for (r = 0; r < rows; r++, a += a_step, b += b_step, y += y_step)
    for (t = 0; t < n; t += LANES) store(y + t, load(a + t) + load(b + t));
}
"""

MODULATE = """\
/* y = scale * x + shift; shift may be missing */
KERNEL void modulate(const float *x, ptrdiff_t x_step, const float *scale, const float *shift, ptrdiff_t step, float *y,
                     ptrdiff_t y_step, int rows, int n) {
  int r, t;
  for (r = 0; r < rows; r++, x += x_step, scale += step, y += y_step) {
    for (t = 0; t < n; t += LANES) {
      vec v = load(scale + t) * load(x + t);
      if (shift) v += load(shift + r * step + t);
      store(y + t, v);
    }
  }
}
"""

ONE_POLE = """\
/* s = a s + (1 - a) x for each filter, in double: an error would add up over as many samples as the filter remembers. A
   value that has decayed to almost nothing is 0, since denormals are slow. `held` has room for a double per filter. */
KERNEL void one_pole(const float *x, const double *decay, float *held, float *y, ptrdiff_t y_step, int rows, int n) {
  int r, t;
  for (r = 0; r < rows; r++, y += y_step, held += 2) {
    double s, a = decay[r], b = 1 - decay[r];
    memcpy(&s, held, sizeof s);
    for (t = 0; t < n; t++) {
      s = a * s + b * (double)x[t];
      y[t] = (float)s;
    }
    if (s < 1e-15 && s > -1e-15) s = 0;
    memcpy(held, &s, sizeof s);
  }
}
"""

SUMS = """\
/* Four sums for each cell of a recurrent layer: bias plus weighted inputs and hidden values. w has 4 * size weights for
   each input, then for each hidden value; size is `rows` rounded up to a multiple of LANES. */
INLINE void sums_at(const float *x, ptrdiff_t x_step, int inputs, const float *w, const float *b, const float *hidden,
                    float *sums, int rows, int size) {
  int k, j;
  memcpy(sums, b, 4 * (size_t)size * sizeof(float));
  for (k = 0; k < inputs + rows; k++, w += 4 * size) {
    vec v = splat(k < inputs ? x[k * x_step] : hidden[k - inputs]);
    for (j = 0; j < 4 * size; j += LANES) store(sums + j, load(sums + j) + v * load(w + j));
  }
}
"""

_CELLS = """\
/* {about} */
KERNEL void {name}(const float *x, ptrdiff_t x_step, int inputs, const float *w, const float *b, float *hidden,
                 float *cell, float *sums, float *y, ptrdiff_t y_step, int rows, int size, int n) {{
  int t, j;
  for (t = 0; t < n; t++) {{
    sums_at(x + t, x_step, inputs, w, b, hidden, sums, rows, size);
    for (j = 0; j < size; j += LANES) {{
{cells}
    }}
    for (j = 0; j < rows; j++) y[j * y_step + t] = hidden[j];
  }}{end}
}}
"""

LSTM = _CELLS.format(
    name="lstm",
    about="A layer of LSTM cells; the sums are those of the gates i, f, g, o.",
    cells="""\
      vec i = 1 / (1 + exp_v(-load(sums + j))), f = 1 / (1 + exp_v(-load(sums + size + j)));
      vec o = 1 / (1 + exp_v(-load(sums + 3 * size + j)));
      vec c = sane(f * load(cell + j) + i * tanh_v(load(sums + 2 * size + j)));
      store(cell + j, c);
      store(hidden + j, o * tanh_v(c));""",
    end="",
)

GRU = _CELLS.format(
    name="gru",
    about="A layer of GRU cells; the sums are those of the gates r and z, and of the two parts of n.",
    cells="""\
      vec r = 1 / (1 + exp_v(-load(sums + j))), z = 1 / (1 + exp_v(-load(sums + size + j)));
      vec c = tanh_v(load(sums + 2 * size + j) + r * load(sums + 3 * size + j));
      store(hidden + j, sane(c + z * (load(hidden + j) - c)));""",
    end="\n  (void)cell;",
)
