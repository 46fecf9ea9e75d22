/* Winograd's products in sixteen registers of 256 bits: 6 tiles by 16 channels. The including file
 * defines PTQ_256, the target attribute, and `add_products`, two products to each sum. */
#define PTQ_LANES   8
#define PTQ_VECTORS PTQ_256
#include "winograd_transform.h"

/* `m` tiles; a literal at every call. */
PTQ_INLINE PTQ_256 void multiply(const int16_t *const *v, int64_t step, int32_t slices,
                                 int64_t pairs, const int16_t *w, const int m, int32_t tile,
                                 int32_t *sums) {
  __m256i acc[6][2];
  _Pragma("GCC unroll 8") for (int i = 0; i < m; i++) acc[i][0] = acc[i][1] =
      _mm256_setzero_si256();
  for (int32_t s = 0; s < slices; s++) {
    const int16_t *x = v[s] + tile * step;
    for (int64_t k = 0; k < 2 * pairs; k += 2, w += 32) {
      const __m256i w0 = load256(w), w1 = load256(w + 16);
      _Pragma("GCC unroll 8") for (int i = 0; i < m; i++) {
        int32_t pair;
        memcpy(&pair, x + i * step + k, sizeof pair);
        const __m256i a = _mm256_set1_epi32(pair);
        acc[i][0] = add_products(acc[i][0], a, w0);
        acc[i][1] = add_products(acc[i][1], a, w1);
      }
    }
  }
  _Pragma("GCC unroll 8") for (int i = 0; i < m; i++) {
    store256(sums + 16 * (tile + i), acc[i][0]);
    store256(sums + 16 * (tile + i) + 8, acc[i][1]);
  }
}

PTQ_256 static void products(const int16_t *const *v, int64_t step, int32_t slices, int64_t pairs,
                             const int16_t *w, int32_t width, int32_t count, int32_t *sums) {
  (void)width; /* 16 */
  int32_t i = 0;
  for (; i + 6 <= count; i += 6) multiply(v, step, slices, pairs, w, 6, i, sums);
  for (; i + 2 <= count; i += 2) multiply(v, step, slices, pairs, w, 2, i, sums);
  for (; i < count; i++) multiply(v, step, slices, pairs, w, 1, i, sums);
}

PTQ_256 static void store(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                          int32_t group, const int32_t *sums, int32_t count, uint8_t *const *y,
                          const uint8_t *const *r) {
  const int64_t parameter = group * c->group_parameters + panel->parameter;
  const epilogue_256 e = load_epilogue(c, panel, parameter, 2);
  for (int32_t i = 0; i < count; i++) {
    const __m256i acc[2] = {load256(sums + 16 * i), load256(sums + 16 * i + 8)};
    finish(&e, c, p, panel, parameter, acc, 2, y[i], r[i]);
  }
}
