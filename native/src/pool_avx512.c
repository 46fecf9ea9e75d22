/* Maximum of pixels, 64 channels at a time. */
#include "pool.h"

#if PTQ_X86
#include <immintrin.h>

PTQ_AVX512 void ptq_maximum_avx512(uint8_t *y, const uint8_t *const *taps, int64_t count,
                                   int64_t n) {
  for (int64_t i = 0; i < n; i += 64) {
    const __mmask64 mask = n - i >= 64 ? ~0ULL : (1ULL << (n - i)) - 1;
    __m512i most = _mm512_setzero_si512();
    for (int64_t t = 0; t < count; t++)
      most = _mm512_max_epu8(most, _mm512_maskz_loadu_epi8(mask, taps[t] + i));
    _mm512_mask_storeu_epi8(y + i, mask, most);
  }
}
#else
typedef int ptq_nothing_here;
#endif
