/* From a model to a program: read, prepare every operator, keep what runs need, plan memory. */
#include "program.h"

static ptq_prepare_fn *const prepare[PTQ_KIND_COUNT] = {
    [PTQ_CONV] = ptq_prepare_conv,
    [PTQ_CONV_TRANSPOSE] = ptq_prepare_conv,
    [PTQ_MATMUL] = ptq_prepare_matmul,
    [PTQ_BLOCK_GEMM] = ptq_prepare_block_gemm,
    [PTQ_MAX_POOL] = ptq_prepare_pool,
    [PTQ_AVERAGE_POOL] = ptq_prepare_pool,
    [PTQ_ADD] = ptq_prepare_binary,
    [PTQ_SUB] = ptq_prepare_binary,
    [PTQ_MUL] = ptq_prepare_binary,
    [PTQ_CONCAT] = ptq_prepare_concat,
    [PTQ_LUT] = ptq_prepare_lut,
    [PTQ_SOFTMAX] = ptq_prepare_softmax,
    [PTQ_RESIZE] = ptq_prepare_resize,
    [PTQ_COPY] = ptq_prepare_copy,
    [PTQ_GATHER] = ptq_prepare_gather,
    [PTQ_REDUCE_MEAN] = ptq_prepare_reduce_mean,
    [PTQ_ARG_MAX] = ptq_prepare_arg_max,
    [PTQ_QUANTIZE] = ptq_prepare_quantize,
    [PTQ_DEQUANTIZE] = ptq_prepare_dequantize,
    [PTQ_FUNCTION] = ptq_prepare_function,
    [PTQ_ROI_ALIGN] = ptq_prepare_roi_align,
};

static ptq_status prepare_nodes(ptq_build *build, ptq_program *program) {
  for (int32_t i = 0; i < program->node_count; i++) {
    ptq_node *node = &program->nodes[i];
    build->op = i;
    ptq_status status = prepare[node->kind](build, node);
    if (status != PTQ_OK) return status;
    if (node->scratch > program->scratch_bytes) program->scratch_bytes = node->scratch;
    program->state_bytes += node->state_bytes;
  }
  program->scratch_bytes = ptq_round_up(program->scratch_bytes, PTQ_ALIGN);
  build->op = -1;
  return PTQ_OK;
}

static ptq_status keep_constants(const ptq_build *build, ptq_program *program) {
  size_t total = 0;
  for (int32_t i = 0; i < program->value_count; i++)
    if (program->values[i].keep) total += ptq_round_up(program->values[i].bytes + PTQ_SLACK, 64);
  program->constants = ptq_alloc(total);
  if (!program->constants) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  program->constant_bytes = total;
  uint8_t *to = program->constants;
  for (int32_t i = 0; i < program->value_count; i++) {
    ptq_value *v = &program->values[i];
    if (v->keep) {
      memcpy(to, v->data, v->bytes);
      v->data = to;
      to += ptq_round_up(v->bytes + PTQ_SLACK, 64);
    } else {
      v->data = NULL; /* the model's memory may go away */
    }
  }
  return PTQ_OK;
}

/* Values whose storage is the caller's buffer. 8-bit ones are not: kernels read past their end, and
 * signed ones are converted. */
static bool outside(const ptq_value *v) {
  return (v->role == PTQ_INPUT || v->role == PTQ_OUTPUT) && v->dtype != PTQ_U8;
}

static ptq_status plan_memory(const ptq_build *build, ptq_program *program) {
  int32_t steps = program->node_count + 2; /* 0 takes the inputs, the last one gives the outputs */
  ptq_lifetime *lives = ptq_alloc((size_t)program->value_count * sizeof *lives);
  if (!lives) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  for (int32_t i = 0; i < program->value_count; i++)
    lives[i].first = program->values[i].role == PTQ_INPUT ? 0 : steps;
  for (int32_t i = 0; i < program->node_count; i++) {
    const ptq_node *n = &program->nodes[i];
    for (int32_t j = 0; j < n->input_count + n->output_count; j++) {
      if (!n->in[j]) continue; /* outputs follow the inputs in memory */
      ptq_lifetime *life = &lives[n->in[j]->base];
      life->first = (int32_t)ptq_min(life->first, i + 1);
      life->last = i + 1;
    }
  }
  for (int32_t i = 0; i < program->value_count; i++) {
    const ptq_value *v = &program->values[i];
    if (v->role == PTQ_OUTPUT) lives[i].last = steps - 1;
    bool inside = v->role <= PTQ_OUTPUT && !outside(v) && lives[i].first < steps;
    lives[i].bytes = inside ? ptq_round_up(v->bytes + PTQ_SLACK, PTQ_ALIGN) : 0;
    if (!inside) lives[i].first = lives[i].last = 0;
  }
  program->arena_bytes = ptq_plan_arena(lives, program->value_count, steps, &program->live_bytes);
  for (int32_t i = 0; i < program->value_count; i++)
    program->values[i].offset = lives[program->values[i].base].offset;
  free(lives);
  if (program->arena_bytes == SIZE_MAX) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  return PTQ_OK;
}

static ptq_status build_program(ptq_build *build, const ptq_model *model, ptq_program *program) {
  ptq_status status = ptq_read_values(build, model, program);
  if (status == PTQ_OK) status = ptq_read_nodes(build, model, program);
  if (status == PTQ_OK) status = prepare_nodes(build, program);
  if (status == PTQ_OK) status = keep_constants(build, program);
  if (status == PTQ_OK) status = plan_memory(build, program);
  if (status != PTQ_OK) return status;
  if (build->threads > 1) {
    program->pool = ptq_pool_create(build->threads);
    if (!program->pool) return ptq_fail(build, PTQ_NO_MEMORY, "cannot start threads");
  }
  return PTQ_OK;
}

ptq_status ptq_program_create(const ptq_model *model, const ptq_options *options,
                              ptq_program **result, ptq_error *error) {
  ptq_build where = {.op = -1, .error = error}, *build = &where;
  *result = NULL;
  PTQ_REQUIRE(options->threads >= 1 && options->threads <= 64, "threads must be 1 to 64");
  PTQ_REQUIRE(options->isa >= 0 && options->isa < PTQ_ISA_COUNT, "unknown instruction set");
  PTQ_REQUIRE(options->requantize >= 0 && options->requantize <= PTQ_REQUANT_GEMMLOWP,
              "unknown requantization");
  PTQ_REQUIRE(options->accumulate >= 0 && options->accumulate <= PTQ_ACCUMULATE_S16_PAIRS,
              "unknown accumulation");
  PTQ_REQUIRE(model->tensor_count >= 0 && model->op_count >= 0 && model->int_count >= 0,
              "negative counts");
  ptq_program *program = ptq_alloc(sizeof *program);
  if (!program) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  pthread_mutex_init(&program->mutex, NULL);
  program->options = *options;
  while (!ptq_have_isa(program->options.isa)) program->options.isa--;
  build->isa = (ptq_isa)program->options.isa;
  build->vbmi = build->isa >= PTQ_ISA_AVX512VNNI && ptq_have_vbmi();
  build->requant = (ptq_requant)options->requantize;
  build->accumulate = (ptq_accumulate)options->accumulate;
  build->threads = options->threads;
  ptq_status status = build_program(build, model, program);
  if (status != PTQ_OK) {
    ptq_program_free(program);
    return status;
  }
  *result = program;
  return PTQ_OK;
}

void ptq_program_free(ptq_program *program) {
  if (!program) return;
  ptq_pool_free(program->pool);
  for (context *c = program->idle; c;) {
    context *next = c->next;
    ptq_free_context(c);
    c = next;
  }
  for (int32_t i = 0; i < program->node_count; i++) {
    ptq_node *n = &program->nodes[i];
    if (n->state) (n->release ? n->release : free)(n->state);
  }
  pthread_mutex_destroy(&program->mutex);
  free(program->values);
  free(program->nodes);
  free(program->ints);
  free(program->operands);
  free(program->constants);
  free(program);
}

void ptq_program_info(const ptq_program *program, ptq_info *info) {
  *info = (ptq_info){.arena_bytes = (int64_t)program->arena_bytes,
                     .live_bytes = (int64_t)program->live_bytes,
                     .constant_bytes = (int64_t)(program->constant_bytes + program->state_bytes),
                     .isa = program->options.isa,
                     .threads = program->options.threads};
}

double ptq_program_work(const ptq_program *program, int32_t op) {
  return op >= 0 && op < program->node_count ? program->nodes[op].work : 0;
}

const char *ptq_program_kernel(const ptq_program *program, int32_t op) {
  return op >= 0 && op < program->node_count ? program->nodes[op].kernel : NULL;
}
