/* vpdpbusd of client processors: 256 bits, sixteen registers. */
#include "conv.h"

#if PTQ_X86
#define PTQ_256 PTQ_TARGET("avx2,avxvnni")
enum { ROWS = 6 };

#include <immintrin.h>

typedef __m256i factor, input;

PTQ_INLINE PTQ_256 factor factor_of(__m256i w) { return w; }
PTQ_INLINE PTQ_256 input input_of(__m256i x) { return x; }
PTQ_INLINE PTQ_256 __m256i dot(__m256i acc, input x, factor w) {
  return _mm256_dpbusd_avx_epi32(acc, x, w);
}

#include "conv_256.h"

PTQ_256 void ptq_conv_avxvnni(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                              int32_t group, const uint8_t *const *rows, int32_t count,
                              uint8_t *const *y, const uint8_t *const *r) {
  conv_256(c, p, panel, group, rows, count, y, r);
}

PTQ_256 void ptq_depthwise_avxvnni(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                                   const uint8_t *const *taps, const int64_t *steps, int32_t count,
                                   uint8_t *y, const uint8_t *r) {
  depthwise_256(c, p, panel, taps, steps, count, y, r);
}
#else
typedef int ptq_nothing_here;
#endif
