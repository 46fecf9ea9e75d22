/* The epilogue of some pixels and one panel for 512-bit vectors: accumulators to stored bytes. */
#ifndef PTQ_CONV_AVX512_H
#define PTQ_CONV_AVX512_H

#include <immintrin.h>

#include "conv.h"

/* An intrinsic file compiled without the build's flags would fuse a * b + c into one rounding. */
#define PTQ_ADD_PS(a, b) _mm512_add_round_ps(a, b, _MM_FROUND_CUR_DIRECTION)

/* Loops over a tile, whose bounds are constants where they are inlined. */
#define PTQ_UNROLL _Pragma("GCC unroll 16")

/* The residual's `16 * n` bytes as reals in n vectors in the accumulators' order. A byte under the
 * exponent of 2^23 is 2^23 more than itself; `zero` is that much and the zero point, so the
 * difference is exact. */
PTQ_INLINE PTQ_AVX512 void ptq_residual_512(const uint8_t *r, __mmask64 mask, __m512 zero, int n,
                                            __m512 out[4]) {
  const __m512i high = _mm512_set1_epi16(0x4B00), none = _mm512_setzero_si512();
  __m512i v[4];
  if (n == 4) {
    const __m512i bytes = _mm512_maskz_loadu_epi8(mask, r);
    const __m512i a = _mm512_unpacklo_epi8(bytes, none), b = _mm512_unpackhi_epi8(bytes, none);
    v[0] = _mm512_unpacklo_epi16(a, high);
    v[1] = _mm512_unpackhi_epi16(a, high);
    v[2] = _mm512_unpacklo_epi16(b, high);
    v[3] = _mm512_unpackhi_epi16(b, high);
  } else if (n == 2) {
    const __m512i a = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8((__mmask32)mask, r));
    v[0] = _mm512_unpacklo_epi16(a, high);
    v[1] = _mm512_unpackhi_epi16(a, high);
  } else {
    const __m512i a = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8((__mmask16)mask, r));
    v[0] = _mm512_or_si512(a, _mm512_slli_epi32(high, 16));
  }
  PTQ_UNROLL for (int j = 0; j < n; j++) out[j] = _mm512_sub_ps(_mm512_castsi512_ps(v[j]), zero);
}

/* What narrowing to bytes needs besides the results. Fields are set one by one: an initializer
 * would clear everything first, tile by tile. */
typedef struct {
  __m512i zero, lowest, highest;
  __mmask64 mask;
} ptq_bytes_512;

PTQ_INLINE PTQ_AVX512 ptq_bytes_512 ptq_load_bytes_512(const ptq_conv *c, const ptq_panel *panel) {
  const ptq_epilogue *e = &c->epilogue;
  const int32_t zero = e->add ? e->add_zero : e->zero;
  ptq_bytes_512 v;
  v.zero = _mm512_set1_epi16((int16_t)zero);
  v.lowest = _mm512_set1_epi8((char)((e->add ? e->add_lo : e->lo) + zero));
  v.highest = _mm512_set1_epi8((char)((e->add ? e->add_hi : e->hi) + zero));
  v.mask = panel->valid == 64 ? ~0ULL : (1ULL << panel->valid) - 1;
  return v;
}

/* Four vectors of results without zero point as clamped bytes, n of them to each of `m` pixels.
 * Narrowing saturates on the way, and leaves parts of all pixels in each 128-bit lane. */
PTQ_INLINE PTQ_AVX512 void ptq_narrow_512(const ptq_bytes_512 *v, const __m512i q[4], const int n,
                                          const int m, int32_t at, uint8_t *const *y) {
  const __m512i a = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), v->zero);
  const __m512i b = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), v->zero);
  __m512i bytes = _mm512_max_epu8(_mm512_packus_epi16(a, b), v->lowest);
  bytes = _mm512_min_epu8(bytes, v->highest);
  if (n == 4) {
    _mm512_mask_storeu_epi8(y[0] + at, v->mask, bytes);
  } else if (n == 2) {
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    bytes = _mm512_permutexvar_epi64(order, bytes);
    _mm256_mask_storeu_epi8(y[0] + at, (__mmask32)v->mask, _mm512_castsi512_si256(bytes));
    if (m == 1) return;
    _mm256_mask_storeu_epi8(y[1] + at, (__mmask32)v->mask, _mm512_extracti64x4_epi64(bytes, 1));
  } else {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __mmask16 mask = (__mmask16)v->mask;
    bytes = _mm512_permutexvar_epi32(order, bytes);
    _mm_mask_storeu_epi8(y[0] + at, mask, _mm512_castsi512_si128(bytes));
    if (m > 1) _mm_mask_storeu_epi8(y[1] + at, mask, _mm512_extracti32x4_epi32(bytes, 1));
    if (m > 2) _mm_mask_storeu_epi8(y[2] + at, mask, _mm512_extracti32x4_epi32(bytes, 2));
    if (m > 3) _mm_mask_storeu_epi8(y[3] + at, mask, _mm512_extracti32x4_epi32(bytes, 3));
  }
}

/* n vectors of reals, or of sums as they are, in the order of the channels. */
PTQ_INLINE PTQ_AVX512 void ptq_store_reals_512(int32_t valid, const __m512 f[4], const int n,
                                               uint8_t *y) {
  float tile[PTQ_MAX_WIDTH];
  const bool whole = valid == 16 * n;
  for (int j = 0; j < n; j++) {
    float *to = (whole ? (float *)(void *)y : tile) + 4 * j;
    _mm_storeu_ps(to, _mm512_castps512_ps128(f[j]));
    _mm_storeu_ps(to + 4 * n, _mm512_extractf32x4_ps(f[j], 1));
    _mm_storeu_ps(to + 8 * n, _mm512_extractf32x4_ps(f[j], 2));
    _mm_storeu_ps(to + 12 * n, _mm512_extractf32x4_ps(f[j], 3));
  }
  if (!whole) memcpy(y, tile, sizeof(float) * (size_t)valid);
}

/* The residual's grid and the convolution's own, for sums of both. */
typedef struct {
  __m512 low, high, ma, mb, residual_zero;
} ptq_sum_512;

PTQ_INLINE PTQ_AVX512 ptq_sum_512 ptq_load_sum_512(const ptq_epilogue *e) {
  ptq_sum_512 v;
  v.low = _mm512_set1_ps((float)e->lo);
  v.high = _mm512_set1_ps((float)e->hi);
  v.ma = _mm512_set1_ps(e->adder.ma);
  v.mb = _mm512_set1_ps(e->adder.mb);
  v.residual_zero = _mm512_set1_ps((float)((1 << 23) + e->residual_zero));
  return v;
}

PTQ_INLINE PTQ_AVX512 __m512 ptq_add_residual_512(const ptq_sum_512 *v, __m512 f, __m512 residual) {
  __m512 own = _mm512_min_ps(_mm512_max_ps(f, v->low), v->high);
  own = _mm512_roundscale_ps(own, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return PTQ_ADD_PS(_mm512_mul_ps(own, v->ma), _mm512_mul_ps(residual, v->mb));
}

PTQ_INLINE PTQ_AVX512 __m512 ptq_scaled_512(__m512i acc, const float *real) {
  return _mm512_mul_ps(_mm512_cvtepi32_ps(acc), _mm512_loadu_ps(real));
}

/* Sums as bytes of their grid, or of the sum with the residual. */
PTQ_INLINE PTQ_AVX512 void ptq_store_bytes_512(const ptq_conv *c, const ptq_panel *panel,
                                               const float *real, const __m512i *acc, const int m,
                                               const int n, const bool add, uint8_t *const *y,
                                               const uint8_t *const *r) {
  const ptq_bytes_512 bytes = ptq_load_bytes_512(c, panel);
  ptq_sum_512 sum;
  if (add) sum = ptq_load_sum_512(&c->epilogue);
  __m512i q[4];
  __m512 f[4], residual[4];
  PTQ_UNROLL for (int i = 0; i < m; i += 4 / n) {
    const int rows = m - i < 4 / n ? m - i : 4 / n;
    PTQ_UNROLL for (int j = n * rows; j < 4; j++) q[j] = _mm512_setzero_si512();
    PTQ_UNROLL for (int k = 0; k < rows; k++) {
      PTQ_UNROLL for (int j = 0; j < n; j++) f[j] =
          ptq_scaled_512(acc[n * (i + k) + j], real + 16 * j);
      if (add) {
        ptq_residual_512(r[i + k] + panel->at, bytes.mask, sum.residual_zero, n, residual);
        PTQ_UNROLL for (int j = 0; j < n; j++) f[j] = ptq_add_residual_512(&sum, f[j], residual[j]);
      }
      PTQ_UNROLL for (int j = 0; j < n; j++) q[n * k + j] = _mm512_cvtps_epi32(f[j]);
    }
    ptq_narrow_512(&bytes, q, n, rows, panel->at, y + i);
  }
}

/* m pixels of n vectors each; acc already holds the bias if the epilogue is direct. */
PTQ_INLINE PTQ_AVX512 void ptq_store_512(const ptq_conv *c, const ptq_phase *p,
                                         const ptq_panel *panel, int64_t parameter,
                                         const __m512i *acc, const int m, const int n,
                                         uint8_t *const *y, const uint8_t *const *r) {
  const ptq_epilogue *e = &c->epilogue;
  const float *real = c->real + parameter;
  __m512 f[4];
  if (!e->direct) {
    int32_t sums[PTQ_MAX_WIDTH];
    PTQ_UNROLL for (int i = 0; i < m; i++) {
      PTQ_UNROLL for (int j = 0; j < n; j++) _mm512_storeu_si512(sums + 16 * j, acc[n * i + j]);
      ptq_store_row(c, p->bias + parameter, c->multiplier + parameter, panel, sums, y[i], r[i]);
    }
    return;
  }
  if (e->dtype == PTQ_F32 || e->dtype == PTQ_S32) {
    PTQ_UNROLL for (int i = 0; i < m; i++) {
      PTQ_UNROLL for (int j = 0; j < n; j++) f[j] =
          e->dtype == PTQ_S32 ? _mm512_castsi512_ps(acc[n * i + j])
                              : ptq_scaled_512(acc[n * i + j], real + 16 * j);
      ptq_store_reals_512(panel->valid, f, n, y[i] + sizeof(float) * (size_t)panel->at);
    }
    return;
  }
  if (e->add)
    ptq_store_bytes_512(c, panel, real, acc, m, n, true, y, r);
  else
    ptq_store_bytes_512(c, panel, real, acc, m, n, false, y, r);
}

#endif
