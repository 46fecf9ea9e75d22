/* A table of 256 results: every unary function of an 8-bit value, exactly. Also Concat, whose
 * inputs move to the output's grid through tables. */
#include "lut.h"

#include "requant.h"

enum { PIECE = 16384, ASIDE = 2048 };

void ptq_lut_scalar(const uint8_t *table, const uint8_t *x, uint8_t *y, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] = table[x[i]];
}

ptq_lut_fn *ptq_lut_choose(const ptq_build *build) {
#if PTQ_X86
  if (build->vbmi) return ptq_lut_avx512vbmi;
  if (build->isa >= PTQ_ISA_AVX2) return ptq_lut_avx2;
#endif
  (void)build;
  return ptq_lut_scalar;
}

const char *ptq_lut_name(ptq_lut_fn *lookup) {
#if PTQ_X86
  if (lookup == ptq_lut_avx512vbmi) return "avx512vbmi";
  if (lookup == ptq_lut_avx2) return "avx2";
#endif
  (void)lookup;
  return "scalar";
}

/* Tables are indexed by the value as the model has it; signed ones are unsigned here. */
void ptq_lut_flip(const uint8_t *from, bool flip_in, bool flip_out, uint8_t *to) {
  for (int i = 0; i < 256; i++)
    to[i] = (uint8_t)(from[i ^ (flip_in ? 0x80 : 0)] ^ (flip_out ? 0x80 : 0));
}

typedef struct {
  ptq_lut_fn *lookup;
  int64_t channels; /* tables; 1 for all */
  int64_t rows;     /* of channels, in a task */
  bool straight;    /* every table is a line */
  ptq_lines lines;
  _Alignas(16) uint8_t table[]; /* then what the lines keep */
} state;

static ptq_status run(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                      int64_t begin, int64_t end, uint8_t *scratch) {
  (void)scratch;
  const state *s = node->state;
  int64_t from = begin * PIECE, to = ptq_min(end * PIECE, node->in[0]->count);
  s->lookup(s->table, in[0] + from, out[0] + from, to - from);
  return PTQ_OK;
}

static ptq_status run_channels(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                               int64_t begin, int64_t end, uint8_t *scratch) {
  (void)scratch;
  const state *s = node->state;
  const int64_t count = node->in[0]->count, rows = s->rows * s->channels;
  for (int64_t at = begin * rows; at < ptq_min(end * rows, count); at += s->channels) {
    const uint8_t *x = in[0] + at;
    uint8_t *y = out[0] + at;
    if (s->straight)
      s->lines.run(&s->lines, x, y);
    else
      for (int64_t c = 0; c < s->channels; c++) y[c] = s->table[c * 256 + x[c]];
  }
  return PTQ_OK;
}

ptq_status ptq_prepare_lut(const ptq_build *build, ptq_node *node) {
  PTQ_REQUIRE(node->input_count == 2 && node->output_count == 1 && node->attr_count == 0 &&
                  node->in[0] && node->in[1],
              "wrong number of operands");
  const ptq_value *x = node->in[0], *table = node->in[1], *y = node->out[0];
  PTQ_REQUIRE(x->dtype == PTQ_U8 && y->dtype == PTQ_U8 && x->count == y->count,
              "operands are not 8-bit of one size");
  int64_t channels = table->count / 256;
  PTQ_REQUIRE(
      table->role == PTQ_CONSTANT && table->dtype == PTQ_U8 && table->count % 256 == 0 &&
          (channels == 1 || (channels >= 1 && x->rank >= 1 && channels == x->dims[x->rank - 1])),
      "the table is not 256 constant bytes, or 256 per channel");
  state *s = node->state = ptq_alloc(sizeof *s + (size_t)(table->count + 16 * channels));
  if (!s) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  node->state_bytes = (size_t)table->count;
  s->channels = channels;
  s->lookup = ptq_lut_choose(build);
  for (int64_t c = 0; c < channels; c++)
    ptq_lut_flip(table->data + c * 256, x->flip, y->flip, s->table + c * 256);
  node->tasks = (x->count + PIECE - 1) / PIECE;
  node->work = (double)x->count;
  node->run = run;
  node->kernel = ptq_lut_name(s->lookup);
  if (channels > 1) {
    float *storage = (float *)(void *)(s->table + table->count);
    s->straight =
        build->isa > PTQ_ISA_SCALAR && ptq_lines_fit(build, s->table, channels, storage, &s->lines);
    s->rows = ptq_max(1, PIECE / channels);
    node->tasks = (x->count / channels + s->rows - 1) / s->rows;
    node->run = run_channels;
    node->kernel = s->straight ? "lines" : "scalar";
  }
  return PTQ_OK;
}

typedef struct {
  bool same; /* grids: copy */
  int64_t bytes;
  uint8_t table[256];
} part;

typedef struct {
  ptq_lut_fn *lookup;
  int64_t row; /* bytes of the output per outer index */
  part parts[];
} concat_state;

/* Short copies by themselves: a call would take longer than they do. */
PTQ_INLINE void put(uint8_t *y, const uint8_t *x, int64_t n) {
  enum { VECTOR = 16 };
  for (; n >= VECTOR; n -= VECTOR, y += VECTOR, x += VECTOR) memcpy(y, x, VECTOR);
  for (; n > 0; n--) *y++ = *x++;
}

/* One operand of some rows. Its short rows are looked up side by side, then put where they belong.
 */
static void join(const concat_state *s, const part *p, const uint8_t *x, uint8_t *y, int64_t rows,
                 uint8_t *side) {
  const int64_t most = ptq_max(1, ASIDE / p->bytes);
  for (int64_t row = 0; row < rows; row += most) {
    const int64_t n = ptq_min(most, rows - row);
    const uint8_t *from = x + row * p->bytes;
    uint8_t *to = y + row * s->row;
    if (p->bytes > ASIDE / 2) { /* a row at a time */
      if (p->same)
        memcpy(to, from, (size_t)p->bytes);
      else
        s->lookup(p->table, from, to, p->bytes);
      continue;
    }
    if (!p->same) {
      s->lookup(p->table, from, side, n * p->bytes);
      from = side;
    }
    for (int64_t i = 0; i < n; i++) put(to + i * s->row, from + i * p->bytes, p->bytes);
  }
}

static ptq_status run_concat(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                             int64_t begin, int64_t end, uint8_t *scratch) {
  const concat_state *s = node->state;
  uint8_t *y = out[0] + begin * s->row;
  for (int32_t i = 0; i < node->input_count; y += s->parts[i++].bytes)
    join(s, &s->parts[i], in[i] + begin * s->parts[i].bytes, y, end - begin, scratch);
  return PTQ_OK;
}

ptq_status ptq_prepare_concat(const ptq_build *build, ptq_node *node) {
  PTQ_REQUIRE(node->output_count == 1 && node->attr_count == 1, "wrong number of operands");
  const ptq_value *y = node->out[0];
  int32_t axis = node->attr[0];
  int64_t joined = 0;
  PTQ_REQUIRE(axis >= 0 && axis < y->rank, "the axis does not exist");
  int64_t outer = 1;
  for (int32_t d = 0; d < axis; d++) outer *= y->dims[d];
  concat_state *s = node->state =
      ptq_alloc(sizeof *s + (size_t)node->input_count * sizeof *s->parts);
  if (!s) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  s->lookup = ptq_lut_choose(build);
  for (int32_t i = 0; i < node->input_count; i++) {
    ptq_value *x = node->in[i];
    PTQ_REQUIRE(x && x->rank == y->rank && x->dtype == y->dtype && ptq_dtype_bytes(x->dtype) > 0,
                "input %d differs in rank or type", (int)i);
    for (int32_t d = 0; d < y->rank; d++)
      PTQ_REQUIRE(d == axis || x->dims[d] == y->dims[d], "input %d does not fit", (int)i);
    joined += x->dims[axis];
    bool same = x->scale == y->scale && x->zero_point == y->zero_point;
    PTQ_REQUIRE(same || x->dtype == PTQ_U8, "only 8-bit inputs change their grid");
    s->parts[i].same = same;
    s->parts[i].bytes = (int64_t)x->bytes / outer;
    if (!same) {
      PTQ_REQUIRE(ptq_multiplier_fits(build, x->scale / y->scale), "the output grid is too fine");
      ptq_grid_table(build->requant, x, y, s->parts[i].table);
    }
    x->keep = x->keep || x->role == PTQ_CONSTANT;
  }
  PTQ_REQUIRE(joined == y->dims[axis], "the inputs do not add up to the output");
  s->row = (int64_t)y->bytes / outer;
  node->tasks = outer;
  node->work = (double)y->bytes / 8;
  node->run = run_concat;
  node->scratch = ASIDE + PTQ_SLACK;
  node->kernel = ptq_lut_name(s->lookup);
  return PTQ_OK;
}
