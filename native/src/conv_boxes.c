/* The order in which a convolution computes its positions. A kernel skips a tap that falls on
 * padding for all pixels of a tile, so where a dilated window often does, positions that see the
 * same taps come together. */
#include "conv.h"

enum { MOST_PARTS = 16, FEWEST_ROWS = 16 }; /* fewer read the weights too often */

typedef struct {
  int32_t count, end[MOST_PARTS];
} parts;

/* Keep the ends in order, each once. */
static void add_end(parts *s, int64_t end) {
  int32_t i = 0;
  while (i < s->count && s->end[i] < end) i++;
  if (end <= 0 || i == s->count || s->end[i] == end || s->count == MOST_PARTS) return;
  memmove(s->end + i + 1, s->end + i, (size_t)(s->count - i) * sizeof *s->end);
  s->end[i] = (int32_t)end;
  s->count++;
}

/* The first position whose input coordinate is at least `coordinate`. */
static int64_t position_of(int64_t coordinate, int32_t step) {
  return (coordinate + step - 1) / step;
}

/* Parts of one dimension within which the same taps fall on the input. */
static parts split(const ptq_conv *c, const ptq_phase *p, int32_t d) {
  parts s = {.count = 1, .end = {p->count[d]}};
  for (int32_t t = 0; t < p->taps; t++) {
    add_end(&s, position_of(-(int64_t)p->tap[t][d], p->in_step[d]));
    add_end(&s, position_of((int64_t)c->in_dims[d] - p->tap[t][d], p->in_step[d]));
  }
  return s;
}

static int32_t first_of(const parts *s, int32_t part) { return part > 0 ? s->end[part - 1] : 0; }

/* How a phase is split, not at all if that gains nothing or gives small boxes. */
static void plan(const ptq_conv *c, const ptq_phase *p, parts s[3]) {
  int64_t least = c->batch;
  for (int32_t d = 0; d < 3; d++) {
    s[d] = split(c, p, d);
    int32_t shortest = p->count[d];
    for (int32_t i = 0; i < s[d].count; i++)
      shortest = (int32_t)ptq_min(shortest, s[d].end[i] - first_of(&s[d], i));
    least *= shortest;
  }
  if (least >= FEWEST_ROWS) return;
  for (int32_t d = 0; d < 3; d++) s[d] = (parts){.count = 1, .end = {p->count[d]}};
}

ptq_status ptq_conv_boxes(const ptq_build *build, ptq_conv *c) {
  for (int32_t i = 0; i < c->phase_count; i++) {
    const ptq_phase *p = &c->phases[i];
    parts s[3];
    plan(c, c->gathered ? c->gathered : p, s);
    const int32_t more = s[0].count * s[1].count * s[2].count;
    ptq_box *boxes = realloc(c->boxes, (size_t)(c->box_count + more) * sizeof *boxes);
    if (!boxes) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
    c->boxes = boxes;
    for (int32_t j = 0; j < more; j++) {
      const int32_t part[3] = {j / s[2].count / s[1].count, j / s[2].count % s[1].count,
                               j % s[2].count};
      ptq_box *box = &boxes[c->box_count++];
      *box = (ptq_box){.phase = p, .rows = c->batch};
      for (int32_t d = 0; d < 3; d++) {
        box->first[d] = first_of(&s[d], part[d]);
        box->count[d] = s[d].end[part[d]] - box->first[d];
        box->rows *= box->count[d];
      }
    }
  }
  return PTQ_OK;
}
