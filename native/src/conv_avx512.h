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

/* What the epilogue needs besides the accumulators, in registers for all pixels of a tile: a
 * compiler must assume that the bytes stored change everything in memory. */
typedef struct {
  __m512 real[4], low, high, add_high, ma, mb;
  __m512i zero, lowest, highest, residual_zero;
  __mmask64 mask;
  int32_t valid;
  bool direct, add, reals;
} ptq_epilogue_512;

PTQ_INLINE PTQ_AVX512 ptq_epilogue_512 ptq_load_epilogue_512(const ptq_conv *c,
                                                             const ptq_panel *panel,
                                                             int64_t parameter, const int n) {
  const ptq_epilogue *e = &c->epilogue;
  const int32_t zero = e->add ? e->add_zero : e->zero;
  const int32_t lowest = e->add ? e->add_lo : e->lo, highest = e->add ? e->add_hi : e->hi;
  ptq_epilogue_512 v; /* field by field: an initializer would clear all of it first, tile by tile */
  v.low = _mm512_set1_ps((float)e->lo);
  v.high = _mm512_set1_ps((float)e->hi);
  v.add_high = _mm512_set1_ps((float)e->add_hi);
  v.ma = _mm512_set1_ps(e->adder.ma);
  v.mb = _mm512_set1_ps(e->adder.mb);
  v.lowest = _mm512_set1_epi8((char)(lowest + zero));
  v.highest = _mm512_set1_epi8((char)(highest + zero));
  v.residual_zero = _mm512_set1_epi32(e->residual_zero);
  v.mask = panel->valid == 64 ? ~0ULL : (1ULL << panel->valid) - 1;
  v.valid = panel->valid;
  v.direct = e->direct;
  v.add = e->add;
  v.reals = e->dtype == PTQ_F32;
  v.zero = n == 1 ? _mm512_set1_epi32(zero) : _mm512_set1_epi16((int16_t)zero);
  for (int j = 0; j < n; j++) v.real[j] = _mm512_loadu_ps(c->real + parameter + 16 * j);
  return v;
}

/* n vectors of results without zero point as clamped bytes. Narrowing saturates on the way. */
PTQ_INLINE PTQ_AVX512 void ptq_narrow_512(const ptq_epilogue_512 *v, const __m512i q[4],
                                          const int n, uint8_t *y) {
  if (n == 4) {
    __m512i a = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), v->zero);
    __m512i b = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), v->zero);
    __m512i bytes = _mm512_max_epu8(_mm512_packus_epi16(a, b), v->lowest);
    bytes = _mm512_min_epu8(bytes, v->highest);
    _mm512_mask_storeu_epi8(y, v->mask, bytes);
  } else if (n == 2) {
    __m512i a = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), v->zero);
    __m256i bytes = _mm512_cvtusepi16_epi8(_mm512_max_epi16(a, _mm512_setzero_si512()));
    bytes = _mm256_max_epu8(bytes, _mm512_castsi512_si256(v->lowest));
    bytes = _mm256_min_epu8(bytes, _mm512_castsi512_si256(v->highest));
    _mm256_mask_storeu_epi8(y, (__mmask32)v->mask, bytes);
  } else {
    __m512i a = _mm512_max_epi32(_mm512_add_epi32(q[0], v->zero), _mm512_setzero_si512());
    __m128i bytes = _mm_max_epu8(_mm512_cvtusepi32_epi8(a), _mm512_castsi512_si128(v->lowest));
    bytes = _mm_min_epu8(bytes, _mm512_castsi512_si128(v->highest));
    _mm_mask_storeu_epi8(y, (__mmask16)v->mask, bytes);
  }
}

/* n vectors of reals in the order of the channels. */
PTQ_INLINE PTQ_AVX512 void ptq_store_reals_512(const ptq_epilogue_512 *v, const __m512 f[4],
                                               const int n, uint8_t *y) {
  float tile[PTQ_MAX_WIDTH];
  const bool whole = v->valid == 16 * n;
  for (int j = 0; j < n; j++) {
    float *to = (whole ? (float *)(void *)y : tile) + 4 * j;
    _mm_storeu_ps(to, _mm512_castps512_ps128(f[j]));
    _mm_storeu_ps(to + 4 * n, _mm512_extractf32x4_ps(f[j], 1));
    _mm_storeu_ps(to + 8 * n, _mm512_extractf32x4_ps(f[j], 2));
    _mm_storeu_ps(to + 12 * n, _mm512_extractf32x4_ps(f[j], 3));
  }
  if (!whole) memcpy(y, tile, sizeof(float) * (size_t)v->valid);
}

/* One pixel; acc already holds the bias if the epilogue is direct. */
PTQ_INLINE PTQ_AVX512 void ptq_store_512(const ptq_epilogue_512 *v, const ptq_conv *c,
                                         const ptq_phase *p, const ptq_panel *panel,
                                         int64_t parameter, const __m512i *acc, const int n,
                                         uint8_t *y, const uint8_t *r) {
  if (!v->direct) {
    int32_t sums[PTQ_MAX_WIDTH];
    for (int j = 0; j < n; j++) _mm512_storeu_si512(sums + 16 * j, acc[j]);
    ptq_store_row(c, p->bias + parameter, c->multiplier + parameter, panel, sums, y, r);
    return;
  }
  __m512i q[4], residual[4];
  __m512 f[4];
  for (int j = 0; j < n; j++) f[j] = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[j]), v->real[j]);
  if (v->reals) {
    ptq_store_reals_512(v, f, n, y + sizeof(float) * (size_t)panel->at);
    return;
  }
  if (v->add) {
    ptq_widen_512(r + panel->at, v->mask, n, residual);
    for (int j = 0; j < n; j++) {
      __m512 own = _mm512_min_ps(_mm512_max_ps(f[j], v->low), v->high);
      own = _mm512_roundscale_ps(own, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      __m512 other = _mm512_cvtepi32_ps(_mm512_sub_epi32(residual[j], v->residual_zero));
      f[j] = PTQ_ADD_PS(_mm512_mul_ps(own, v->ma), _mm512_mul_ps(other, v->mb));
      f[j] = _mm512_min_ps(f[j], v->add_high); /* beyond 2^31 the conversion would wrap */
    }
  }
  for (int j = 0; j < n; j++) q[j] = _mm512_cvtps_epi32(f[j]);
  ptq_narrow_512(v, q, n, y + panel->at);
}

#endif
