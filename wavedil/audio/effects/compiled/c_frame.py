"""C code around the operations of a program: state, start, knobs, blocks. ``{}`` are filled by the writer."""

HEADER = """\
/* {title}

   One effect on one channel of sound. All functions are safe in a real-time thread: they allocate nothing, take no lock
   and call no system. States are independent; one state must be used by one thread at a time. A copy of a state
   (memcpy) continues where the state was. */
#ifndef {upper}_H
#define {upper}_H

#include <stddef.h>

#define AMP_SAMPLE_RATE {rate} /* Hz{any_rate} */
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

/* Moves a knob to a value in its range, smoothly within {milliseconds} ms; at once if nothing was processed since
   amp_init. Values outside the range are moved to its nearest end. Returns 0, or -1 and changes nothing if there is no
   such knob or the value is NaN. */
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
      memmove(row, row + s->at[i], histories[i].span * sizeof(float));
    }}
    s->at[i] = 0;
  }}
}}
"""

CONTROL = """\
static float tanh_1(float x) {{
  float v[LANES];
  store(v, tanh_v(splat(x)));
  return v[0];
}}

/* Biases for the present values of the knobs. */
static void control(amp_state *s) {{
{body}
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
int amp_set_knob(amp_state *s, int knob, float value) {{
  static const float ends[AMP_KNOBS][2] = {{{ends}}};
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if (knob < 0 || knob >= AMP_KNOBS || (bits & 0x7fffffffu) > 0x7f800000u) return -1;
  if (value < ends[knob][0]) value = ends[knob][0];
  if (value > ends[knob][1]) value = ends[knob][1];
  if (!s->started) {{
    s->knob[knob] = s->target[knob] = value;
    control(s);
  }} else if (s->target[knob] != value) {{
    s->target[knob] = value;
    s->delta[knob] = (value - s->knob[knob]) / {steps};
    s->left[knob] = {steps};
  }}
  return 0;
}}

/* Moves the knobs by one step, at each multiple of {samples} samples; returns whether one is moving. */
static int move_knobs(amp_state *s) {{
  int i, moving = 0;
  for (i = 0; i < AMP_KNOBS; i++) moving |= s->left[i];
  if (!moving || s->clock) return moving;
  for (i = 0; i < AMP_KNOBS; i++) {{
    if (!s->left[i]) continue;
    s->left[i]--;
    s->knob[i] = s->left[i] ? s->knob[i] + s->delta[i] : s->target[i];
  }}
  control(s);
  return 1;
}}
"""

RUN = """\
/* At most BLOCK samples. Operations may compute up to LANES - 1 samples more, of which nothing is used. */
static void run(amp_state *s, const float *in, float *out, int n) {{
  float *sound;
  int t, m = (n + LANES - 1) / LANES * LANES;
{move}  sound = {sound};
  memcpy(sound, in, n * sizeof(float));
  for (t = 0; t < m; t += LANES) store(sound + t, sane(load(sound + t)));
{body}
  memcpy(out, {output}, n * sizeof(float));
{done}}}
"""

ADVANCE = """\
  for (t = 0; t < {count}; t++) s->at[t] += n;
"""

PROCESS = """\
void amp_process(amp_state *s, const float *in, float *out, int n) {
  int count;
  for (; n > 0; n -= count, in += count, out += count) {
    count = n < BLOCK ? n : BLOCK;
    run(s, in, out, count);
  }
}
"""

PROCESS_WITH_KNOBS = """\
void amp_process(amp_state *s, const float *in, float *out, int n) {{
  int count;
  for (; n > 0; n -= count, in += count, out += count) {{
    count = n < BLOCK ? n : BLOCK;
    if (move_knobs(s) && count > {samples} - s->clock) count = {samples} - s->clock;
    run(s, in, out, count);
    s->clock = (s->clock + count) % {samples};
    s->started = 1;
  }}
}}
"""
