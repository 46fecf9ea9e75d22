/* Maximum of pixels, 32 channels at a time; inputs may be read a vector past their end. */
#include "pool.h"

#if PTQ_X86
#include <immintrin.h>

PTQ_AVX2 void ptq_maximum_avx2(uint8_t *y, const uint8_t *const *taps, int64_t count, int64_t n) {
  for (int64_t i = 0; i < n; i += 32) {
    __m256i most = _mm256_setzero_si256();
    for (int64_t t = 0; t < count; t++)
      most = _mm256_max_epu8(most, _mm256_loadu_si256((const void *)(taps[t] + i)));
    if (n - i >= 32) {
      _mm256_storeu_si256((void *)(y + i), most);
    } else {
      uint8_t all[32];
      _mm256_storeu_si256((void *)all, most);
      memcpy(y + i, all, (size_t)(n - i));
    }
  }
}
#else
typedef int ptq_nothing_here;
#endif
