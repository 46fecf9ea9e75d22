/* Memory for the temporaries of one run. */
#include "internal.h"

void *ptq_alloc(size_t bytes) {
  size_t size = ptq_round_up(bytes ? bytes : 1, PTQ_ALIGN);
  void *block = size >= bytes ? aligned_alloc(PTQ_ALIGN, size) : NULL;
  return block ? memset(block, 0, size) : NULL;
}

static int by_start(const ptq_lifetime *a, const ptq_lifetime *b) {
  if (a->first != b->first) return a->first < b->first ? -1 : 1;
  if (a->bytes != b->bytes) return a->bytes > b->bytes ? -1 : 1;
  return a < b ? -1 : a > b;
}

static int by_size(const void *a, const void *b) {
  const ptq_lifetime *x = *(ptq_lifetime *const *)a, *y = *(ptq_lifetime *const *)b;
  return x->bytes != y->bytes ? (x->bytes > y->bytes ? -1 : 1) : by_start(x, y);
}

static int by_duration(const void *a, const void *b) {
  const ptq_lifetime *x = *(ptq_lifetime *const *)a, *y = *(ptq_lifetime *const *)b;
  int32_t dx = x->last - x->first, dy = y->last - y->first;
  return dx != dy ? (dx > dy ? -1 : 1) : by_size(a, b);
}

static int by_time(const void *a, const void *b) {
  return by_start(*(ptq_lifetime *const *)a, *(ptq_lifetime *const *)b);
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

/* In the given order, each into the lowest gap between the placed buffers that it meets in time. */
static size_t place(ptq_lifetime *const *order, int32_t count) {
  size_t total = 0;
  for (int32_t i = 0; i < count; i++) {
    ptq_lifetime *b = order[i];
    b->offset = 0;
    for (bool moved = b->bytes > 0; moved;) {
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
  return total;
}

/* Several greedy orders, the best of which is rarely far from the largest live set. */
size_t ptq_plan_arena(ptq_lifetime *buffers, int32_t count, int32_t steps, size_t *live) {
  int (*const orders[])(const void *, const void *) = {by_size, by_duration, by_time};
  ptq_lifetime **order = malloc(((size_t)count + 1) * sizeof *order);
  size_t *change = calloc((size_t)steps + 2, sizeof *change);
  size_t total = SIZE_MAX;
  if (order && change) {
    *live = largest_live_set(buffers, count, change, steps);
    int best = 0;
    for (int i = 0; i <= 3; i++) { /* the last time to place them in the best order again */
      for (int32_t j = 0; j < count; j++) order[j] = &buffers[j];
      qsort(order, (size_t)count, sizeof *order, orders[i < 3 ? i : best]);
      size_t size = place(order, count);
      if (size < total) {
        total = size;
        best = i;
      }
    }
  }
  free(order);
  free(change);
  return total;
}
