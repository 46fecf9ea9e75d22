/* Winograd's products with vpdpwssd: 6 tiles by 64 channels, or 8 by 32, or 12 by 16. */
#include "conv.h"

#if PTQ_X86
#define PTQ_LANES   16
#define PTQ_VECTORS PTQ_AVX512
#include "conv_avx512.h"
#include "winograd_transform.h"

PTQ_INLINE PTQ_AVX512 __m512i broadcast_pair(const int16_t *x) {
  int32_t pair;
  memcpy(&pair, x, sizeof pair);
  return _mm512_set1_epi32(pair);
}

/* `m` tiles by n vectors; both are literals at every call. */
PTQ_INLINE PTQ_AVX512 void multiply(const int16_t *const *v, int64_t step, int32_t slices,
                                    int64_t pairs, const int16_t *w, const int m, const int n,
                                    int32_t tile, int32_t *sums) {
  __m512i acc[12][4];
  PTQ_UNROLL for (int i = 0; i < m; i++) PTQ_UNROLL for (int j = 0; j < n; j++) acc[i][j] =
      _mm512_setzero_si512();
  for (int32_t s = 0; s < slices; s++) {
    const int16_t *x = v[s] + tile * step;
    for (int64_t k = 0; k < 2 * pairs; k += 2, w += 32 * n) {
      __m512i b[4];
      PTQ_UNROLL for (int j = 0; j < n; j++) b[j] = _mm512_loadu_si512(w + 32 * j);
      PTQ_UNROLL for (int i = 0; i < m; i++) {
        const __m512i a = broadcast_pair(x + i * step + k);
        PTQ_UNROLL for (int j = 0; j < n; j++) acc[i][j] = _mm512_dpwssd_epi32(acc[i][j], a, b[j]);
      }
    }
  }
  sums += (int64_t)tile * 16 * n;
  PTQ_UNROLL for (int i = 0; i < m; i++) PTQ_UNROLL for (int j = 0; j < n; j++)
      _mm512_storeu_si512(sums + 16 * (n * i + j), acc[i][j]);
}

PTQ_AVX512 static void products(const int16_t *const *v, int64_t step, int32_t slices,
                                int64_t pairs, const int16_t *w, int32_t width, int32_t count,
                                int32_t *sums) {
  int32_t i = 0;
#define TILES(M, N) \
  for (; i + M <= count; i += M) multiply(v, step, slices, pairs, w, M, N, i, sums)
  if (width == 64) {
    TILES(6, 4);
    TILES(4, 4);
    TILES(2, 4);
    TILES(1, 4);
  } else if (width == 32) {
    TILES(8, 2);
    TILES(4, 2);
    TILES(2, 2);
    TILES(1, 2);
  } else {
    TILES(12, 1);
    TILES(8, 1);
    TILES(4, 1);
    TILES(1, 1);
  }
#undef TILES
}

PTQ_AVX512 static void store(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                             int32_t group, const int32_t *sums, int32_t count, uint8_t *const *y,
                             const uint8_t *const *r) {
  const int64_t parameter = group * c->group_parameters + panel->parameter;
  const __m512i *acc = (const __m512i *)(const void *)sums;
  if (panel->width == 64)
    ptq_store_512(c, p, panel, parameter, acc, count, 4, y, r);
  else if (panel->width == 32)
    ptq_store_512(c, p, panel, parameter, acc, count, 2, y, r);
  else
    ptq_store_512(c, p, panel, parameter, acc, count, 1, y, r);
}

const ptq_winograd_kernels ptq_winograd_avx512vnni = {"winograd-avx512vnni", transform_patch,
                                                      products, transform_outputs, store};
#else
typedef int ptq_nothing_here;
#endif
