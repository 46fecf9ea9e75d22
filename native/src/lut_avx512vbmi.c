/* 64 lookups at a time: two permutes over 128 entries each, joined by the index's top bit. */
#include "lut.h"

#if PTQ_X86
#include <immintrin.h>

#define PTQ_VBMI PTQ_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")

PTQ_VBMI void ptq_lut_avx512vbmi(const uint8_t *table, const uint8_t *x, uint8_t *y, int64_t n) {
  const __m512i t0 = _mm512_loadu_si512(table), t1 = _mm512_loadu_si512(table + 64);
  const __m512i t2 = _mm512_loadu_si512(table + 128), t3 = _mm512_loadu_si512(table + 192);
  for (int64_t i = 0; i < n; i += 64) {
    __mmask64 mask = n - i >= 64 ? ~0ULL : (1ULL << (n - i)) - 1;
    __m512i index = _mm512_maskz_loadu_epi8(mask, x + i);
    __m512i low = _mm512_permutex2var_epi8(t0, index, t1);
    __m512i high = _mm512_permutex2var_epi8(t2, index, t3);
    __m512i value = _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
    _mm512_mask_storeu_epi8(y + i, mask, value);
  }
}
#else
typedef int ptq_nothing_here;
#endif
