/* Convolution tiles of AVX2, which has no product of unsigned and signed bytes that sums in 32
 * bits: where it is exact (conv_runs.c) products are summed in 16 bits, elsewhere bytes are widened
 * first. */
#include "conv.h"

#if PTQ_X86
#define PTQ_256 PTQ_TARGET("avx2")
#include "conv_256.h"

enum { ROWS = 3, STEP = 64 }; /* bytes of weights in one step: 16 channels of four inputs */

PTQ_INLINE PTQ_256 __m256i broadcast4(const uint8_t *x) {
  int32_t four;
  memcpy(&four, x, sizeof four);
  return _mm256_set1_epi32(four);
}

/* Compilers would add in another order and run out of registers. */
#define KEEP(v) __asm__("" : "+x"(v))

/* The parts of one tap, for `m` pixels; m is a literal at every call. Weights are left behind what
 * they used. */
PTQ_INLINE PTQ_256 const int8_t *sum_long(const uint8_t *const *x, const int m, const int8_t *w,
                                          const int32_t *place, const int16_t *start, int32_t count,
                                          __m256i acc[ROWS][2]) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (int32_t s = 0; s < count; s++, start += PTQ_SUM_LANES) {
    __m256i sum[ROWS][2];
    _Pragma("GCC unroll 8") for (int i = 0; i < m; i++) {
      sum[i][0] = load256(start);
      sum[i][1] = load256(start + 16);
    }
    _Pragma("GCC unroll 8") for (int j = 0; j < PTQ_LONG_SUM; j++, w += STEP, place++) {
      const __m256i w0 = load256(w), w1 = load256(w + 32);
      const int64_t at = place[0];
      _Pragma("GCC unroll 8") for (int i = 0; i < m; i++) {
        const __m256i a = broadcast4(x[i] + at);
        sum[i][0] = _mm256_add_epi16(sum[i][0], _mm256_maddubs_epi16(a, w0));
        sum[i][1] = _mm256_add_epi16(sum[i][1], _mm256_maddubs_epi16(a, w1));
        KEEP(sum[i][0]);
        KEEP(sum[i][1]);
      }
    }
    _Pragma("GCC unroll 8") for (int i = 0; i < m; i++) {
      acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(sum[i][0], ones));
      acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(sum[i][1], ones));
    }
  }
  return w;
}

PTQ_INLINE PTQ_256 const int8_t *sum_pairs(const uint8_t *const *x, const int m, const int8_t *w,
                                           const int32_t *place, int32_t count,
                                           __m256i acc[ROWS][2]) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (int32_t s = 0; s < count; s++, w += 2 * STEP, place += 2) {
    const __m256i w00 = load256(w), w01 = load256(w + 32);
    const __m256i w10 = load256(w + STEP), w11 = load256(w + STEP + 32);
    const int64_t first = place[0], second = place[1];
    _Pragma("GCC unroll 8") for (int i = 0; i < m; i++) {
      const __m256i a = broadcast4(x[i] + first), b = broadcast4(x[i] + second);
      const __m256i left =
          _mm256_add_epi16(_mm256_maddubs_epi16(a, w00), _mm256_maddubs_epi16(b, w10));
      const __m256i right =
          _mm256_add_epi16(_mm256_maddubs_epi16(a, w01), _mm256_maddubs_epi16(b, w11));
      acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(left, ones));
      acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(right, ones));
    }
  }
  return w;
}

PTQ_INLINE PTQ_256 const int8_t *sum_singles(const uint8_t *const *x, const int m, const int8_t *w,
                                             const int32_t *place, int32_t count,
                                             __m256i acc[ROWS][2]) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (int32_t s = 0; s < count; s++, w += STEP, place++) {
    const __m256i w0 = load256(w), w1 = load256(w + 32);
    _Pragma("GCC unroll 8") for (int i = 0; i < m; i++) {
      const __m256i a = broadcast4(x[i] + place[0]);
      const __m256i left = _mm256_maddubs_epi16(a, w0), right = _mm256_maddubs_epi16(a, w1);
      acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(left, ones));
      acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(right, ones));
    }
  }
  return w;
}

PTQ_INLINE PTQ_256 const int8_t *sum_wide(const uint8_t *const *x, const int m, const int8_t *w,
                                          const int32_t *place, int32_t count,
                                          __m256i acc[ROWS][2]) {
  for (int32_t s = 0; s < count; s++, w += STEP, place++) {
    const __m256i w0 = load256(w), w1 = load256(w + 32);
    const __m256i even0 = _mm256_srai_epi16(_mm256_slli_epi16(w0, 8), 8);
    const __m256i even1 = _mm256_srai_epi16(_mm256_slli_epi16(w1, 8), 8);
    const __m256i odd0 = _mm256_srai_epi16(w0, 8), odd1 = _mm256_srai_epi16(w1, 8);
    _Pragma("GCC unroll 8") for (int i = 0; i < m; i++) {
      const __m256i a = broadcast4(x[i] + place[0]);
      const __m256i even = _mm256_and_si256(a, _mm256_set1_epi16(255));
      const __m256i odd = _mm256_srli_epi16(a, 8);
      acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(even, even0));
      acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(even, even1));
      acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(odd, odd0));
      acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(odd, odd1));
    }
  }
  return w;
}

/* What all tiles of a panel read, in variables as the epilogue's constants are. */
typedef struct {
  int64_t parameter;
  const int32_t *bias, *place;
  const int8_t *w;
  const ptq_run *run, *end;
  const int16_t *start;
  int32_t block_rows;
} weights_256;

PTQ_INLINE PTQ_256 weights_256 find_weights(const ptq_conv *c, const ptq_phase *p,
                                            const ptq_panel *panel, int32_t group) {
  const int64_t tap = (group * c->panel_count + (panel - c->panels)) * (int64_t)p->taps;
  weights_256 v = {.parameter = group * c->group_parameters + panel->parameter};
  v.bias = p->bias + v.parameter;
  v.place = p->places + tap * c->steps;
  v.w = p->weights + group * c->group_weights + panel->weights;
  v.run = p->runs + tap;
  v.start = p->starts + v.run->start * PTQ_SUM_LANES;
  v.end = v.run + p->taps;
  v.block_rows = c->block_rows;
  return v;
}

PTQ_INLINE PTQ_256 void tile(const epilogue_256 *e, const weights_256 *v, const ptq_conv *c,
                             const ptq_phase *p, const ptq_panel *panel, const uint8_t *const *rows,
                             const int m, uint8_t *const *y, const uint8_t *const *r) {
  const int8_t *w = v->w;
  const int32_t *place = v->place;
  const int16_t *first = v->start;
  __m256i acc[ROWS][2];
  _Pragma("GCC unroll 8") for (int i = 0; i < m; i++) start(e->direct, v->bias, 2, acc[i]);
  for (const ptq_run *run = v->run; run < v->end; rows += v->block_rows, run++) {
    const uint8_t *x[ROWS];
    _Pragma("GCC unroll 8") for (int i = 0; i < m; i++) x[i] = rows[i];
    if (run->longs) {
      w = sum_long(x, m, w, place, first, run->longs, acc);
      place += PTQ_LONG_SUM * run->longs;
      first += PTQ_SUM_LANES * run->longs;
    }
    w = sum_pairs(x, m, w, place, run->pairs, acc);
    place += 2 * run->pairs;
    w = sum_singles(x, m, w, place, run->singles, acc);
    place += run->singles;
    w = sum_wide(x, m, w, place, run->wide, acc);
    place += run->wide;
  }
  _Pragma("GCC unroll 8") for (int i = 0; i < m; i++)
      finish(e, c, p, panel, v->parameter, acc[i], 2, y[i], r[i]);
}

PTQ_256 void ptq_conv_avx2(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                           int32_t group, const uint8_t *const *rows, int32_t count,
                           uint8_t *const *y, const uint8_t *const *r) {
  const epilogue_256 e = load_epilogue(c, panel, group * c->group_parameters + panel->parameter, 2);
  const weights_256 v = find_weights(c, p, panel, group);
  int32_t i = 0;
  for (; i + ROWS <= count; i += ROWS) tile(&e, &v, c, p, panel, rows + i, ROWS, y + i, r + i);
  if (ROWS > 3 && count - i == 3)
    tile(&e, &v, c, p, panel, rows + i, 3, y + i, r + i);
  else if (count - i == 2)
    tile(&e, &v, c, p, panel, rows + i, 2, y + i, r + i);
  else if (count - i == 1)
    tile(&e, &v, c, p, panel, rows + i, 1, y + i, r + i);
}
#else
typedef int ptq_nothing_here;
#endif
