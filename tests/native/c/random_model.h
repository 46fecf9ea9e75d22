/* Seeded random models of one operator, shared by the checker and the fuzz target. */
#ifndef RANDOM_MODEL_H
#define RANDOM_MODEL_H

#include "ptq/kernels.h"

enum { MAX_TENSORS = 32, MAX_INTS = 512 };

typedef struct {
  ptq_tensor tensors[MAX_TENSORS];
  ptq_op ops[1];
  int32_t ints[MAX_INTS];
  uint8_t *data;
  int64_t capacity;
  ptq_model model;
} random_model;

uint32_t random_bits(void);
void random_seed(uint64_t seed);
int32_t random_int(int32_t low, int32_t high); /* inclusive */

/* Values that matter: mostly uniform, often the extremes of the type. */
void random_fill(void *to, size_t bytes, int32_t dtype);

/* Always a valid model; the caller releases `data`. */
void random_make(random_model *m);
int64_t random_bytes(const ptq_tensor *t);

#endif
