/* Depthwise convolution with vpdpbusd: the bytes of four taps are interleaved, so that each 32-bit
 * lane holds one channel's four inputs. */
#include "conv.h"

#if PTQ_X86
#include "conv_avx512.h"

PTQ_AVX512 void ptq_depthwise_avx512vnni(const ptq_conv *c, const ptq_phase *p,
                                         const ptq_panel *panel, int32_t group,
                                         const uint8_t *const *rows, int32_t count,
                                         uint8_t *const *y, const uint8_t *const *r) {
  const int64_t parameter = group * c->group_parameters + panel->parameter;
  const __mmask64 mask = panel->valid == 64 ? ~0ULL : (1ULL << panel->valid) - 1;
  const int32_t step = c->block_rows;
  for (int32_t i = 0; i < count; i++) {
    __m512i acc[4];
    for (int j = 0; j < 4; j++)
      acc[j] = c->epilogue.direct ? _mm512_loadu_si512(p->bias + parameter + 16 * j)
                                  : _mm512_setzero_si512();
    const int8_t *w = p->weights + panel->weights;
    for (int32_t t = 0; t < p->taps; t += 4, w += 256) {
      __m512i x[4];
      for (int32_t j = 0; j < 4; j++) { /* missing taps have zero weights: any pixel will do */
        int32_t tap = t + j < p->taps ? t + j : t;
        x[j] = _mm512_maskz_loadu_epi8(mask, rows[tap * step + i] + panel->first);
      }
      __m512i low01 = _mm512_unpacklo_epi8(x[0], x[1]), high01 = _mm512_unpackhi_epi8(x[0], x[1]);
      __m512i low23 = _mm512_unpacklo_epi8(x[2], x[3]), high23 = _mm512_unpackhi_epi8(x[2], x[3]);
      __m512i q0 = _mm512_unpacklo_epi16(low01, low23), q1 = _mm512_unpackhi_epi16(low01, low23);
      __m512i q2 = _mm512_unpacklo_epi16(high01, high23);
      __m512i q3 = _mm512_unpackhi_epi16(high01, high23);
      acc[0] = _mm512_dpbusd_epi32(acc[0], q0, _mm512_loadu_si512(w));
      acc[1] = _mm512_dpbusd_epi32(acc[1], q1, _mm512_loadu_si512(w + 64));
      acc[2] = _mm512_dpbusd_epi32(acc[2], q2, _mm512_loadu_si512(w + 128));
      acc[3] = _mm512_dpbusd_epi32(acc[3], q3, _mm512_loadu_si512(w + 192));
    }
    ptq_store_512(c, p, panel, parameter, acc, 4, y[i], r[i]);
  }
}
#else
typedef int ptq_nothing_here;
#endif
