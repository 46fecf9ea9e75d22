/* Resize of one to three channels-last spatial dimensions from tables of indices and weights. */
#include "requant.h"
#include "versions.h"

enum { ONE = 2048, FRACTION = 22 }; /* the unit of the weights; bits of two of them multiplied */

/* From sums with FRACTION bits to the output's grid. */
typedef struct {
  ptq_requant mode;
  ptq_multiplier multiplier;
  int32_t in_zero, out_zero;
} grid_change;

typedef void mix_fn(const int32_t *a, const int32_t *b, int32_t weight, float *y, int64_t n,
                    float unit);
typedef void blend_fn(const grid_change *g, uint8_t *y, const uint8_t *const corner[4],
                      const int32_t w[4], int64_t n);

typedef struct {
  int32_t in[3], out[3];
  int64_t channels;
  bool linear;
  const int32_t *low[3], *high[3], *weight[3];
  uint8_t table[256]; /* to the output's grid, for copies */
  grid_change grid;
  blend_fn *blend;
  mix_fn *mix; /* to reals, each in units of `unit` */
  float unit;
  int32_t tables[];
} state;

PTQ_INLINE uint8_t to_grid(const grid_change *g, int64_t sum) {
  return (uint8_t)(g->out_zero + ptq_requantize(g->mode, sum - ((int64_t)g->in_zero << FRACTION),
                                                g->multiplier, -g->out_zero, 255 - g->out_zero));
}

/* With 8-bit values the sum fits 31 bits. */
PTQ_INLINE void blend_body(const grid_change *g, uint8_t *restrict y,
                           const uint8_t *const corner[4], const int32_t w[4], int64_t n) {
  const uint8_t *restrict a = corner[0], *restrict b = corner[1];
  const uint8_t *restrict c = corner[2], *restrict d = corner[3];
  const int32_t wa = w[0], wb = w[1], wc = w[2], wd = w[3];
  const int32_t from = g->in_zero << FRACTION, to = g->out_zero;
  const float m = g->multiplier.real;
  for (int64_t i = 0; i < n; i++) {
    const int32_t sum = a[i] * wa + b[i] * wb + c[i] * wc + d[i] * wd;
    y[i] = (uint8_t)(to + ptq_requant_float(sum - from, m, -to, 255 - to));
  }
}

PTQ_VERSIONS(blend,
             (const grid_change *g, uint8_t *y, const uint8_t *const corner[4], const int32_t w[4],
              int64_t n),
             (g, y, corner, w, n))

static void blend_rounded(const grid_change *g, uint8_t *y, const uint8_t *const corner[4],
                          const int32_t w[4], int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    int64_t sum = 0;
    for (int32_t j = 0; j < 4; j++) sum += (int64_t)corner[j][i] * w[j];
    y[i] = to_grid(g, sum);
  }
}

/* Eight corners of three dimensions, in 64 bits; the third weight's bits are rounded away first. */
static void blend_volume(const grid_change *g, uint8_t *y, const uint8_t *const corner[8],
                         const int64_t w[8], int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    int64_t sum = ONE / 2;
    for (int32_t j = 0; j < 8; j++) sum += corner[j][i] * w[j];
    y[i] = to_grid(g, sum / ONE);
  }
}

static void resize_pixel(const state *s, const uint8_t *x, const int64_t at[3], uint8_t *y) {
  const uint8_t *corner[8];
  int64_t weight[8];
  for (int32_t j = 0; j < 8; j++) {
    int64_t offset = 0;
    weight[j] = 1;
    for (int32_t d = 0; d < 3; d++) {
      bool upper = j >> (2 - d) & 1;
      int32_t w = s->weight[d][at[d]];
      offset = offset * s->in[d] + (upper ? s->high[d] : s->low[d])[at[d]];
      weight[j] *= upper ? w : ONE - w;
    }
    corner[j] = x + offset * s->channels;
  }
  if (!s->linear) {
    memcpy(y, corner[0], (size_t)s->channels);
  } else if (s->weight[0][at[0]] == 0) { /* corners 0 to 3 carry a factor of ONE */
    int32_t flat[4];
    for (int32_t j = 0; j < 4; j++) flat[j] = (int32_t)(weight[j] / ONE);
    s->blend(&s->grid, y, corner, flat, s->channels);
  } else {
    blend_volume(&s->grid, y, corner, weight, s->channels);
  }
}

static ptq_status run(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                      int64_t begin, int64_t end, uint8_t *scratch) {
  (void)scratch;
  const state *s = node->state;
  int64_t image = (int64_t)s->in[0] * s->in[1] * s->in[2] * s->channels;
  for (int64_t row = begin; row < end; row++) {
    int64_t at[3] = {row / s->out[1] % s->out[0], row % s->out[1], 0};
    const uint8_t *x = in[0] + row / s->out[1] / s->out[0] * image;
    uint8_t *y = out[0] + row * s->out[2] * s->channels;
    for (at[2] = 0; at[2] < s->out[2]; at[2]++) resize_pixel(s, x, at, y + at[2] * s->channels);
    if (s->linear || (node->in[0]->scale == node->out[0]->scale &&
                      node->in[0]->zero_point == node->out[0]->zero_point))
      continue;
    for (int64_t i = 0; i < s->out[2] * s->channels; i++) y[i] = s->table[y[i]];
  }
  return PTQ_OK;
}

/* One line of one channel, stretched; reals minus zero point in units of 1 / ONE. */
static void stretch(const state *s, const uint8_t *x, int32_t zero, int32_t *y) {
  for (int64_t i = 0; i < s->out[2]; i++)
    y[i] = (x[s->low[2][i] * s->channels] - zero) * (ONE - s->weight[2][i]) +
           (x[s->high[2][i] * s->channels] - zero) * s->weight[2][i];
}

PTQ_INLINE void mix_body(const int32_t *restrict a, const int32_t *restrict b, int32_t weight,
                         float *restrict y, int64_t n, float unit) {
  const int32_t rest = ONE - weight;
  for (int64_t i = 0; i < n; i++) y[i] = (float)(a[i] * rest + b[i] * weight) * unit;
}

PTQ_VERSIONS(mix,
             (const int32_t *a, const int32_t *b, int32_t weight, float *y, int64_t n, float unit),
             (a, b, weight, y, n, unit))

/* Reals come channel by channel: each line of input is stretched once, and lines of output are
 * mixed of two. */
static ptq_status run_reals(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                            int64_t begin, int64_t end, uint8_t *scratch) {
  const state *s = node->state;
  const int64_t line = (int64_t)s->in[2] * s->channels, width = s->out[2];
  const int32_t zero = node->in[0]->zero_point;
  int32_t *kept[2] = {(int32_t *)(void *)scratch, (int32_t *)(void *)scratch + width};
  for (int64_t task = begin; task < end; task++) {
    const uint8_t *x = in[0] + task / s->channels * s->in[1] * line + task % s->channels;
    float *y = (float *)(void *)out[0] + task * s->out[1] * width;
    int32_t row[2] = {-1, -1};
    for (int32_t i = 0; i < s->out[1]; i++, y += width) {
      const int32_t wanted[2] = {s->low[1][i], s->high[1][i]};
      if (wanted[0] == row[1]) {
        int32_t *lower = kept[1];
        kept[1] = kept[0], kept[0] = lower;
        row[1] = row[0], row[0] = wanted[0];
      }
      for (int32_t j = 0; j < 2; j++)
        if (row[j] != wanted[j]) stretch(s, x + wanted[j] * line, zero, kept[j]);
      row[0] = wanted[0], row[1] = wanted[1];
      s->mix(kept[0], kept[1], s->weight[1][i], y, width, s->unit);
    }
  }
  return PTQ_OK;
}

/* The sizes after the batch, or after batch and channels. */
static const int32_t *spatial(const ptq_value *y) {
  return y->dims + (y->dtype == PTQ_F32 ? 2 : 1);
}

static ptq_status read_tables(const ptq_build *build, const ptq_node *node, state *s, int32_t n) {
  const ptq_value *x = node->in[0], *tables = node->in[1];
  const int32_t *size = spatial(node->out[0]);
  memcpy(s->tables + 3, tables->data, tables->bytes);
  const int32_t *at = s->tables + 3;
  for (int32_t i = 0; i < 3; i++) {
    int32_t j = i - (3 - n);
    s->in[i] = j < 0 ? 1 : x->dims[1 + j];
    s->out[i] = j < 0 ? 1 : size[j];
    s->low[i] = s->high[i] = s->weight[i] = s->tables; /* of an absent dimension: zeros */
    if (j < 0) continue;
    s->low[i] = at;
    s->high[i] = at + s->out[i];
    s->weight[i] = at + 2 * s->out[i];
    at += 3 * s->out[i];
    for (int32_t o = 0; o < s->out[i]; o++) {
      PTQ_REQUIRE(s->low[i][o] >= 0 && s->low[i][o] < s->in[i] && s->high[i][o] >= 0 &&
                      s->high[i][o] < s->in[i],
                  "an index lies outside the input");
      PTQ_REQUIRE(s->weight[i][o] >= 0 && s->weight[i][o] <= ONE, "a weight is out of range");
    }
  }
  return PTQ_OK;
}

ptq_status ptq_prepare_resize(const ptq_build *build, ptq_node *node) {
  PTQ_REQUIRE(node->input_count == 2 && node->output_count == 1 && node->attr_count == 2 &&
                  node->in[0] && node->in[1],
              "wrong number of operands");
  const ptq_value *x = node->in[0], *tables = node->in[1], *y = node->out[0];
  int32_t n = node->attr[0];
  const bool reals = y->dtype == PTQ_F32;
  PTQ_REQUIRE(n >= 1 && n <= 3 && x->rank == n + 2 && y->rank == n + 2 &&
                  x->dims[0] == y->dims[0] && x->dims[n + 1] == y->dims[reals ? 1 : n + 1],
              "shapes do not fit");
  PTQ_REQUIRE(x->dtype == PTQ_U8 && (y->dtype == PTQ_U8 || reals), "types are not 8-bit");
  PTQ_REQUIRE(!reals || (n < 3 && node->attr[1]), "reals of three dimensions, or of copies");
  PTQ_REQUIRE(reals || ptq_multiplier_fits(build, x->scale / y->scale),
              "the output grid is too fine");
  int64_t total = 0;
  for (int32_t d = 0; d < n; d++) total += 3 * (int64_t)spatial(y)[d];
  PTQ_REQUIRE(tables->role == PTQ_CONSTANT && tables->dtype == PTQ_S32 && tables->count == total,
              "the tables do not fit the output");
  state *s = node->state = ptq_alloc(sizeof *s + ((size_t)total + 3) * sizeof(int32_t));
  if (!s) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  ptq_status status = read_tables(build, node, s, n);
  if (status != PTQ_OK) return status;
  s->channels = x->dims[n + 1];
  s->linear = node->attr[1] != 0;
  node->tasks = (int64_t)y->dims[0] * s->out[0] * s->out[1];
  node->work = (double)y->count * (s->linear ? 4 : 1);
  node->kernel = ptq_isa_name(build->isa);
  if (reals) {
    s->mix = PTQ_SELECT(build, mix);
    s->unit = ldexpf(x->scale, -FRACTION);
    node->tasks = (int64_t)y->dims[0] * s->channels;
    node->scratch = 2 * (size_t)s->out[2] * sizeof(int32_t);
    node->run = run_reals;
    return PTQ_OK;
  }
  s->blend = build->requant == PTQ_REQUANT_FLOAT ? PTQ_SELECT(build, blend) : blend_rounded;
  s->grid = (grid_change){
      .mode = build->requant,
      .multiplier = ptq_make_multiplier(build->requant, ldexpf(x->scale / y->scale, -FRACTION)),
      .in_zero = x->zero_point,
      .out_zero = y->zero_point};
  ptq_grid_table(build->requant, x, y, s->table);
  node->run = run;
  return PTQ_OK;
}
