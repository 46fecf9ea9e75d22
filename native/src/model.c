/* The serialized model: a header, then tensors, operators, integers and data as kernels.h has
 * them, little-endian, each section starting at a multiple of 8. */
#include <stdarg.h>
#include <stdio.h>

#include "internal.h"

typedef struct {
  char magic[8];
  int32_t tensor_count, op_count, int_count, reserved;
  int64_t data_size;
} header;

static const char MAGIC[8] = {'p', 't', 'q', 'm', 'd', 'l', '0', '1'};

ptq_status ptq_fail(const ptq_build *build, ptq_status status, const char *format, ...) {
  if (build->error) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(build->error->message, sizeof build->error->message, format, arguments);
    va_end(arguments);
    build->error->op = build->op;
  }
  return status;
}

/* Take `count` records of `size` bytes off the front of what is left. */
static const void *take(const uint8_t **at, size_t *left, int64_t count, size_t size) {
  if (count < 0 || (uint64_t)count > *left / size) return NULL;
  const void *section = *at;
  size_t bytes = ptq_round_up((size_t)count * size, 8);
  if (bytes > *left) bytes = *left;
  *at += bytes;
  *left -= bytes;
  return section;
}

ptq_status ptq_model_parse(const void *bytes, size_t size, ptq_model *model, ptq_error *error) {
  const ptq_build where = {.op = -1, .error = error}, *build = &where;
  header h;
  PTQ_REQUIRE((uintptr_t)bytes % 8 == 0, "the model is not aligned to 8 bytes");
  PTQ_REQUIRE(size >= sizeof h && memcmp(bytes, MAGIC, sizeof MAGIC) == 0,
              "not a serialized ptq model");
  memcpy(&h, bytes, sizeof h);
  const uint8_t *at = (const uint8_t *)bytes + sizeof h;
  size_t left = size - sizeof h;
  *model = (ptq_model){.tensor_count = h.tensor_count,
                       .op_count = h.op_count,
                       .int_count = h.int_count,
                       .data_size = h.data_size};
  model->tensors = take(&at, &left, h.tensor_count, sizeof(ptq_tensor));
  PTQ_REQUIRE(model->tensors, "the model ends within its tensors");
  model->ops = take(&at, &left, h.op_count, sizeof(ptq_op));
  PTQ_REQUIRE(model->ops, "the model ends within its operators");
  model->ints = take(&at, &left, h.int_count, sizeof(int32_t));
  PTQ_REQUIRE(model->ints, "the model ends within its integers");
  model->data = take(&at, &left, h.data_size, 1);
  PTQ_REQUIRE(model->data, "the model ends within its data");
  return PTQ_OK;
}
