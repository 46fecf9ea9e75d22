/* From the 32-bit accumulator to the output grid: the rounding that every kernel shares.
 * Limits are relative to the zero point, so that a result is `zero_point + requantize(...)`. */
#ifndef PTQ_REQUANT_H
#define PTQ_REQUANT_H

#include <math.h>

#include "internal.h"

/* Nearest integer, ties to even, of |f| <= 2^22: adding 1.5 * 2^23 leaves no room for a fraction,
 * and the sum's low bits are the integer. Unlike rintf() every compiler can vectorize it. */
PTQ_INLINE int32_t ptq_rint(float f) {
  const float magic = 12582912.0f;
  float sum = f + magic;
  int32_t bits;
  memcpy(&bits, &sum, sizeof bits);
  return bits - 0x4B400000;
}

/* NaN gives lo. */
PTQ_INLINE float ptq_clampf(float f, float lo, float hi) {
  f = f > lo ? f : lo;
  return f < hi ? f : hi;
}

PTQ_INLINE int32_t ptq_clamp(int64_t v, int32_t lo, int32_t hi) {
  return v < lo ? lo : v > hi ? hi : (int32_t)v;
}

PTQ_INLINE int32_t ptq_requant_float(int32_t acc, float m, int32_t lo, int32_t hi) {
  return ptq_rint(ptq_clampf((float)acc * m, (float)lo, (float)hi));
}

/* A real multiplier in the form that its rounding mode wants. */
typedef struct {
  float real;
  int32_t multiplier;
  int32_t shift; /* fixed: right shift; gemmlowp: left if positive, right if negative */
} ptq_multiplier;

/* Integer roundings keep 24 bits or more below the point, which bounds the multiplier. */
PTQ_INLINE bool ptq_multiplier_fits(const ptq_build *build, float m) {
  return build->requant == PTQ_REQUANT_FLOAT ? isfinite(m) : fabsf(m) < 1048576.0f;
}

PTQ_INLINE ptq_multiplier ptq_make_multiplier(ptq_requant mode, float m) {
  ptq_multiplier out = {m, 0, 1};
  int exponent;
  double fraction = frexp((double)fabsf(m), &exponent);
  if (mode == PTQ_REQUANT_FIXED) {
    int shift = 24 - exponent;
    if (shift <= 62 && shift >= 1) {
      out.multiplier = (int32_t)(fraction * (1 << 24));
      out.shift = shift;
    }
  } else if (mode == PTQ_REQUANT_GEMMLOWP) {
    int64_t q = (int64_t)floor(fraction * 2147483648.0 + 0.5);
    if (q == (int64_t)1 << 31) { /* the mantissa rounded up to 1 */
      q /= 2;
      exponent++;
    }
    out.multiplier = exponent < -31 ? 0 : (int32_t)q;
    out.shift = exponent < -31 ? 0 : exponent;
  }
  if (m < 0) out.multiplier = -out.multiplier;
  return out;
}

PTQ_INLINE int64_t ptq_fixed_multiply(int64_t acc, ptq_multiplier m) {
  return (acc * m.multiplier + ((int64_t)1 << (m.shift - 1))) >> m.shift;
}

PTQ_INLINE int32_t ptq_gemmlowp_multiply(int64_t acc, ptq_multiplier m) {
  int64_t a = ptq_clamp(m.shift > 0 ? acc * ((int64_t)1 << m.shift) : acc, INT32_MIN, INT32_MAX);
  int64_t product = a * m.multiplier; /* |multiplier| < 2^31, so it cannot be 2^62 */
  int64_t high = (product + (product >= 0 ? 1 << 30 : 1 - (1 << 30))) / ((int64_t)1 << 31);
  int right = m.shift < 0 ? -m.shift : 0;
  int64_t mask = ((int64_t)1 << right) - 1, rest = high & mask;
  return (int32_t)((high >> right) + (rest > (mask >> 1) + (high < 0)));
}

PTQ_INLINE int32_t ptq_requantize(ptq_requant mode, int64_t acc, ptq_multiplier m, int32_t lo,
                                  int32_t hi) {
  if (mode == PTQ_REQUANT_FLOAT)
    return ptq_rint(ptq_clampf((float)acc * m.real, (float)lo, (float)hi));
  if (mode == PTQ_REQUANT_FIXED) return ptq_clamp(ptq_fixed_multiply(acc, m), lo, hi);
  return ptq_clamp(ptq_gemmlowp_multiply(acc, m), lo, hi);
}

/* a * ma + b * mb on the output grid, a and b without their zero points.
 * fixed: both multipliers over one shift; gemmlowp: through 20 more bits of precision, as TFLite.
 */
typedef struct {
  ptq_requant mode;
  float ma, mb;
  int64_t ia, ib; /* fixed */
  int32_t shift;
  ptq_multiplier a, b, out; /* gemmlowp */
} ptq_adder;

PTQ_INLINE ptq_adder ptq_make_adder(ptq_requant mode, float sa, float sb, float sy) {
  ptq_adder d = {.mode = mode, .ma = sa / sy, .mb = sb / sy};
  float largest = fmaxf(fabsf(sa), fabsf(sb));
  int exponent;
  frexp((double)(largest / sy), &exponent);
  d.shift = exponent < -30 ? 54 : 24 - exponent;
  if (d.shift < 1) d.shift = 1;
  d.ia = (int64_t)floor(ldexp((double)d.ma, d.shift) + 0.5);
  d.ib = (int64_t)floor(ldexp((double)d.mb, d.shift) + 0.5);
  d.a = ptq_make_multiplier(PTQ_REQUANT_GEMMLOWP, sa / (2 * largest));
  d.b = ptq_make_multiplier(PTQ_REQUANT_GEMMLOWP, sb / (2 * largest));
  d.out = ptq_make_multiplier(PTQ_REQUANT_GEMMLOWP, 2 * largest / sy / (1 << 20));
  return d;
}

PTQ_INLINE int32_t ptq_add_float(int32_t a, float ma, int32_t b, float mb, int32_t lo, int32_t hi) {
  float fa = (float)a * ma, fb = (float)b * mb;
  return ptq_rint(ptq_clampf(fa + fb, (float)lo, (float)hi));
}

PTQ_INLINE int32_t ptq_add(const ptq_adder *d, int32_t a, int32_t b, int32_t lo, int32_t hi) {
  if (d->mode == PTQ_REQUANT_FLOAT) return ptq_add_float(a, d->ma, b, d->mb, lo, hi);
  if (d->mode == PTQ_REQUANT_FIXED)
    return ptq_clamp((a * d->ia + b * d->ib + ((int64_t)1 << (d->shift - 1))) >> d->shift, lo, hi);
  int64_t sum = (int64_t)ptq_gemmlowp_multiply((int64_t)a * (1 << 20), d->a) +
                ptq_gemmlowp_multiply((int64_t)b * (1 << 20), d->b);
  return ptq_clamp(ptq_gemmlowp_multiply(sum, d->out), lo, hi);
}

/* The table that moves an 8-bit value from one grid to another. */
PTQ_INLINE void ptq_grid_table(ptq_requant mode, const ptq_value *from, const ptq_value *to,
                               uint8_t table[256]) {
  ptq_multiplier m = ptq_make_multiplier(mode, from->scale / to->scale);
  for (int q = 0; q < 256; q++)
    table[q] = (uint8_t)(to->zero_point + ptq_requantize(mode, q - from->zero_point, m,
                                                         -to->zero_point, 255 - to->zero_point));
}

#endif
