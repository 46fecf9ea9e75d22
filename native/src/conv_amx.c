/* Convolution tiles with tdpbusd: 32 pixels by 32 channels in four accumulator tiles, 64 input
 * values a step. The weights are packed as for 512-bit vectors, whose steps of four are the rows
 * that a tile of B wants, and so is the epilogue. */
#include "conv.h"

#if PTQ_X86
#include "conv_avx512.h"

#define PTQ_AMX PTQ_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,amx-tile,amx-int8")

enum { TILE_ROWS = 16, TILE_BYTES = 64, ROWS = 2 * TILE_ROWS };

typedef struct {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} tile_config;

/* Eight tiles of 16 rows by 64 bytes. */
PTQ_INLINE PTQ_AMX void configure(void) {
  tile_config config = {.palette = 1};
  for (int i = 0; i < 8; i++) {
    config.row_bytes[i] = TILE_BYTES;
    config.rows[i] = TILE_ROWS;
  }
  _tile_loadconfig(&config);
}

/* The distance between the rows if it is always the same, as in Gemm; 0 otherwise. */
static int64_t common_stride(const uint8_t *const *rows, int32_t count) {
  const int64_t stride = count == ROWS ? rows[1] - rows[0] : 0;
  for (int32_t i = 2; stride && i < ROWS; i++)
    if (rows[i] - rows[i - 1] != stride) return 0;
  return stride;
}

/* 64 bytes of each row side by side; missing rows repeat the last one. */
PTQ_INLINE PTQ_AMX void gather(const uint8_t *const *rows, int32_t count, int64_t k,
                               uint8_t to[ROWS][TILE_BYTES]) {
  for (int32_t i = 0; i < ROWS; i++)
    _mm512_storeu_si512(to[i], _mm512_loadu_si512(rows[i < count ? i : count - 1] + k));
}

/* 32 pixels by two vectors of channels, or by one if `two` is false. */
PTQ_INLINE PTQ_AMX void multiply(const ptq_conv *c, const ptq_phase *p, const int8_t *w,
                                 int64_t width, const uint8_t *const *rows, int32_t count,
                                 const bool two, int32_t *sums) {
  const int64_t stride = width * 4; /* of B's rows, in bytes */
  uint8_t side[ROWS][TILE_BYTES];
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int32_t t = 0; t < p->taps; t++, rows += c->block_rows) {
    if (ptq_skips_tap(c, rows, count)) {
      w += c->steps * stride;
      continue;
    }
    const int64_t apart = common_stride(rows, count);
    for (int64_t k = 0; k < 4 * (int64_t)c->steps; k += TILE_BYTES, w += TILE_ROWS * stride) {
      if (apart) {
        _tile_loadd(4, rows[0] + k, apart);
        _tile_loadd(5, rows[TILE_ROWS] + k, apart);
      } else {
        gather(rows, count, k, side);
        _tile_loadd(4, side[0], TILE_BYTES);
        _tile_loadd(5, side[TILE_ROWS], TILE_BYTES);
      }
      _tile_loadd(6, w, stride);
      _tile_dpbusd(0, 4, 6);
      _tile_dpbusd(2, 5, 6);
      if (two) {
        _tile_loadd(7, w + 64, stride);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(3, 5, 7);
      }
    }
  }
  _tile_stored(0, sums, 4 * PTQ_MAX_WIDTH);
  _tile_stored(2, sums + TILE_ROWS * PTQ_MAX_WIDTH, 4 * PTQ_MAX_WIDTH);
  if (!two) return;
  _tile_stored(1, sums + 16, 4 * PTQ_MAX_WIDTH);
  _tile_stored(3, sums + TILE_ROWS * PTQ_MAX_WIDTH + 16, 4 * PTQ_MAX_WIDTH);
}

PTQ_INLINE PTQ_AMX void store_rows(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                                   int32_t group, const uint8_t *const *rows, const int n,
                                   const int32_t *sums, int32_t count, uint8_t *const *y,
                                   const uint8_t *const *r) {
  const int64_t parameter = group * c->group_parameters + panel->parameter;
  __m512i skipped[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                        _mm512_setzero_si512()};
  for (int32_t t = 0; p->padded && t < p->taps; t++, rows += c->block_rows) {
    if (!ptq_skips_tap(c, rows, count)) continue;
    const int32_t *known = ptq_skipped_sums(c, p, group, panel->parameter, t);
    for (int j = 0; j < n; j++)
      skipped[j] = _mm512_add_epi32(skipped[j], _mm512_loadu_si512(known + 16 * j));
  }
  for (int32_t i = 0; i < count; i++) {
    __m512i acc[4];
    for (int j = 0; j < n; j++) {
      acc[j] = _mm512_loadu_si512(sums + i * PTQ_MAX_WIDTH + 16 * j);
      acc[j] = _mm512_add_epi32(acc[j], skipped[j]);
      if (c->epilogue.direct)
        acc[j] = _mm512_add_epi32(acc[j], _mm512_loadu_si512(p->bias + parameter + 16 * j));
    }
    ptq_store_512(c, p, panel, parameter, acc, 1, n, y + i, r + i);
  }
}

PTQ_AMX void ptq_conv_amx(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                          int32_t group, const uint8_t *const *rows, int32_t count,
                          uint8_t *const *y, const uint8_t *const *r) {
  const int8_t *w = p->weights + group * c->group_weights + panel->weights;
  int32_t sums[ROWS * PTQ_MAX_WIDTH];
  configure();
  if (panel->width == 16) {
    multiply(c, p, w, 16, rows, count, false, sums);
    store_rows(c, p, panel, group, rows, 1, sums, count, y, r);
  } else if (panel->width == 32) {
    multiply(c, p, w, 32, rows, count, true, sums);
    store_rows(c, p, panel, group, rows, 2, sums, count, y, r);
  } else {
    multiply(c, p, w, 64, rows, count, true, sums);
    multiply(c, p, w + 128, 64, rows, count, true, sums + 32);
    store_rows(c, p, panel, group, rows, 4, sums, count, y, r);
  }
  _tile_release();
}
#else
typedef int ptq_nothing_here;
#endif
