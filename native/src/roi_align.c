/* RoiAlign: the mean, or the largest, of bilinear samples in each bin of a region, in float and in
 * the order of ONNX Runtime, from channels-last integers; channels are vectorized. Results of all
 * bins are gathered for some channels at a time, then turned to ONNX's order. */
#include <math.h>

#include "versions.h"

/* Samples of one bin along one axis; floats that are gathered, and what keeps their rows from
 * falling on the same lines of a cache. */
enum { MOST_SAMPLES = 1024, GATHERED = 1 << 14, SKEW = 16, HEIGHT = 0, WIDTH = 1 };

typedef struct {
  const uint8_t *corner[4];
  float weight[4];
  float scale;
  int32_t zero;
} sample;

typedef void sample_fn(const sample *s, float *y, int64_t n);
typedef void turn_fn(float *y, const float *x, int64_t bins, int64_t step, int64_t n, float count);

typedef struct {
  int64_t channels, batches, bins, piece; /* channels that are gathered at a time */
  int32_t size[2], pooled[2], sampling_ratio;
  float spatial_scale, offset, scale;
  int32_t zero;
  bool largest;
  sample_fn *add;
  turn_fn *turn;
} state;

/* One axis of a region: where it starts, the size of a bin and how many samples that takes. */
typedef struct {
  float start, bin;
  int32_t samples;
} axis;

/* Between which pixels a sample lies; far outside of the image it counts as 0. */
typedef struct {
  int64_t low, high;
  float low_weight, high_weight;
  bool inside;
} place;

#define CORNER(i, pointer) (s->weight[i] * ((float)((pointer)[j] - zero) * scale))

PTQ_INLINE void mean_body(const sample *s, float *restrict y, int64_t n) {
  const uint8_t *restrict a = s->corner[0], *restrict b = s->corner[1];
  const uint8_t *restrict c = s->corner[2], *restrict d = s->corner[3];
  const float scale = s->scale;
  const int32_t zero = s->zero;
  for (int64_t j = 0; j < n; j++) y[j] += CORNER(0, a) + CORNER(1, b) + CORNER(2, c) + CORNER(3, d);
}

PTQ_INLINE float larger(float a, float b) { return a < b ? b : a; }

/* The largest of the weighted corners, not of their sums, as ONNX Runtime has it. */
PTQ_INLINE void largest_body(const sample *s, float *restrict y, int64_t n) {
  const uint8_t *restrict a = s->corner[0], *restrict b = s->corner[1];
  const uint8_t *restrict c = s->corner[2], *restrict d = s->corner[3];
  const float scale = s->scale;
  const int32_t zero = s->zero;
  for (int64_t j = 0; j < n; j++) {
    const float top = larger(CORNER(0, a), CORNER(1, b));
    y[j] = larger(y[j], larger(larger(top, CORNER(2, c)), CORNER(3, d)));
  }
}

PTQ_INLINE void turn_body(float *restrict y, const float *restrict x, int64_t bins, int64_t step,
                          int64_t n, float count) {
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < bins; j++) y[i * bins + j] = x[j * step + i] / count;
}

PTQ_VERSIONS(mean, (const sample *s, float *y, int64_t n), (s, y, n))
PTQ_VERSIONS(largest, (const sample *s, float *y, int64_t n), (s, y, n))
PTQ_VERSIONS(turn, (float *y, const float *x, int64_t bins, int64_t step, int64_t n, float count),
             (y, x, bins, step, n, count))

/* The axis of a region from `from` to `to`; false if that takes too many samples. */
static bool make_axis(const state *s, int32_t which, float from, float to, axis *a) {
  a->start = from * s->spatial_scale - s->offset;
  float extent = (to * s->spatial_scale - s->offset) - a->start;
  if (s->offset == 0.0f) extent = larger(extent, 1.0f);
  a->bin = extent / (float)s->pooled[which];
  a->samples = s->sampling_ratio;
  if (a->samples > 0) return true;
  if (!(a->bin <= (float)MOST_SAMPLES)) return false;
  a->samples = a->bin > 0.0f ? (int32_t)ceilf(a->bin) : 0;
  return true;
}

static place find_place(const axis *a, int32_t size, int64_t bin, int32_t i) {
  float at = a->start + (float)bin * a->bin + ((float)i + 0.5f) * a->bin / (float)a->samples;
  if (!(at >= -1.0f && at <= (float)size)) return (place){0};
  at = larger(at, 0.0f);
  place p = {.low = (int64_t)at, .inside = true};
  if (p.low >= size - 1) {
    p.low = size - 1;
    at = (float)p.low;
  }
  p.high = ptq_min(p.low + 1, size - 1);
  p.high_weight = at - (float)p.low;
  p.low_weight = 1.0f - p.high_weight;
  return p;
}

/* Add up one bin of `n` channels of an image. */
static void pool_bin(const state *s, const uint8_t *x, const axis axes[2], int64_t bin, float *y,
                     int64_t n) {
  const int64_t row = bin / s->pooled[WIDTH], column = bin % s->pooled[WIDTH];
  const bool any = axes[HEIGHT].samples > 0 && axes[WIDTH].samples > 0;
  for (int64_t i = 0; i < n; i++) y[i] = s->largest && any ? -INFINITY : 0.0f;
  sample one = {.scale = s->scale, .zero = s->zero};
  for (int32_t i = 0; i < axes[HEIGHT].samples; i++) {
    const place v = find_place(&axes[HEIGHT], s->size[HEIGHT], row, i);
    for (int32_t j = 0; j < axes[WIDTH].samples; j++) {
      const place h = find_place(&axes[WIDTH], s->size[WIDTH], column, j);
      const bool inside = v.inside && h.inside;
      if (!inside && !s->largest) continue;
      for (int32_t k = 0; k < 4; k++) {
        const int64_t pixel =
            (k < 2 ? v.low : v.high) * s->size[WIDTH] + (k % 2 == 0 ? h.low : h.high);
        one.corner[k] = x + pixel * s->channels;
        one.weight[k] = inside ? (k < 2 ? v.low_weight : v.high_weight) *
                                     (k % 2 == 0 ? h.low_weight : h.high_weight)
                               : 0.0f;
      }
      s->add(&one, y, n);
    }
  }
}

/* One task is a region. */
static ptq_status run(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                      int64_t begin, int64_t end, uint8_t *scratch) {
  const state *s = node->state;
  const int64_t step = s->piece + SKEW, row = s->channels * s->bins;
  const int64_t image = (int64_t)s->size[HEIGHT] * s->size[WIDTH] * s->channels;
  int64_t batch, count = node->tasks;
  float *gathered = (float *)(void *)scratch;
  if (in[4]) memcpy(&count, in[4], sizeof count);
  if (count < 0 || count > node->tasks) return PTQ_BAD_INDEX;
  for (int64_t task = begin; task < end; task++) {
    float *y = (float *)(void *)out[0] + task * row, edge[4];
    if (task >= count) {
      memset(y, 0, (size_t)row * sizeof *y);
      continue;
    }
    axis axes[2];
    memcpy(edge, in[1] + (size_t)task * sizeof edge, sizeof edge);
    memcpy(&batch, in[2] + (size_t)task * sizeof batch, sizeof batch);
    if (batch < 0 || batch >= s->batches || !make_axis(s, WIDTH, edge[0], edge[2], &axes[WIDTH]) ||
        !make_axis(s, HEIGHT, edge[1], edge[3], &axes[HEIGHT]))
      return PTQ_BAD_INDEX;
    const int64_t samples = (int64_t)axes[HEIGHT].samples * axes[WIDTH].samples;
    const float divisor = s->largest ? 1.0f : (float)ptq_max(samples, 1);
    for (int64_t first = 0; first < s->channels; first += s->piece) {
      const uint8_t *x = in[0] + batch * image + first;
      const int64_t n = ptq_min(s->piece, s->channels - first);
      for (int64_t bin = 0; bin < s->bins; bin++)
        pool_bin(s, x, axes, bin, gathered + bin * step, n);
      s->turn(y + first * s->bins, gathered, s->bins, step, n, divisor);
    }
  }
  return PTQ_OK;
}

static ptq_status check(const ptq_build *build, const ptq_node *node) {
  PTQ_REQUIRE(node->input_count == 5 && node->output_count == 1 && node->attr_count == 3 &&
                  node->in[0] && node->in[1] && node->in[2] && node->in[3],
              "wrong number of operands");
  const ptq_value *x = node->in[0], *regions = node->in[1], *batch = node->in[2];
  const ptq_value *scale = node->in[3], *count = node->in[4], *y = node->out[0];
  PTQ_REQUIRE(x->dtype == PTQ_U8 && regions->dtype == PTQ_F32 && batch->dtype == PTQ_S64 &&
                  scale->dtype == PTQ_F32 && y->dtype == PTQ_F32,
              "types are not 8-bit, F32, S64, F32 and F32");
  PTQ_REQUIRE(x->rank == 4 && y->rank == 4 && x->dims[3] == y->dims[1] && regions->rank == 2 &&
                  regions->dims[0] == y->dims[0] && regions->dims[1] == 4 &&
                  batch->count == y->dims[0] && scale->count == 1,
              "shapes do not fit");
  PTQ_REQUIRE(
      !count || (count->dtype == PTQ_S64 && count->count == 1 && count->role != PTQ_CONSTANT),
      "the count is not one S64 known while running");
  PTQ_REQUIRE(scale->role == PTQ_CONSTANT, "the scale is not a constant");
  PTQ_REQUIRE(node->attr[0] >= 0 && node->attr[0] <= MOST_SAMPLES, "too many samples");
  return PTQ_OK;
}

ptq_status ptq_prepare_roi_align(const ptq_build *build, ptq_node *node) {
  ptq_status status = check(build, node);
  if (status != PTQ_OK) return status;
  const ptq_value *x = node->in[0], *y = node->out[0];
  state *s = node->state = ptq_alloc(sizeof *s);
  if (!s) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  *s = (state){.channels = x->dims[3],
               .batches = x->dims[0],
               .bins = (int64_t)y->dims[2] * y->dims[3],
               .size = {x->dims[1], x->dims[2]},
               .pooled = {y->dims[2], y->dims[3]},
               .sampling_ratio = node->attr[0],
               .offset = node->attr[1] ? 0.5f : 0.0f,
               .largest = node->attr[2] != 0,
               .scale = x->scale,
               .zero = x->zero_point};
  memcpy(&s->spatial_scale, node->in[3]->data, sizeof s->spatial_scale);
  s->piece = ptq_min(s->channels, ptq_max(GATHERED / s->bins, SKEW));
  s->add = s->largest ? PTQ_SELECT(build, largest) : PTQ_SELECT(build, mean);
  s->turn = PTQ_SELECT(build, turn);
  for (int32_t i = 1; i < 3; i++)
    node->in[i]->keep = node->in[i]->keep || node->in[i]->role == PTQ_CONSTANT;
  const int64_t samples = s->sampling_ratio ? (int64_t)s->sampling_ratio * s->sampling_ratio : 4;
  node->work = (double)y->count * 4 * (double)samples;
  node->tasks = y->dims[0];
  node->scratch = (size_t)(s->bins * (s->piece + SKEW)) * sizeof(float);
  node->run = run;
  node->kernel = ptq_isa_name(build->isa);
  return PTQ_OK;
}
