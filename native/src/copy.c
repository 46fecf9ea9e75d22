/* Everything that only moves data: a strided copy (Transpose, Slice, Split, Pad, DepthToSpace,
 * Expand) and Gather. */
#include "internal.h"

#if PTQ_X86
#include <emmintrin.h>
#endif

/* Matrices are turned in squares, a strip of them at a time: its columns are lines of the cache. */
enum { SQUARE = 16, STRIP = 64 };

typedef struct {
  size_t element;
  int32_t rank;
  int64_t dims[PTQ_MAX_RANK], src[PTQ_MAX_RANK], dst[PTQ_MAX_RANK]; /* strides in elements */
  int64_t src_offset, dst_offset, total;
  bool fills;   /* the copy does not reach every element of the output */
  bool squares; /* bytes are turned in registers */
  bool rises;   /* then each line lies behind the one before and fills the gap between them */
  uint8_t fill;
} state;

#define COPY_ELEMENTS(type) \
  for (int64_t i = 0; i < n; i++) \
  ((type *)(void *)y)[i * dst] = ((const type *)(const void *)x)[i * src]

static void copy_line(size_t element, uint8_t *y, int64_t dst, const uint8_t *x, int64_t src,
                      int64_t n) {
  if (dst == 1 && src == 1) {
    memcpy(y, x, (size_t)n * element);
  } else if (element == 1) {
    COPY_ELEMENTS(uint8_t);
  } else if (element == 2) {
    COPY_ELEMENTS(uint16_t);
  } else if (element == 4) {
    COPY_ELEMENTS(uint32_t);
  } else {
    COPY_ELEMENTS(uint64_t);
  }
}

static int64_t line_start(const state *s, const int64_t *stride, int64_t line, int64_t offset) {
  for (int32_t d = s->rank - 2; d >= 0; d--) {
    offset += line % s->dims[d] * stride[d];
    line /= s->dims[d];
  }
  return offset;
}

#if PTQ_X86
/* Sixteen rows of sixteen bytes become columns. */
static void turn_square(uint8_t *y, int64_t dst, const uint8_t *x, int64_t src) {
  __m128i a[SQUARE], b[SQUARE];
  for (int i = 0; i < SQUARE; i++) a[i] = _mm_loadu_si128((const void *)(x + i * src));
  for (int step = 0; step < 4; step++) { /* rows i and i + 8 shuffle into 2 i and 2 i + 1 */
    for (int i = 0; i < SQUARE / 2; i++) {
      b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + SQUARE / 2]);
      b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + SQUARE / 2]);
    }
    memcpy(a, b, sizeof a);
  }
  for (int i = 0; i < SQUARE; i++) _mm_storeu_si128((void *)(y + i * dst), a[i]);
}
#endif

static void turn(const state *s, uint8_t *y, const uint8_t *x, int64_t rows, int64_t columns) {
  const int64_t size = (int64_t)s->element;
  const int64_t dst = s->dst[s->rank - 2] * size, src = s->src[s->rank - 1];
  for (int64_t column = 0; column < columns; column += SQUARE)
    for (int64_t row = 0; row < rows; row += SQUARE) {
      uint8_t *to = y + row * dst + column * size;
      const uint8_t *from = x + (column * src + row) * size;
      const int64_t high = ptq_min(SQUARE, rows - row), wide = ptq_min(SQUARE, columns - column);
#if PTQ_X86
      if (s->squares && high == SQUARE && wide == SQUARE) {
        turn_square(to, dst, from, src);
        continue;
      }
#endif
      for (int64_t i = 0; i < high; i++)
        copy_line(s->element, to + i * dst, 1, from + i * size, src, wide);
    }
}

/* Tasks are strips: rows of the output that lie side by side in the input. */
static ptq_status run_turned(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                             int64_t begin, int64_t end, uint8_t *scratch) {
  (void)scratch;
  const state *s = node->state;
  const int64_t size = (int64_t)s->element, rows = s->dims[s->rank - 2];
  const int64_t strips = (rows + STRIP - 1) / STRIP;
  for (int64_t task = begin; task < end; task++) {
    const int64_t row = task % strips * STRIP, line = task / strips * rows + row;
    turn(s, out[0] + line_start(s, s->dst, line, s->dst_offset) * size,
         in[0] + line_start(s, s->src, line, s->src_offset) * size, ptq_min(STRIP, rows - row),
         s->dims[s->rank - 1]);
  }
  return PTQ_OK;
}

static ptq_status run(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                      int64_t begin, int64_t end, uint8_t *scratch) {
  (void)scratch;
  const state *s = node->state;
  const int64_t size = (int64_t)s->element, n = s->dims[s->rank - 1], count = node->out[0]->count;
  int64_t done = begin > 0 ? line_start(s, s->dst, begin - 1, s->dst_offset) + n : 0;
  if (s->fills && !s->rises) memset(out[0], s->fill, node->out[0]->bytes); /* one task only */
  for (int64_t line = begin; line < end; line++) {
    const int64_t from = line_start(s, s->src, line, s->src_offset);
    const int64_t to = line_start(s, s->dst, line, s->dst_offset);
    if (s->rises) memset(out[0] + done * size, s->fill, (size_t)((to - done) * size));
    copy_line(s->element, out[0] + to * size, s->dst[s->rank - 1], in[0] + from * size,
              s->src[s->rank - 1], n);
    done = to + n;
  }
  if (s->rises && end == node->tasks)
    memset(out[0] + done * size, s->fill, (size_t)((count - done) * size));
  return PTQ_OK;
}

/* The first and last element that a walk over the dimensions touches must exist. */
static bool within(const state *s, const int64_t *stride, int64_t offset, int64_t count) {
  int64_t low = offset, high = offset;
  for (int32_t d = 0; d < s->rank; d++) {
    int64_t reach = (s->dims[d] - 1) * stride[d];
    if (reach < -((int64_t)1 << 50) || reach > (int64_t)1 << 50) return false;
    *(reach < 0 ? &low : &high) += reach;
  }
  return low >= 0 && high < count;
}

/* Move dimension d behind the others. */
static void put_last(state *s, int32_t d) {
  for (; d + 1 < s->rank; d++) {
    int64_t dim = s->dims[d], src = s->src[d], dst = s->dst[d];
    s->dims[d] = s->dims[d + 1], s->dims[d + 1] = dim;
    s->src[d] = s->src[d + 1], s->src[d + 1] = src;
    s->dst[d] = s->dst[d + 1], s->dst[d + 1] = dst;
  }
}

/* Join neighbouring dimensions that are one walk in both tensors, and make the longest
 * contiguous run of the output the inner loop. */
static void simplify(state *s) {
  int32_t kept = 0;
  for (int32_t d = 0; d < s->rank; d++) {
    if (s->dims[d] == 1) continue;
    if (kept > 0 && s->src[kept - 1] == s->src[d] * s->dims[d] &&
        s->dst[kept - 1] == s->dst[d] * s->dims[d]) {
      s->dims[kept - 1] *= s->dims[d];
    } else {
      s->dims[kept++] = s->dims[d];
    }
    s->src[kept - 1] = s->src[d];
    s->dst[kept - 1] = s->dst[d];
  }
  if (kept == 0) {
    s->dims[0] = s->src[0] = s->dst[0] = 1;
    kept = 1;
  }
  s->rank = kept;
  int32_t longest = kept - 1;
  for (int32_t d = 0; d < kept; d++)
    if (s->dims[d] > 4 * s->dims[longest] && s->dims[longest] < 16) longest = d;
  put_last(s, longest);
}

/* Whether one long dimension lies side by side in the input, another in the output; these become
 * the last two. */
static bool turns(state *s) {
  int32_t row = -1, column = -1;
  for (int32_t d = 0; d < s->rank; d++) {
    if (s->dims[d] < SQUARE) continue;
    if (s->src[d] == 1) row = d;
    if (s->dst[d] == 1) column = d;
  }
  if (row < 0 || column < 0 || row == column) return false;
  put_last(s, row);
  put_last(s, column - (row < column));
  return true;
}

/* Whether the lines of the output follow one another in memory without overlap. */
static bool rising(const state *s) {
  int64_t reach = 0; /* of the dimensions within */
  for (int32_t d = s->rank - 1; d >= 0; d--) {
    if (d == s->rank - 1 ? s->dst[d] != 1 : s->dst[d] <= reach) return false;
    reach += (s->dims[d] - 1) * s->dst[d];
  }
  return true;
}

ptq_status ptq_prepare_copy(const ptq_build *build, ptq_node *node) {
  PTQ_REQUIRE(
      node->input_count == 1 && node->output_count == 1 && node->attr_count >= 4 && node->in[0],
      "wrong number of operands");
  ptq_value *x = node->in[0], *y = node->out[0];
  const int32_t *attr = node->attr, n = attr[0];
  PTQ_REQUIRE(n >= 1 && n <= PTQ_MAX_RANK && node->attr_count == 4 + 3 * n, "wrong attributes");
  PTQ_REQUIRE(x->dtype == y->dtype && x->flip == y->flip && ptq_dtype_bytes(x->dtype) > 0,
              "types differ");
  state *s = node->state = ptq_alloc(sizeof *s);
  if (!s) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  s->element = ptq_dtype_bytes(x->dtype);
  s->rank = n;
  s->src_offset = attr[1];
  s->dst_offset = attr[2];
  s->total = 1;
  for (int32_t d = 0; d < n; d++) {
    s->dims[d] = attr[4 + d];
    s->src[d] = attr[4 + n + d];
    s->dst[d] = attr[4 + 2 * n + d];
    PTQ_REQUIRE(s->dims[d] >= 1 && s->total <= y->count / s->dims[d], "dimensions do not fit");
    s->total *= s->dims[d];
  }
  PTQ_REQUIRE(within(s, s->src, s->src_offset, x->count), "reads outside the input");
  PTQ_REQUIRE(within(s, s->dst, s->dst_offset, y->count), "writes outside the output");
  s->fills = s->total != y->count;
  PTQ_REQUIRE(!s->fills || s->element == 1 || attr[3] == 0, "wide types are filled with 0");
  s->fill = (uint8_t)(attr[3] + (y->flip ? 128 : 0));
  simplify(s);
  x->keep = x->keep || x->role == PTQ_CONSTANT;
  s->rises = s->fills && rising(s);
  node->work = s->fills && !s->rises ? 0 : (double)y->count;
  node->tasks = s->total / s->dims[s->rank - 1];
  node->run = run;
  if (!s->fills && turns(s)) {
    const int64_t rows = s->dims[s->rank - 2];
    node->tasks = s->total / s->dims[s->rank - 1] / rows * ((rows + STRIP - 1) / STRIP);
    node->run = run_turned;
    s->squares = PTQ_X86 && s->element == 1 && build->isa > PTQ_ISA_SCALAR;
    if (s->squares) node->kernel = "sse2";
  }
  return PTQ_OK;
}

typedef struct {
  int64_t outer, axis, inner, indices;
} gather_state;

static ptq_status run_gather(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                             int64_t begin, int64_t end, uint8_t *scratch) {
  (void)scratch;
  const gather_state *s = node->state;
  const int64_t *index = (const int64_t *)(const void *)in[1];
  for (int64_t o = begin; o < end; o++)
    for (int64_t i = 0; i < s->indices; i++) {
      int64_t at = index[i] < 0 ? index[i] + s->axis : index[i];
      if (at < 0 || at >= s->axis) return PTQ_BAD_INDEX;
      memcpy(out[0] + (o * s->indices + i) * s->inner, in[0] + (o * s->axis + at) * s->inner,
             (size_t)s->inner);
    }
  return PTQ_OK;
}

ptq_status ptq_prepare_gather(const ptq_build *build, ptq_node *node) {
  PTQ_REQUIRE(node->input_count == 2 && node->output_count == 1 && node->attr_count == 1 &&
                  node->in[0] && node->in[1],
              "wrong number of operands");
  ptq_value *x = node->in[0], *index = node->in[1], *y = node->out[0];
  int32_t axis = node->attr[0];
  PTQ_REQUIRE(axis >= 0 && axis < x->rank, "the axis does not exist");
  PTQ_REQUIRE(index->dtype == PTQ_S64, "indices are not S64");
  PTQ_REQUIRE(x->dtype == y->dtype && x->flip == y->flip && ptq_dtype_bytes(x->dtype) > 0,
              "types differ");
  gather_state *s = node->state = ptq_alloc(sizeof *s);
  if (!s) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  s->outer = 1;
  for (int32_t d = 0; d < axis; d++) s->outer *= x->dims[d];
  s->axis = x->dims[axis];
  s->inner = (int64_t)x->bytes / s->outer / s->axis;
  s->indices = index->count;
  PTQ_REQUIRE(s->indices <= y->count && (uint64_t)(s->outer * s->indices * s->inner) == y->bytes,
              "the output's size does not fit");
  x->keep = x->keep || x->role == PTQ_CONSTANT;
  index->keep = index->keep || index->role == PTQ_CONSTANT;
  node->tasks = s->outer;
  node->work = (double)y->bytes / 8;
  node->run = run_gather;
  return PTQ_OK;
}
