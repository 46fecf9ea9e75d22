#ifndef PTQ_LUT_H
#define PTQ_LUT_H

#include "internal.h"

typedef void ptq_lut_fn(const uint8_t *table, const uint8_t *x, uint8_t *y, int64_t n);
ptq_lut_fn ptq_lut_scalar;
#if PTQ_X86
ptq_lut_fn ptq_lut_avx2, ptq_lut_avx512vbmi;
#endif
ptq_lut_fn *ptq_lut_choose(const ptq_build *build);
const char *ptq_lut_name(ptq_lut_fn *lookup);

/* A table for values that are signed in the model, as the kernels see them. */
void ptq_lut_flip(const uint8_t *from, bool flip_in, bool flip_out, uint8_t *to);

#endif
