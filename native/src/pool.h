#ifndef PTQ_POOL_H
#define PTQ_POOL_H

#include "internal.h"

/* The largest of `count` pixels, channel by channel; 0 where there are none. */
typedef void ptq_maximum_fn(uint8_t *y, const uint8_t *const *taps, int64_t count, int64_t n);
ptq_maximum_fn ptq_maximum_scalar;
#if PTQ_X86
ptq_maximum_fn ptq_maximum_avx2, ptq_maximum_avx512;
#endif

#endif
