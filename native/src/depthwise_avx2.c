/* Depthwise convolution of AVX2: pairs of taps are multiplied and summed in 16 bits, as
 * depthwise_sums.c laid them out; the sums of a round are added up in 32 bits. */
#include "conv.h"

#if PTQ_X86
#define PTQ_256 PTQ_TARGET("avx2")
#include "conv_256.h"

enum { WIDTH = PTQ_SUMS_WIDTH };

typedef struct {
  __m256i low, high;
} sum;

PTQ_INLINE PTQ_256 sum load_sum(const int16_t *start) {
  return (sum){load256(start), load256(start + 16)};
}

/* Two taps of 32 channels. */
PTQ_INLINE PTQ_256 sum pair(const uint8_t *a, const uint8_t *b, const int8_t *w) {
  const __m256i xa = load256(a), xb = load256(b);
  return (sum){_mm256_maddubs_epi16(_mm256_unpacklo_epi8(xa, xb), load256(w)),
               _mm256_maddubs_epi16(_mm256_unpackhi_epi8(xa, xb), load256(w + WIDTH))};
}

PTQ_INLINE PTQ_256 sum add(sum a, sum b) {
  return (sum){_mm256_add_epi16(a.low, b.low), _mm256_add_epi16(a.high, b.high)};
}

/* Two sums into the accumulators. */
PTQ_INLINE PTQ_256 void add_sums(sum a, sum b, __m256i acc[4]) {
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i both[4] = {_mm256_unpacklo_epi16(a.low, b.low), _mm256_unpackhi_epi16(a.low, b.low),
                           _mm256_unpacklo_epi16(a.high, b.high),
                           _mm256_unpackhi_epi16(a.high, b.high)};
  for (int j = 0; j < 4; j++) acc[j] = _mm256_add_epi32(acc[j], _mm256_madd_epi16(both[j], ones));
}

/* Five pairs at x behind the addresses `at`, in sums of three and two, or each by itself. */
PTQ_INLINE PTQ_256 void add_round(const uint8_t *const *at, int64_t x, const int8_t *w,
                                  const int16_t *first, const bool single, __m256i acc[4]) {
  const sum none = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  const sum a = pair(at[0] + x, at[1] + x, w), b = pair(at[2] + x, at[3] + x, w + 2 * WIDTH);
  if (single) add_sums(a, b, acc);
  const sum c = pair(at[4] + x, at[5] + x, w + 4 * WIDTH);
  const sum d = pair(at[6] + x, at[7] + x, w + 6 * WIDTH);
  if (single) add_sums(c, d, acc);
  const sum e = pair(at[8] + x, at[9] + x, w + 8 * WIDTH);
  if (single)
    add_sums(e, none, acc);
  else
    add_sums(add(add(load_sum(first), a), add(b, c)), add(add(load_sum(first + WIDTH), d), e), acc);
}

/* Activations may be read a vector past their end, so no tail needs care here. */
PTQ_256 void ptq_depthwise_avx2(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                                const uint8_t *const *taps, int64_t step, int32_t count, uint8_t *y,
                                const uint8_t *r) {
  const ptq_sums s = p->sums[panel - c->panels];
  const epilogue_256 e = load_epilogue(c, panel, panel->parameter, 4);
  int64_t x = panel->first;
  for (int32_t i = 0; i < count; i++, x += step, y += c->out_channels * (int64_t)c->out_element) {
    const uint8_t *const *at = taps;
    const int8_t *w = s.weights;
    __m256i acc[4];
    start(e.direct, p->bias + panel->parameter, 4, acc);
    for (int32_t k = 0; k < s.rounds; k++, at += 10, w += 10 * WIDTH) {
      if (s.single)
        add_round(at, x, w, NULL, true, acc);
      else
        add_round(at, x, w, s.start + k * 2 * WIDTH, false, acc);
    }
    finish(&e, c, p, panel, panel->parameter, acc, 4, y,
           r ? r + i * (int64_t)c->out_channels : NULL);
  }
}
#else
typedef int ptq_nothing_here;
#endif
