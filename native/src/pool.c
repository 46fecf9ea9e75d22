/* MaxPool and AveragePool over one to three channels-last spatial dimensions. */
#include "pool.h"

#include "requant.h"
#include "versions.h"

typedef struct {
  int32_t in[3], out[3], kernel[3], stride[3], dilation[3], pad[3], end[3];
  int32_t channels;
  int64_t reach; /* from the first to the last column of a window */
  size_t taps;   /* of a whole window */
  bool include_pad;
  ptq_requant mode;
  float scale; /* input over output */
  int32_t x_zero, y_zero;
  ptq_maximum_fn *maximum;
  void (*accumulate)(int32_t *sum, const uint8_t *const *taps, int64_t count, int64_t n);
  void (*finish)(uint8_t *y, const int32_t *sum, int64_t n, int32_t offset, float m, int32_t zero);
} state;

void ptq_maximum_scalar(uint8_t *y, const uint8_t *const *taps, int64_t count, int64_t n) {
  memset(y, 0, (size_t)n);
  for (int64_t t = 0; t < count; t++)
    for (int64_t i = 0; i < n; i++) y[i] = taps[t][i] > y[i] ? taps[t][i] : y[i];
}

static ptq_maximum_fn *choose_maximum(const ptq_build *build) {
#if PTQ_X86
  if (build->isa >= PTQ_ISA_AVX512VNNI) return ptq_maximum_avx512;
  if (build->isa >= PTQ_ISA_AVX2) return ptq_maximum_avx2;
#endif
  (void)build;
  return ptq_maximum_scalar;
}

PTQ_INLINE void accumulate_body(int32_t *restrict sum, const uint8_t *const *taps, int64_t count,
                                int64_t n) {
  memset(sum, 0, (size_t)n * sizeof *sum);
  for (int64_t t = 0; t < count; t++) {
    const uint8_t *restrict x = taps[t];
    for (int64_t i = 0; i < n; i++) sum[i] += x[i];
  }
}

PTQ_INLINE void finish_body(uint8_t *restrict y, const int32_t *restrict sum, int64_t n,
                            int32_t offset, float m, int32_t zero) {
  for (int64_t i = 0; i < n; i++)
    y[i] = (uint8_t)(ptq_requant_float(sum[i] - offset, m, -zero, 255 - zero) + zero);
}

PTQ_VERSIONS(accumulate, (int32_t *sum, const uint8_t *const *taps, int64_t count, int64_t n),
             (sum, taps, count, n))
PTQ_VERSIONS(finish,
             (uint8_t *y, const int32_t *sum, int64_t n, int32_t offset, float m, int32_t zero),
             (y, sum, n, offset, m, zero))

static void finish_exactly(const state *s, uint8_t *y, const int32_t *sum, int32_t offset,
                           float m) {
  ptq_multiplier multiplier = ptq_make_multiplier(s->mode, m);
  for (int32_t c = 0; c < s->channels; c++)
    y[c] = (uint8_t)(s->y_zero + ptq_requantize(s->mode, sum[c] - offset, multiplier, -s->y_zero,
                                                255 - s->y_zero));
}

/* Per dimension, the window positions of an output that lie inside the input, and how many the
 * average counts when it includes the padding. */
typedef struct {
  int64_t first[3], last[3], counted[3];
} window;

static void find_window(const state *s, int32_t d, int64_t o, window *w) {
  int64_t origin = o * s->stride[d] - s->pad[d];
  int64_t step = s->dilation[d];
  w->first[d] = origin < 0 ? (-origin + step - 1) / step : 0;
  w->last[d] = origin >= s->in[d] ? 0 : ptq_min(s->kernel[d], (s->in[d] - 1 - origin) / step + 1);
  int64_t limit = s->in[d] + s->end[d];
  w->counted[d] = origin >= limit ? 0 : ptq_min(s->kernel[d], (limit - 1 - origin) / step + 1);
}

static int64_t find_taps(const state *s, const window *w, const uint8_t *x, const int64_t at[3],
                         const uint8_t **taps) {
  int64_t real = 0;
  for (int64_t a = w->first[0]; a < w->last[0]; a++)
    for (int64_t b = w->first[1]; b < w->last[1]; b++)
      for (int64_t c = w->first[2]; c < w->last[2]; c++) {
        int64_t z = at[0] * s->stride[0] - s->pad[0] + a * s->dilation[0];
        int64_t v = at[1] * s->stride[1] - s->pad[1] + b * s->dilation[1];
        int64_t u = at[2] * s->stride[2] - s->pad[2] + c * s->dilation[2];
        taps[real++] = x + ((z * s->in[1] + v) * s->in[2] + u) * s->channels;
      }
  return real;
}

static void average_taps(const state *s, const window *w, const uint8_t *const *taps, int64_t real,
                         uint8_t *y, int32_t *sum) {
  s->accumulate(sum, taps, real, s->channels);
  const int64_t all = w->counted[0] * w->counted[1] * w->counted[2];
  int32_t offset = (int32_t)(real * s->x_zero);
  float m = s->scale / (float)ptq_max(1, s->include_pad ? all : real);
  if (s->mode == PTQ_REQUANT_FLOAT)
    s->finish(y, sum, s->channels, offset, m, s->y_zero);
  else
    finish_exactly(s, y, sum, offset, m);
}

/* Behind a whole window the next one's taps are a stride further. */
static ptq_status run(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                      int64_t begin, int64_t end, uint8_t *scratch) {
  const state *s = node->state;
  const uint8_t **taps = (const uint8_t **)(void *)scratch;
  int32_t *sum = (int32_t *)(void *)(scratch + s->taps * sizeof *taps);
  const int64_t image = (int64_t)s->in[0] * s->in[1] * s->in[2] * s->channels;
  const int64_t apart = (int64_t)s->stride[2] * s->channels, last = s->out[2];
  for (int64_t row = begin; row < end; row++) {
    int64_t at[3] = {row / s->out[1] % s->out[0], row % s->out[1], 0}, real = 0;
    bool whole = false;
    const uint8_t *x = in[0] + row / s->out[1] / s->out[0] * image;
    uint8_t *y = out[0] + row * last * s->channels;
    window w;
    find_window(s, 0, at[0], &w);
    find_window(s, 1, at[1], &w);
    for (; at[2] < last; at[2]++, y += s->channels) {
      const int64_t origin = at[2] * s->stride[2] - s->pad[2];
      const bool inside = origin >= 0 && origin + s->reach < s->in[2];
      if (!inside || !whole) {
        find_window(s, 2, at[2], &w);
        real = find_taps(s, &w, x, at, taps);
      } else {
        for (int64_t t = 0; t < real; t++) taps[t] += apart;
      }
      whole = inside;
      if (node->kind == PTQ_MAX_POOL)
        s->maximum(y, taps, real, s->channels);
      else
        average_taps(s, &w, taps, real, y, sum);
    }
  }
  return PTQ_OK;
}

ptq_status ptq_prepare_pool(const ptq_build *build, ptq_node *node) {
  bool average = node->kind == PTQ_AVERAGE_POOL;
  PTQ_REQUIRE(
      node->input_count == 1 && node->output_count == 1 && node->attr_count >= 1 && node->in[0],
      "wrong number of operands");
  const ptq_value *x = node->in[0], *y = node->out[0];
  int32_t n = node->attr[0];
  PTQ_REQUIRE(n >= 1 && n <= 3 && node->attr_count == 1 + 4 * n + (average ? n + 1 : 0),
              "wrong attributes");
  PTQ_REQUIRE(x->rank == n + 2 && y->rank == n + 2 && x->dims[0] == y->dims[0] &&
                  x->dims[n + 1] == y->dims[n + 1],
              "shapes do not fit");
  PTQ_REQUIRE(x->dtype == PTQ_U8 && y->dtype == PTQ_U8 && x->flip == y->flip,
              "types are not 8-bit");
  PTQ_REQUIRE(average || (x->scale == y->scale && x->zero_point == y->zero_point),
              "MaxPool keeps the grid");
  state *s = node->state = ptq_alloc(sizeof *s);
  if (!s) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  int64_t size = 1;
  for (int32_t i = 0; i < 3; i++) {
    int32_t j = i - (3 - n);
    const int32_t *attr = node->attr + 1 + j;
    s->in[i] = j < 0 ? 1 : x->dims[1 + j];
    s->out[i] = j < 0 ? 1 : y->dims[1 + j];
    s->kernel[i] = j < 0 ? 1 : attr[0];
    s->stride[i] = j < 0 ? 1 : attr[n];
    s->dilation[i] = j < 0 ? 1 : attr[2 * n];
    s->pad[i] = j < 0 ? 0 : attr[3 * n];
    s->end[i] = j < 0 || !average ? 0 : attr[4 * n];
    PTQ_REQUIRE(s->kernel[i] >= 1 && s->kernel[i] <= 1 << 12 && s->stride[i] >= 1 &&
                    s->dilation[i] >= 1 && s->dilation[i] <= 1 << 12 && s->pad[i] >= 0 &&
                    s->pad[i] <= 1 << 20 && s->end[i] >= 0 && s->end[i] <= 1 << 20 &&
                    s->stride[i] <= 1 << 20,
                "kernel, stride, dilation or pad out of range");
    size *= s->kernel[i];
  }
  PTQ_REQUIRE(size <= 1 << 22, "the window is too large");
  s->channels = x->dims[n + 1];
  s->include_pad = average && node->attr[1 + 5 * n];
  s->mode = build->requant;
  s->scale = x->scale / y->scale;
  PTQ_REQUIRE(ptq_multiplier_fits(build, s->scale), "the output grid is too fine");
  s->x_zero = x->zero_point;
  s->y_zero = y->zero_point;
  s->maximum = choose_maximum(build);
  s->accumulate = PTQ_SELECT(build, accumulate);
  s->finish = PTQ_SELECT(build, finish);
  node->tasks = (int64_t)x->dims[0] * s->out[0] * s->out[1];
  node->work = (double)y->count * (double)size;
  s->taps = (size_t)size;
  s->reach = (int64_t)(s->kernel[2] - 1) * s->dilation[2];
  node->scratch = s->taps * sizeof(void *) + (size_t)s->channels * sizeof(int32_t);
  node->run = run;
  node->kernel = ptq_isa_name(build->isa);
  return PTQ_OK;
}
