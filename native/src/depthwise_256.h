/* Depthwise kernel of 256-bit vectors, 32 channels at a time. The including file defines PTQ_256,
 * and what a dot product of four bytes is on its instruction set:
 *   factor         four weights per lane, ready to multiply; factor_of(__m256i)
 *   input          four inputs per lane likewise; input_of(__m256i)
 *   dot(acc, x, w) acc + their product sums */
#include "conv_256.h"

typedef struct {
  __m256i v[4];
} quad; /* four taps of 32 channels: each lane holds one channel's four inputs */

PTQ_INLINE PTQ_256 quad interleave(__m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i low_ab = _mm256_unpacklo_epi8(a, b), high_ab = _mm256_unpackhi_epi8(a, b);
  const __m256i low_cd = _mm256_unpacklo_epi8(c, d), high_cd = _mm256_unpackhi_epi8(c, d);
  return (quad){{_mm256_unpacklo_epi16(low_ab, low_cd), _mm256_unpackhi_epi16(low_ab, low_cd),
                 _mm256_unpacklo_epi16(high_ab, high_cd), _mm256_unpackhi_epi16(high_ab, high_cd)}};
}

PTQ_INLINE PTQ_256 void accumulate(__m256i acc[4], quad x, const int8_t *w) {
  for (int j = 0; j < 4; j++)
    acc[j] = dot(acc[j], input_of(x.v[j]), factor_of(load256(w + 32 * j)));
}

/* Three taps of one column; the fourth has no weights. Activations may be read a vector past their
 * end, so no tail needs care here. */
PTQ_INLINE PTQ_256 quad load_column(const uint8_t *const *taps, int64_t at) {
  return interleave(load256(taps[0] + at), load256(taps[1] + at), load256(taps[2] + at),
                    _mm256_setzero_si256());
}

/* 3x3: neighbouring pixels share two columns at stride 1, one at stride 2. */
PTQ_INLINE PTQ_256 void columns_256(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                                    const uint8_t *const *taps, int64_t step, int32_t count,
                                    uint8_t *y, const uint8_t *r) {
  const epilogue_256 e = load_epilogue(c, panel, panel->parameter, 4);
  const int64_t pixel = c->out_channels * (int64_t)c->out_element;
  const int8_t *w = p->weights + panel->weights;
  const int32_t apart = p->tap[4][2] - p->tap[0][2], stride = p->in_step[2];
  int64_t at = panel->first;
  quad left = load_column(taps, at), middle = load_column(taps + 4, at);
  for (int64_t i = 0; i < count; i++, y += pixel) {
    const quad right = load_column(taps + 8, at);
    __m256i acc[4];
    start(e.direct, p->bias + panel->parameter, 4, acc);
    accumulate(acc, left, w);
    accumulate(acc, middle, w + 128);
    accumulate(acc, right, w + 256);
    finish(&e, c, p, panel, panel->parameter, acc, 4, y,
           r ? r + i * (int64_t)c->out_channels : NULL);
    if (i + 1 == count) break;
    at += step;
    if (stride == apart) {
      left = middle;
      middle = right;
    } else {
      left = stride == 2 * apart ? right : load_column(taps, at);
      middle = load_column(taps + 4, at);
    }
  }
}

PTQ_INLINE PTQ_256 void depthwise_256(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                                      const uint8_t *const *taps, int64_t step, int32_t count,
                                      uint8_t *y, const uint8_t *r) {
  if (c->columns) {
    columns_256(c, p, panel, taps, step, count, y, r);
    return;
  }
  const epilogue_256 e = load_epilogue(c, panel, panel->parameter, 4);
  const int64_t pixel = c->out_channels * (int64_t)c->out_element;
  for (int32_t i = 0; i < count; i++, y += pixel) {
    __m256i acc[4], x[4];
    start(e.direct, p->bias + panel->parameter, 4, acc);
    const int8_t *w = p->weights + panel->weights;
    for (int32_t t = 0; t < p->taps; t += 4, w += 128) {
      for (int32_t j = 0; j < 4; j++) { /* missing taps have zero weights: any pixel will do */
        int32_t tap = t + j < p->taps ? t + j : t;
        x[j] = load256(taps[tap] + i * step + panel->first);
      }
      accumulate(acc, interleave(x[0], x[1], x[2], x[3]), w);
    }
    finish(&e, c, p, panel, panel->parameter, acc, 4, y,
           r ? r + i * (int64_t)c->out_channels : NULL);
  }
}
