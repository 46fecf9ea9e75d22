/* Convolution tiles with vpdpbusd: 6 pixels by 64 channels, or 8 by 32, or 12 by 16, so that the
 * accumulators, one step of weights and one input fill the 32 registers. */
#include "conv.h"

#if PTQ_X86
#include "conv_avx512.h"

typedef void tile_fn(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel, int32_t group,
                     const uint8_t *const *rows, uint8_t *const *y, const uint8_t *const *r);

PTQ_INLINE PTQ_AVX512 __m512i broadcast4(const uint8_t *x) {
  int32_t four;
  memcpy(&four, x, sizeof four);
  return _mm512_set1_epi32(four);
}

/* A template: M and N are literals in every instance, so that acc lives in registers. */
#define TILE(M, N) \
  PTQ_AVX512 static void tile_##M##x##N( \
      const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel, int32_t group, \
      const uint8_t *const *rows, uint8_t *const *y, const uint8_t *const *r) { \
    const int64_t parameter = group * c->group_parameters + panel->parameter; \
    const int8_t *w = p->weights + group * c->group_weights + panel->weights; \
    const int64_t bytes = 4 * (int64_t)c->steps; \
    __m512i acc[M][N]; \
    PTQ_UNROLL for (int i = 0; i < M; i++) PTQ_UNROLL for (int j = 0; j < N; j++) acc[i][j] = \
        c->epilogue.direct ? _mm512_loadu_si512(p->bias + parameter + 16 * j) \
                           : _mm512_setzero_si512(); \
    for (int32_t t = 0; t < p->taps; t++, rows += c->block_rows) { \
      if (ptq_skips_tap(c, rows, M)) { \
        const int32_t *sums = ptq_skipped_sums(c, p, group, panel->parameter, t); \
        if (sums) { \
          PTQ_UNROLL for (int i = 0; i < M; i++) PTQ_UNROLL for (int j = 0; j < N; j++) \
              acc[i][j] = _mm512_add_epi32(acc[i][j], _mm512_loadu_si512(sums + 16 * j)); \
        } \
        w += bytes * 16 * N; \
        continue; \
      } \
      const uint8_t *x[M]; \
      PTQ_UNROLL for (int i = 0; i < M; i++) x[i] = rows[i]; \
      for (int64_t k = 0; k < bytes; k += 4, w += 64 * N) { \
        __m512i b[N]; \
        PTQ_UNROLL for (int j = 0; j < N; j++) b[j] = _mm512_loadu_si512(w + 64 * j); \
        PTQ_UNROLL for (int i = 0; i < M; i++) { \
          const __m512i a = broadcast4(x[i] + k); \
          PTQ_UNROLL for (int j = 0; j < N; j++) acc[i][j] = \
              _mm512_dpbusd_epi32(acc[i][j], a, b[j]); \
        } \
      } \
    } \
    ptq_store_512(c, p, panel, parameter, acc[0], M, N, y, r); \
  }

TILE(1, 1)
TILE(2, 1)
TILE(4, 1)
TILE(8, 1)
TILE(12, 1)
TILE(1, 2)
TILE(2, 2)
TILE(4, 2)
TILE(8, 2)
TILE(1, 4)
TILE(2, 4)
TILE(3, 4)
TILE(4, 4)
TILE(6, 4)

typedef struct {
  int32_t rows;
  tile_fn *run;
} tile;

void ptq_conv_avx512vnni(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                         int32_t group, const uint8_t *const *rows, int32_t count,
                         uint8_t *const *y, const uint8_t *const *r) {
  /* By panel width: the tiles from the tallest down; a remainder takes the tallest that fits. */
  static const tile narrow[] = {
      {12, tile_12x1}, {8, tile_8x1}, {4, tile_4x1}, {2, tile_2x1}, {1, tile_1x1}};
  static const tile middle[] = {{8, tile_8x2}, {4, tile_4x2}, {2, tile_2x2}, {1, tile_1x2}};
  static const tile wide[] = {
      {6, tile_6x4}, {4, tile_4x4}, {3, tile_3x4}, {2, tile_2x4}, {1, tile_1x4}};
  const tile *t = panel->width == 64 ? wide : panel->width == 32 ? middle : narrow;
  for (int32_t i = 0; i < count; i += t->rows) {
    while (t->rows > count - i) t++;
    t->run(c, p, panel, group, rows + i, y + i, r + i);
  }
}
#else
typedef int ptq_nothing_here;
#endif
