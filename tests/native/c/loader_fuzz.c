/* Whatever bytes come, loading and running a model must not touch memory it does not own.
 * With libFuzzer: -fsanitize=fuzzer,address -DWITH_LIBFUZZER. Alone: loader_fuzz [cases] [seed]
 * damages serialized random models; loader_fuzz CASES SEED FOLDER writes sound ones, to start
 * libFuzzer with. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "random_model.h"

enum { LARGEST = 1 << 20 };

/* Run what loads, with buffers of exactly the sizes it declares. */
static void run(const ptq_model *model, ptq_program *program) {
  void *buffers[256];
  const void *inputs[256];
  void *outputs[256];
  int32_t count = 0, input_count = 0, output_count = 0;
  ptq_error error;
  int possible = 1;
  for (int32_t i = 0; i < model->tensor_count; i++) {
    const ptq_tensor *t = &model->tensors[i];
    if (t->role != PTQ_INPUT && t->role != PTQ_OUTPUT) continue;
    int64_t bytes = random_bytes(t);
    if (count == 256 || bytes > LARGEST) {
      possible = 0;
      break;
    }
    void *buffer = calloc(1, (size_t)bytes);
    if (!buffer) abort();
    buffers[count++] = buffer;
    if (t->role == PTQ_INPUT)
      inputs[input_count++] = buffer;
    else
      outputs[output_count++] = buffer;
  }
  ptq_info info;
  ptq_program_info(program, &info);
  double work = 0;
  for (int32_t i = 0; i < model->op_count; i++) work += ptq_program_work(program, i);
  if (possible && info.arena_bytes < (int64_t)LARGEST * 64 && work < 1e8)
    ptq_program_run(program, inputs, outputs, NULL, &error);
  for (int32_t i = 0; i < count; i++) free(buffers[i]);
}

static int accepted;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  ptq_model model;
  ptq_error error;
  ptq_program *program;
  void *aligned = NULL;
  if (posix_memalign(&aligned, 8, size ? size : 1) != 0) abort();
  memcpy(aligned, bytes, size);
  const ptq_options options = {.isa = PTQ_ISA_AMX, .threads = 1};
  if (ptq_model_parse(aligned, size, &model, &error) == PTQ_OK &&
      ptq_program_create(&model, &options, &program, &error) == PTQ_OK) {
    accepted++;
    run(&model, program);
    ptq_program_free(program);
  }
  free(aligned);
  return 0;
}

#ifndef WITH_LIBFUZZER
static size_t section(uint8_t *to, const void *from, size_t bytes) {
  memcpy(to, from, bytes);
  memset(to + bytes, 0, (8 - bytes % 8) % 8);
  return (bytes + 7) / 8 * 8;
}

static size_t serialize(const ptq_model *m, uint8_t *to) {
  const int32_t counts[] = {m->tensor_count, m->op_count, m->int_count, 0};
  size_t size = section(to, "ptqmdl01", 8);
  size += section(to + size, counts, sizeof counts);
  size += section(to + size, &m->data_size, 8);
  size += section(to + size, m->tensors, (size_t)m->tensor_count * sizeof *m->tensors);
  size += section(to + size, m->ops, (size_t)m->op_count * sizeof *m->ops);
  size += section(to + size, m->ints, (size_t)m->int_count * sizeof *m->ints);
  return size + section(to + size, m->data, (size_t)m->data_size);
}

static void damage(uint8_t *bytes, size_t *size, size_t structure) {
  static const int32_t values[] = {-1, 0, 1, 2, 7, 8, 255, 1 << 15, 1 << 30, INT32_MAX, INT32_MIN};
  for (int n = random_int(1, 3); n > 0; n--) {
    size_t words = structure / 4, at = (size_t)random_int(0, (int32_t)words - 1) * 4;
    int32_t value = values[random_int(0, 10)];
    switch (random_int(0, 3)) {
      case 0: bytes[random_int(0, (int32_t)*size - 1)] ^= (uint8_t)(1 << random_int(0, 7)); break;
      case 1: memcpy(bytes + at, &value, 4); break;
      case 2:
        memcpy(&value, bytes + at, 4);
        value = (int32_t)((uint32_t)value + (uint32_t)random_int(-2, 2));
        memcpy(bytes + at, &value, 4);
        break;
      default:
        if (random_int(0, 9) == 0) *size = (size_t)random_int(1, (int32_t)*size);
    }
  }
}

static void write_file(const char *folder, long number, const uint8_t *bytes, size_t size) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%ld", folder, number);
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(bytes, 1, size, file) != size || fclose(file)) abort();
}

int main(int argc, char **argv) {
  long count = argc > 1 ? atol(argv[1]) : 10000;
  uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
  for (long i = 0; i < count; i++) {
    random_model m;
    random_seed(seed + (uint64_t)i);
    random_make(&m);
    uint8_t *bytes = malloc((size_t)m.model.data_size + 8192);
    if (!bytes) abort();
    size_t size = serialize(&m.model, bytes);
    if (argc > 3)
      write_file(argv[3], i, bytes, size);
    else if (random_int(0, 19))
      damage(bytes, &size, size - (size_t)m.model.data_size);
    LLVMFuzzerTestOneInput(bytes, size);
    free(bytes);
    free(m.data);
  }
  printf("%ld models, %d accepted\n", count, accepted);
  return accepted == 0;
}
#endif
