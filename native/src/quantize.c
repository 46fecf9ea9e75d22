/* QuantizeLinear and DequantizeLinear, optionally between channels-first floats and channels-last
 * integers. */
#include "requant.h"
#include "versions.h"

enum { PIECE = 8192, TOUCHED = 16384 };

typedef struct {
  int64_t outer, channels, inner, piece, pieces;
  float scale;
  int32_t zero, lo, hi;
  void (*quantize)(uint8_t *y, int64_t step, const float *x, int64_t n, float scale, int32_t zero);
  void (*quantize3)(uint8_t *y, const float *x, int64_t plane, int64_t n, float scale,
                    int32_t zero);
  void (*dequantize)(float *y, const uint8_t *x, int64_t step, int64_t n, float scale,
                     int32_t zero);
} state;

PTQ_INLINE void quantize_loop(uint8_t *restrict y, int64_t step, const float *restrict x, int64_t n,
                              float scale, int32_t zero) {
  const float lo = (float)-zero, hi = (float)(255 - zero);
  for (int64_t i = 0; i < n; i++)
    y[i * step] = (uint8_t)(ptq_rint(ptq_clampf(x[i] / scale, lo, hi)) + zero);
}

/* Three planes, as images have, in one go: compilers know how to interleave three. */
PTQ_INLINE void quantize3_body(uint8_t *restrict y, const float *restrict x, int64_t plane,
                               int64_t n, float scale, int32_t zero) {
  const float lo = (float)-zero, hi = (float)(255 - zero);
  const float *restrict a = x, *restrict b = x + plane, *restrict c = x + 2 * plane;
  for (int64_t i = 0; i < n; i++) {
    y[3 * i] = (uint8_t)(ptq_rint(ptq_clampf(a[i] / scale, lo, hi)) + zero);
    y[3 * i + 1] = (uint8_t)(ptq_rint(ptq_clampf(b[i] / scale, lo, hi)) + zero);
    y[3 * i + 2] = (uint8_t)(ptq_rint(ptq_clampf(c[i] / scale, lo, hi)) + zero);
  }
}

PTQ_INLINE void quantize_body(uint8_t *y, int64_t step, const float *x, int64_t n, float scale,
                              int32_t zero) {
  if (step == 1)
    quantize_loop(y, 1, x, n, scale, zero);
  else
    quantize_loop(y, step, x, n, scale, zero);
}

PTQ_INLINE void dequantize_body(float *restrict y, const uint8_t *restrict x, int64_t step,
                                int64_t n, float scale, int32_t zero) {
  if (step == 1)
    for (int64_t i = 0; i < n; i++) y[i] = (float)(x[i] - zero) * scale;
  else
    for (int64_t i = 0; i < n; i++) y[i] = (float)(x[i * step] - zero) * scale;
}

PTQ_VERSIONS(quantize,
             (uint8_t *y, int64_t step, const float *x, int64_t n, float scale, int32_t zero),
             (y, step, x, n, scale, zero))
PTQ_VERSIONS(quantize3,
             (uint8_t *y, const float *x, int64_t plane, int64_t n, float scale, int32_t zero),
             (y, x, plane, n, scale, zero))
PTQ_VERSIONS(dequantize,
             (float *y, const uint8_t *x, int64_t step, int64_t n, float scale, int32_t zero),
             (y, x, step, n, scale, zero))

/* One task is a piece of the inner dimension, all its channels. */
static ptq_status run_quantize(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                               int64_t begin, int64_t end, uint8_t *scratch) {
  (void)scratch;
  const state *s = node->state;
  for (int64_t task = begin; task < end; task++) {
    int64_t outer = task / s->pieces, first = task % s->pieces * s->piece;
    int64_t n = ptq_min(s->piece, s->inner - first);
    if (s->quantize3) {
      const float *x = (const float *)(const void *)in[0] + outer * 3 * s->inner + first;
      s->quantize3(out[0] + (outer * s->inner + first) * 3, x, s->inner, n, s->scale, s->zero);
      continue;
    }
    for (int64_t c = 0; c < s->channels; c++) {
      const float *x =
          (const float *)(const void *)in[0] + (outer * s->channels + c) * s->inner + first;
      int64_t at = (outer * s->inner + first) * s->channels + c;
      if (s->quantize) {
        s->quantize(out[0] + at, s->channels, x, n, s->scale, s->zero);
        continue;
      }
      int16_t *y = (int16_t *)(void *)out[0] + at;
      for (int64_t i = 0; i < n; i++)
        y[i * s->channels] =
            (int16_t)(ptq_rint(ptq_clampf(x[i] / s->scale, (float)s->lo, (float)s->hi)) + s->zero);
    }
  }
  return PTQ_OK;
}

static ptq_status run_dequantize(const ptq_node *node, const uint8_t *const *in,
                                 uint8_t *const *out, int64_t begin, int64_t end,
                                 uint8_t *scratch) {
  (void)scratch;
  const state *s = node->state;
  for (int64_t task = begin; task < end; task++) {
    int64_t outer = task / s->pieces, first = task % s->pieces * s->piece;
    int64_t n = ptq_min(s->piece, s->inner - first);
    for (int64_t c = 0; c < s->channels; c++) {
      float *y = (float *)(void *)out[0] + (outer * s->channels + c) * s->inner + first;
      int64_t at = (outer * s->inner + first) * s->channels + c;
      if (s->dequantize) {
        s->dequantize(y, in[0] + at, s->channels, n, s->scale, s->zero);
        continue;
      }
      for (int64_t i = 0; i < n; i++) {
        int64_t j = at + i * s->channels;
        int64_t q = node->in[0]->dtype == PTQ_S16 ? ((const int16_t *)(const void *)in[0])[j]
                                                  : ((const int32_t *)(const void *)in[0])[j];
        y[i] = (float)(q - s->zero) * s->scale;
      }
    }
  }
  return PTQ_OK;
}

static ptq_status prepare_both(const ptq_build *build, ptq_node *node, const ptq_value *grid) {
  PTQ_REQUIRE(
      node->input_count == 1 && node->output_count == 1 && node->attr_count == 3 && node->in[0],
      "wrong number of operands");
  const int32_t *attr = node->attr;
  int64_t count = node->in[0]->count;
  PTQ_REQUIRE(attr[0] >= 1 && attr[1] >= 1 && attr[2] >= 1 && (int64_t)attr[0] * attr[1] <= count &&
                  (int64_t)attr[0] * attr[1] * attr[2] == count && node->out[0]->count == count,
              "shapes do not fit");
  state *s = node->state = ptq_alloc(sizeof *s);
  if (!s) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  s->outer = attr[0];
  s->channels = attr[1];
  s->inner = attr[2];
  if (s->channels == 1) { /* one long row */
    s->inner *= s->outer;
    s->outer = 1;
  }
  /* Each channel walks over the integers of all: as many as stay in the fastest cache. */
  s->piece = ptq_min(PIECE, ptq_max(16, TOUCHED / s->channels));
  s->pieces = (s->inner + s->piece - 1) / s->piece;
  s->scale = grid->scale;
  s->zero = grid->zero_point;
  s->lo = INT16_MIN - s->zero;
  s->hi = INT16_MAX - s->zero;
  node->tasks = s->outer * s->pieces;
  node->work = (double)count * 2;
  node->kernel = ptq_isa_name(build->isa);
  return PTQ_OK;
}

ptq_status ptq_prepare_quantize(const ptq_build *build, ptq_node *node) {
  ptq_status status = prepare_both(build, node, node->out[0]);
  if (status != PTQ_OK) return status;
  PTQ_REQUIRE(node->in[0]->dtype == PTQ_F32 && node->in[0]->role != PTQ_CONSTANT &&
                  (node->out[0]->dtype == PTQ_U8 || node->out[0]->dtype == PTQ_S16),
              "quantizes F32 to 8 bits or S16");
  state *s = node->state;
  s->quantize = node->out[0]->dtype == PTQ_U8 ? PTQ_SELECT(build, quantize) : NULL;
  s->quantize3 = s->quantize && s->channels == 3 ? PTQ_SELECT(build, quantize3) : NULL;
  node->run = run_quantize;
  return PTQ_OK;
}

ptq_status ptq_prepare_dequantize(const ptq_build *build, ptq_node *node) {
  PTQ_REQUIRE(node->in[0], "an operand is missing");
  ptq_status status = prepare_both(build, node, node->in[0]);
  if (status != PTQ_OK) return status;
  int32_t dtype = node->in[0]->dtype;
  PTQ_REQUIRE((dtype == PTQ_U8 || dtype == PTQ_S16 || dtype == PTQ_S32) &&
                  node->in[0]->role != PTQ_CONSTANT && node->out[0]->dtype == PTQ_F32,
              "dequantizes 8 bits, S16 or S32 to F32");
  state *s = node->state;
  s->dequantize = dtype == PTQ_U8 ? PTQ_SELECT(build, dequantize) : NULL;
  node->run = run_dequantize;
  return PTQ_OK;
}
