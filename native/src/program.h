/* A compiled program and the memory of one run. */
#ifndef PTQ_PROGRAM_H
#define PTQ_PROGRAM_H

#include <pthread.h>

#include "internal.h"

typedef struct context {
  struct context *next;
  uint8_t *arena, *scratch;
  const uint8_t **pointers; /* of every value, for this run */
} context;

struct ptq_program {
  ptq_options options;
  ptq_value *values;
  ptq_node *nodes;
  int32_t value_count, node_count;
  int32_t *ints; /* the model's, with operand numbers and attributes */
  ptq_value **operands;
  uint8_t *constants; /* those read while running */
  size_t constant_bytes, state_bytes, arena_bytes, live_bytes, scratch_bytes;
  ptq_pool *pool; /* NULL with one thread */
  pthread_mutex_t mutex;
  context *idle; /* contexts of finished runs */
};

ptq_status ptq_read_values(ptq_build *build, const ptq_model *model, ptq_program *program);
ptq_status ptq_read_nodes(ptq_build *build, const ptq_model *model, ptq_program *program);
void ptq_free_context(context *c);

#endif
