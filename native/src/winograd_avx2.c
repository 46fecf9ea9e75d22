/* Winograd's products with vpmaddwd. */
#include "conv.h"

#if PTQ_X86
#define PTQ_256 PTQ_TARGET("avx2")
#include "conv_256.h"

PTQ_INLINE PTQ_256 __m256i add_products(__m256i acc, __m256i x, __m256i w) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(x, w));
}

#include "winograd_256.h"

const ptq_winograd_kernels ptq_winograd_avx2 = {"winograd-avx2", transform_patch, products,
                                                transform_outputs, store};
#else
typedef int ptq_nothing_here;
#endif
