/* The epilogue of 256-bit vectors: one pixel's accumulators, two or four vectors of a panel, to
 * stored bytes. The including file defines PTQ_256, the target attribute. */
#include <immintrin.h>

#include "conv.h"

PTQ_INLINE PTQ_256 __m256i load256(const void *p) { return _mm256_loadu_si256(p); }
PTQ_INLINE PTQ_256 void store256(void *p, __m256i v) { _mm256_storeu_si256(p, v); }
PTQ_INLINE PTQ_256 __m128i load128(const void *p) { return _mm_loadu_si128(p); }

/* The first `valid` bytes of sixteen. */
PTQ_INLINE PTQ_256 void store_bytes(uint8_t *y, __m128i bytes, int32_t valid) {
  if (valid >= 16) {
    _mm_storeu_si128((void *)y, bytes);
    return;
  }
  if (valid & 8) {
    _mm_storel_epi64((void *)y, bytes);
    bytes = _mm_unpackhi_epi64(bytes, bytes);
    y += 8;
  }
  uint64_t rest = (uint64_t)_mm_cvtsi128_si64(bytes);
  if (valid & 4) {
    memcpy(y, &rest, 4);
    rest >>= 32;
    y += 4;
  }
  if (valid & 2) {
    memcpy(y, &rest, 2);
    rest >>= 16;
    y += 2;
  }
  if (valid & 1) *y = (uint8_t)rest;
}

/* What the epilogue needs besides the accumulators, in variables for all pixels of a call: a
 * compiler must assume that the bytes stored change everything in memory. */
typedef struct {
  __m256 real[4], low, high, ma, mb;
  __m256i zero, residual_zero;
  __m128i lowest, highest;
  int32_t at, valid;
  bool direct, add, reals, sums;
} epilogue_256;

PTQ_INLINE PTQ_256 epilogue_256 load_epilogue(const ptq_conv *c, const ptq_panel *panel,
                                              int64_t parameter, const int n) {
  const ptq_epilogue *e = &c->epilogue;
  const int32_t zero = e->add ? e->add_zero : e->zero;
  epilogue_256 v;
  v.low = _mm256_set1_ps((float)e->lo);
  v.high = _mm256_set1_ps((float)e->hi);
  v.ma = _mm256_set1_ps(e->adder.ma);
  v.mb = _mm256_set1_ps(e->adder.mb);
  v.zero = _mm256_set1_epi16((int16_t)zero);
  v.residual_zero = _mm256_set1_epi32(e->residual_zero);
  v.lowest = _mm_set1_epi8((char)((e->add ? e->add_lo : e->lo) + zero));
  v.highest = _mm_set1_epi8((char)((e->add ? e->add_hi : e->hi) + zero));
  v.at = panel->at;
  v.valid = panel->valid;
  v.direct = e->direct;
  v.add = e->add;
  v.reals = e->dtype == PTQ_F32;
  v.sums = e->dtype == PTQ_S32;
  for (int j = 0; j < n; j++) v.real[j] = _mm256_loadu_ps(c->real + parameter + 8 * j);
  return v;
}

/* `n` vectors of results without zero point as clamped bytes: narrowing saturates. */
PTQ_INLINE PTQ_256 void narrow(const epilogue_256 *v, const __m256i *q, const int n, uint8_t *y) {
  __m256i words[2], bytes;
  for (int j = 0; j < n / 2; j++)
    words[j] = _mm256_adds_epi16(_mm256_packs_epi32(q[2 * j], q[2 * j + 1]), v->zero);
  if (n == 4)
    bytes = _mm256_packus_epi16(words[0], words[1]);
  else
    bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(words[0], words[0]), 0x08);
  if (n == 4 && v->valid == 32) {
    const __m256i least = _mm256_broadcastsi128_si256(v->lowest);
    bytes = _mm256_min_epu8(_mm256_max_epu8(bytes, least), _mm256_broadcastsi128_si256(v->highest));
    store256(y, bytes);
    return;
  }
  __m128i half = _mm256_castsi256_si128(bytes);
  store_bytes(y, _mm_min_epu8(_mm_max_epu8(half, v->lowest), v->highest), v->valid);
  if (n == 4 && v->valid > 16) {
    half = _mm256_extracti128_si256(bytes, 1);
    store_bytes(y + 16, _mm_min_epu8(_mm_max_epu8(half, v->lowest), v->highest), v->valid - 16);
  }
}

/* The residual's bytes in the accumulators' order; activations may be read past their end. */
PTQ_INLINE PTQ_256 void widen(const uint8_t *r, const int n, __m256i *out) {
  const __m256i zero = _mm256_setzero_si256();
  if (n == 2) {
    const __m256i words = _mm256_cvtepu8_epi16(load128(r));
    out[0] = _mm256_unpacklo_epi16(words, zero);
    out[1] = _mm256_unpackhi_epi16(words, zero);
  } else {
    const __m256i bytes = load256(r);
    const __m256i low = _mm256_unpacklo_epi8(bytes, zero);
    const __m256i high = _mm256_unpackhi_epi8(bytes, zero);
    out[0] = _mm256_unpacklo_epi16(low, zero);
    out[1] = _mm256_unpackhi_epi16(low, zero);
    out[2] = _mm256_unpacklo_epi16(high, zero);
    out[3] = _mm256_unpackhi_epi16(high, zero);
  }
}

PTQ_INLINE PTQ_256 __m256 nearest(__m256 f) {
  return _mm256_round_ps(f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* What accumulators start with: the bias, unless the plain epilogue adds it. */
PTQ_INLINE PTQ_256 void start(bool direct, const int32_t *bias, const int n, __m256i *acc) {
  for (int j = 0; j < n; j++) acc[j] = direct ? load256(bias + 8 * j) : _mm256_setzero_si256();
}

/* n vectors of reals, or of sums as they are, in the order of the channels. */
PTQ_INLINE PTQ_256 void store_reals(const epilogue_256 *v, const __m256 f[4], const int n,
                                    uint8_t *y) {
  float tile[PTQ_MAX_WIDTH];
  const bool whole = v->valid == 8 * n;
  for (int j = 0; j < n; j++) {
    float *to = (whole ? (float *)(void *)y : tile) + 4 * j;
    _mm_storeu_ps(to, _mm256_castps256_ps128(f[j]));
    _mm_storeu_ps(to + 4 * n, _mm256_extractf128_ps(f[j], 1));
  }
  if (!whole) memcpy(y, tile, sizeof(float) * (size_t)v->valid);
}

/* One pixel; y and r at the group's first channel. */
PTQ_INLINE PTQ_256 void finish(const epilogue_256 *v, const ptq_conv *c, const ptq_phase *p,
                               const ptq_panel *panel, int64_t parameter, const __m256i *acc,
                               const int n, uint8_t *y, const uint8_t *r) {
  if (!v->direct) {
    int32_t sums[PTQ_MAX_WIDTH];
    for (int j = 0; j < n; j++) store256(sums + 8 * j, acc[j]);
    ptq_store_row(c, p->bias + parameter, c->multiplier + parameter, panel, sums, y, r);
    return;
  }
  __m256i q[4];
  __m256 f[4];
  for (int j = 0; j < n; j++)
    f[j] = v->sums ? _mm256_castsi256_ps(acc[j])
                   : _mm256_mul_ps(_mm256_cvtepi32_ps(acc[j]), v->real[j]);
  if (v->reals || v->sums) {
    store_reals(v, f, n, y + sizeof(float) * (size_t)v->at);
    return;
  }
  if (v->add) {
    __m256i residual[4];
    widen(r + v->at, n, residual);
    for (int j = 0; j < n; j++) {
      const __m256 own = nearest(_mm256_min_ps(_mm256_max_ps(f[j], v->low), v->high));
      const __m256 other = _mm256_cvtepi32_ps(_mm256_sub_epi32(residual[j], v->residual_zero));
      f[j] = _mm256_add_ps(_mm256_mul_ps(own, v->ma), _mm256_mul_ps(other, v->mb));
    }
  }
  for (int j = 0; j < n; j++) q[j] = _mm256_cvtps_epi32(f[j]);
  narrow(v, q, n, y + v->at);
}
