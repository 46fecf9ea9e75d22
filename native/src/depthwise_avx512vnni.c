/* Depthwise convolution with vpdpbusd: the bytes of four taps are interleaved, so that each 32-bit
 * lane holds one channel's four inputs. */
#include "conv.h"

#if PTQ_X86
#include "conv_avx512.h"

#define PTQ_V   PTQ_AVX512
#define V(name) _mm512_##name
#define LANES   16
typedef __m512i vector;
typedef __mmask64 vector_mask;

#include "depthwise_plain.h"

typedef struct {
  __m512i v[4];
} quad; /* four taps of 64 channels, in the accumulators' order */

PTQ_INLINE PTQ_AVX512 quad interleave(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i low_ab = _mm512_unpacklo_epi8(a, b), high_ab = _mm512_unpackhi_epi8(a, b);
  const __m512i low_cd = _mm512_unpacklo_epi8(c, d), high_cd = _mm512_unpackhi_epi8(c, d);
  return (quad){{_mm512_unpacklo_epi16(low_ab, low_cd), _mm512_unpackhi_epi16(low_ab, low_cd),
                 _mm512_unpacklo_epi16(high_ab, high_cd), _mm512_unpackhi_epi16(high_ab, high_cd)}};
}

PTQ_INLINE PTQ_AVX512 void accumulate(__m512i acc[4], quad x, const int8_t *w) {
  for (int j = 0; j < 4; j++)
    acc[j] = _mm512_dpbusd_epi32(acc[j], x.v[j], _mm512_loadu_si512(w + 64 * j));
}

PTQ_INLINE PTQ_AVX512 void start(const ptq_conv *c, const int32_t *bias, __m512i acc[4]) {
  for (int j = 0; j < 4; j++)
    acc[j] = c->epilogue.direct ? _mm512_loadu_si512(bias + 16 * j) : _mm512_setzero_si512();
}

/* Three taps of one column; the fourth has no weights. */
PTQ_INLINE PTQ_AVX512 quad load_column(const uint8_t *const *taps, int64_t step, int64_t i,
                                       int64_t first, __mmask64 mask) {
  return interleave(_mm512_maskz_loadu_epi8(mask, taps[0] + i * step + first),
                    _mm512_maskz_loadu_epi8(mask, taps[1] + i * step + first),
                    _mm512_maskz_loadu_epi8(mask, taps[2] + i * step + first),
                    _mm512_setzero_si512());
}

/* 3x3: neighbouring pixels share two columns at stride 1, one at stride 2. */
PTQ_AVX512 static void columns(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                               const uint8_t *const *taps, int64_t step, int32_t count, uint8_t *y,
                               const uint8_t *r) {
  const int64_t parameter = panel->parameter, first = panel->first;
  const int64_t pixel = c->out_channels * (int64_t)c->out_element;
  const __mmask64 mask = panel->valid == 64 ? ~0ULL : (1ULL << panel->valid) - 1;
  const int8_t *w = p->weights + panel->weights;
  const int32_t apart = p->tap[4][2] - p->tap[0][2], stride = p->in_step[2];
  quad left = load_column(taps, step, 0, first, mask);
  quad middle = load_column(taps + 4, step, 0, first, mask);
  for (int64_t i = 0; i < count; i++, y += pixel) {
    const quad right = load_column(taps + 8, step, i, first, mask);
    __m512i acc[4];
    start(c, p->bias + parameter, acc);
    accumulate(acc, left, w);
    accumulate(acc, middle, w + 256);
    accumulate(acc, right, w + 512);
    const uint8_t *residual = r ? r + i * (int64_t)c->out_channels : NULL;
    ptq_store_512(c, p, panel, parameter, acc, 1, 4, &y, &residual);
    if (i + 1 == count) break;
    if (stride == apart) {
      left = middle;
      middle = right;
    } else {
      left = stride == 2 * apart ? right : load_column(taps, step, i + 1, first, mask);
      middle = load_column(taps + 4, step, i + 1, first, mask);
    }
  }
}

PTQ_AVX512 void ptq_depthwise_avx512vnni(const ptq_conv *c, const ptq_phase *p,
                                         const ptq_panel *panel, const uint8_t *const *taps,
                                         int64_t step, int32_t count, uint8_t *y,
                                         const uint8_t *r) {
  if (plain_columns(c, p, panel, taps, count, y)) return;
  if (c->columns) {
    columns(c, p, panel, taps, step, count, y, r);
    return;
  }
  const int64_t pixel = c->out_channels * (int64_t)c->out_element;
  const __mmask64 mask = panel->valid == 64 ? ~0ULL : (1ULL << panel->valid) - 1;
  for (int32_t i = 0; i < count; i++, y += pixel) {
    __m512i acc[4], x[4];
    start(c, p->bias + panel->parameter, acc);
    const int8_t *w = p->weights + panel->weights;
    for (int32_t t = 0; t < p->taps; t += 4, w += 256) {
      for (int32_t j = 0; j < 4; j++) { /* missing taps have zero weights: any pixel will do */
        int32_t tap = t + j < p->taps ? t + j : t;
        x[j] = _mm512_maskz_loadu_epi8(mask, taps[tap] + i * step + panel->first);
      }
      accumulate(acc, interleave(x[0], x[1], x[2], x[3]), w);
    }
    const uint8_t *residual = r ? r + i * (int64_t)c->out_channels : NULL;
    ptq_store_512(c, p, panel, panel->parameter, acc, 1, 4, &y, &residual);
  }
}
#else
typedef int ptq_nothing_here;
#endif
