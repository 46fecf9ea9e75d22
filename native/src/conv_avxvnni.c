/* vpdpbusd of client processors: 256 bits, sixteen registers, so tiles of six pixels by sixteen
 * channels. */
#include "conv.h"

#if PTQ_X86
#define PTQ_256 PTQ_TARGET("avx2,avxvnni")
#include <immintrin.h>

typedef __m256i factor, input;

PTQ_INLINE PTQ_256 factor factor_of(__m256i w) { return w; }
PTQ_INLINE PTQ_256 input input_of(__m256i x) { return x; }
PTQ_INLINE PTQ_256 __m256i dot(__m256i acc, input x, factor w) {
  return _mm256_dpbusd_avx_epi32(acc, x, w);
}

#include "depthwise_256.h"

enum { ROWS = 6 };

/* `m` pixels by one panel; m is a literal at every call. */
PTQ_INLINE PTQ_256 void tile(const epilogue_256 *e, const ptq_conv *c, const ptq_phase *p,
                             const ptq_panel *panel, int32_t group, const uint8_t *const *rows,
                             const int m, uint8_t *const *y, const uint8_t *const *r) {
  const int64_t parameter = group * c->group_parameters + panel->parameter;
  const int8_t *w = p->weights + group * c->group_weights + panel->weights;
  const int64_t bytes = 4 * (int64_t)c->steps;
  __m256i acc[ROWS][2];
  _Pragma("GCC unroll 8") for (int i = 0; i < m; i++)
      start(e->direct, p->bias + parameter, 2, acc[i]);
  for (int32_t t = 0; t < p->taps; t++, rows += c->block_rows) {
    if (ptq_skips_tap(c, rows, m)) {
      const int32_t *sums = ptq_skipped_sums(c, p, group, panel->parameter, t);
      _Pragma("GCC unroll 8") for (int i = 0; i < m; i++) {
        if (!sums) break;
        acc[i][0] = _mm256_add_epi32(acc[i][0], load256(sums));
        acc[i][1] = _mm256_add_epi32(acc[i][1], load256(sums + 8));
      }
      w += bytes * 16;
      continue;
    }
    for (int64_t k = 0; k < bytes; k += 4, w += 64) {
      const __m256i w0 = load256(w), w1 = load256(w + 32);
      _Pragma("GCC unroll 8") for (int i = 0; i < m; i++) {
        int32_t four;
        memcpy(&four, rows[i] + k, sizeof four);
        const __m256i x = _mm256_set1_epi32(four);
        acc[i][0] = dot(acc[i][0], x, w0);
        acc[i][1] = dot(acc[i][1], x, w1);
      }
    }
  }
  _Pragma("GCC unroll 8") for (int i = 0; i < m; i++)
      finish(e, c, p, panel, parameter, acc[i], 2, y[i], r[i]);
}

PTQ_256 void ptq_conv_avxvnni(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                              int32_t group, const uint8_t *const *rows, int32_t count,
                              uint8_t *const *y, const uint8_t *const *r) {
  const epilogue_256 e = load_epilogue(c, panel, group * c->group_parameters + panel->parameter, 2);
  int32_t i = 0;
  for (; i + ROWS <= count; i += ROWS) tile(&e, c, p, panel, group, rows + i, ROWS, y + i, r + i);
  for (; i < count; i++) tile(&e, c, p, panel, group, rows + i, 1, y + i, r + i);
}

PTQ_256 void ptq_depthwise_avxvnni(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                                   const uint8_t *const *taps, int64_t step, int32_t count,
                                   uint8_t *y, const uint8_t *r) {
  depthwise_256(c, p, panel, taps, step, count, y, r);
}
#else
typedef int ptq_nothing_here;
#endif
