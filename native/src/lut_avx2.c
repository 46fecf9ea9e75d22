/* Table lookup in registers: sixteen tables of sixteen bytes by the low bits of an index, of which
 * the high bits choose one. */
#include "lut.h"

#if PTQ_X86
#include <immintrin.h>

PTQ_INLINE PTQ_AVX2 __m256i either(__m256i a, __m256i b, __m256i which) {
  return _mm256_blendv_epi8(a, b, which); /* by the top bit of each byte */
}

PTQ_INLINE PTQ_AVX2 __m256i sixteen(const uint8_t *table, int part, __m256i low) {
  const __m128i entries = _mm_loadu_si128((const void *)(table + 16 * part));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), low);
}

PTQ_INLINE PTQ_AVX2 __m256i look_up(const uint8_t *table, __m256i x) {
  const __m256i low = _mm256_and_si256(x, _mm256_set1_epi8(15));
  const __m256i bit4 = _mm256_slli_epi16(x, 3), bit5 = _mm256_slli_epi16(x, 2);
  const __m256i bit6 = _mm256_slli_epi16(x, 1);
  __m256i quarter[4];
  _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
    const __m256i a = either(sixteen(table, 4 * i, low), sixteen(table, 4 * i + 1, low), bit4);
    const __m256i b = either(sixteen(table, 4 * i + 2, low), sixteen(table, 4 * i + 3, low), bit4);
    quarter[i] = either(a, b, bit5);
  }
  return either(either(quarter[0], quarter[1], bit6), either(quarter[2], quarter[3], bit6), x);
}

PTQ_AVX2 void ptq_lut_avx2(const uint8_t *table, const uint8_t *x, uint8_t *y, int64_t n) {
  int64_t i = 0;
  for (; i + 32 <= n; i += 32)
    _mm256_storeu_si256((void *)(y + i), look_up(table, _mm256_loadu_si256((const void *)(x + i))));
  ptq_lut_scalar(table, x + i, y + i, n - i);
}
#else
typedef int ptq_nothing_here;
#endif
