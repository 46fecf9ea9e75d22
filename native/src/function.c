/* Activation functions in single precision. exp() is a polynomial of degree 6 on [-ln 2 / 2,
 * ln 2 / 2] (its Taylor series, whose rest there is below 2e-7), erf() formula 7.1.26 of Abramowitz
 * and Stegun (absolute error 1.5e-7): far below a step of 8 bits, and the same bytes everywhere,
 * since every operation is one IEEE operation. */
#include "function.h"

#include <math.h>

#include "requant.h"
#include "versions.h"

enum { PIECE = 1024, LANES = 16 };

/* Limits that compilers must not know: for known ones they split the loops below into branches,
 * which they then cannot vectorize. */
typedef struct {
  float none, one, low, high;
} limits;

static const limits LIMITS[] = {{0.0f, 1.0f, -87.0f, 88.0f}};
static const limits *volatile const limits_source = LIMITS;

PTQ_INLINE float exponential(limits l, float x) {
  x = ptq_clampf(x, l.low, l.high);
  const int32_t k = ptq_rint(x * 1.44269504f);
  const float r = (x - (float)k * 0.693359375f) + (float)k * 2.12194440e-4f;
  float p = 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const int32_t bits = (k + 127) * (1 << 23);
  float power;
  memcpy(&power, &bits, sizeof power);
  return p * power;
}

PTQ_INLINE float logistic(limits l, float x) { return 1.0f / (1.0f + exponential(l, -x)); }

PTQ_INLINE float hyperbolic_tangent(limits l, float x) {
  return 1.0f - 2.0f / (exponential(l, 2.0f * x) + 1.0f);
}

PTQ_INLINE float error_function(limits l, float x) {
  const float size = fabsf(x), t = 1.0f / (1.0f + 0.3275911f * size);
  float p = 1.061405429f;
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  return copysignf(1.0f - p * t * exponential(l, -size * size), x);
}

PTQ_INLINE float hard(limits l, float x, float a, float b) {
  return ptq_clampf(a * x + b, l.none, l.one);
}

PTQ_INLINE float below(limits l, float x) { return x < l.none ? x : l.none; }
PTQ_INLINE float above(limits l, float x) { return x > l.none ? x : l.none; }

PTQ_INLINE float leaky(limits l, float x, float a) { return a * below(l, x) + above(l, x); }

PTQ_INLINE float elu(limits l, float x, float a) {
  return a * (exponential(l, below(l, x)) - 1.0f) + above(l, x);
}

PTQ_INLINE float gelu_tanh(limits l, float x) {
  return 0.5f * x * (1.0f + hyperbolic_tangent(l, 0.797884561f * (x + 0.044715f * x * x * x)));
}

#define EACH(expression) \
  for (int64_t i = 0; i < n; i++) { \
    const float v = x[i]; \
    x[i] = (expression); \
  } \
  break

PTQ_INLINE void apply_body(const ptq_function *f, float *restrict x, int64_t n) {
  const float a = f->a, b = f->b;
  const limits l = *limits_source;
  switch (f->kind) {
    case PTQ_HARD_SIGMOID: EACH(hard(l, v, a, b));
    case PTQ_HARD_SWISH: EACH(v * hard(l, v, a, b));
    case PTQ_LEAKY_RELU: EACH(leaky(l, v, a));
    case PTQ_ELU: EACH(elu(l, v, a));
    case PTQ_SIGMOID: EACH(logistic(l, v));
    case PTQ_SWISH: EACH(v * logistic(l, a * v));
    case PTQ_TANH: EACH(hyperbolic_tangent(l, v));
    case PTQ_GELU: EACH(0.5f * v * (1.0f + error_function(l, v * 0.707106781f)));
    default: EACH(gelu_tanh(l, v));
  }
}

PTQ_INLINE void round_body(const ptq_function *f, const float *restrict x, int64_t n,
                           uint8_t *restrict y) {
  const float inverse = f->inverse, lo = (float)f->lo, hi = (float)f->hi;
  const int32_t zero = f->zero;
  for (int64_t i = 0; i < n; i++)
    y[i] = (uint8_t)(ptq_rint(ptq_clampf(x[i] * inverse, lo, hi)) + zero);
}

PTQ_INLINE void softmax_body(const float *restrict x, float *restrict y, int64_t n) {
  const limits l = *limits_source;
  float tops[LANES], sums[LANES] = {0}, top = x[0];
  int64_t i = 0;
  for (int32_t j = 0; j < LANES; j++) tops[j] = x[0];
  for (; i + LANES <= n; i += LANES)
    for (int32_t j = 0; j < LANES; j++) tops[j] = x[i + j] > tops[j] ? x[i + j] : tops[j];
  for (int32_t j = 0; j < LANES; j++) top = tops[j] > top ? tops[j] : top;
  for (; i < n; i++) top = x[i] > top ? x[i] : top;
  for (i = 0; i < n; i++) y[i] = exponential(l, x[i] - top);
  for (i = 0; i + LANES <= n; i += LANES)
    for (int32_t j = 0; j < LANES; j++) sums[j] += y[i + j];
  for (int32_t j = 0; i < n; i++, j++) sums[j] += y[i];
  for (int32_t half = LANES / 2; half > 0; half /= 2)
    for (int32_t j = 0; j < half; j++) sums[j] += sums[j + half];
  const float share = 1.0f / sums[0];
  for (i = 0; i < n; i++) y[i] *= share;
}

PTQ_VERSIONS(softmax, (const float *x, float *y, int64_t n), (x, y, n))
PTQ_VERSIONS(apply, (const ptq_function *f, float *x, int64_t n), (f, x, n))
PTQ_VERSIONS(round, (const ptq_function *f, const float *x, int64_t n, uint8_t *y), (f, x, n, y))

ptq_softmax_fn *ptq_softmax_choose(const ptq_build *build) {
#if PTQ_X86
  if (build->isa >= PTQ_ISA_AVX512VNNI) return ptq_softmax_avx512;
#endif
  return PTQ_SELECT(build, softmax);
}

ptq_status ptq_read_function(const ptq_build *build, const ptq_value *constant, const ptq_value *y,
                             const int32_t limits[2], ptq_function *f) {
  PTQ_REQUIRE(constant->role == PTQ_CONSTANT && constant->dtype == PTQ_F32 && constant->count == 3,
              "the function is not three constant floats");
  PTQ_REQUIRE(y->dtype == PTQ_U8 || y->dtype == PTQ_F32,
              "only outputs of 8 bits or F32 take a function");
  float numbers[3];
  memcpy(numbers, constant->data, sizeof numbers);
  PTQ_REQUIRE(numbers[0] >= 0 && numbers[0] < PTQ_FUNCTION_COUNT && isfinite(numbers[1]) &&
                  isfinite(numbers[2]) && isfinite(1.0f / y->scale),
              "unknown function, or numbers out of range");
  *f = (ptq_function){.kind = (int32_t)numbers[0],
                      .a = numbers[1],
                      .b = numbers[2],
                      .inverse = 1.0f / y->scale,
                      .zero = y->zero_point,
                      .apply = PTQ_SELECT(build, apply),
                      .round = PTQ_SELECT(build, round)};
  return ptq_read_limits(build, limits, y, &f->lo, &f->hi);
}

static ptq_status run(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                      int64_t begin, int64_t end, uint8_t *scratch) {
  const ptq_function *f = node->state;
  float *piece = (float *)(void *)scratch;
  for (int64_t task = begin; task < end; task++) {
    const int64_t first = task * PIECE, n = ptq_min(PIECE, node->in[0]->count - first);
    float *to = node->out[0]->dtype == PTQ_F32 ? (float *)(void *)out[0] + first : piece;
    memcpy(to, in[0] + 4 * first, 4 * (size_t)n);
    f->apply(f, to, n);
    if (to == piece) f->round(f, piece, n, out[0] + first);
  }
  return PTQ_OK;
}

ptq_status ptq_prepare_function(const ptq_build *build, ptq_node *node) {
  PTQ_REQUIRE(node->input_count == 2 && node->output_count == 1 && node->attr_count == 2 &&
                  node->in[0] && node->in[1],
              "wrong number of operands");
  PTQ_REQUIRE(node->in[0]->dtype == PTQ_F32 && node->in[0]->role != PTQ_CONSTANT &&
                  ptq_same_dims(node->in[0], node->out[0]),
              "takes F32 of the output's shape");
  ptq_function *f = ptq_alloc(sizeof *f);
  if (!f) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  node->state = f;
  node->state_bytes = sizeof *f;
  node->work = (double)node->in[0]->bytes / 8;
  node->tasks = (node->in[0]->count + PIECE - 1) / PIECE;
  node->scratch = PIECE * sizeof(float);
  node->run = run;
  node->kernel = ptq_isa_name(build->isa);
  return ptq_read_function(build, node->in[1], node->out[0], node->attr, f);
}
