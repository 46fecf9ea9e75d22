/* Softmax over the last axis. exp() is a table over the 256 distances from the maximum, in fixed
 * point, so that the sum is exact whatever the order of its terms. Of reals it is computed in
 * float.
 */
#include "function.h"
#include "requant.h"
#include "versions.h"

typedef struct state {
  int64_t n;
  uint32_t exponential[256]; /* of -distance * scale, in units of 2^-24 */
  float y_scale;
  int32_t y_zero;
  ptq_softmax_fn *reals;
  void (*row)(const struct state *s, const uint8_t *x, uint8_t *y);
} state;

PTQ_INLINE void row_body(const state *s, const uint8_t *restrict x, uint8_t *restrict y) {
  const int64_t n = s->n;
  const int32_t zero = s->y_zero;
  uint8_t top = 0;
  for (int64_t i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
  const uint32_t *table = s->exponential;
  uint64_t sum = 0;
  for (int64_t i = 0; i < n; i++) sum += table[top - x[i]];
  const float m = 1.0f / ((float)sum * s->y_scale);
  for (int64_t i = 0; i < n; i++)
    y[i] = (uint8_t)(zero + ptq_requant_float((int32_t)table[top - x[i]], m, -zero, 255 - zero));
}

PTQ_VERSIONS(row, (const state *s, const uint8_t *x, uint8_t *y), (s, x, y))

static ptq_status run(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                      int64_t begin, int64_t end, uint8_t *scratch) {
  (void)scratch;
  const state *s = node->state;
  for (int64_t i = begin; i < end; i++) s->row(s, in[0] + i * s->n, out[0] + i * s->n);
  return PTQ_OK;
}

static ptq_status run_reals(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                            int64_t begin, int64_t end, uint8_t *scratch) {
  (void)scratch;
  const state *s = node->state;
  const float *x = (const float *)(const void *)in[0];
  float *y = (float *)(void *)out[0];
  for (int64_t i = begin; i < end; i++) s->reals(x + i * s->n, y + i * s->n, s->n);
  return PTQ_OK;
}

ptq_status ptq_prepare_softmax(const ptq_build *build, ptq_node *node) {
  PTQ_REQUIRE(
      node->input_count == 1 && node->output_count == 1 && node->attr_count == 0 && node->in[0],
      "wrong number of operands");
  const ptq_value *x = node->in[0], *y = node->out[0];
  PTQ_REQUIRE((x->dtype == PTQ_U8 || x->dtype == PTQ_F32) && y->dtype == x->dtype &&
                  ptq_same_dims(x, y) && x->rank >= 1 && x->role != PTQ_CONSTANT,
              "operands are not 8-bit or F32 of one shape");
  state *s = node->state = ptq_alloc(sizeof *s);
  if (!s) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  s->row = PTQ_SELECT(build, row);
  s->n = x->dims[x->rank - 1];
  s->y_scale = y->scale;
  s->y_zero = y->zero_point;
  for (int32_t d = 0; d < 256; d++)
    s->exponential[d] = (uint32_t)floor(exp(-(double)x->scale * d) * 16777216.0 + 0.5);
  node->tasks = x->count / s->n;
  node->work = (double)x->count * 2;
  node->run = run;
  if (x->dtype == PTQ_F32) {
    s->reals = ptq_softmax_choose(build);
    node->run = run_reals;
    node->kernel = ptq_isa_name(build->isa);
  }
  return PTQ_OK;
}
