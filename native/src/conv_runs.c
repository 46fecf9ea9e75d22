/* Which products of a convolution may be summed in 16 bits. vpmaddubsw adds two products of an
 * unsigned and a signed byte in saturating 16 bits: exact if the two weights' positive parts do not
 * exceed 128 together and their negative parts -128, since 255 * 128 < 2^15. Two such sums may then
 * be added in 16 bits, before they are widened, if the same holds for all four weights. Which steps
 * are added to each other is a matter of choice: a sum has no order. */
#include "conv.h"

enum { BYTES = 4, MOST = 128, FAR = 64 };

/* Sums of the positive and the negative weights of every pair in one step of a panel. */
typedef struct {
  int16_t low[PTQ_MAX_WIDTH * 2], high[PTQ_MAX_WIDTH * 2];
} reach;

static reach reach_of(const int8_t *step, int32_t width) {
  reach r;
  for (int32_t i = 0; i < 2 * width; i++) {
    const int32_t a = step[2 * i], b = step[2 * i + 1];
    r.high[i] = (int16_t)((a > 0 ? a : 0) + (b > 0 ? b : 0));
    r.low[i] = (int16_t)((a < 0 ? a : 0) + (b < 0 ? b : 0));
  }
  return r;
}

static bool fits(const reach *r, int32_t width) {
  bool all = true;
  for (int32_t i = 0; i < 2 * width; i++) all &= r->high[i] <= MOST && r->low[i] >= -MOST;
  return all;
}

static bool fit_together(const reach *a, const reach *b, int32_t width) {
  bool all = true;
  for (int32_t i = 0; i < 2 * width; i++)
    all &= a->high[i] + b->high[i] <= MOST && a->low[i] + b->low[i] >= -MOST;
  return all;
}

/* Order the steps of one tap: pairs, singles, wide ones. `order` receives their numbers. */
static ptq_run order_steps(const reach *r, int32_t steps, int32_t width, bool *taken,
                           int32_t *order) {
  ptq_run run = {0};
  int32_t count = 0;
  for (int32_t i = 0; i < steps; i++) taken[i] = false;
  for (int32_t i = 0; i < steps; i++) {
    for (int32_t j = i + 1; j < steps && j < i + FAR && !taken[i]; j++) {
      if (taken[j] || !fit_together(&r[i], &r[j], width)) continue;
      taken[i] = taken[j] = true;
      order[count++] = i;
      order[count++] = j;
      run.pairs++;
    }
  }
  for (int32_t i = 0; i < steps; i++) {
    if (taken[i] || !fits(&r[i], width)) continue;
    taken[i] = true;
    order[count++] = i;
    run.singles++;
  }
  for (int32_t i = 0; i < steps; i++)
    if (!taken[i]) order[count++] = i;
  run.wide = steps - 2 * run.pairs - run.singles;
  return run;
}

typedef struct {
  reach *reach;
  bool *taken;
  int8_t *weights; /* of one tap as they were */
} space;

static void order_tap(const ptq_conv *c, space s, int32_t width, int8_t *weights, ptq_run *run,
                      int32_t *places) {
  const size_t step = (size_t)(width * BYTES);
  for (int32_t i = 0; i < c->steps; i++) s.reach[i] = reach_of(weights + (size_t)i * step, width);
  *run = order_steps(s.reach, c->steps, width, s.taken, places);
  memcpy(s.weights, weights, (size_t)c->steps * step);
  for (int32_t i = 0; i < c->steps; i++) {
    memcpy(weights + (size_t)i * step, s.weights + (size_t)places[i] * step, step);
    places[i] *= BYTES;
  }
}

/* Reorder a phase's packed weights and write down the order. Weights that are not known yet, as
 * those of a product of activations, are all wide. */
ptq_status ptq_conv_runs(const ptq_build *build, ptq_conv *c, ptq_phase *p) {
  const int64_t taps = (int64_t)c->groups * c->panel_count * p->taps;
  const size_t steps = (size_t)c->steps, most = (size_t)(c->vectors * c->lanes) * BYTES;
  p->runs = ptq_alloc((size_t)taps * sizeof *p->runs);
  p->places = ptq_alloc((size_t)taps * steps * sizeof *p->places);
  space s = {.reach = malloc(steps * sizeof *s.reach),
             .taken = malloc(steps * sizeof *s.taken),
             .weights = malloc(steps * most)};
  const bool enough = p->runs && p->places && s.reach && s.taken && s.weights;
  for (int64_t i = 0; enough && i < taps; i++) {
    const ptq_panel *panel = &c->panels[i / p->taps % c->panel_count];
    int32_t *places = p->places + (size_t)i * steps;
    if (p->weights) {
      int8_t *weights = p->weights + i / p->taps / c->panel_count * c->group_weights +
                        panel->weights + i % p->taps * c->steps * panel->width * BYTES;
      order_tap(c, s, panel->width, weights, &p->runs[i], places);
    } else {
      for (int32_t j = 0; j < c->steps; j++) places[j] = j * BYTES;
      p->runs[i].wide = c->steps;
    }
  }
  free(s.reach);
  free(s.taken);
  free(s.weights);
  return enough ? PTQ_OK : ptq_fail(build, PTQ_NO_MEMORY, "no memory");
}
