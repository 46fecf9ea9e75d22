/* A model's tensors and operators, checked, as the program's values and nodes. */
#include <math.h>

#include "program.h"

size_t ptq_dtype_bytes(int32_t dtype) {
  static const size_t bytes[PTQ_DTYPE_COUNT] = {1, 1, 2, 4, 8, 4, 0, 0};
  return bytes[dtype];
}

ptq_status ptq_read_limits(const ptq_build *build, const int32_t attr[2], const ptq_value *grid,
                           int32_t *lo, int32_t *hi) {
  int32_t bottom = grid->flip ? INT8_MIN : 0, top = bottom + 255, flip = grid->flip ? 128 : 0;
  if (grid->dtype != PTQ_U8 && grid->dtype != PTQ_S16) return PTQ_OK;
  if (grid->dtype == PTQ_S16) {
    bottom = INT16_MIN;
    top = INT16_MAX;
  }
  PTQ_REQUIRE(bottom <= attr[0] && attr[0] <= attr[1] && attr[1] <= top,
              "clamp limits outside the type");
  *lo = attr[0] + flip - grid->zero_point;
  *hi = attr[1] + flip - grid->zero_point;
  return PTQ_OK;
}

bool ptq_same_dims(const ptq_value *a, const ptq_value *b) {
  return a->rank == b->rank && memcmp(a->dims, b->dims, (size_t)a->rank * sizeof *a->dims) == 0;
}

static ptq_status read_shape(const ptq_build *build, const ptq_tensor *t, int32_t i, ptq_value *v) {
  PTQ_REQUIRE(t->dtype >= 0 && t->dtype < PTQ_DTYPE_COUNT, "tensor %d: unknown type", (int)i);
  PTQ_REQUIRE(t->role >= 0 && t->role < PTQ_ROLE_COUNT, "tensor %d: unknown role", (int)i);
  PTQ_REQUIRE(t->rank >= 0 && t->rank <= PTQ_MAX_RANK, "tensor %d: bad rank", (int)i);
  const int64_t most = (int64_t)1 << 40;
  v->count = 1;
  for (int32_t d = 0; d < t->rank; d++) {
    PTQ_REQUIRE(t->dims[d] >= 1, "tensor %d: dimension %d is not positive", (int)i, (int)d);
    PTQ_REQUIRE(v->count <= most / t->dims[d], "tensor %d: too large", (int)i);
    v->count *= t->dims[d];
    v->dims[d] = t->dims[d];
  }
  bool four_bits = t->dtype == PTQ_S4 || t->dtype == PTQ_U4;
  v->bytes = four_bits ? (size_t)(v->count + 1) / 2 : (size_t)v->count * ptq_dtype_bytes(t->dtype);
  PTQ_REQUIRE(!four_bits || t->role == PTQ_CONSTANT, "tensor %d: 4 bits are for constants", (int)i);
  return PTQ_OK;
}

static ptq_status read_grid(const ptq_build *build, const ptq_tensor *t, int32_t i, ptq_value *v) {
  static const int32_t low[3] = {0, INT8_MIN, INT16_MIN}, high[3] = {255, INT8_MAX, INT16_MAX};
  v->scale = t->scale;
  v->zero_point = t->zero_point;
  PTQ_REQUIRE(isfinite(t->scale) && t->scale >= 0x1p-100f && t->scale <= 0x1p100f,
              "tensor %d: the scale is not a positive normal number", (int)i);
  bool narrow = t->role != PTQ_CONSTANT && t->dtype <= PTQ_S16;
  int32_t least = narrow ? low[t->dtype] : INT16_MIN, most = narrow ? high[t->dtype] : INT16_MAX;
  PTQ_REQUIRE(t->zero_point >= least && t->zero_point <= most,
              "tensor %d: the zero point is outside its type", (int)i);
  return PTQ_OK;
}

static ptq_status read_storage(const ptq_build *build, const ptq_model *model, int32_t i,
                               ptq_program *program) {
  const ptq_tensor *t = &model->tensors[i];
  ptq_value *v = &program->values[i];
  v->base = i;
  if (t->role == PTQ_CONSTANT) {
    PTQ_REQUIRE(t->offset >= 0 && t->offset % 8 == 0 && t->offset <= model->data_size &&
                    v->bytes <= (uint64_t)(model->data_size - t->offset),
                "tensor %d: its data lies outside the model's", (int)i);
    v->data = model->data + t->offset;
  } else if (t->role == PTQ_VIEW) {
    PTQ_REQUIRE(t->offset >= 0 && t->offset < i, "tensor %d: a view of a later tensor", (int)i);
    const ptq_value *base = &program->values[t->offset];
    PTQ_REQUIRE(base->role <= PTQ_OUTPUT, "tensor %d: a view of what has no storage", (int)i);
    PTQ_REQUIRE(base->bytes == v->bytes && model->tensors[t->offset].dtype == t->dtype,
                "tensor %d: a view differs in size or type", (int)i);
    v->base = (int32_t)t->offset;
  }
  return PTQ_OK;
}

ptq_status ptq_read_values(ptq_build *build, const ptq_model *model, ptq_program *program) {
  program->values = ptq_alloc((size_t)model->tensor_count * sizeof *program->values);
  if (!program->values) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  program->value_count = model->tensor_count;
  for (int32_t i = 0; i < model->tensor_count; i++) {
    const ptq_tensor *t = &model->tensors[i];
    ptq_value *v = &program->values[i];
    ptq_status status = read_shape(build, t, i, v);
    if (status == PTQ_OK) status = read_grid(build, t, i, v);
    if (status != PTQ_OK) return status;
    v->dtype = t->dtype;
    v->role = t->role;
    v->rank = t->rank;
    status = read_storage(build, model, i, program);
    if (status != PTQ_OK) return status;
    if (t->dtype == PTQ_S8 && t->role != PTQ_CONSTANT) {
      v->flip = true;
      v->dtype = PTQ_U8;
      v->zero_point += 128;
    }
  }
  return PTQ_OK;
}

static ptq_status read_operand(const ptq_build *build, ptq_program *program, int32_t id,
                               bool output, uint8_t *written, ptq_value **to) {
  if (id == -1 && !output) return PTQ_OK;
  PTQ_REQUIRE(id >= 0 && id < program->value_count, "operand %d does not exist", (int)id);
  ptq_value *v = &program->values[id];
  if (output) {
    PTQ_REQUIRE(v->role == PTQ_TEMPORARY || v->role == PTQ_OUTPUT || v->role == PTQ_VIEW,
                "tensor %d cannot be written", (int)id);
    PTQ_REQUIRE(!written[v->base], "tensor %d is written twice", (int)id);
    written[v->base] = 1;
  } else {
    bool ready = v->role == PTQ_CONSTANT || v->role == PTQ_GRID || written[v->base];
    PTQ_REQUIRE(ready, "tensor %d is read before it is written", (int)id);
  }
  *to = v;
  return PTQ_OK;
}

/* Which operands have no storage while running: grids, and constants unless they are kept. */
static ptq_status check_roles(const ptq_build *build, const ptq_node *n) {
  bool conv = n->kind == PTQ_CONV || n->kind == PTQ_CONV_TRANSPOSE;
  bool keeps = n->kind == PTQ_MATMUL || n->kind == PTQ_ADD || n->kind == PTQ_SUB ||
               n->kind == PTQ_MUL || n->kind == PTQ_CONCAT || n->kind == PTQ_COPY ||
               n->kind == PTQ_GATHER;
  for (int32_t i = 0; i < n->input_count; i++) {
    if (!n->in[i]) continue;
    bool read = i == 0 || (conv && i == 6);
    PTQ_REQUIRE(n->in[i]->role != PTQ_GRID || (conv && (i == 4 || i == 5)),
                "input %d is a grid without storage", (int)i);
    PTQ_REQUIRE(n->in[i]->role != PTQ_CONSTANT || keeps || !read, "input %d is a constant", (int)i);
  }
  return PTQ_OK;
}

static ptq_status read_node(ptq_build *build, const ptq_model *model, ptq_program *program,
                            int32_t i, uint8_t *written, ptq_value **operands) {
  const ptq_op *o = &model->ops[i];
  ptq_node *n = &program->nodes[i];
  PTQ_REQUIRE(o->kind >= 0 && o->kind < PTQ_KIND_COUNT, "unknown operator %d", (int)o->kind);
  PTQ_REQUIRE(o->inputs >= 1 && o->inputs <= PTQ_MAX_OPERANDS && o->outputs >= 1 &&
                  o->outputs <= PTQ_MAX_OPERANDS && o->attributes >= 0,
              "wrong number of operands");
  PTQ_REQUIRE(o->first >= 0 &&
                  (int64_t)o->first + o->inputs + o->outputs + o->attributes <= model->int_count,
              "operands outside the model");
  const int32_t *ids = program->ints + o->first;
  *n = (ptq_node){.kind = o->kind,
                  .input_count = o->inputs,
                  .output_count = o->outputs,
                  .attr_count = o->attributes,
                  .in = operands,
                  .out = operands + o->inputs,
                  .attr = ids + o->inputs + o->outputs,
                  .tasks = 1,
                  .kernel = "scalar"};
  for (int32_t j = 0; j < o->inputs + o->outputs; j++) {
    ptq_status status = read_operand(build, program, ids[j], j >= o->inputs, written, &operands[j]);
    if (status != PTQ_OK) return status;
  }
  return check_roles(build, n);
}

ptq_status ptq_read_nodes(ptq_build *build, const ptq_model *model, ptq_program *program) {
  size_t operand_count = 0;
  for (int32_t i = 0; i < model->op_count; i++) {
    const ptq_op *o = &model->ops[i];
    build->op = i;
    PTQ_REQUIRE(o->inputs >= 0 && o->inputs <= PTQ_MAX_OPERANDS && o->outputs >= 0 &&
                    o->outputs <= PTQ_MAX_OPERANDS,
                "wrong number of operands");
    operand_count += (size_t)(o->inputs + o->outputs);
  }
  program->nodes = ptq_alloc((size_t)model->op_count * sizeof *program->nodes);
  program->ints = ptq_alloc((size_t)model->int_count * sizeof *program->ints);
  program->operands = ptq_alloc(operand_count * sizeof *program->operands);
  uint8_t *written = ptq_alloc((size_t)model->tensor_count);
  ptq_status status = PTQ_OK;
  if (!program->nodes || !program->ints || !program->operands || !written)
    status = ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  if (status == PTQ_OK && model->int_count > 0)
    memcpy(program->ints, model->ints, (size_t)model->int_count * sizeof *program->ints);
  for (int32_t i = 0; status == PTQ_OK && i < model->tensor_count; i++)
    written[i] = program->values[i].role == PTQ_INPUT;
  ptq_value **operands = program->operands;
  for (int32_t i = 0; status == PTQ_OK && i < model->op_count; i++) {
    build->op = i;
    status = read_node(build, model, program, i, written, operands);
    if (status == PTQ_OK) program->node_count = i + 1;
    operands += model->ops[i].inputs + model->ops[i].outputs;
  }
  build->op = -1;
  for (int32_t i = 0; status == PTQ_OK && i < model->tensor_count; i++)
    if (program->values[i].role == PTQ_OUTPUT && !written[i])
      status = ptq_fail(build, PTQ_INVALID, "output tensor %d is never written", (int)i);
  free(written);
  return status;
}
