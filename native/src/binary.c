/* Add, Sub and Mul with broadcasting, requantized. */
#include "requant.h"
#include "versions.h"

typedef struct {
  ptq_requant mode;
  ptq_adder adder;
  ptq_multiplier product;
  float ma, mb;
  int32_t a_zero, b_zero, y_zero, lo, hi;
  bool multiply;
} arithmetic;

/* The innermost loops: `rows` times n elements. Steps are 0 or 1, rows any distance apart. */
typedef struct {
  int64_t rows, n, a_row, b_row, a_step, b_step;
} loops;

typedef void inner_fn(const arithmetic *o, loops l, const uint8_t *a, const uint8_t *b, uint8_t *y);

typedef struct {
  arithmetic op;
  inner_fn *inner;
  size_t element;
  int32_t rank; /* of the outer loops */
  int64_t dims[PTQ_MAX_RANK], a_stride[PTQ_MAX_RANK], b_stride[PTQ_MAX_RANK];
  loops l;
  int64_t row_pieces, row_piece, pieces, piece; /* of the innermost loops, for tasks */
} state;

PTQ_INLINE void add_loop(const arithmetic *o, int64_t n, const uint8_t *a, int64_t a_step,
                         const uint8_t *b, int64_t b_step, uint8_t *restrict y) {
  const float ma = o->ma, mb = o->mb;
  const int32_t za = o->a_zero, zb = o->b_zero, zy = o->y_zero, lo = o->lo, hi = o->hi;
  for (int64_t i = 0; i < n; i++)
    y[i] = (uint8_t)(ptq_add_float(a[i * a_step] - za, ma, b[i * b_step] - zb, mb, lo, hi) + zy);
}

PTQ_INLINE void multiply_loop(const arithmetic *o, int64_t n, const uint8_t *a, int64_t a_step,
                              const uint8_t *b, int64_t b_step, uint8_t *restrict y) {
  const float m = o->product.real;
  const int32_t za = o->a_zero, zb = o->b_zero, zy = o->y_zero, lo = o->lo, hi = o->hi;
  for (int64_t i = 0; i < n; i++)
    y[i] =
        (uint8_t)(ptq_requant_float((a[i * a_step] - za) * (b[i * b_step] - zb), m, lo, hi) + zy);
}

#define BY_STEP(loop) \
  for (int64_t row = 0; row < l.rows; row++, a += l.a_row, b += l.b_row, y += l.n) { \
    if (l.a_step && l.b_step) \
      loop(o, l.n, a, 1, b, 1, y); \
    else if (l.a_step) \
      loop(o, l.n, a, 1, b, 0, y); \
    else \
      loop(o, l.n, a, 0, b, l.b_step, y); \
  }

#define PARAMETERS (const arithmetic *o, loops l, const uint8_t *a, const uint8_t *b, uint8_t *y)
PTQ_INLINE void add_body PARAMETERS{BY_STEP(add_loop)} PTQ_INLINE void multiply_body PARAMETERS{
    BY_STEP(multiply_loop)} PTQ_VERSIONS(add, PARAMETERS, (o, l, a, b, y))
PTQ_VERSIONS(multiply, PARAMETERS, (o, l, a, b, y))

/* Any rounding, 8 or 16 bits. */
PTQ_INLINE int32_t combine(const arithmetic *o, int32_t a, int32_t b) {
  a -= o->a_zero;
  b -= o->b_zero;
  int32_t q = o->multiply ? ptq_requantize(o->mode, (int64_t)a * b, o->product, o->lo, o->hi)
                          : ptq_add(&o->adder, a, b, o->lo, o->hi);
  return q + o->y_zero;
}

static void any_u8 PARAMETERS {
  for (int64_t row = 0; row < l.rows; row++, a += l.a_row, b += l.b_row, y += l.n)
    for (int64_t i = 0; i < l.n; i++) y[i] = (uint8_t)combine(o, a[i * l.a_step], b[i * l.b_step]);
}

static void any_s16 PARAMETERS {
  const int16_t *wide_a = (const void *)a, *wide_b = (const void *)b;
  int16_t *to = (void *)y;
  for (int64_t row = 0; row < l.rows; row++, wide_a += l.a_row, wide_b += l.b_row, to += l.n)
    for (int64_t i = 0; i < l.n; i++)
      to[i] = (int16_t)combine(o, wide_a[i * l.a_step], wide_b[i * l.b_step]);
}

static ptq_status run(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                      int64_t begin, int64_t end, uint8_t *scratch) {
  (void)scratch;
  const state *s = node->state;
  const int64_t size = (int64_t)s->element;
  for (int64_t task = begin; task < end; task++) {
    int64_t first = task % s->pieces * s->piece, rest = task / s->pieces, a = 0, b = 0;
    int64_t row = rest % s->row_pieces * s->row_piece, block = rest / s->row_pieces;
    loops l = s->l;
    l.rows = ptq_min(s->row_piece, s->l.rows - row);
    l.n = ptq_min(s->piece, s->l.n - first);
    rest = block;
    for (int32_t d = s->rank - 1; d >= 0; d--) {
      a += rest % s->dims[d] * s->a_stride[d];
      b += rest % s->dims[d] * s->b_stride[d];
      rest /= s->dims[d];
    }
    a += row * l.a_row + first * l.a_step;
    b += row * l.b_row + first * l.b_step;
    s->inner(&s->op, l, in[0] + a * size, in[1] + b * size,
             out[0] + ((block * s->l.rows + row) * s->l.n + first) * size);
  }
  return PTQ_OK;
}

/* Strides of x within y's shape, 0 where it is broadcast. */
static ptq_status broadcast(const ptq_build *build, const ptq_value *x, const ptq_value *y,
                            int64_t stride[PTQ_MAX_RANK]) {
  PTQ_REQUIRE(x->rank <= y->rank, "an operand has more dimensions than the output");
  int64_t size = 1;
  for (int32_t d = y->rank - 1; d >= 0; d--) {
    int32_t own = d - (y->rank - x->rank), dim = own >= 0 ? x->dims[own] : 1;
    PTQ_REQUIRE(dim == 1 || dim == y->dims[d], "dimension %d does not broadcast", (int)d);
    stride[d] = dim == 1 ? 0 : size;
    size *= dim;
  }
  return PTQ_OK;
}

/* Join neighbouring dimensions over which both operands are contiguous or both broadcast. */
static void collapse(state *s, const ptq_value *y, const int64_t *a, const int64_t *b) {
  s->l = (loops){.rows = 1, .n = 1};
  int32_t d = y->rank - 1;
  while (d >= 0 && y->dims[d] == 1) d--;
  if (d >= 0) {
    s->l.a_step = a[d];
    s->l.b_step = b[d];
    for (; d >= 0; d--) {
      bool one = y->dims[d] == 1;
      if (!one && (a[d] != s->l.a_step * s->l.n || b[d] != s->l.b_step * s->l.n)) break;
      s->l.n *= y->dims[d];
    }
  }
  for (int32_t i = 0; i <= d; i++) {
    s->dims[i] = y->dims[i];
    s->a_stride[i] = a[i];
    s->b_stride[i] = b[i];
  }
  if (d >= 0) { /* the next dimension makes the rows */
    s->l.rows = y->dims[d];
    s->l.a_row = a[d];
    s->l.b_row = b[d];
    while (d > 0 && a[d - 1] == s->l.a_row * s->l.rows && b[d - 1] == s->l.b_row * s->l.rows)
      s->l.rows *= y->dims[--d];
    d--;
  }
  s->rank = d + 1;
}

ptq_status ptq_prepare_binary(const ptq_build *build, ptq_node *node) {
  PTQ_REQUIRE(node->input_count == 2 && node->output_count == 1 && node->attr_count == 2 &&
                  node->in[0] && node->in[1],
              "wrong number of operands");
  ptq_value *a = node->in[0], *b = node->in[1], *y = node->out[0];
  PTQ_REQUIRE(
      (y->dtype == PTQ_U8 || y->dtype == PTQ_S16) && a->dtype == y->dtype && b->dtype == y->dtype,
      "operands are not all 8-bit or all S16");
  for (int32_t d = 0; d < y->rank; d++) {
    int32_t da = d - (y->rank - a->rank), db = d - (y->rank - b->rank);
    PTQ_REQUIRE((da >= 0 && a->dims[da] == y->dims[d]) || (db >= 0 && b->dims[db] == y->dims[d]) ||
                    y->dims[d] == 1,
                "output dimension %d is neither operand's", (int)d);
  }
  int64_t a_stride[PTQ_MAX_RANK], b_stride[PTQ_MAX_RANK];
  ptq_status status = broadcast(build, a, y, a_stride);
  if (status == PTQ_OK) status = broadcast(build, b, y, b_stride);
  if (status != PTQ_OK) return status;
  state *s = node->state = ptq_alloc(sizeof *s);
  if (!s) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  collapse(s, y, a_stride, b_stride);
  int32_t lo, hi;
  status = ptq_read_limits(build, node->attr, y, &lo, &hi);
  if (status != PTQ_OK) return status;
  float sign = node->kind == PTQ_SUB ? -1.0f : 1.0f;
  float product = a->scale * b->scale / y->scale, ratio = a->scale / y->scale;
  PTQ_REQUIRE(ptq_multiplier_fits(build, product) && ptq_multiplier_fits(build, ratio) &&
                  ptq_multiplier_fits(build, b->scale / y->scale),
              "the output grid is too fine for the operands'");
  s->op = (arithmetic){.mode = build->requant,
                       .adder = ptq_make_adder(build->requant, a->scale, sign * b->scale, y->scale),
                       .product = ptq_make_multiplier(build->requant, product),
                       .ma = ratio,
                       .mb = sign * b->scale / y->scale,
                       .a_zero = a->zero_point,
                       .b_zero = b->zero_point,
                       .y_zero = y->zero_point,
                       .lo = lo,
                       .hi = hi,
                       .multiply = node->kind == PTQ_MUL};
  s->element = ptq_dtype_bytes(y->dtype);
  bool fast = y->dtype == PTQ_U8 && build->requant == PTQ_REQUANT_FLOAT;
  s->inner = y->dtype == PTQ_S16     ? any_s16
             : !fast                 ? any_u8
             : node->kind == PTQ_MUL ? PTQ_SELECT(build, multiply)
                                     : PTQ_SELECT(build, add);
  s->piece = ptq_min(s->l.n, 16384);
  s->pieces = (s->l.n + s->piece - 1) / s->piece;
  s->row_piece = s->pieces > 1 ? 1 : ptq_min(s->l.rows, ptq_max(1, 16384 / s->l.n));
  s->row_pieces = (s->l.rows + s->row_piece - 1) / s->row_piece;
  a->keep = a->keep || a->role == PTQ_CONSTANT;
  b->keep = b->keep || b->role == PTQ_CONSTANT;
  node->tasks = y->count / (s->l.n * s->l.rows) * s->row_pieces * s->pieces;
  node->work = (double)y->count * 2;
  node->run = run;
  node->kernel = fast ? ptq_isa_name(build->isa) : "scalar";
  return PTQ_OK;
}
