"""C code of vectors of samples, and of functions of them. ``AMP`` stands for the prefix of the file."""

VECTORS = """\
/* Vectors of samples. A compiler without vectors, or with AMP_SCALAR defined, computes single numbers. */
#if (defined(__clang__) || __GNUC__ >= 9) && !defined(AMP_SCALAR)
#define INLINE static inline __attribute__((unused))
#define KERNEL static __attribute__((noinline)) /* copies of them would only make the code long */
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
INLINE vec choose(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }
INLINE vec min_v(vec a, vec b) { return choose(a < b, a, b); }
INLINE vec max_v(vec a, vec b) { return choose(a > b, a, b); }
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
#define KERNEL static
#define LANES 1
#define KEEP(v)
typedef float vec;
typedef float mem;
typedef int ivec;
INLINE vec splat(float x) { return x; }
INLINE vec choose(int mask, vec a, vec b) { return mask ? a : b; }
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
  return choose(x < 0, -a, a);
}
"""
