/* Depthwise convolution, one output row at a time: runs of pixels whose taps all lie within the
 * input's width share their pointers, pixels at the left and right border stand alone. */
#include "conv.h"

enum { IN_X = 0, IN_RESIDUAL = 6 };

typedef struct {
  const ptq_conv *c;
  const uint8_t *image; /* of this batch element */
  uint8_t *y;           /* of this output row */
  const uint8_t *r;
  int64_t z, v; /* input coordinates of the row */
  const uint8_t **taps;
  int64_t *steps;
} row;

/* Pixels [first, first + count) of the row. */
static void run_pixels(const row *w, int64_t first, int64_t count) {
  const ptq_conv *c = w->c;
  const ptq_phase *p = c->phases;
  for (int32_t t = 0; t < p->taps; t++) {
    int64_t z = w->z + p->tap[t][0], v = w->v + p->tap[t][1];
    int64_t u = first * p->in_step[2] + p->tap[t][2];
    bool exists = (uint64_t)z < (uint64_t)c->in_dims[0] && (uint64_t)v < (uint64_t)c->in_dims[1] &&
                  (uint64_t)u < (uint64_t)c->in_dims[2];
    int64_t at = ((z * c->in_dims[1] + v) * c->in_dims[2] + u) * c->in_channels;
    w->taps[t] = exists ? w->image + at : c->padding;
    w->steps[t] = exists ? (int64_t)p->in_step[2] * c->in_channels : 0;
  }
  const int64_t offset = first * c->out_channels;
  for (int32_t i = 0; i < c->panel_count; i++) {
    const ptq_panel *panel = &c->panels[i];
    const int64_t channel = offset + panel->first;
    c->depthwise_kernel(c, p, panel, w->taps, w->steps, (int32_t)count,
                        w->y + channel * (int64_t)c->out_element, w->r ? w->r + channel : NULL);
  }
  if (c->epilogue.has_table)
    c->epilogue.lookup(c->epilogue.table, w->y + offset, w->y + offset, count * c->out_channels);
}

static ptq_status run(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                      int64_t begin, int64_t end, uint8_t *scratch) {
  const ptq_conv *c = node->state;
  const ptq_phase *p = c->phases;
  const int64_t image = (int64_t)c->in_dims[0] * c->in_dims[1] * c->in_dims[2] * c->in_channels;
  const int64_t width = c->out_dims[2], stride = p->in_step[2];
  /* Between these the taps of every column lie inside the input. */
  const int64_t first = ptq_min(width, (p->low[2] + stride - 1) / stride);
  const int64_t last = ptq_max(first, ptq_min(width, p->high[2] < 0 ? 0 : p->high[2] / stride + 1));
  for (int64_t line = begin; line < end; line++) {
    const int64_t z = line / c->out_dims[1] % c->out_dims[0], v = line % c->out_dims[1];
    const int64_t at = line * width * c->out_channels;
    const row w = {.c = c,
                   .image = in[IN_X] + line / c->out_dims[1] / c->out_dims[0] * image,
                   .y = out[0] + at * (int64_t)c->out_element,
                   .r = c->epilogue.add ? in[IN_RESIDUAL] + at : NULL,
                   .z = z * p->in_step[0],
                   .v = v * p->in_step[1],
                   .taps = (const uint8_t **)(void *)scratch,
                   .steps = (int64_t *)(void *)(scratch + 8 * (size_t)p->taps)};
    for (int64_t x = 0; x < first; x++) run_pixels(&w, x, 1);
    if (last > first) run_pixels(&w, first, last - first);
    for (int64_t x = last; x < width; x++) run_pixels(&w, x, 1);
  }
  return PTQ_OK;
}

void ptq_depthwise_plan(ptq_node *node, const ptq_conv *c) {
  node->run = run;
  node->tasks = (int64_t)c->batch * c->out_dims[0] * c->out_dims[1];
  node->scratch = 16 * (size_t)c->phases[0].taps;
}
