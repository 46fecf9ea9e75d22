/* Functions of reals that a convolution, or any operator that gives F32, may be followed by without
 * a grid in between. Computed in float, then rounded to the output grid. */
#ifndef PTQ_FUNCTION_H
#define PTQ_FUNCTION_H

#include "internal.h"

typedef struct ptq_function ptq_function;

/* f(x) in place, n elements. */
typedef void ptq_apply_fn(const ptq_function *f, float *x, int64_t n);

struct ptq_function {
  int32_t kind; /* ptq_function_kind */
  float a, b;
  float inverse; /* of the output scale */
  int32_t zero, lo, hi;
  ptq_apply_fn *apply;
  void (*round)(const ptq_function *f, const float *x, int64_t n, uint8_t *y);
};

/* Read the constant F32 [3] and the limits of the output, a tensor of 8 bits or F32, which has no
 * limits. */
ptq_status ptq_read_function(const ptq_build *build, const ptq_value *constant, const ptq_value *y,
                             const int32_t limits[2], ptq_function *f);

/* y = exp(x - max x) / sum of these, n elements, summed in sixteen parts on every machine. */
typedef void ptq_softmax_fn(const float *x, float *y, int64_t n);
ptq_softmax_fn *ptq_softmax_choose(const ptq_build *build);
#if PTQ_X86
ptq_softmax_fn ptq_softmax_avx512;
#endif

#endif
