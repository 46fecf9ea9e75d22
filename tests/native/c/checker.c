/* Every instruction set of this machine against the scalar code, byte for byte:
 *   checker [cases] [seed]
 * Inputs are exact allocations, so that a sanitizer sees a read past their end; outputs lie
 * between guard zones and start with different garbage in every run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "random_model.h"

enum { GUARD = 96 };

typedef struct {
  uint8_t *block;
  size_t bytes;
} buffer;

typedef struct {
  void *inputs[MAX_TENSORS];
  buffer outputs[MAX_TENSORS];
  int32_t input_count, output_count;
} buffers;

static void make_buffers(const random_model *m, buffers *b) {
  memset(b, 0, sizeof *b);
  for (int32_t i = 0; i < m->model.tensor_count; i++) {
    const ptq_tensor *t = &m->tensors[i];
    size_t bytes = (size_t)random_bytes(t);
    if (t->role == PTQ_INPUT) {
      void *input = malloc(bytes);
      if (!input) abort();
      random_fill(input, bytes, t->dtype);
      b->inputs[b->input_count++] = input;
    } else if (t->role == PTQ_OUTPUT) {
      b->outputs[b->output_count++] = (buffer){malloc(bytes + 2 * GUARD), bytes};
    }
  }
}

static void free_buffers(buffers *b) {
  for (int32_t i = 0; i < b->input_count; i++) free(b->inputs[i]);
  for (int32_t i = 0; i < b->output_count; i++) free(b->outputs[i].block);
}

/* Run once; NULL, or what went wrong. */
static const char *run(const random_model *m, buffers *b, const ptq_options *options,
                       uint8_t poison, char *kernel, size_t size) {
  static ptq_error error;
  ptq_program *program;
  if (ptq_program_create(&m->model, options, &program, &error) != PTQ_OK) return error.message;
  snprintf(kernel, size, "%s", ptq_program_kernel(program, 0));
  const char *wrong = NULL;
  for (int repeat = 0; repeat < 2 && !wrong; repeat++) { /* the second finds a used arena */
    void *outputs[MAX_TENSORS];
    for (int32_t i = 0; i < b->output_count; i++) {
      memset(b->outputs[i].block, poison + repeat, b->outputs[i].bytes + 2 * GUARD);
      outputs[i] = b->outputs[i].block + GUARD;
    }
    if (ptq_program_run(program, (const void *const *)b->inputs, outputs, NULL, &error) != PTQ_OK)
      wrong = error.message;
    for (int32_t i = 0; i < b->output_count; i++)
      for (int32_t j = 0; j < GUARD; j++)
        if (b->outputs[i].block[j] != (uint8_t)(poison + repeat) ||
            b->outputs[i].block[GUARD + b->outputs[i].bytes + (size_t)j] !=
                (uint8_t)(poison + repeat))
          wrong = "guard zone written";
  }
  ptq_program_free(program);
  return wrong;
}

static int check(uint64_t seed, int64_t cases[PTQ_KIND_COUNT]) {
  random_model m;
  buffers expected, actual;
  char kernel[32];
  random_seed(seed);
  random_make(&m);
  make_buffers(&m, &expected);
  ptq_options options = {.isa = PTQ_ISA_SCALAR,
                         .threads = 1,
                         .requantize = random_int(0, 3) ? 0 : random_int(1, 2),
                         .accumulate = random_int(0, 9) == 0};
  const char *wrong = run(&m, &expected, &options, 0x11, kernel, sizeof kernel);
  actual = expected;
  for (int32_t i = 0; i < actual.output_count; i++)
    actual.outputs[i].block = malloc(actual.outputs[i].bytes + 2 * GUARD);
  for (int32_t isa = 0; !wrong && isa <= ptq_best_isa(); isa++) {
    options.isa = isa;
    options.threads = random_int(0, 7) ? 1 : 2;
    wrong = run(&m, &actual, &options, (uint8_t)(0x40 + isa), kernel, sizeof kernel);
    for (int32_t i = 0; !wrong && i < actual.output_count; i++)
      if (memcmp(actual.outputs[i].block + GUARD, expected.outputs[i].block + GUARD,
                 actual.outputs[i].bytes))
        wrong = "differs from scalar";
  }
  if (wrong)
    printf("seed %llu: operator %d, isa %s, kernel %s: %s\n", (unsigned long long)seed,
           (int)m.ops[0].kind, ptq_isa_name(options.isa), kernel, wrong);
  cases[m.ops[0].kind]++;
  for (int32_t i = 0; i < actual.output_count; i++) free(actual.outputs[i].block);
  free_buffers(&expected);
  free(m.data);
  return wrong != NULL;
}

int main(int argc, char **argv) {
  long count = argc > 1 ? atol(argv[1]) : 20000;
  uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
  int64_t cases[PTQ_KIND_COUNT] = {0};
  int failures = 0;
  for (long i = 0; i < count && failures < 20; i++) failures += check(seed + (uint64_t)i, cases);
  for (int kind = 0; kind < PTQ_KIND_COUNT; kind++)
    if (cases[kind] == 0 && count >= 1000) {
      printf("operator %d was never drawn\n", kind);
      failures++;
    }
  printf("%ld cases, %d failures, best instruction set %s\n", count, failures,
         ptq_isa_name(ptq_best_isa()));
  return failures != 0;
}
