/* Run a program: one pass over its operators, each shared out among the threads. */
#include <stdatomic.h>
#include <time.h>

#include "program.h"

/* Below this much work waking a second thread costs more than it saves. */
static const double PARALLEL_WORK = 200000;

typedef struct {
  const ptq_node *node;
  const uint8_t *const *in;
  uint8_t *const *out;
  uint8_t *scratch;
  size_t scratch_bytes;
  int64_t grain;
  _Atomic int64_t next;
  atomic_int status;
} job;

static void run_tasks(void *argument, int thread) {
  job *j = argument;
  uint8_t *scratch = j->scratch + (size_t)thread * j->scratch_bytes;
  for (;;) {
    int64_t begin = atomic_fetch_add_explicit(&j->next, j->grain, memory_order_relaxed);
    if (begin >= j->node->tasks) return;
    int64_t end = ptq_min(j->node->tasks, begin + j->grain);
    ptq_status status = j->node->run(j->node, j->in, j->out, begin, end, scratch);
    if (status != PTQ_OK) atomic_store(&j->status, (int)status);
  }
}

static ptq_status run_node(ptq_program *program, context *c, const ptq_node *node, bool parallel) {
  const uint8_t *operands[2 * PTQ_MAX_OPERANDS];
  for (int32_t i = 0; i < node->input_count + node->output_count; i++)
    operands[i] = node->in[i] ? c->pointers[node->in[i] - program->values] : NULL;
  uint8_t *const *out = (uint8_t *const *)(operands + node->input_count);
  if (!parallel || node->tasks == 1 || node->work < PARALLEL_WORK)
    return node->run(node, operands, out, 0, node->tasks, c->scratch);
  int64_t grain = ptq_max(1, node->tasks / (program->options.threads * 8));
  job j = {.node = node,
           .in = operands,
           .out = out,
           .scratch = c->scratch,
           .scratch_bytes = program->scratch_bytes,
           .grain = grain};
  ptq_pool_run(program->pool, run_tasks, &j);
  return (ptq_status)atomic_load(&j.status);
}

void ptq_free_context(context *c) {
  if (!c) return;
  free(c->arena);
  free(c->scratch);
  free(c->pointers);
  free(c);
}

static context *take_context(ptq_program *program) {
  pthread_mutex_lock(&program->mutex);
  context *c = program->idle;
  if (c) program->idle = c->next;
  pthread_mutex_unlock(&program->mutex);
  if (c) return c;
  c = ptq_alloc(sizeof *c);
  if (!c) return NULL;
  c->arena = ptq_alloc(program->arena_bytes);
  c->scratch = ptq_alloc(program->scratch_bytes * (size_t)program->options.threads);
  c->pointers = ptq_alloc((size_t)program->value_count * sizeof *c->pointers);
  if (c->arena && c->scratch && c->pointers) return c;
  ptq_free_context(c);
  return NULL;
}

static void give_back(ptq_program *program, context *c) {
  pthread_mutex_lock(&program->mutex);
  c->next = program->idle;
  program->idle = c;
  pthread_mutex_unlock(&program->mutex);
}

/* Copy bytes between the caller's buffer and the arena; signed ones become unsigned or back. */
static void transfer(uint8_t *to, const uint8_t *from, const ptq_value *v) {
  if (!v->flip) {
    memcpy(to, from, v->bytes);
    return;
  }
  for (size_t i = 0; i < v->bytes; i++) to[i] = from[i] ^ 0x80;
}

static void bind(const ptq_program *program, context *c, const void *const *inputs,
                 void *const *outputs) {
  int32_t next_input = 0, next_output = 0;
  for (int32_t i = 0; i < program->value_count; i++) {
    const ptq_value *v = &program->values[i];
    const uint8_t *inside = c->arena + v->offset;
    if (v->role == PTQ_CONSTANT || v->role == PTQ_GRID) {
      c->pointers[i] = v->data;
    } else if (v->base != i) {
      c->pointers[i] = c->pointers[v->base];
    } else if (v->role == PTQ_INPUT) {
      const void *input = inputs[next_input++];
      c->pointers[i] = v->dtype == PTQ_U8 ? inside : input;
      if (v->dtype == PTQ_U8) transfer(c->arena + v->offset, input, v);
    } else if (v->role == PTQ_OUTPUT) {
      const void *output = outputs[next_output++];
      c->pointers[i] = v->dtype == PTQ_U8 ? inside : output;
    } else {
      c->pointers[i] = inside;
    }
  }
}

static void unbind(const ptq_program *program, const context *c, void *const *outputs) {
  int32_t next_output = 0;
  for (int32_t i = 0; i < program->value_count; i++) {
    const ptq_value *v = &program->values[i];
    if (v->role != PTQ_OUTPUT) continue;
    if (v->dtype == PTQ_U8) transfer(outputs[next_output], c->pointers[i], v);
    next_output++;
  }
}

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

ptq_status ptq_program_run(ptq_program *program, const void *const *inputs, void *const *outputs,
                           int64_t *nanoseconds, ptq_error *error) {
  ptq_build build = {.op = -1, .error = error};
  context *c = take_context(program);
  if (!c) return ptq_fail(&build, PTQ_NO_MEMORY, "no memory for the arena");
  bind(program, c, inputs, outputs);
  bool parallel = program->pool && ptq_pool_try(program->pool);
  ptq_status status = PTQ_OK;
  int64_t before = nanoseconds ? now() : 0;
  for (int32_t i = 0; status == PTQ_OK && i < program->node_count; i++) {
    status = run_node(program, c, &program->nodes[i], parallel);
    if (status != PTQ_OK) build.op = i;
    if (nanoseconds) {
      int64_t after = now();
      nanoseconds[i] = after - before;
      before = after;
    }
  }
  if (parallel) ptq_pool_release(program->pool);
  if (status == PTQ_OK) unbind(program, c, outputs);
  give_back(program, c);
  if (status == PTQ_BAD_INDEX)
    ptq_fail(&build, status, "an index lies outside its axis, or a region is too large");
  return status;
}
