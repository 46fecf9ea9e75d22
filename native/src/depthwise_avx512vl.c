/* vpdpbusd of 256 bits where 512 are there too: depthwise layers of up to 32 channels would leave
 * half of the longer vectors empty. */
#include "conv.h"

#if PTQ_X86
#define PTQ_256 PTQ_TARGET("avx2,avx512f,avx512vl,avx512bw,avx512vnni")
#include <immintrin.h>

typedef __m256i factor, input;

PTQ_INLINE PTQ_256 factor factor_of(__m256i w) { return w; }
PTQ_INLINE PTQ_256 input input_of(__m256i x) { return x; }
PTQ_INLINE PTQ_256 __m256i dot(__m256i acc, input x, factor w) {
  return _mm256_dpbusd_epi32(acc, x, w);
}

#include "depthwise_256.h"

#define PTQ_V   PTQ_256
#define V(name) _mm256_##name
#define LANES   8
typedef __m256i vector;
typedef __mmask32 vector_mask;

#include "depthwise_plain.h"

PTQ_256 void ptq_depthwise_avx512vl(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                                    const uint8_t *const *taps, int64_t step, int32_t count,
                                    uint8_t *y, const uint8_t *r) {
  if (!plain_columns(c, p, panel, taps, count, y))
    depthwise_256(c, p, panel, taps, step, count, y, r);
}
#else
typedef int ptq_nothing_here;
#endif
