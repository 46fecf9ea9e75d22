/* ReduceMean and ArgMax over the middle of three dimensions [outer, count, inner]. */
#include "requant.h"
#include "versions.h"

enum { PIECE = 256 };

typedef struct {
  int64_t outer, count, inner, pieces;
  ptq_requant mode;
  ptq_multiplier m;
  int32_t x_zero, y_zero, lo, hi;
  bool last, floats;
  void (*sum)(int32_t *sum, const uint8_t *x, int64_t rows, int64_t stride, int64_t n);
  void (*total)(int32_t *total, const uint8_t *x, int64_t n);
} state;

PTQ_INLINE void sum_body(int32_t *restrict sum, const uint8_t *restrict x, int64_t rows,
                         int64_t stride, int64_t n) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = 0; i < n; i++) sum[i] += x[r * stride + i];
}

PTQ_INLINE void total_body(int32_t *total, const uint8_t *restrict x, int64_t n) {
  int32_t sum = 0;
  for (int64_t i = 0; i < n; i++) sum += x[i];
  *total = sum;
}

PTQ_VERSIONS(sum, (int32_t *sum, const uint8_t *x, int64_t rows, int64_t stride, int64_t n),
             (sum, x, rows, stride, n))
PTQ_VERSIONS(total, (int32_t *total, const uint8_t *x, int64_t n), (total, x, n))

static ptq_status run_mean(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                           int64_t begin, int64_t end, uint8_t *scratch) {
  (void)scratch;
  const state *s = node->state;
  for (int64_t task = begin; task < end; task++) {
    int64_t outer = task / s->pieces, first = task % s->pieces * PIECE;
    int64_t n = ptq_min(PIECE, s->inner - first);
    const uint8_t *x = in[0] + outer * s->count * s->inner + first;
    uint8_t *y = out[0] + outer * s->inner + first;
    int32_t sum[PIECE] = {0};
    if (s->inner == 1)
      s->total(sum, x, s->count);
    else
      s->sum(sum, x, s->count, s->inner, n);
    for (int64_t i = 0; i < n; i++) {
      int64_t acc = sum[i] - s->count * s->x_zero;
      if (s->floats) {
        float real = (float)acc * s->m.real;
        memcpy(out[0] + 4 * (outer * s->inner + first + i), &real, 4);
        continue;
      }
      y[i] = (uint8_t)(s->y_zero + ptq_requantize(s->mode, acc, s->m, s->lo, s->hi));
    }
  }
  return PTQ_OK;
}

static ptq_status run_arg_max(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                              int64_t begin, int64_t end, uint8_t *scratch) {
  (void)scratch;
  const state *s = node->state;
  int64_t *y = (int64_t *)(void *)out[0];
  for (int64_t o = begin; o < end; o++)
    for (int64_t i = 0; i < s->inner; i++) {
      const uint8_t *x = in[0] + o * s->count * s->inner + i;
      int64_t best = 0;
      for (int64_t k = 1; k < s->count; k++) {
        uint8_t candidate = x[k * s->inner], champion = x[best * s->inner];
        if (candidate > champion || (s->last && candidate == champion)) best = k;
      }
      y[o * s->inner + i] = best;
    }
  return PTQ_OK;
}

static ptq_status read_dims(const ptq_build *build, ptq_node *node, int32_t attributes) {
  PTQ_REQUIRE(node->input_count == 1 && node->output_count == 1 && node->in[0] &&
                  node->attr_count == attributes,
              "wrong number of operands");
  const ptq_value *x = node->in[0], *y = node->out[0];
  const int32_t *attr = node->attr;
  PTQ_REQUIRE(attr[0] >= 1 && attr[1] >= 1 && attr[1] <= 1 << 22 && attr[2] >= 1 &&
                  (int64_t)attr[0] * attr[1] <= x->count &&
                  (int64_t)attr[0] * attr[1] * attr[2] == x->count &&
                  (int64_t)attr[0] * attr[2] == y->count,
              "shapes do not fit");
  PTQ_REQUIRE(x->dtype == PTQ_U8, "the input is not 8-bit");
  state *s = node->state = ptq_alloc(sizeof *s);
  if (!s) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  s->outer = attr[0];
  s->count = attr[1];
  s->inner = attr[2];
  s->pieces = (s->inner + PIECE - 1) / PIECE;
  node->work = (double)x->count / 2;
  return PTQ_OK;
}

ptq_status ptq_prepare_reduce_mean(const ptq_build *build, ptq_node *node) {
  ptq_status status = read_dims(build, node, 5);
  if (status != PTQ_OK) return status;
  const ptq_value *x = node->in[0], *y = node->out[0];
  state *s = node->state;
  s->floats = y->dtype == PTQ_F32;
  PTQ_REQUIRE(y->dtype == PTQ_U8 || s->floats, "the output is neither 8-bit nor F32");
  float ratio = s->floats ? x->scale : x->scale / y->scale;
  status = ptq_read_limits(build, node->attr + 3, y, &s->lo, &s->hi);
  if (status != PTQ_OK) return status;
  PTQ_REQUIRE(ptq_multiplier_fits(build, ratio), "the output grid is too fine");
  s->mode = build->requant;
  s->m = ptq_make_multiplier(s->mode, ratio / (float)s->count);
  s->x_zero = x->zero_point;
  s->y_zero = y->zero_point;
  s->sum = PTQ_SELECT(build, sum);
  s->total = PTQ_SELECT(build, total);
  node->tasks = s->outer * s->pieces;
  node->run = run_mean;
  node->kernel = ptq_isa_name(build->isa);
  return PTQ_OK;
}

ptq_status ptq_prepare_arg_max(const ptq_build *build, ptq_node *node) {
  ptq_status status = read_dims(build, node, 4);
  if (status != PTQ_OK) return status;
  PTQ_REQUIRE(node->out[0]->dtype == PTQ_S64, "ArgMax gives S64");
  state *s = node->state;
  s->last = node->attr[3] != 0;
  node->tasks = s->outer;
  node->run = run_arg_max;
  return PTQ_OK;
}
