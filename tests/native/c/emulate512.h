/* For emulate.h on machines without AVX-512: its instructions that the kernels use, through SIMDe
 * (https://github.com/simd-everywhere/simde) where it has them, else in C. */
#ifndef EMULATE512_H
#define EMULATE512_H

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <immintrin.h>
#include <math.h>
#include <simde/x86/avx512.h>
#include <stdint.h>
#include <string.h>

#define EMULATED static inline __attribute__((unused))

typedef union {
  uint8_t u8[64];
  int8_t s8[64];
  uint16_t u16[32];
  int32_t s32[16];
  uint32_t u32[16];
  float f32[16];
  __m128i quarter;
  __m256i half;
} emulated_vector;

EMULATED emulated_vector emulated_of(simde__m512i v) {
  emulated_vector out;
  simde_mm512_storeu_si512(&out, v);
  return out;
}

EMULATED simde__m512i emulated_masked(uint64_t mask, const void *from, int bytes) {
  emulated_vector out = {{0}};
  for (int i = 0; i < bytes; i++)
    if (mask >> i & 1) out.u8[i] = ((const uint8_t *)from)[i];
  return simde_mm512_loadu_si512(&out);
}

EMULATED void emulated_keep(void *to, uint64_t mask, const void *from, int bytes) {
  for (int i = 0; i < bytes; i++)
    if (mask >> i & 1) ((uint8_t *)to)[i] = ((const uint8_t *)from)[i];
}

EMULATED simde__m512i emulated_dpbusd(simde__m512i acc, simde__m512i a, simde__m512i b) {
  emulated_vector sum = emulated_of(acc);
  const emulated_vector x = emulated_of(a), w = emulated_of(b);
  for (int i = 0; i < 64; i++) sum.u32[i / 4] += (uint32_t)(x.u8[i] * w.s8[i]);
  return simde_mm512_loadu_si512(&sum);
}

EMULATED __m256i emulated_dpbusd256(__m256i acc, __m256i a, __m256i b) {
  emulated_vector sum = {.half = acc}, x = {.half = a}, w = {.half = b};
  for (int i = 0; i < 32; i++) sum.u32[i / 4] += (uint32_t)(x.u8[i] * w.s8[i]);
  return sum.half;
}

EMULATED simde__m512 emulated_to_float(simde__m512i v) {
  emulated_vector x = emulated_of(v);
  for (int i = 0; i < 16; i++) x.f32[i] = (float)x.s32[i];
  return simde_mm512_loadu_ps(&x);
}

EMULATED simde__m512i emulated_to_int(simde__m512 v) {
  emulated_vector x;
  simde_mm512_storeu_ps(&x, v);
  for (int i = 0; i < 16; i++) x.s32[i] = _mm_cvtss_si32(_mm_set_ss(x.f32[i]));
  return simde_mm512_loadu_si512(&x);
}

EMULATED simde__m512 emulated_rint(simde__m512 v) {
  emulated_vector x;
  simde_mm512_storeu_ps(&x, v);
  for (int i = 0; i < 16; i++) x.f32[i] = nearbyintf(x.f32[i]);
  return simde_mm512_loadu_ps(&x);
}

EMULATED simde__m512i emulated_widen16(__m256i v) {
  const emulated_vector x = {.half = v};
  emulated_vector out;
  for (int i = 0; i < 32; i++) out.u16[i] = x.u8[i];
  return simde_mm512_loadu_si512(&out);
}

EMULATED simde__m512i emulated_widen32(__m128i v) {
  const emulated_vector x = {.quarter = v};
  emulated_vector out;
  for (int i = 0; i < 16; i++) out.u32[i] = x.u8[i];
  return simde_mm512_loadu_si512(&out);
}

EMULATED __m256i emulated_narrow16(simde__m512i v) {
  const emulated_vector x = emulated_of(v);
  emulated_vector out;
  for (int i = 0; i < 32; i++) out.u8[i] = (uint8_t)(x.u16[i] > 255 ? 255 : x.u16[i]);
  return out.half;
}

EMULATED __m128i emulated_narrow32(simde__m512i v) {
  const emulated_vector x = emulated_of(v);
  emulated_vector out;
  for (int i = 0; i < 16; i++) out.u8[i] = (uint8_t)(x.u32[i] > 255 ? 255 : x.u32[i]);
  return out.quarter;
}

EMULATED float emulated_first(simde__m512 v) {
  emulated_vector x;
  simde_mm512_storeu_ps(&x, v);
  return x.f32[0];
}

EMULATED float emulated_max(simde__m512 v) {
  emulated_vector x;
  simde_mm512_storeu_ps(&x, v);
  for (int i = 1; i < 16; i++) x.f32[0] = x.f32[i] > x.f32[0] ? x.f32[i] : x.f32[0];
  return x.f32[0];
}

EMULATED simde__m512 emulated_load_lanes(simde__m512 v, unsigned mask, const float *from) {
  emulated_vector x;
  simde_mm512_storeu_ps(&x, v);
  for (int i = 0; i < 16; i++)
    if (mask >> i & 1) x.f32[i] = from[i];
  return simde_mm512_loadu_ps(&x);
}

EMULATED void emulated_store_lanes(float *to, unsigned mask, simde__m512 v) {
  emulated_vector x;
  simde_mm512_storeu_ps(&x, v);
  for (int i = 0; i < 16; i++)
    if (mask >> i & 1) to[i] = x.f32[i];
}

EMULATED simde__m512 emulated_permute(simde__m512 v, int order) {
  emulated_vector x, out;
  simde_mm512_storeu_ps(&x, v);
  for (int i = 0; i < 16; i++) out.f32[i] = x.f32[i / 4 * 4 + (order >> i % 4 * 2 & 3)];
  return simde_mm512_loadu_ps(&out);
}

EMULATED simde__m512 emulated_shuffle(simde__m512 a, simde__m512 b, int order) {
  emulated_vector x[2], out;
  simde_mm512_storeu_ps(&x[0], a);
  simde_mm512_storeu_ps(&x[1], b);
  for (int i = 0; i < 16; i++) out.f32[i] = x[i / 8].f32[(order >> i / 4 * 2 & 3) * 4 + i % 4];
  return simde_mm512_loadu_ps(&out);
}

#undef _mm512_roundscale_ps
#undef _mm512_dpbusd_epi32
#undef _mm256_dpbusd_epi32
#define _mm512_roundscale_ps(a, mode)       emulated_rint(a)
#define _mm512_dpbusd_epi32(acc, a, b)      emulated_dpbusd(acc, a, b)
#define _mm256_dpbusd_epi32(acc, a, b)      emulated_dpbusd256(acc, a, b)
#define _mm512_maskz_loadu_epi8(m, p)       emulated_masked(m, p, 64)
#define _mm256_maskz_loadu_epi8(m, p)       simde_mm512_castsi512_si256(emulated_masked(m, p, 32))
#define _mm_maskz_loadu_epi8(m, p)          simde_mm512_castsi512_si128(emulated_masked(m, p, 16))
#define _mm512_mask_storeu_epi8(p, m, v)    emulated_keep(p, m, (simde__m512i[]){v}, 64)
#define _mm256_mask_storeu_epi8(p, m, v)    emulated_keep(p, m, (__m256i[]){v}, 32)
#define _mm_mask_storeu_epi8(p, m, v)       emulated_keep(p, m, (__m128i[]){v}, 16)
#define _mm512_cvtss_f32(v)                 emulated_first(v)
#define _mm512_reduce_max_ps(v)             emulated_max(v)
#define _mm512_mask_loadu_ps(v, m, p)       emulated_load_lanes(v, m, p)
#define _mm512_mask_storeu_ps(p, m, v)      emulated_store_lanes(p, m, v)
#define _mm512_permute_ps(v, order)         emulated_permute(v, order)
#define _mm512_shuffle_f32x4(a, b, order)   emulated_shuffle(a, b, order)
#define _mm512_cvtepi32_ps(v)               emulated_to_float(v)
#define _mm512_cvtps_epi32(v)               emulated_to_int(v)
#define _mm512_cvtepu8_epi16(v)             emulated_widen16(v)
#define _mm512_cvtepu8_epi32(v)             emulated_widen32(v)
#define _mm512_cvtusepi16_epi8(v)           emulated_narrow16(v)
#define _mm512_cvtusepi32_epi8(v)           emulated_narrow32(v)
#define _mm512_add_round_ps(a, b, rounding) simde_mm512_add_ps(a, b)
#define _mm512_sub_round_ps(a, b, rounding) simde_mm512_sub_ps(a, b)
#define _mm512_mul_round_ps(a, b, rounding) simde_mm512_mul_ps(a, b)

#endif
