/* Which products of a convolution may be summed in 16 bits. vpmaddubsw adds two products of an
 * unsigned and a signed byte in saturating 16 bits: exact if the two weights' positive parts do not
 * exceed 128 together and their negative parts -128, since 255 * 128 < 2^15. Two such sums may then
 * be added in 16 bits, before they are widened, if the same holds for all four weights. More may be
 * if no lane's absolute weights exceed 257 together: with 255 * 257 < 2^16 and a start of its own,
 * taken off the bias, a sum stays within 16 bits. Which steps are added to each other is a matter
 * of choice: a sum has no order. */
#include "conv.h"

enum { BYTES = 4, MOST = 128, SPAN = 257, FAR = 64, LONG = PTQ_LONG_SUM, LANES = PTQ_SUM_LANES };

/* Sums of the positive and the negative weights of every pair in one step of a panel, lane by lane
 * of the 16-bit sums; `safe` if none of them saturates. */
typedef struct {
  int16_t low[LANES], high[LANES], span[LANES];
  bool safe;
} reach;

typedef struct {
  int32_t steps;
  reach *reach;
  bool *taken;
  int8_t *weights; /* of one tap as they were */
  int32_t *order;  /* numbers of the steps, as they are taken */
  int32_t count;   /* of them */
} work;

static reach reach_of(const int8_t *step) {
  reach r = {.safe = true};
  for (int32_t i = 0; i < LANES; i++) {
    const int32_t a = step[2 * i], b = step[2 * i + 1];
    r.high[i] = (int16_t)((a > 0 ? a : 0) + (b > 0 ? b : 0));
    r.low[i] = (int16_t)((a < 0 ? a : 0) + (b < 0 ? b : 0));
    r.span[i] = (int16_t)(r.high[i] - r.low[i]);
    r.safe &= r.high[i] <= MOST && r.low[i] >= -MOST;
  }
  return r;
}

static void take(work *s, int32_t step) {
  s->taken[step] = true;
  s->order[s->count++] = step;
}

/* Of the steps near `first` the one that leaves the most room in a sum with these spans, -1 if none
 * fits. */
static int32_t best_addition(const work *s, int32_t first, const int16_t used[LANES]) {
  int32_t best = -1, least = SPAN + 1;
  for (int32_t j = first; j < s->steps && j < first + FAR; j++) {
    if (s->taken[j] || !s->reach[j].safe) continue;
    int16_t most = 0;
    for (int32_t i = 0; i < LANES; i++) {
      const int16_t span = (int16_t)(used[i] + s->reach[j].span[i]);
      most = span > most ? span : most;
    }
    if (most >= least) continue;
    least = most;
    best = j;
  }
  return best;
}

/* Where the sum of the steps taken last starts so that it neither falls below nor rises above 16
 * bits. */
static void start_of(const work *s, int16_t start[LANES]) {
  for (int32_t i = 0; i < LANES; i++) {
    int32_t low = 0, high = 0;
    for (int32_t j = s->count - LONG; j < s->count; j++) {
      low += 255 * s->reach[s->order[j]].low[i];
      high += 255 * s->reach[s->order[j]].high[i];
    }
    start[i] = (int16_t)(low < INT16_MIN    ? INT16_MIN - low
                         : high > INT16_MAX ? INT16_MAX - high
                                            : 0);
  }
}

/* As many long sums as there are; returns their number. */
static int32_t take_longs(work *s, int16_t *starts) {
  int32_t sums = 0;
  for (int32_t i = 0; i < s->steps; i++) {
    const int32_t before = s->count;
    int16_t used[LANES] = {0};
    int32_t next = s->taken[i] || !s->reach[i].safe ? -1 : i;
    while (next >= 0) {
      take(s, next);
      for (int32_t j = 0; j < LANES; j++) used[j] = (int16_t)(used[j] + s->reach[next].span[j]);
      next = s->count - before < LONG ? best_addition(s, i + 1, used) : -1;
    }
    if (s->count - before == LONG)
      start_of(s, starts + LANES * sums++);
    else
      while (s->count > before) s->taken[s->order[--s->count]] = false;
  }
  return sums;
}

static bool fit_together(const reach *a, const reach *b) {
  bool all = true;
  for (int32_t i = 0; i < LANES; i++)
    all &= a->high[i] + b->high[i] <= MOST && a->low[i] + b->low[i] >= -MOST;
  return all;
}

static int32_t take_pairs(work *s) {
  int32_t pairs = 0;
  for (int32_t i = 0; i < s->steps; i++)
    for (int32_t j = i + 1; j < s->steps && j < i + FAR && !s->taken[i]; j++) {
      if (s->taken[j] || !fit_together(&s->reach[i], &s->reach[j])) continue;
      take(s, i);
      take(s, j);
      pairs++;
    }
  return pairs;
}

static int32_t take_rest(work *s, bool safe) {
  const int32_t before = s->count;
  for (int32_t i = 0; i < s->steps; i++)
    if (!s->taken[i] && s->reach[i].safe == safe) take(s, i);
  return s->count - before;
}

/* Order the steps of one tap; `starts` receives one row for each of its sums. */
static void order_tap(work *s, int8_t *weights, ptq_run *run, int16_t *starts) {
  const size_t step = LANES * 2;
  s->count = 0;
  for (int32_t i = 0; i < s->steps; i++) {
    s->reach[i] = reach_of(weights + (size_t)i * step);
    s->taken[i] = false;
  }
  run->longs = take_longs(s, starts);
  run->pairs = take_pairs(s);
  run->singles = take_rest(s, true);
  run->wide = take_rest(s, false);
  memcpy(s->weights, weights, (size_t)s->steps * step);
  for (int32_t i = 0; i < s->steps; i++) {
    memcpy(weights + (size_t)i * step, s->weights + (size_t)s->order[i] * step, step);
    s->order[i] *= BYTES;
  }
}

/* Take the starts of one tap's sums off the biases of its channels. */
static void move_starts(const int16_t *starts, int32_t sums, int32_t *bias) {
  for (int32_t i = 0; i < sums * LANES; i++) {
    int32_t *b = &bias[i % LANES / 2];
    *b = (int32_t)((uint32_t)*b - (uint32_t)starts[i]);
  }
}

/* All taps, [groups][panels][taps]; p->starts has room for all sums that there could be. */
static void order_phase(const ptq_conv *c, ptq_phase *p, work *s) {
  int16_t *starts = p->starts;
  for (int64_t i = 0; i < (int64_t)c->groups * c->panel_count * p->taps; i++) {
    const int64_t group = i / p->taps / c->panel_count;
    const ptq_panel *panel = &c->panels[i / p->taps % c->panel_count];
    ptq_run *run = &p->runs[i];
    s->order = p->places + i * c->steps;
    run->start = (starts - p->starts) / LANES;
    order_tap(
        s,
        p->weights + group * c->group_weights + panel->weights + i % p->taps * c->steps * LANES * 2,
        run, starts);
    move_starts(starts, run->longs, p->bias + group * c->group_parameters + panel->parameter);
    starts += LANES * run->longs;
  }
  p->sum_count = (starts - p->starts) / LANES;
}

/* Weights that are not known yet, as those of a product of activations, are all wide. */
static void keep_order(const ptq_conv *c, ptq_phase *p) {
  for (int64_t i = 0; i < (int64_t)c->groups * c->panel_count * p->taps; i++) {
    for (int32_t j = 0; j < c->steps; j++) p->places[i * c->steps + j] = j * BYTES;
    p->runs[i].wide = c->steps;
  }
}

/* Reorder a phase's packed weights and write down the order. */
ptq_status ptq_conv_runs(const ptq_build *build, ptq_conv *c, ptq_phase *p) {
  const size_t taps = (size_t)c->groups * (size_t)c->panel_count * (size_t)p->taps;
  const size_t steps = (size_t)c->steps;
  p->runs = ptq_alloc(taps * sizeof *p->runs);
  p->places = ptq_alloc(taps * steps * sizeof *p->places);
  p->starts = malloc(taps * (steps / LONG + 1) * LANES * sizeof *p->starts);
  work s = {.steps = c->steps,
            .reach = malloc(steps * sizeof *s.reach),
            .taken = malloc(steps * sizeof *s.taken),
            .weights = malloc(steps * LANES * 2)};
  const bool enough = p->runs && p->places && p->starts && s.reach && s.taken && s.weights;
  if (enough && p->weights) order_phase(c, p, &s);
  if (enough && !p->weights) keep_order(c, p);
  int16_t *fewer = p->starts ? realloc(p->starts, ((size_t)p->sum_count + 1) * LANES * 2) : NULL;
  if (fewer) p->starts = fewer;
  free(s.reach);
  free(s.taken);
  free(s.weights);
  return enough ? PTQ_OK : ptq_fail(build, PTQ_NO_MEMORY, "no memory");
}
