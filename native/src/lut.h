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

/* Channels' tables as lines: y = x * slope + start, within [low, high], rounded. */
typedef struct ptq_lines {
  int64_t channels;
  float *slope, *start, *low, *high;
  void (*run)(const struct ptq_lines *, const uint8_t *x, uint8_t *y); /* one row of channels */
} ptq_lines;

/* False if a table is no line; `storage` keeps four floats for each channel. */
bool ptq_lines_fit(const ptq_build *build, const uint8_t *tables, int64_t channels, float *storage,
                   ptq_lines *v);

#endif
