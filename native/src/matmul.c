/* MatMul of two activations. B is packed at run time as a convolution's weights would be, the
 * convolution kernel gives S32 sums of a * (b - 128), and the rest of
 *   sum (a - za) (b - zb) = sum a b' - zb' sum a - za sum b' + k za zb',   b' = b - 128
 * is a constant per column, a sum per row, and the rounding. */
#include "conv.h"
#include "versions.h"

typedef struct {
  ptq_conv conv; /* of one matrix; its phase has no weights of its own */
  ptq_phase phase;
  int64_t batch, m, k, n;
  bool a_shared, b_shared; /* one matrix for every batch */
  int32_t a_zero, b_zero;
  int32_t y_dtype, y_zero, lo, hi;
  ptq_requant mode;
  ptq_multiplier multiplier;
  size_t rows_bytes, weights_bytes, bias_bytes; /* of scratch */
  void (*finish)(uint8_t *y, const int32_t *sum, int64_t n, int32_t row, float m, int32_t zero,
                 int32_t lo, int32_t hi);
  void (*finish_floats)(float *y, const int32_t *sum, int64_t n, int32_t row, float m);
  void (*join)(const uint8_t *const *rows, int32_t n, uint32_t *words, uint32_t *sums);
} state;

PTQ_INLINE void finish_body(uint8_t *restrict y, const int32_t *restrict sum, int64_t n,
                            int32_t row, float m, int32_t zero, int32_t lo, int32_t hi) {
  for (int64_t i = 0; i < n; i++)
    y[i] =
        (uint8_t)(ptq_requant_float((int32_t)((uint32_t)sum[i] - (uint32_t)row), m, lo, hi) + zero);
}

PTQ_VERSIONS(finish,
             (uint8_t *y, const int32_t *sum, int64_t n, int32_t row, float m, int32_t zero,
              int32_t lo, int32_t hi),
             (y, sum, n, row, m, zero, lo, hi))

PTQ_INLINE void finish_floats_body(float *restrict y, const int32_t *restrict sum, int64_t n,
                                   int32_t row, float m) {
  for (int64_t i = 0; i < n; i++) y[i] = (float)(int32_t)((uint32_t)sum[i] - (uint32_t)row) * m;
}

PTQ_VERSIONS(finish_floats, (float *y, const int32_t *sum, int64_t n, int32_t row, float m),
             (y, sum, n, row, m))

/* Four rows of B side by side, channel by channel, and their sums; all less 128. */
PTQ_INLINE void join_body(const uint8_t *const *rows, int32_t n, uint32_t *restrict words,
                          uint32_t *restrict sums) {
  const uint8_t *r0 = rows[0], *r1 = rows[1], *r2 = rows[2], *r3 = rows[3];
  for (int32_t i = 0; i < n; i++) {
    const uint32_t word =
        (uint32_t)r0[i] | (uint32_t)r1[i] << 8 | (uint32_t)r2[i] << 16 | (uint32_t)r3[i] << 24;
    words[i] = word ^ 0x80808080;
    sums[i] += (uint32_t)(r0[i] + r1[i] + r2[i] + r3[i] - 4 * 128);
  }
}

PTQ_VERSIONS(join, (const uint8_t *const *rows, int32_t n, uint32_t *words, uint32_t *sums),
             (rows, n, words, sums))

/* B [k, n] into panels, and the constant of each column. */
static void pack(const state *s, const uint8_t *b, int8_t *weights, int32_t *bias) {
  const ptq_conv *c = &s->conv;
  const uint32_t za = (uint32_t)s->a_zero, zb = (uint32_t)s->b_zero;
  uint8_t none[PTQ_MAX_WIDTH];
  memset(none, 0x80, sizeof none);
  for (int32_t i = 0; i < c->panel_count; i++) {
    const ptq_panel *panel = &c->panels[i];
    uint32_t words[PTQ_MAX_WIDTH] = {0}, sums[PTQ_MAX_WIDTH] = {0};
    int32_t channel[PTQ_MAX_WIDTH];
    for (int32_t at = 0; at < panel->width; at++)
      channel[at] = ptq_panel_channel(panel->width, c->lanes, at);
    for (int64_t k = 0; k < c->steps; k++) {
      const uint8_t *rows[4];
      for (int64_t r = 0; r < 4; r++)
        rows[r] = 4 * k + r < s->k ? b + (4 * k + r) * s->n + panel->first : none;
      s->join(rows, panel->valid, words, sums);
      int8_t *to = weights + panel->weights + 4 * k * panel->width;
      for (int32_t at = 0; at < panel->width; at += 4) /* neighbours stay neighbours */
        memcpy(to + 4 * at, words + channel[at], 4 * sizeof *words);
    }
    for (int32_t at = 0; at < panel->width; at++)
      bias[panel->parameter + at] = (int32_t)((uint32_t)s->k * za * zb - za * sums[channel[at]]);
  }
}

static void store(const state *s, const uint8_t *a, const int32_t *sum, uint8_t *y) {
  uint32_t total = 0;
  for (int64_t k = 0; k < s->k; k++) total += a[k];
  const int32_t row = (int32_t)((uint32_t)s->b_zero * total);
  if (s->y_dtype == PTQ_F32) {
    s->finish_floats((float *)(void *)y, sum, s->n, row, s->multiplier.real);
  } else if (s->y_dtype == PTQ_U8 && s->mode == PTQ_REQUANT_FLOAT) {
    s->finish(y, sum, s->n, row, s->multiplier.real, s->y_zero, s->lo, s->hi);
  } else {
    for (int64_t i = 0; i < s->n; i++) {
      const int32_t acc = (int32_t)((uint32_t)sum[i] - (uint32_t)row);
      if (s->y_dtype == PTQ_S32)
        memcpy(y + 4 * i, &acc, 4);
      else
        y[i] = (uint8_t)(s->y_zero + ptq_requantize(s->mode, acc, s->multiplier, s->lo, s->hi));
    }
  }
}

static void multiply(const state *s, const uint8_t *a, const uint8_t *b, uint8_t *y,
                     uint8_t *scratch) {
  const ptq_conv *c = &s->conv;
  const size_t element = ptq_dtype_bytes(s->y_dtype);
  ptq_phase phase = s->phase;
  const uint8_t *rows[PTQ_MAX_BLOCK_ROWS], *none[PTQ_MAX_BLOCK_ROWS] = {NULL};
  uint8_t *to[PTQ_MAX_BLOCK_ROWS];
  int32_t *sums = (int32_t *)(void *)scratch;
  phase.weights = (int8_t *)scratch + s->rows_bytes;
  phase.bias = (int32_t *)(void *)(scratch + s->rows_bytes + s->weights_bytes);
  pack(s, b, phase.weights, phase.bias);
  for (int64_t m = 0; m < s->m; m += c->block_rows) {
    int32_t count = (int32_t)ptq_min(c->block_rows, s->m - m);
    for (int32_t i = 0; i < count; i++) rows[i] = a + (m + i) * s->k;
    for (int32_t i = 0; i < count; i++) to[i] = (uint8_t *)(sums + i * s->n);
    for (int32_t p = 0; p < c->panel_count; p++)
      c->kernel(c, &phase, &c->panels[p], 0, rows, count, to, none);
    for (int32_t i = 0; i < count; i++)
      store(s, rows[i], sums + i * s->n, y + (size_t)((m + i) * s->n) * element);
  }
}

static ptq_status run(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                      int64_t begin, int64_t end, uint8_t *scratch) {
  const state *s = node->state;
  const int64_t element = (int64_t)ptq_dtype_bytes(s->y_dtype);
  for (int64_t i = begin; i < end; i++)
    multiply(s, in[0] + (s->a_shared ? 0 : i * s->m * s->k),
             in[1] + (s->b_shared ? 0 : i * s->k * s->n), out[0] + i * s->m * s->n * element,
             scratch);
  return PTQ_OK;
}

static void release(void *block) {
  state *s = block;
  free(s->conv.panels);
  free(s->conv.real);
  free(s->conv.multiplier);
  free(s->phase.runs);
  free(s->phase.places);
  free(s->phase.starts);
  free(s);
}

static ptq_status read_shapes(const ptq_build *build, const ptq_node *node, state *s) {
  const ptq_value *a = node->in[0], *b = node->in[1], *y = node->out[0];
  PTQ_REQUIRE(a->rank >= 2 && b->rank >= 2 && y->rank >= 2, "operands are not matrices");
  s->m = a->dims[a->rank - 2];
  s->k = a->dims[a->rank - 1];
  s->n = b->dims[b->rank - 1];
  PTQ_REQUIRE(
      b->dims[b->rank - 2] == s->k && y->dims[y->rank - 2] == s->m && y->dims[y->rank - 1] == s->n,
      "matrices do not fit");
  s->batch = y->count / (s->m * s->n);
  int64_t a_batch = a->count / (s->m * s->k), b_batch = b->count / (s->k * s->n);
  PTQ_REQUIRE((a_batch == 1 || a_batch == s->batch) && (b_batch == 1 || b_batch == s->batch),
              "batches are neither equal nor 1");
  PTQ_REQUIRE(s->k <= 1 << 20, "matrices are too large");
  s->a_shared = a_batch == 1;
  s->b_shared = b_batch == 1;
  return PTQ_OK;
}

ptq_status ptq_prepare_matmul(const ptq_build *build, ptq_node *node) {
  PTQ_REQUIRE(node->input_count == 2 && node->output_count == 1 && node->attr_count == 2 &&
                  node->in[0] && node->in[1],
              "wrong number of operands");
  ptq_value *a = node->in[0], *b = node->in[1], *y = node->out[0];
  PTQ_REQUIRE(a->dtype == PTQ_U8 && b->dtype == PTQ_U8 &&
                  (y->dtype == PTQ_U8 || y->dtype == PTQ_S32 || y->dtype == PTQ_F32),
              "types are not 8-bit");
  state *s = node->state = ptq_alloc(sizeof *s);
  if (!s) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  node->release = release;
  ptq_status status = read_shapes(build, node, s);
  if (status != PTQ_OK) return status;
  bool narrow = y->dtype == PTQ_U8;
  status = ptq_read_limits(build, node->attr, y, &s->lo, &s->hi);
  if (status != PTQ_OK) return status;
  float m = a->scale * b->scale / (narrow ? y->scale : 1.0f);
  PTQ_REQUIRE(ptq_multiplier_fits(build, m), "the multiplier is out of range");
  s->mode = build->requant;
  s->multiplier = ptq_make_multiplier(s->mode, m);
  s->a_zero = a->zero_point;
  s->b_zero = b->zero_point - 128;
  s->y_dtype = y->dtype;
  s->y_zero = y->zero_point;
  s->finish = PTQ_SELECT(build, finish);
  s->finish_floats = PTQ_SELECT(build, finish_floats);
  s->join = PTQ_SELECT(build, join);
  ptq_conv *c = &s->conv;
  c->k = (int32_t)s->k;
  c->steps = (c->k + 3) / 4;
  c->group_in = c->k;
  c->group_out = c->out_channels = (int32_t)s->n;
  c->groups = 1;
  c->in_element = 1;
  c->accumulate = build->accumulate;
  c->epilogue.dtype = PTQ_S32;
  c->epilogue.direct = true;
  node->kernel = ptq_conv_choose(build, c);
  status = ptq_conv_panels(build, c, 4 * (int64_t)c->steps);
  if (status != PTQ_OK) return status;
  c->real = ptq_alloc((size_t)c->group_parameters * sizeof *c->real);
  c->multiplier = ptq_alloc((size_t)c->group_parameters * sizeof *c->multiplier);
  if (!c->real || !c->multiplier) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  s->phase.taps = 1;
  if (c->short_sums) status = ptq_conv_runs(build, c, &s->phase);
  if (status != PTQ_OK) return status;
  s->rows_bytes = ptq_round_up((size_t)(c->block_rows * s->n) * 4, PTQ_ALIGN);
  s->weights_bytes = ptq_round_up((size_t)c->group_weights, PTQ_ALIGN);
  s->bias_bytes = (size_t)c->group_parameters * 4;
  node->scratch = s->rows_bytes + s->weights_bytes + s->bias_bytes;
  node->tasks = s->batch;
  node->work = (double)s->batch * (double)s->m * (double)s->k * (double)s->n;
  node->run = run;
  a->keep = a->keep || a->role == PTQ_CONSTANT;
  b->keep = b->keep || b->role == PTQ_CONSTANT;
  return PTQ_OK;
}
