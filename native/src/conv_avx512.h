/* The epilogue of one pixel and one panel for 512-bit vectors: accumulators to stored bytes. */
#ifndef PTQ_CONV_AVX512_H
#define PTQ_CONV_AVX512_H

#include <immintrin.h>

#include "conv.h"

/* An intrinsic file compiled without the build's flags would fuse a * b + c into one rounding. */
#define PTQ_ADD_PS(a, b) _mm512_add_round_ps(a, b, _MM_FROUND_CUR_DIRECTION)

/* The residual's `16 * n` bytes as n vectors in the accumulators' order. */
PTQ_INLINE PTQ_AVX512 void ptq_widen_512(const uint8_t *r, __mmask64 mask, int n, __m512i out[4]) {
  const __m512i zero = _mm512_setzero_si512();
  if (n == 4) {
    __m512i bytes = _mm512_maskz_loadu_epi8(mask, r);
    __m512i low = _mm512_unpacklo_epi8(bytes, zero), high = _mm512_unpackhi_epi8(bytes, zero);
    out[0] = _mm512_unpacklo_epi16(low, zero);
    out[1] = _mm512_unpackhi_epi16(low, zero);
    out[2] = _mm512_unpacklo_epi16(high, zero);
    out[3] = _mm512_unpackhi_epi16(high, zero);
  } else if (n == 2) {
    __m512i words = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8((__mmask32)mask, r));
    out[0] = _mm512_unpacklo_epi16(words, zero);
    out[1] = _mm512_unpackhi_epi16(words, zero);
  } else {
    out[0] = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8((__mmask16)mask, r));
  }
}

/* n vectors of 32-bit results, relative to `zero` and not above the upper limit, as bytes. */
PTQ_INLINE PTQ_AVX512 void ptq_narrow_512(const __m512i q[4], int n, int32_t zero, int32_t lowest,
                                          __mmask64 mask, uint8_t *y) {
  const __m512i zero16 = _mm512_set1_epi16((int16_t)zero);
  const __m512i low8 = _mm512_set1_epi8((char)lowest);
  if (n == 4) {
    __m512i a = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), zero16);
    __m512i b = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), zero16);
    __m512i bytes = _mm512_max_epu8(_mm512_packus_epi16(a, b), low8);
    if (mask == ~0ULL)
      _mm512_storeu_si512(y, bytes);
    else
      _mm512_mask_storeu_epi8(y, mask, bytes);
  } else if (n == 2) {
    __m512i a = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), zero16);
    __m256i bytes = _mm512_cvtusepi16_epi8(_mm512_max_epi16(a, _mm512_setzero_si512()));
    bytes = _mm256_max_epu8(bytes, _mm512_castsi512_si256(low8));
    _mm256_mask_storeu_epi8(y, (__mmask32)mask, bytes);
  } else {
    __m512i a = _mm512_add_epi32(q[0], _mm512_set1_epi32(zero));
    __m128i bytes = _mm512_cvtusepi32_epi8(_mm512_max_epi32(a, _mm512_setzero_si512()));
    bytes = _mm_max_epu8(bytes, _mm512_castsi512_si128(low8));
    _mm_mask_storeu_epi8(y, (__mmask16)mask, bytes);
  }
}

/* acc already holds the bias if the epilogue is direct. */
PTQ_INLINE PTQ_AVX512 void ptq_store_512(const ptq_conv *c, const ptq_phase *p,
                                         const ptq_panel *panel, int64_t parameter,
                                         const __m512i *acc, int n, uint8_t *y, const uint8_t *r) {
  const ptq_epilogue *e = &c->epilogue;
  if (!e->direct) {
    int32_t sums[PTQ_MAX_WIDTH];
    for (int j = 0; j < n; j++) _mm512_storeu_si512(sums + 16 * j, acc[j]);
    ptq_store_row(c, p->bias + parameter, c->multiplier + parameter, panel, sums, y, r);
    return;
  }
  const __mmask64 mask = panel->valid == 64 ? ~0ULL : (1ULL << panel->valid) - 1;
  const __m512 high = _mm512_set1_ps((float)e->hi);
  __m512i q[4];
  __m512 f[4];
  for (int j = 0; j < n; j++) {
    f[j] = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[j]), _mm512_loadu_ps(c->real + parameter + 16 * j));
    f[j] = _mm512_min_ps(f[j], high); /* beyond 2^31 the conversion would wrap */
  }
  int32_t zero = e->zero, lowest = e->lo + e->zero;
  if (e->add) {
    __m512i residual[4];
    const __m512 low = _mm512_set1_ps((float)e->lo), high2 = _mm512_set1_ps((float)e->add_hi);
    const __m512 ma = _mm512_set1_ps(e->adder.ma), mb = _mm512_set1_ps(e->adder.mb);
    const __m512i rz = _mm512_set1_epi32(e->residual_zero);
    ptq_widen_512(r, mask, n, residual);
    for (int j = 0; j < n; j++) {
      __m512 own = _mm512_roundscale_ps(_mm512_max_ps(f[j], low),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      __m512 other = _mm512_cvtepi32_ps(_mm512_sub_epi32(residual[j], rz));
      f[j] = PTQ_ADD_PS(_mm512_mul_ps(own, ma), _mm512_mul_ps(other, mb));
      f[j] = _mm512_min_ps(f[j], high2);
    }
    zero = e->add_zero;
    lowest = e->add_lo + e->add_zero;
  }
  for (int j = 0; j < n; j++) q[j] = _mm512_cvtps_epi32(f[j]);
  ptq_narrow_512(q, n, zero, lowest, mask, y);
  if (e->has_table) e->lookup(e->table, y, y, panel->valid);
}

#endif
