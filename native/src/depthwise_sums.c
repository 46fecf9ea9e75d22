/* Depthwise convolution with sums of 16 bits. A pair of taps is one vpmaddubsw, exact if its
 * positive weights do not exceed 128 together and its negative ones -128. A sum may take any taps
 * whose absolute weights do not exceed 257 together: with 255 * 257 < 2^16 and a start of its own
 * it stays within 16 bits. Any two taps make such a sum, so every layer can be computed like this,
 * in more or fewer of them.
 *
 * Five pairs make a round: three in one sum and two in another, or, where weights are too large for
 * that, each in its own, which needs no start. */
#include "conv.h"

enum { WIDTH = PTQ_SUMS_WIDTH, PAIRS = PTQ_ROUND_PAIRS, MOST = 128, SPAN = 257 };

typedef struct {
  int32_t taps;    /* that have weights */
  int32_t *number; /* of each among the phase's taps */
  int16_t (*weight)[WIDTH];
  bool *taken;
  int32_t used[WIDTH], negative[WIDTH]; /* by the sum being filled */
} work;

/* Pairs in each sum of a round, and its vector operations, about. */
static const int32_t room[2][PAIRS] = {{3, 2}, {1, 1, 1, 1, 1}}, cost[2] = {42, 56};

static bool pair_fits(const work *s, int32_t a, int32_t b) {
  bool all = true;
  for (int32_t c = 0; c < WIDTH; c++) {
    const int32_t wa = s->weight[a][c], wb = s->weight[b][c];
    all &= (wa > 0 ? wa : 0) + (wb > 0 ? wb : 0) <= MOST;
    all &= (wa < 0 ? wa : 0) + (wb < 0 ? wb : 0) >= -MOST;
  }
  return all;
}

/* Taps a and b (or a alone, if they are the same) into the sum; false if there is no room. */
static bool put(work *s, int32_t a, int32_t b) {
  for (int32_t c = 0; c < WIDTH; c++)
    if (s->used[c] + abs(s->weight[a][c]) + (a == b ? 0 : abs(s->weight[b][c])) > SPAN)
      return false;
  for (int32_t c = 0; c < WIDTH; c++)
    for (int32_t i = 0; i < (a == b ? 1 : 2); i++) {
      const int32_t w = s->weight[i ? b : a][c];
      s->used[c] += abs(w);
      s->negative[c] += w < 0 ? -w : 0;
    }
  s->taken[a] = s->taken[b] = true;
  return true;
}

/* Pairs while any fit, then single taps, at most `most`; `pair` receives two taps for each. */
static int32_t fill_sum(work *s, int32_t most, int32_t *pair) {
  int32_t count = 0;
  memset(s->used, 0, sizeof s->used);
  memset(s->negative, 0, sizeof s->negative);
  for (int32_t single = 0; single < 2; single++)
    for (int32_t a = 0; a < s->taps; a++)
      for (int32_t b = single ? a : a + 1; b < (single ? a + 1 : s->taps); b++) {
        if (count == most || s->taken[a]) break;
        if (s->taken[b] || (!single && !pair_fits(s, a, b)) || !put(s, a, b)) continue;
        pair[2 * count] = a;
        pair[2 * count + 1] = b;
        count++;
      }
  return count;
}

/* Channel of a 16-bit lane of the two vectors that unpacking 32 channels gives. */
static int32_t lane_channel(int32_t lane) { return lane % 16 / 8 * 16 + lane / 16 * 8 + lane % 8; }

/* Where a sum starts so that it neither falls below nor rises above 16 bits. */
static int32_t start_of(const work *s, int32_t channel) {
  const int32_t lowest = -255 * s->negative[channel];
  const int32_t highest = 255 * (s->used[channel] - s->negative[channel]);
  if (lowest < INT16_MIN) return INT16_MIN - lowest;
  return highest > INT16_MAX ? INT16_MAX - highest : 0;
}

/* One sum of `most` pairs; returns how many taps it took. Pairs left over have no weights. */
static int32_t pack_sum(work *s, int32_t most, int32_t *taps, int8_t *weights, int16_t *start) {
  const int32_t count = fill_sum(s, most, taps);
  int32_t took = 0;
  for (int32_t i = 0; i < most; i++, taps += 2, weights += 2 * WIDTH) {
    if (i >= count) {
      taps[0] = taps[1] = s->number[0];
      continue;
    }
    const int32_t a = taps[0], b = taps[1];
    for (int32_t lane = 0; lane < WIDTH; lane++) {
      weights[2 * lane] = (int8_t)s->weight[a][lane_channel(lane)];
      weights[2 * lane + 1] = a == b ? 0 : (int8_t)s->weight[b][lane_channel(lane)];
    }
    taps[0] = s->number[a];
    taps[1] = s->number[b];
    took += a == b ? 1 : 2;
  }
  for (int32_t lane = 0; lane < WIDTH; lane++)
    start[lane] = (int16_t)start_of(s, lane_channel(lane));
  return took;
}

/* How many rounds it takes to get all taps into sums of one shape. */
static int32_t count_rounds(work *s, bool single) {
  int32_t rounds = 0, pair[2 * PAIRS];
  for (int32_t t = 0; t < s->taps; t++) s->taken[t] = false;
  for (int32_t left = s->taps; left > 0; rounds++)
    for (int32_t i = 0; i < PAIRS; i++)
      for (int32_t j = 2 * fill_sum(s, room[single][i], pair) - 2; j >= 0; j -= 2)
        left -= pair[j] == pair[j + 1] ? 1 : 2;
  for (int32_t t = 0; t < s->taps; t++) s->taken[t] = false;
  return rounds;
}

static void pack_panel(const ptq_conv *c, const ptq_phase *p, work *s, int32_t number) {
  const ptq_panel *panel = &c->panels[number];
  ptq_sums *sums = &p->sums[number];
  int32_t *bias = p->bias + panel->parameter, position_of[WIDTH];
  for (int32_t i = 0; i < WIDTH; i++) position_of[ptq_panel_channel(WIDTH, c->lanes, i)] = i;
  for (int32_t t = 0; t < s->taps; t++) {
    const int8_t *w = p->weights + panel->weights + s->number[t] / 4 * WIDTH * 4;
    for (int32_t i = 0; i < WIDTH; i++) s->weight[t][i] = w[position_of[i] * 4 + s->number[t] % 4];
  }
  sums->single = count_rounds(s, true) * cost[1] < count_rounds(s, false) * cost[0];
  for (int32_t left = s->taps, pair = 0; left > 0; sums->rounds++)
    for (int32_t i = 0; i < (sums->single ? PAIRS : 2); i++) {
      int16_t none[WIDTH], *start = sums->start + (sums->rounds * 2 + i) * WIDTH;
      const int32_t most = room[sums->single][i];
      left -= pack_sum(s, most, sums->taps + 2 * pair, sums->weights + 2 * WIDTH * pair,
                       sums->single ? none : start);
      for (int32_t lane = 0; !sums->single && lane < WIDTH; lane++)
        bias[position_of[lane_channel(lane)]] -= start[lane];
      pair += most;
    }
}

/* What the panels need, in one block of memory. */
static bool allocate(const ptq_conv *c, ptq_phase *p, int32_t taps) {
  const size_t panels = (size_t)c->panel_count, rounds = ((size_t)taps + 3) / 4;
  const size_t weights = rounds * PAIRS * 2 * WIDTH, starts = rounds * 2 * WIDTH * 2;
  const size_t each = ptq_round_up(weights + starts + rounds * PAIRS * 2 * 4, PTQ_ALIGN);
  const size_t table = ptq_round_up(panels * sizeof *p->sums, PTQ_ALIGN);
  p->sums = ptq_alloc(table + panels * each);
  if (!p->sums) return false;
  for (size_t i = 0; i < panels; i++) {
    int8_t *at = (int8_t *)p->sums + table + i * each;
    p->sums[i].weights = at;
    p->sums[i].start = (int16_t *)(void *)(at + weights);
    p->sums[i].taps = (int32_t *)(void *)(at + weights + starts);
  }
  return true;
}

ptq_status ptq_depthwise_sums(const ptq_build *build, const ptq_conv *c, ptq_phase *p) {
  work s = {.number = malloc((size_t)p->taps * sizeof *s.number),
            .weight = malloc((size_t)p->taps * sizeof *s.weight),
            .taken = malloc((size_t)p->taps * sizeof *s.taken)};
  bool enough = s.number && s.weight && s.taken;
  for (int32_t t = 0; enough && t < p->taps; t++)
    if (p->place[t] >= 0) s.number[s.taps++] = t;
  enough = enough && allocate(c, p, s.taps);
  for (int32_t i = 0; enough && i < c->panel_count; i++) pack_panel(c, p, &s, i);
  free(p->weights); /* the sums have them */
  p->weights = NULL;
  free(s.number);
  free(s.weight);
  free(s.taken);
  return enough ? PTQ_OK : ptq_fail(build, PTQ_NO_MEMORY, "no memory");
}
