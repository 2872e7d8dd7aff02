"""C code around the operations of a program: state, start, knobs, blocks. ``{}`` are filled by the writer."""

HEADER = """\

   One effect on one channel of sound, of which full scale is -1 to 1. All functions are safe in a real-time thread:
   they allocate nothing, take no lock and call no system function. States are independent; one state must be used by
   one thread at a time. A copy of a state (memcpy) continues where the state was. */
#ifndef AMP_H
#define AMP_H

#include <stddef.h>

#define AMP_SAMPLE_RATE {rate} /* Hz{any_rate}; nothing is resampled */
#define AMP_LATENCY 0 /* samples */
#define AMP_SETTLE {settle} /* samples of silence to process before live sound, so that the start is not audible */
#define AMP_KNOBS {knobs} /* number of knobs */
{names}
#ifdef __cplusplus
extern "C" {{
#endif

typedef struct amp_state {{
{fields}}} amp_state;

/* sizeof(amp_state) */
size_t amp_state_size(void);

/* The state before the first sample, with each knob at the middle of its range. */
void amp_init(amp_state *state);

/* Moves a knob to a value in its range, smoothly within {milliseconds} ms, or at once if nothing was processed since
   amp_init. May be called at any time, as often as you like. Values outside the range are moved to its nearest end.
   Returns 0, or -1 and changes nothing if there is no such knob or the value is NaN. */
int amp_set_knob(amp_state *state, int knob, float value);

/* The next n samples; in and out may be the same. Samples that are NaN, infinite or above 2^20 count as 0. */
void amp_process(amp_state *state, const float *in, float *out, int n);

#ifdef __cplusplus
}}
#endif
#endif
"""

HISTORIES = """\
/* Rows of earlier samples: where they are, their number, the samples kept, the room for new ones, the next row. */
static const struct {{
  int offset, rows, span, room, step;
}} histories[{count}] = {{
{rows}}};

/* Makes room for n samples: where there is none, the last samples are moved to the beginning. */
static void make_room(amp_state *s, int n) {{
  int i, r;
  for (i = 0; i < {count}; i++) {{
    if (s->at[i] + n <= histories[i].room) continue;
    for (r = 0; r < histories[i].rows; r++) {{
      float *row = s->data + histories[i].offset + (ptrdiff_t)r * histories[i].step;
      memmove(row, row + s->at[i], (size_t)histories[i].span * sizeof(float));
    }}
    s->at[i] = 0;
  }}
}}
"""

CONTROL = """\
#define RAMP {samples} /* samples in which a knob moves to a new value */
static const float zeros[{most}] = {{0}};
static const float ends[AMP_KNOBS][2] = {{{ends}}};

/* The condition of m samples from the rows of the knobs, scaled to -1 to 1. */
static void condition(amp_state *s, int m) {{
  (void)s, (void)m;
{condition}}}

static float scaled(int knob, float value) {{
  return (value - (ends[knob][0] / 2 + ends[knob][1] / 2)) / (ends[knob][1] / 2 - ends[knob][0] / 2);
}}

/* y = b + w c, with the weights in the order of `product` */
static void knob_bias(const float *w, const float *b, const float *c, float *y, int rows, int size) {{
  int i, j;
  for (i = 0; i < rows; i++) {{
    int is_tile = i < rows / 4 * 4;
    const float *p = is_tile ? w + i / 4 * 4 * size + i % 4 : w + i * size;
    y[i] = b[i];
    for (j = 0; j < size; j++) y[i] += p[is_tile ? 4 * j : j] * c[j];
  }}
}}

/* Biases for the values to which the knobs move. */
static void control(amp_state *s) {{
  int i, j;
  for (i = 0; i < AMP_KNOBS; i++)
    for (j = 0; j < LANES; j++) s->data[{first} + i * BLOCK + j] = scaled(i, s->target[i]);
  condition(s, LANES);
  for (i = 0; i < {width}; i++) s->data[{target} + i] = s->data[{last} + i * BLOCK];
{biases}
}}

/* The value of a knob that has `left` samples to go: a cubic from its value and slope when it was set. */
static float knob_at(const amp_state *s, int knob, int left) {{
  float u = (float)left * (1.0f / RAMP);
  float value = s->target[knob] + u * u * ((1 - u) * s->slope[knob] - (3 - 2 * u) * s->span[knob]);
  return value < ends[knob][0] ? ends[knob][0] : value > ends[knob][1] ? ends[knob][1] : value;
}}

/* If a knob is moving: the condition of n samples, minus that for the values to which the knobs move. */
static int move_knobs(amp_state *s, int n) {{
  int i, t, moving = 0;
  for (i = 0; i < AMP_KNOBS; i++) moving |= s->left[i];
  if (!moving) return 0;
  for (i = 0; i < AMP_KNOBS; i++) {{
    float *row = s->data + {first} + i * BLOCK;
    for (t = 0; t < n; t++) {{
      if (s->left[i]) s->left[i]--;
      row[t] = scaled(i, knob_at(s, i, s->left[i]));
    }}
  }}
  condition(s, (n + LANES - 1) / LANES * LANES);
  for (i = 0; i < {width}; i++) {{
    float *row = s->data + {last} + i * BLOCK;
    for (t = 0; t < n; t++) row[t] -= s->data[{target} + i];
  }}
  return 1;
}}
"""

INIT = """\
size_t amp_state_size(void) {{ return sizeof(amp_state); }}

void amp_init(amp_state *s) {{
{variables}  memset(s, 0, sizeof *s);
{knobs}{start}{control}}}
"""

SET_NO_KNOB = """\
int amp_set_knob(amp_state *s, int knob, float value) {
  (void)s, (void)knob, (void)value;
  return -1;
}
"""

SET_KNOB = """\
int amp_set_knob(amp_state *s, int knob, float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if (knob < 0 || knob >= AMP_KNOBS || (bits & 0x7fffffffu) > 0x7f800000u) return -1;
  if (value < ends[knob][0]) value = ends[knob][0];
  if (value > ends[knob][1]) value = ends[knob][1];
  if (!s->started) {
    s->target[knob] = value;
    control(s);
  } else if (s->target[knob] != value) {
    float u = (float)s->left[knob] * (1.0f / RAMP), now = knob_at(s, knob, s->left[knob]);
    s->slope[knob] = u * (6 * (1 - u) * s->span[knob] + (3 * u - 2) * s->slope[knob]);
    s->span[knob] = value - now;
    s->target[knob] = value;
    s->left[knob] = RAMP;
    control(s);
  }
  return 0;
}
"""

RUN = """\
/* At most BLOCK samples. Operations may compute up to LANES - 1 samples more, of which nothing is used. */
static void run(amp_state *s, const float *in, float *out, int n) {{
  float *sound;
  int t, moving = {moving}, m = (n + LANES - 1) / LANES * LANES;
{move}  sound = {sound};
  memcpy(sound, in, (size_t)n * sizeof(float));
  for (t = 0; t < m; t += LANES) store(sound + t, sane(load(sound + t)));
{body}
  memcpy(out, {output}, (size_t)n * sizeof(float));
{done}}}
"""

ADVANCE = """\
  for (t = 0; t < {count}; t++) s->at[t] += n;
"""

PROCESS = """\
void amp_process(amp_state *s, const float *in, float *out, int n) {{
  int count;
{started}  for (; n > 0; n -= count, in += count, out += count) {{
    count = n < BLOCK ? n : BLOCK;
    run(s, in, out, count);
  }}
}}
"""
