/* Conv and ConvTranspose: check, choose a kernel, run. Geometry and packing have their own files.
 */
#include "conv.h"

enum {
  IN_X,
  IN_W,
  IN_SCALE,
  IN_BIAS,
  IN_CONV_GRID,
  IN_ADD_GRID,
  IN_RESIDUAL,
  IN_TABLE,
  IN_FUNCTION,
  IN_COUNT
};

static void release_phase(ptq_phase *p) {
  free(p->tap);
  free(p->offset);
  free(p->place);
  free(p->weights);
  free(p->runs);
  free(p->sums);
  free(p->places);
  free(p->starts);
  free(p->bias);
  free(p->padded);
}

static void release(void *state) {
  ptq_conv *c = state;
  for (int32_t i = 0; c->phases && i < c->phase_count; i++) release_phase(&c->phases[i]);
  if (c->gathered) release_phase(c->gathered);
  if (c->winograd) ptq_winograd_release(c->winograd);
  free(c->phases);
  free(c->boxes);
  free(c->gathered);
  free(c->panels);
  free(c->real);
  free(c->multiplier);
  free(c->padding);
  free(c);
}

ptq_status ptq_conv_epilogue(const ptq_build *build, const ptq_node *node, ptq_conv *c) {
  const ptq_value *grid = node->in[IN_CONV_GRID], *add = node->in[IN_ADD_GRID];
  const ptq_value *residual = node->in[IN_RESIDUAL], *table = node->in[IN_TABLE];
  const ptq_value *function = node->in[IN_FUNCTION];
  const ptq_value *y = node->out[0];
  const int32_t *limits = node->attr + node->attr_count - 4; /* lo, hi, conv_lo, conv_hi */
  ptq_epilogue *e = &c->epilogue;
  PTQ_REQUIRE(
      y->dtype == PTQ_U8 || y->dtype == PTQ_S16 || y->dtype == PTQ_S32 || y->dtype == PTQ_F32,
      "a convolution cannot give output type %d", y->dtype);
  PTQ_REQUIRE((grid->dtype == PTQ_S16) == (y->dtype == PTQ_S16), "grid and output types differ");
  PTQ_REQUIRE((residual != NULL) == (add != NULL), "a residual needs a grid and the reverse");
  e->mode = build->requant;
  e->dtype = y->dtype;
  e->zero = grid->zero_point;
  ptq_status status = ptq_read_limits(build, limits + 2, grid, &e->lo, &e->hi);
  if (status != PTQ_OK) return status;
  bool narrow = y->dtype == PTQ_U8;
  PTQ_REQUIRE(narrow || (!residual && !table), "only 8-bit outputs take a residual or a table");
  PTQ_REQUIRE(!narrow || grid->dtype == PTQ_U8, "grid and output types differ");
  if (residual) {
    PTQ_REQUIRE(residual->dtype == PTQ_U8 && ptq_same_dims(residual, y),
                "the residual is not shaped and typed like the output");
    PTQ_REQUIRE(add->dtype == PTQ_U8, "grid and output types differ");
    e->add = true;
    e->adder = ptq_make_adder(build->requant, grid->scale, residual->scale, add->scale);
    e->add_zero = add->zero_point;
    e->residual_zero = residual->zero_point;
    status = ptq_read_limits(build, limits, add, &e->add_lo, &e->add_hi);
    if (status != PTQ_OK) return status;
  }
  if (table) {
    PTQ_REQUIRE(table->role == PTQ_CONSTANT && table->dtype == PTQ_U8 && table->count == 256,
                "the table is not 256 constant bytes");
    e->has_table = true;
    ptq_lut_flip(table->data, (add ? add : grid)->flip, y->flip, e->table);
    e->lookup = ptq_lut_choose(build);
  }
  if (function) {
    PTQ_REQUIRE(narrow && !residual && !table, "a function of F32 or beside a residual or a table");
    e->has_function = true;
    e->dtype = PTQ_F32;
    status = ptq_read_function(build, function, y, limits, &e->function);
  }
  /* Vector kernels convert to integers before they clamp, which wraps beyond 2^31. */
  const bool bounded = !add || 255 * ((double)e->adder.ma + (double)e->adder.mb) < 2e9;
  e->direct = e->dtype == PTQ_F32 || e->dtype == PTQ_S32 ||
              (narrow && bounded && build->requant == PTQ_REQUANT_FLOAT);
  return status;
}

typedef struct {
  ptq_isa isa;
  const char *name;
  ptq_conv_kernel *conv;
  ptq_depthwise_kernel *depthwise;
  const ptq_winograd_kernels *winograd;
  int32_t lanes, vectors, block_rows;
} kernel_set;

/* Kernels, vector length and rows per block. Rare arithmetic stays with the scalar code. */
const char *ptq_conv_choose(const ptq_build *build, ptq_conv *c) {
  static const kernel_set sets[] = {
#if PTQ_X86
      {PTQ_ISA_AMX, "amx", ptq_conv_amx, ptq_depthwise_avx512vnni, NULL, 16, 4, 32},
      {PTQ_ISA_AVX512VNNI, "avx512vnni", ptq_conv_avx512vnni, ptq_depthwise_avx512vnni,
       &ptq_winograd_avx512vnni, 16, 4, 24},
      {PTQ_ISA_AVXVNNI, "avxvnni", ptq_conv_avxvnni, ptq_depthwise_avxvnni, &ptq_winograd_avxvnni,
       8, 2, 24},
      {PTQ_ISA_AVX2, "avx2", ptq_conv_avx2, ptq_depthwise_avx2, &ptq_winograd_avx2, 8, 2, 24},
#endif
      {PTQ_ISA_SCALAR, "scalar", ptq_conv_scalar, ptq_depthwise_scalar, NULL, 4, 4, 12},
  };
  const kernel_set *set = sets;
  bool plain = c->in_element == 1 && c->weight_zero == 0 && c->accumulate == PTQ_ACCUMULATE_S32;
  while (set->isa != PTQ_ISA_SCALAR && (!plain || set->isa > build->isa || !ptq_have_isa(set->isa)))
    set++;
  c->lanes = set->lanes;
  c->vectors = c->depthwise ? 4 : set->vectors;
  c->short_sums = set->isa == PTQ_ISA_AVX2;
  c->block_rows = set->block_rows;
  c->kernel = c->in_element == 2 ? ptq_conv_scalar_s16 : set->conv;
  c->depthwise_kernel = set->depthwise;
  c->winograd_kernels = set->winograd;
#if PTQ_X86
  if (set->isa == PTQ_ISA_AMX) c->steps = (c->steps + 15) / 16 * 16; /* whole tiles */
  if (set->isa >= PTQ_ISA_AVX512VNNI && c->depthwise && c->out_channels <= 32) {
    c->lanes = 8;
    c->depthwise_kernel = ptq_depthwise_avx512vl;
  }
#endif
  return set->name;
}

/* Rows per task: enough to reuse a panel from cache, few enough that the inputs stay in L2 and
 * that every thread gets some. Panels are shared out as well when there are few rows. */
static int64_t plan_tasks(const ptq_build *build, ptq_conv *c) {
  int64_t bytes = (int64_t)c->phases[0].taps * c->k * (int64_t)c->in_element;
  int64_t rows = ptq_min(96, ptq_max(c->block_rows, 196608 / ptq_max(1, bytes)));
  int64_t total = c->phases[0].rows * c->groups;
  if (build->threads > 1)
    rows = ptq_min(rows, ptq_max(c->block_rows, total / (4 * build->threads)));
  c->chunk_rows = rows / c->block_rows * c->block_rows;
  int64_t tasks = 0;
  for (int32_t i = 0; i < c->box_count; i++) {
    c->boxes[i].chunks = (c->boxes[i].rows + c->chunk_rows - 1) / c->chunk_rows;
    tasks += c->boxes[i].chunks * c->groups;
  }
  c->panel_chunks = tasks < 2 * build->threads ? ptq_min(c->panel_count, 4 * build->threads) : 1;
  if (build->threads == 1) c->panel_chunks = 1;
  return tasks * c->panel_chunks;
}

/* Whether the pixels of a chunk lie side by side, with nothing but `channels` in between. */
static bool neighbours(const ptq_conv *c, int64_t channels) {
  return channels == c->out_channels && c->box_count == 1;
}

/* The table over channels [first, first + channels) of some pixels, while they are in cache. */
static void look_up(const ptq_conv *c, const int64_t *pixels, int64_t count, int64_t first,
                    int64_t channels, uint8_t *y) {
  const ptq_epilogue *e = &c->epilogue;
  if (neighbours(c, channels)) {
    y += pixels[0] * channels;
    e->lookup(e->table, y, y, count * channels);
    return;
  }
  for (int64_t i = 0; i < count; i++) {
    uint8_t *to = y + pixels[i] * c->out_channels + first;
    e->lookup(e->table, to, to, channels);
  }
}

/* One panel of `count` pixels through the function: reals beside each other while they are in
 * cache, then bytes where they belong. */
static void run_function(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                         int32_t group, const uint8_t *const *rows, int32_t count,
                         uint8_t *const *y, const uint8_t *const *r) {
  const ptq_function *f = &c->epilogue.function;
  float reals[PTQ_MAX_BLOCK_ROWS * PTQ_MAX_WIDTH];
  uint8_t *to[PTQ_MAX_BLOCK_ROWS];
  for (int32_t i = 0; i < PTQ_MAX_BLOCK_ROWS; i++) to[i] = (uint8_t *)(reals + i * panel->valid);
  c->kernel(c, p, panel, group, rows, count, to, r);
  f->apply(f, reals, (int64_t)count * panel->valid);
  if (neighbours(c, panel->valid)) {
    f->round(f, reals, (int64_t)count * panel->valid, y[0]);
    return;
  }
  for (int32_t i = 0; i < count; i++)
    f->round(f, reals + i * panel->valid, panel->valid, y[i] + panel->first);
}

/* The inputs of `count` pixels side by side, a whole vector at a time: what is too much of one tap
 * the next one overwrites. */
static void gather(const ptq_conv *c, const uint8_t *const *from, int32_t count, uint8_t *to,
                   size_t stride, const uint8_t **rows) {
  enum { VECTOR = 16 };
  for (int32_t i = 0; i < count; i++, to += stride) {
    rows[i] = to;
    uint8_t *at = to;
    for (int32_t t = 0; t < c->gathered->taps; t++, at += c->gathered_bytes)
      for (size_t b = 0; b < c->gathered_bytes; b += VECTOR)
        memcpy(at + b, from[t * c->block_rows + i] + b, VECTOR);
  }
}

static size_t gathered_stride(const ptq_conv *c) {
  return ptq_round_up((size_t)c->k + PTQ_SLACK, PTQ_ALIGN);
}

static void run_chunk(const ptq_conv *c, const ptq_box *box, int32_t group, int64_t chunk,
                      int32_t panel_begin, int32_t panel_end, const uint8_t *x, const uint8_t *r,
                      uint8_t *y, uint8_t *scratch) {
  const ptq_phase *p = box->phase;
  int64_t begin = chunk * c->chunk_rows, end = ptq_min(box->rows, begin + c->chunk_rows);
  int64_t *pixels = (int64_t *)scratch;
  uint8_t **to = (uint8_t **)(pixels + c->chunk_rows);
  const uint8_t **from = (const uint8_t **)(to + c->chunk_rows), **rows = from + c->chunk_rows;
  const uint8_t **window = rows + c->chunk_rows * p->taps;
  uint8_t *side = (uint8_t *)(window + (c->gathered ? c->block_rows * c->gathered->taps : 0));
  for (int64_t row = begin; row < end; row += c->block_rows) {
    const int32_t count = (int32_t)ptq_min(c->block_rows, end - row);
    const uint8_t **to_row = rows + (row - begin) * p->taps;
    ptq_conv_pointers(c, box, group, row, count, x, c->gathered ? window : to_row,
                      pixels + (row - begin));
    if (!c->gathered) continue;
    const size_t stride = gathered_stride(c);
    gather(c, window, count, side + (size_t)(row - begin) * stride, stride, to_row);
  }
  const int64_t element = c->epilogue.has_function ? 1 : (int64_t)c->out_element;
  const int64_t skip = (int64_t)group * c->group_out;
  c->places((const uint8_t **)to, y + skip * element, pixels, c->out_channels * element,
            end - begin);
  if (r)
    c->places(from, r + skip, pixels, c->out_channels, end - begin);
  else
    memset(from, 0, (size_t)(end - begin) * sizeof *from);
  ptq_conv_kernel *kernel = c->epilogue.has_function ? run_function : c->kernel;
  for (int32_t i = panel_begin; i < panel_end; i++)
    for (int64_t row = begin; row < end; row += c->block_rows)
      kernel(c, p, &c->panels[i], group, rows + (row - begin) * p->taps,
             (int32_t)ptq_min(c->block_rows, end - row), to + (row - begin), from + (row - begin));
  if (c->epilogue.has_table && panel_begin < panel_end) {
    const ptq_panel *last = &c->panels[panel_end - 1];
    const int64_t first = (int64_t)group * c->group_out + c->panels[panel_begin].first;
    const int64_t channels = last->first + last->valid - c->panels[panel_begin].first;
    look_up(c, pixels, end - begin, first, channels, y);
  }
}

static ptq_status run(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                      int64_t begin, int64_t end, uint8_t *scratch) {
  const ptq_conv *c = node->state;
  const uint8_t *residual = c->epilogue.add ? in[IN_RESIDUAL] : NULL;
  for (int64_t task = begin; task < end; task++) {
    int64_t rest = task / c->panel_chunks, part = task % c->panel_chunks;
    const ptq_box *box = c->boxes;
    while (rest >= box->chunks * c->groups) rest -= box++->chunks * c->groups;
    int32_t first = (int32_t)(c->panel_count * part / c->panel_chunks);
    int32_t last = (int32_t)(c->panel_count * (part + 1) / c->panel_chunks);
    run_chunk(c, box, (int32_t)(rest / box->chunks), rest % box->chunks, first, last, in[IN_X],
              residual, out[0], scratch);
  }
  return PTQ_OK;
}

ptq_status ptq_prepare_conv(const ptq_build *build, ptq_node *node) {
  PTQ_REQUIRE(node->input_count == IN_COUNT && node->output_count == 1 && node->attr_count >= 1,
              "wrong number of operands");
  PTQ_REQUIRE(node->in[IN_X] && node->in[IN_W] && node->in[IN_SCALE] && node->in[IN_CONV_GRID],
              "an operand is missing");
  ptq_conv *c = ptq_alloc(sizeof *c);
  if (!c) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  node->state = c;
  node->release = release;
  c->accumulate = build->accumulate;
  ptq_status status = ptq_conv_geometry(build, node, c);
  if (status == PTQ_OK) status = ptq_conv_epilogue(build, node, c);
  if (status != PTQ_OK) return status;
  c->weight_zero = node->in[IN_W]->dtype == PTQ_S8 ? node->in[IN_W]->zero_point : 0;
  node->kernel = ptq_conv_choose(build, c);
  ptq_conv_fillers(build, c);
  status = ptq_conv_check(build, node, c);
  if (status == PTQ_OK) status = ptq_winograd_choose(build, node, c);
  if (status == PTQ_OK && c->short_sums) status = ptq_conv_gather(build, c);
  if (status == PTQ_OK) status = ptq_conv_pack(build, node, c);
  if (status != PTQ_OK) return status;
  node->state_bytes =
      (size_t)(c->phase_count * c->groups) * (size_t)(c->group_weights + 4 * c->group_parameters);
  for (int32_t i = 0; i < c->phase_count; i++)
    if (c->phases[i].padded)
      node->state_bytes += (size_t)(c->groups * c->phases[i].taps * c->group_parameters) * 4;
  for (int32_t i = 0; c->short_sums && !c->depthwise && i < c->phase_count; i++)
    node->state_bytes += (size_t)(c->groups * c->panel_count * c->phases[i].taps) *
                             (sizeof(ptq_run) + (size_t)c->steps * sizeof(int32_t)) +
                         (size_t)c->phases[i].sum_count * PTQ_SUM_LANES * sizeof(int16_t);
  for (int32_t i = 0; i < c->phase_count; i++)
    for (int32_t t = 0; t < c->phases[i].taps; t++)
      if (c->phases[i].place[t] >= 0)
        node->work += (double)c->phases[i].rows * c->k * c->out_channels;
  if (c->winograd) return ptq_winograd_prepare(build, node, c);
  if (c->depthwise) {
    ptq_depthwise_plan(node, c);
    return PTQ_OK;
  }
  int64_t taps = 0;
  for (int32_t i = 0; i < c->phase_count; i++) taps = ptq_max(taps, c->phases[i].taps);
  node->run = run;
  status = ptq_conv_boxes(build, c);
  if (status != PTQ_OK) return status;
  node->tasks = plan_tasks(build, c);
  node->scratch = (size_t)c->chunk_rows * (sizeof(int64_t) + (size_t)(taps + 2) * sizeof(void *));
  if (c->gathered)
    node->scratch += (size_t)(c->block_rows * c->gathered->taps) * sizeof(void *) +
                     (size_t)c->chunk_rows * gathered_stride(c);
  return PTQ_OK;
}
