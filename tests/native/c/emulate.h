/* Included before everything else, this lets the kernels of processors that this machine is not
 * run on it: every function is compiled for the command line's target, and the missing
 * instructions are C. Needs a machine with AVX512-VNNI and AVX512-VBMI, or emulate512.h first. */
#ifndef EMULATE_H
#define EMULATE_H

#define PTQ_EMULATE
#define PTQ_TARGET(features)

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define _mm256_dpbusd_avx_epi32 _mm256_dpbusd_epi32
#define _mm256_dpwssd_avx_epi32 _mm256_dpwssd_epi32

static __thread union {
  uint8_t bytes[16][64];
  int32_t words[16][16];
} emulated_tile[8] __attribute__((unused));

__attribute__((unused)) static void emulated_dot(int to, int a, int b) {
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 16; j++)
      for (int k = 0; k < 64; k++)
        emulated_tile[to].words[i][j] +=
            emulated_tile[a].bytes[i][k] * (int8_t)emulated_tile[b].bytes[k / 4][4 * j + k % 4];
}

__attribute__((unused)) static void emulated_load(int to, const void *from, long stride) {
  for (int i = 0; i < 16; i++)
    memcpy(emulated_tile[to].bytes[i], (const char *)from + i * stride, 64);
}

__attribute__((unused)) static void emulated_store(int from, void *to, long stride) {
  for (int i = 0; i < 16; i++) memcpy((char *)to + i * stride, emulated_tile[from].bytes[i], 64);
}

#undef _tile_loadconfig
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbusd
#undef _tile_release
#define _tile_loadconfig(config)        ((void)(config))
#define _tile_loadd(tile, from, stride) emulated_load(tile, from, stride)
#define _tile_stored(tile, to, stride)  emulated_store(tile, to, stride)
#define _tile_zero(tile)                memset(&emulated_tile[tile], 0, sizeof emulated_tile[tile])
#define _tile_dpbusd(to, a, b)          emulated_dot(to, a, b)
#define _tile_release()                 ((void)0)

#endif
