/* Memory for the temporaries of one run. */
#include "internal.h"

void *ptq_alloc(size_t bytes) {
  size_t size = ptq_round_up(bytes ? bytes : 1, PTQ_ALIGN);
  void *block = size >= bytes ? aligned_alloc(PTQ_ALIGN, size) : NULL;
  return block ? memset(block, 0, size) : NULL;
}

static int by_size(const void *a, const void *b) {
  const ptq_lifetime *x = *(ptq_lifetime *const *)a, *y = *(ptq_lifetime *const *)b;
  if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
  return x->first != y->first ? (x->first < y->first ? -1 : 1) : (x < y ? -1 : x > y);
}

static size_t largest_live_set(const ptq_lifetime *buffers, int32_t count, size_t *change,
                               int32_t steps) {
  for (int32_t i = 0; i < count; i++) {
    change[buffers[i].first] += buffers[i].bytes;
    change[buffers[i].last + 1] -= buffers[i].bytes; /* unsigned: the running sum comes out right */
  }
  size_t sum = 0, most = 0;
  for (int32_t i = 0; i <= steps; i++) {
    sum += change[i];
    if (sum > most) most = sum;
  }
  return most;
}

/* Largest first, each into the lowest gap between the placed buffers that it meets in time. */
size_t ptq_plan_arena(ptq_lifetime *buffers, int32_t count, int32_t steps, size_t *live) {
  ptq_lifetime **order = malloc(((size_t)count + 1) * sizeof *order);
  size_t *change = calloc((size_t)steps + 2, sizeof *change);
  size_t total = SIZE_MAX;
  if (order && change) {
    *live = largest_live_set(buffers, count, change, steps);
    total = 0;
    for (int32_t i = 0; i < count; i++) order[i] = &buffers[i];
    qsort(order, (size_t)count, sizeof *order, by_size);
    for (int32_t i = 0; i < count; i++) {
      ptq_lifetime *b = order[i];
      b->offset = 0;
      for (bool moved = true; moved;) {
        moved = false;
        for (int32_t j = 0; j < i; j++) {
          const ptq_lifetime *o = order[j];
          if (b->first <= o->last && o->first <= b->last && b->offset < o->offset + o->bytes &&
              o->offset < b->offset + b->bytes) {
            b->offset = o->offset + o->bytes;
            moved = true;
          }
        }
      }
      if (b->offset + b->bytes > total) total = b->offset + b->bytes;
    }
  }
  free(order);
  free(change);
  return total;
}
