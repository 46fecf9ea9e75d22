/* Gemm with one weight scale per block of K, weights left in 8 or 4 bits:
 * real = sum over blocks of float(sum (x - zx)(w - zw)) * scale, in order, times x's scale. */
#include "requant.h"
#include "versions.h"

enum { CHANNELS = 16 };

typedef struct {
  int64_t m, k, n, block, blocks;
  int8_t *weights; /* 8 bits, or 4 two to a byte: [n][k / per_byte] */
  bool four_bits;
  int64_t stride;  /* bytes of one output's weights */
  float *scale;    /* [n][blocks] */
  int32_t *offset; /* [n][blocks]: x zero point * sum of (w - zw) */
  int32_t *zero;   /* [n][blocks] */
  float *bias;
  float x_scale, y_scale;
  int32_t y_zero, lo, hi;
  bool floats;
  int32_t (*dot)(const uint8_t *x, const int8_t *w, int64_t n, int32_t *total);
  int32_t (*dot4)(const uint8_t *x, const int8_t *w, int64_t n, int32_t *total);
} state;

/* Sum of products, and of the inputs alone for the weights' zero point. */
PTQ_INLINE int32_t dot_body(const uint8_t *restrict x, const int8_t *restrict w, int64_t n,
                            int32_t *total) {
  int32_t sum = 0, inputs = 0;
  for (int64_t i = 0; i < n; i++) {
    sum += x[i] * w[i];
    inputs += x[i];
  }
  *total = inputs;
  return sum;
}

/* 4-bit weights are stored without sign, 0 to 15; n is even but for the last block. */
PTQ_INLINE int32_t dot4_body(const uint8_t *restrict x, const int8_t *restrict w, int64_t n,
                             int32_t *total) {
  int32_t sum = 0, inputs = 0;
  const uint8_t *bytes = (const uint8_t *)w;
  for (int64_t i = 0; i < n / 2; i++) {
    sum += x[2 * i] * (bytes[i] & 15) + x[2 * i + 1] * (bytes[i] >> 4);
    inputs += x[2 * i] + x[2 * i + 1];
  }
  if (n % 2) {
    sum += x[n - 1] * (bytes[n / 2] & 15);
    inputs += x[n - 1];
  }
  *total = inputs;
  return sum;
}

#define DOT_VERSION(suffix, target) \
  target static int32_t dot_##suffix(const uint8_t *x, const int8_t *w, int64_t n, int32_t *t) { \
    return dot_body(x, w, n, t); \
  } \
  target static int32_t dot4_##suffix(const uint8_t *x, const int8_t *w, int64_t n, int32_t *t) { \
    return dot4_body(x, w, n, t); \
  }
DOT_VERSION(base, )
#if PTQ_X86
DOT_VERSION(avx2, PTQ_AVX2)
DOT_VERSION(avx512, PTQ_AVX512)
#endif

static ptq_status run(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                      int64_t begin, int64_t end, uint8_t *scratch) {
  (void)scratch;
  const state *s = node->state;
  const int64_t pieces = (s->n + CHANNELS - 1) / CHANNELS;
  for (int64_t task = begin; task < end; task++) {
    int64_t m = task / pieces, first = task % pieces * CHANNELS;
    const uint8_t *x = in[0] + m * s->k;
    for (int64_t o = first; o < ptq_min(s->n, first + CHANNELS); o++) {
      float real = 0;
      for (int64_t b = 0; b < s->blocks; b++) {
        int64_t at = b * s->block, n = ptq_min(s->block, s->k - at), i = o * s->blocks + b;
        int32_t total;
        const int8_t *w = s->weights + o * s->stride + (s->four_bits ? at / 2 : at);
        int32_t sum = s->four_bits ? s->dot4(x + at, w, n, &total) : s->dot(x + at, w, n, &total);
        real += (float)(sum - s->zero[i] * total - s->offset[i]) * s->scale[i];
      }
      real *= s->x_scale;
      if (s->bias) real += s->bias[o];
      if (s->floats)
        memcpy(out[0] + 4 * (m * s->n + o), &real, 4);
      else
        out[0][m * s->n + o] =
            (uint8_t)(s->y_zero +
                      ptq_rint(ptq_clampf(real / s->y_scale, (float)s->lo, (float)s->hi)));
    }
  }
  return PTQ_OK;
}

static void release(void *block) {
  state *s = block;
  free(s->weights);
  free(s->scale);
  free(s->offset);
  free(s->zero);
  free(s->bias);
  free(s);
}

static ptq_status pack(const ptq_build *build, const ptq_node *node, state *s) {
  const ptq_value *w = node->in[1], *zero = node->in[3], *bias = node->in[4];
  size_t scales = (size_t)(s->n * s->blocks);
  s->weights = ptq_alloc((size_t)(s->n * s->stride));
  s->scale = ptq_alloc(scales * sizeof *s->scale);
  s->offset = ptq_alloc(scales * sizeof *s->offset);
  s->zero = ptq_alloc(scales * sizeof *s->zero);
  s->bias = bias ? ptq_alloc((size_t)s->n * sizeof *s->bias) : NULL;
  if (!s->weights || !s->scale || !s->offset || !s->zero || (bias && !s->bias))
    return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  memcpy(s->scale, node->in[2]->data, scales * sizeof *s->scale);
  if (bias) memcpy(s->bias, bias->data, (size_t)s->n * sizeof *s->bias);
  for (int64_t o = 0; o < s->n; o++)
    for (int64_t k = 0; k < s->k; k++) {
      int64_t from = o * s->k + k, i = o * s->blocks + k / s->block;
      int32_t value, shift = w->dtype == PTQ_S4 ? 8 : 0;
      if (s->four_bits) {
        int32_t nibble = w->data[from / 2] >> (from % 2 * 4) & 15;
        value = nibble ^ shift; /* stored as value + shift */
        s->weights[o * s->stride + k / 2] |= (int8_t)(value << (k % 2 * 4));
      } else {
        value = s->weights[o * s->stride + k] = (int8_t)w->data[from];
      }
      s->zero[i] = (zero ? (int8_t)zero->data[i] : 0) + shift;
      s->offset[i] += node->in[0]->zero_point * (value - s->zero[i]);
    }
  return PTQ_OK;
}

static ptq_status check(const ptq_build *build, const ptq_node *node) {
  PTQ_REQUIRE(node->input_count == 5 && node->output_count == 1 && node->attr_count == 3 &&
                  node->in[0] && node->in[1] && node->in[2],
              "wrong number of operands");
  const ptq_value *x = node->in[0], *w = node->in[1], *y = node->out[0];
  int32_t block = node->attr[0];
  PTQ_REQUIRE(x->rank >= 1 && w->rank == 2 && y->rank == x->rank &&
                  x->dims[x->rank - 1] == w->dims[1] && y->dims[y->rank - 1] == w->dims[0] &&
                  x->count / w->dims[1] == y->count / w->dims[0],
              "shapes do not fit");
  PTQ_REQUIRE(x->dtype == PTQ_U8 && (y->dtype == PTQ_U8 || y->dtype == PTQ_F32) &&
                  (w->dtype == PTQ_S8 || w->dtype == PTQ_S4 || w->dtype == PTQ_U4),
              "unsupported types");
  PTQ_REQUIRE(block >= 2 && block % 2 == 0 && block <= 1 << 15,
              "the block is not an even number up to 32768");
  int64_t scales = w->dims[0] * (((int64_t)w->dims[1] + block - 1) / block);
  for (int32_t i = 1; i < 5; i++)
    PTQ_REQUIRE(!node->in[i] || node->in[i]->role == PTQ_CONSTANT, "parameters must be constants");
  PTQ_REQUIRE(node->in[2]->dtype == PTQ_F32 && node->in[2]->count == scales,
              "not one F32 scale per block");
  PTQ_REQUIRE(!node->in[3] || (node->in[3]->dtype == PTQ_S8 && node->in[3]->count == scales),
              "not one S8 zero point per block");
  PTQ_REQUIRE(!node->in[4] || (node->in[4]->dtype == PTQ_F32 && node->in[4]->count == w->dims[0]),
              "the bias is not one F32 per output");
  return PTQ_OK;
}

ptq_status ptq_prepare_block_gemm(const ptq_build *build, ptq_node *node) {
  ptq_status status = check(build, node);
  if (status != PTQ_OK) return status;
  const ptq_value *x = node->in[0], *w = node->in[1], *y = node->out[0];
  state *s = node->state = ptq_alloc(sizeof *s);
  if (!s) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  node->release = release;
  s->k = w->dims[1];
  s->n = w->dims[0];
  s->m = x->count / s->k;
  s->block = node->attr[0];
  s->blocks = (s->k + s->block - 1) / s->block;
  s->four_bits = w->dtype != PTQ_S8;
  s->stride = s->four_bits ? (s->k + 1) / 2 : s->k;
  s->x_scale = x->scale;
  s->y_scale = y->scale;
  s->y_zero = y->zero_point;
  s->floats = y->dtype == PTQ_F32;
  status = ptq_read_limits(build, node->attr + 1, y, &s->lo, &s->hi);
  if (status != PTQ_OK) return status;
  s->dot = PTQ_SELECT(build, dot);
  s->dot4 = PTQ_SELECT(build, dot4);
  status = pack(build, node, s);
  if (status != PTQ_OK) return status;
  node->state_bytes = (size_t)(s->n * (s->stride + 12 * s->blocks));
  node->tasks = s->m * ((s->n + CHANNELS - 1) / CHANNELS);
  node->work = (double)s->m * (double)s->n * (double)s->k;
  node->run = run;
  node->kernel = ptq_isa_name(build->isa);
  return PTQ_OK;
}
