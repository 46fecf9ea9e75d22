/* Softmax of reals with 512-bit vectors, operation by operation as function.c has it: rows are
 * often short, and compilers spend more on their ends than on the rest. */
#include "function.h"

#if PTQ_X86
#include <immintrin.h>

enum { LANES = 16 };

/* An intrinsic file compiled without the build's flags would fuse a * b + c into one rounding. */
#define MUL(a, b) _mm512_mul_round_ps(a, b, _MM_FROUND_CUR_DIRECTION)
#define ADD(a, b) _mm512_add_round_ps(a, b, _MM_FROUND_CUR_DIRECTION)
#define SUB(a, b) _mm512_sub_round_ps(a, b, _MM_FROUND_CUR_DIRECTION)

PTQ_INLINE PTQ_AVX512 __m512 exponential(__m512 x) {
  static const float terms[] = {1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f, 1.0f, 1.0f};
  x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.0f)), _mm512_set1_ps(88.0f));
  const __m512i k = _mm512_cvtps_epi32(MUL(x, _mm512_set1_ps(1.44269504f)));
  const __m512 whole = _mm512_cvtepi32_ps(k);
  const __m512 near = SUB(x, MUL(whole, _mm512_set1_ps(0.693359375f)));
  const __m512 r = ADD(near, MUL(whole, _mm512_set1_ps(2.12194440e-4f)));
  __m512 p = _mm512_set1_ps(1.0f / 720.0f);
  _Pragma("GCC unroll 8") for (int i = 0; i < 6; i++) p = ADD(MUL(p, r), _mm512_set1_ps(terms[i]));
  const __m512i bits = _mm512_slli_epi32(_mm512_add_epi32(k, _mm512_set1_epi32(127)), 23);
  return MUL(p, _mm512_castsi512_ps(bits));
}

/* Pair by pair, as the portable code does. */
PTQ_INLINE PTQ_AVX512 float sum_of(__m512 v) {
  v = ADD(v, _mm512_shuffle_f32x4(v, v, 0x4E));
  v = ADD(v, _mm512_shuffle_f32x4(v, v, 0xB1));
  v = ADD(v, _mm512_permute_ps(v, 0x4E));
  return _mm512_cvtss_f32(ADD(v, _mm512_permute_ps(v, 0xB1)));
}

PTQ_AVX512 void ptq_softmax_avx512(const float *x, float *y, int64_t n) {
  const int64_t whole = n / LANES * LANES;
  const __mmask16 mask = (__mmask16)((1u << (n - whole)) - 1);
  const __m512 first = _mm512_set1_ps(x[0]), last = _mm512_mask_loadu_ps(first, mask, x + whole);
  __m512 top = last, sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < whole; i += LANES) top = _mm512_max_ps(_mm512_loadu_ps(x + i), top);
  top = _mm512_set1_ps(_mm512_reduce_max_ps(top));
  for (int64_t i = 0; i < whole; i += LANES) {
    const __m512 e = exponential(SUB(_mm512_loadu_ps(x + i), top));
    sum = ADD(sum, e);
    _mm512_storeu_ps(y + i, e);
  }
  const __m512 rest = _mm512_maskz_mov_ps(mask, exponential(SUB(last, top)));
  const __m512 share = _mm512_set1_ps(1.0f / sum_of(ADD(sum, rest)));
  for (int64_t i = 0; i < whole; i += LANES)
    _mm512_storeu_ps(y + i, MUL(_mm512_loadu_ps(y + i), share));
  _mm512_mask_storeu_ps(y + whole, mask, MUL(rest, share));
}
#else
typedef int ptq_nothing_here;
#endif
