/* AVX2 has no product of unsigned and signed bytes that does not saturate: split both into even
 * and odd bytes, widened to 16 bits, and multiply those. */
#include "conv.h"

#if PTQ_X86
#define PTQ_256 PTQ_TARGET("avx2")
enum { ROWS = 4 };

#include <immintrin.h>

typedef struct {
  __m256i even, odd;
} halves;
typedef halves factor, input;

PTQ_INLINE PTQ_256 factor factor_of(__m256i w) {
  return (factor){_mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), _mm256_srai_epi16(w, 8)};
}

PTQ_INLINE PTQ_256 input input_of(__m256i x) {
  return (input){_mm256_and_si256(x, _mm256_set1_epi16(255)), _mm256_srli_epi16(x, 8)};
}

PTQ_INLINE PTQ_256 __m256i dot(__m256i acc, input x, factor w) {
  acc = _mm256_add_epi32(acc, _mm256_madd_epi16(x.even, w.even));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(x.odd, w.odd));
}

#include "conv_256.h"

PTQ_256 void ptq_conv_avx2(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                           int32_t group, const uint8_t *const *rows, int32_t count,
                           uint8_t *const *y, const uint8_t *const *r) {
  conv_256(c, p, panel, group, rows, count, y, r);
}

PTQ_256 void ptq_depthwise_avx2(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                                const uint8_t *const *taps, const int64_t *steps, int32_t count,
                                uint8_t *y, const uint8_t *r) {
  depthwise_256(c, p, panel, taps, steps, count, y, r);
}
#else
typedef int ptq_nothing_here;
#endif
