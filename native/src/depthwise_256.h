/* Depthwise kernel of 256-bit vectors, 32 channels at a time. The including file defines PTQ_256,
 * and what a dot product of four bytes is on its instruction set:
 *   factor         four weights per lane, ready to multiply; factor_of(__m256i)
 *   input          four inputs per lane likewise; input_of(__m256i)
 *   dot(acc, x, w) acc + their product sums */
#include "conv_256.h"

/* Four taps of 32 channels interleaved, so that each lane holds one channel's four inputs. */
PTQ_INLINE PTQ_256 void interleave(const __m256i x[4], __m256i out[4]) {
  const __m256i low01 = _mm256_unpacklo_epi8(x[0], x[1]), high01 = _mm256_unpackhi_epi8(x[0], x[1]);
  const __m256i low23 = _mm256_unpacklo_epi8(x[2], x[3]), high23 = _mm256_unpackhi_epi8(x[2], x[3]);
  out[0] = _mm256_unpacklo_epi16(low01, low23);
  out[1] = _mm256_unpackhi_epi16(low01, low23);
  out[2] = _mm256_unpacklo_epi16(high01, high23);
  out[3] = _mm256_unpackhi_epi16(high01, high23);
}

/* Activations may be read a vector past their end, so no tail needs care here. */
PTQ_INLINE PTQ_256 void depthwise_256(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                                      const uint8_t *const *taps, int64_t step, int32_t count,
                                      uint8_t *y, const uint8_t *r) {
  const epilogue_256 e = load_epilogue(c, panel, panel->parameter, 4);
  const int64_t pixel = c->out_channels * (int64_t)c->out_element;
  for (int32_t i = 0; i < count; i++, y += pixel) {
    __m256i acc[4], x[4], quad[4];
    start(e.direct, p->bias + panel->parameter, 4, acc);
    const int8_t *w = p->weights + panel->weights;
    for (int32_t t = 0; t < p->taps; t += 4, w += 128) {
      for (int32_t j = 0; j < 4; j++) { /* missing taps have zero weights: any pixel will do */
        int32_t tap = t + j < p->taps ? t + j : t;
        x[j] = load256(taps[tap] + i * step + panel->first);
      }
      interleave(x, quad);
      for (int j = 0; j < 4; j++)
        acc[j] = dot(acc[j], input_of(quad[j]), factor_of(load256(w + 32 * j)));
    }
    finish(&e, c, p, panel, panel->parameter, acc, 4, y,
           r ? r + i * (int64_t)c->out_channels : NULL);
  }
}
