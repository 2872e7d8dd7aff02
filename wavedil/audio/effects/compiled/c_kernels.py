"""C code that all programs share: vectors, functions of vectors, products. ``AMP`` and ``amp`` stand for the prefix.

Sums of products are computed for tiles of 4 rows and some vectors of samples, which stay in registers.
"""

from collections.abc import Iterable

from wavedil.audio.effects.compiled.functions import EXPRESSIONS, Function

BLOCK = 64  # samples computed together
LANES = 16  # largest number of samples in a vector; blocks are computed in complete vectors

VECTORS = """\
/* Vectors of samples. A compiler without vectors, or with AMP_SCALAR defined, computes single numbers. */
#if defined(__GNUC__) && !defined(AMP_SCALAR)
#define INLINE static inline __attribute__((unused))
#if defined(__AVX512F__)
#define LANES 16
#define SPLAT4(x) (x), (x), (x), (x)
#define SPLAT(x) {SPLAT4(x), SPLAT4(x), SPLAT4(x), SPLAT4(x)}
#elif defined(__AVX__)
#define LANES 8
#define SPLAT(x) {(x), (x), (x), (x), (x), (x), (x), (x)}
#else
#define LANES 4
#define SPLAT(x) {(x), (x), (x), (x)}
#endif
/* Keeps a value in a register: GCC would read it again from memory for each use, which takes 1.3 times as long. */
#if defined(__AVX512F__)
#define KEEP(v) __asm__("" : "+v"(v))
#elif defined(__AVX__)
#define KEEP(v) __asm__("" : "+x"(v))
#else
#define KEEP(v)
#endif
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef vec mem __attribute__((aligned(4), may_alias)); /* anywhere in memory */
INLINE vec splat(float x) { vec v = SPLAT(x); return v; }
INLINE vec select(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }
INLINE vec min_v(vec a, vec b) { return select(a < b, a, b); }
INLINE vec max_v(vec a, vec b) { return select(a > b, a, b); }
INLINE vec abs_v(vec a) { return (vec)((ivec)a & 0x7fffffff); }
/* 2 to the power of n, an integer */
INLINE vec power_of_2(vec n) { return (vec)((__builtin_convertvector(n, ivec) + 127) << 23); }
/* the nearest integer */
INLINE vec round_v(vec a) {
  vec half = (vec)(((ivec)a & (int32_t)0x80000000) | (ivec)splat(0.5f));
  return __builtin_convertvector(__builtin_convertvector(a + half, ivec), vec);
}
/* x, or 0 where it is NaN, infinite, 2^20 or more, or so small that sums of it would be denormal and slow */
INLINE vec sane(vec a) {
  ivec e = (ivec)a & 0x7f800000;
  return (vec)((ivec)a & (e < ((127 + 20) << 23)) & (e > ((127 - 50) << 23)));
}
#else
#define INLINE static inline
#define LANES 1
#define KEEP(v)
typedef float vec;
typedef float mem;
typedef int ivec;
INLINE vec splat(float x) { return x; }
INLINE vec select(int mask, vec a, vec b) { return mask ? a : b; }
INLINE vec min_v(vec a, vec b) { return a < b ? a : b; }
INLINE vec max_v(vec a, vec b) { return a > b ? a : b; }
INLINE vec abs_v(vec a) { return a < 0 ? -a : a; }
INLINE vec power_of_2(vec n) {
  int32_t bits = ((int32_t)n + 127) * (1 << 23);
  memcpy(&n, &bits, 4);
  return n;
}
INLINE vec round_v(vec a) { return (vec)(int32_t)(a + (a < 0 ? -0.5f : 0.5f)); }
INLINE vec sane(vec a) {
  uint32_t bits, e;
  memcpy(&bits, &a, 4);
  e = bits & 0x7f800000u;
  return e < ((127u + 20u) << 23) && e > ((127u - 50u) << 23) ? a : 0;
}
#endif
INLINE vec load(const float *p) { return *(const mem *)p; }
INLINE void store(float *p, vec v) { *(mem *)p = v; }
INLINE vec clamp_v(vec x, float low, float high) { return min_v(max_v(x, splat(low)), splat(high)); }
/* numerator and denominator of a rational approximation of tanh(x), relative error below 4e-7 */
INLINE vec tanh_ratio(vec x, vec *denominator) {
  vec u, p, q;
  x = clamp_v(x, -9.1f, 9.1f);
  u = x * x;
  p = u * 1.317753758e-08f + 2.048119813e-05f;
  q = u * 7.704052497e-07f + 3.272921330e-04f;
  p = p * u + 3.487811747e-03f;
  q = q * u + 2.584739122e-02f;
  p = p * u + 1.337447577e-01f;
  q = q * u + 4.670778955e-01f;
  p = p * u + 9.999999772e-01f;
  *denominator = q * u + 1.0f;
  return x * p;
}
INLINE vec tanh_v(vec x) {
  vec q, p = tanh_ratio(x, &q);
  return p / q;
}
/* tanh(a) * sigmoid(b), with one division: sigmoid(b) = (1 + tanh(b / 2)) / 2 */
INLINE vec gate_v(vec a, vec b) {
  vec q, r, p = tanh_ratio(a, &q), s = tanh_ratio(0.5f * b, &r);
  return p * (r + s) / (2 * q * r);
}
/* 2^n exp(r) with |r| <= ln(2) / 2; relative error below 2e-7 */
INLINE vec exp_v(vec x) {
  vec n, r, p;
  x = clamp_v(x, -87.0f, 88.0f);
  n = round_v(x * 1.44269504f);
  r = x - n * 0.693359375f + n * 2.12194440e-4f;
  p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  return (1 + (r + r * r * p)) * power_of_2(n);
}
/* Abramowitz and Stegun 7.1.26, error below 2e-7 */
INLINE vec erf_v(vec x) {
  vec a = abs_v(x), t = 1 / (1 + 0.3275911f * a), p;
  p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  a = 1 - p * t * exp_v(-a * a);
  return select(x < 0, -a, a);
}
"""

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
static void product(const term *terms, int num, const float *w, const float *b, const float *add, ptrdiff_t add_step,
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
        f"static void tile{rows}(const term *terms, int num, const float *w, const float *b, const float *add, "
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
static void {name}({arguments}) {{
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
static void sum(const float *a, ptrdiff_t a_step, const float *b, ptrdiff_t b_step, float *y, ptrdiff_t y_step,
                int rows, int n) {
  int r, t;
  for (r = 0; r < rows; r++, a += a_step, b += b_step, y += y_step)
    for (t = 0; t < n; t += LANES) store(y + t, load(a + t) + load(b + t));
}
"""

MODULATE = """\
/* y = scale * x + shift; shift may be missing */
static void modulate(const float *x, ptrdiff_t x_step, const float *scale, const float *shift, ptrdiff_t step, float *y,
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
static void one_pole(const float *x, const double *decay, float *held, float *y, ptrdiff_t y_step, int rows, int n) {
  int r, t;
  for (r = 0; r < rows; r++, y += y_step, held += 2) {
    double s, a = decay[r], b = 1 - decay[r];
    memcpy(&s, held, sizeof s);
    for (t = 0; t < n; t++) {
      s = a * s + b * x[t];
      y[t] = (float)s;
    }
    if (s < 1e-15 && s > -1e-15) s = 0;
    memcpy(held, &s, sizeof s);
  }
}
"""

LSTM = """\
/* One layer; w has for each input and each hidden value the weights of the gates i, f, g, o, each of `size` numbers, a
   multiple of LANES, of which `rows` are used. */
static void lstm(const float *x, ptrdiff_t x_step, int inputs, const float *w, const float *b, float *hidden,
                 float *cell, float *gates, float *y, ptrdiff_t y_step, int rows, int size, int n) {
  int t, k, j;
  for (t = 0; t < n; t++) {
    const float *p = w;
    memcpy(gates, b, 4 * size * sizeof(float));
    for (k = 0; k < inputs + rows; k++, p += 4 * size) {
      vec v = splat(k < inputs ? x[k * x_step + t] : hidden[k - inputs]);
      for (j = 0; j < 4 * size; j += LANES) store(gates + j, load(gates + j) + v * load(p + j));
    }
    for (j = 0; j < size; j += LANES) {
      vec i = 1 / (1 + exp_v(-load(gates + j))), f = 1 / (1 + exp_v(-load(gates + size + j)));
      vec o = 1 / (1 + exp_v(-load(gates + 3 * size + j)));
      vec c = sane(f * load(cell + j) + i * tanh_v(load(gates + 2 * size + j)));
      store(cell + j, c);
      store(hidden + j, o * tanh_v(c));
    }
    for (j = 0; j < rows; j++) y[j * y_step + t] = hidden[j];
  }
}
"""
