/* Depthwise convolution, one output row at a time. Input lines are copied between their paddings,
 * each once, so that a row is one run of pixels whose taps are evenly apart. */
#include "conv.h"

enum { IN_X = 0, IN_RESIDUAL = 6 };

/* The lines that the windows of neighbouring rows share, by position modulo the window's reach. */
typedef struct {
  int32_t reach[2];       /* in z and y */
  int64_t first, columns; /* input columns that a row of windows covers */
  int64_t from, to;       /* those of them that exist */
  size_t pixel, bytes;    /* of one pixel, of one line */
  bool direct;            /* nothing is padded: read the input where it is */
} ring;

static ring ring_of(const ptq_conv *c) {
  const ptq_phase *p = c->phases;
  ring g = {.pixel = (size_t)c->in_channels};
  int32_t low[3], high[3];
  for (int32_t d = 0; d < 3; d++) low[d] = high[d] = p->tap[0][d];
  for (int32_t t = 1; t < p->taps; t++)
    for (int32_t d = 0; d < 3; d++) {
      low[d] = (int32_t)ptq_min(low[d], p->tap[t][d]);
      high[d] = (int32_t)ptq_max(high[d], p->tap[t][d]);
    }
  g.direct = true;
  for (int32_t d = 0; d < 3; d++) {
    const int64_t last = (int64_t)(p->count[d] - 1) * p->in_step[d] + high[d];
    if (low[d] < 0 || last >= c->in_dims[d]) g.direct = false;
    if (d < 2) g.reach[d] = (int32_t)ptq_min(c->in_dims[d], high[d] - low[d] + 1);
    if (d == 2) g.columns = last - low[d] + 1;
  }
  g.first = low[2];
  g.from = ptq_max(0, g.first);
  g.to = ptq_max(g.from, ptq_min(c->in_dims[2], g.first + g.columns));
  g.bytes = ptq_round_up((size_t)g.columns * g.pixel + PTQ_SLACK, PTQ_ALIGN);
  return g;
}

typedef struct {
  ring ring;
  float *reals;                  /* of one row, before the function */
  const uint8_t **taps, **asked; /* of one row; in the order that a panel asks for */
  int64_t *held;                 /* which line of the whole batch each place has; -1 for none */
  uint8_t *lines;
} buffers;

static size_t most_asked(const ptq_conv *c) {
  int32_t rounds = 0;
  for (int32_t i = 0; c->short_sums && i < c->panel_count; i++)
    rounds = (int32_t)ptq_max(rounds, c->phases->sums[i].rounds);
  return (size_t)rounds * PTQ_ROUND_PAIRS * 2;
}

/* Of a row before the function. */
static size_t real_bytes(const ptq_conv *c) {
  const size_t reals = (size_t)c->out_dims[2] * (size_t)c->out_channels;
  return c->epilogue.has_function ? ptq_round_up(reals * sizeof(float), PTQ_ALIGN) : 0;
}

static buffers divide(const ptq_conv *c, uint8_t *scratch) {
  buffers b = {.ring = ring_of(c)};
  const size_t places = b.ring.direct ? 0 : (size_t)(b.ring.reach[0] * b.ring.reach[1]);
  b.reals = (float *)(void *)scratch;
  b.taps = (const uint8_t **)(void *)(scratch + real_bytes(c));
  b.asked = b.taps + c->phases->taps;
  b.held = (int64_t *)(void *)(b.asked + most_asked(c));
  b.lines = (uint8_t *)(b.held + places);
  for (size_t i = 0; i < places; i++) b.held[i] = -1;
  if (places) memset(b.lines, c->in_zero, places * b.ring.bytes);
  return b;
}

/* The line (z, y) of one image from its column `ring.first` on. Lines outside are all padding. */
static const uint8_t *line_at(const ptq_conv *c, const buffers *b, const uint8_t *x, int64_t image,
                              int64_t z, int64_t y) {
  const ring *g = &b->ring;
  const int64_t number = (image * c->in_dims[0] + z) * c->in_dims[1] + y;
  const uint8_t *from = x + number * c->in_dims[2] * (int64_t)g->pixel;
  if (g->direct) return from + g->first * (int64_t)g->pixel;
  if (z < 0 || z >= c->in_dims[0] || y < 0 || y >= c->in_dims[1]) return c->padding;
  const int64_t place = z % g->reach[0] * g->reach[1] + y % g->reach[1];
  uint8_t *to = b->lines + (size_t)place * g->bytes;
  if (b->held[place] != number)
    memcpy(to + (size_t)(g->from - g->first) * g->pixel, from + (size_t)g->from * g->pixel,
           (size_t)(g->to - g->from) * g->pixel);
  b->held[place] = number;
  return to;
}

static ptq_status run(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                      int64_t begin, int64_t end, uint8_t *scratch) {
  const ptq_conv *c = node->state;
  const ptq_phase *p = c->phases;
  const buffers b = divide(c, scratch);
  const int64_t width = c->out_dims[2], step = (int64_t)p->in_step[2] * c->in_channels;
  for (int64_t row = begin; row < end; row++) {
    const int64_t v = row % c->out_dims[1], z = row / c->out_dims[1] % c->out_dims[0];
    const int64_t image = row / c->out_dims[1] / c->out_dims[0];
    const int64_t at = row * width * c->out_channels;
    const uint8_t *residual = c->epilogue.add ? in[IN_RESIDUAL] + at : NULL;
    const ptq_function *f = c->epilogue.has_function ? &c->epilogue.function : NULL;
    uint8_t *y = f ? (uint8_t *)b.reals : out[0] + at * (int64_t)c->out_element;
    for (int32_t t = 0; t < p->taps; t++)
      b.taps[t] = line_at(c, &b, in[IN_X], image, z * p->in_step[0] + p->tap[t][0],
                          v * p->in_step[1] + p->tap[t][1]) +
                  (p->tap[t][2] - b.ring.first) * c->in_channels;
    for (int32_t i = 0; i < c->panel_count; i++) {
      const ptq_sums *s = c->short_sums ? &p->sums[i] : NULL;
      for (int32_t j = 0; s && j < s->rounds * PTQ_ROUND_PAIRS * 2; j++)
        b.asked[j] = b.taps[s->taps[j]];
      c->depthwise_kernel(c, p, &c->panels[i], s ? b.asked : b.taps, step, (int32_t)width, y,
                          residual);
    }
    if (f) {
      f->apply(f, b.reals, width * c->out_channels);
      f->round(f, b.reals, width * c->out_channels, out[0] + at);
    }
    if (c->epilogue.has_table) c->epilogue.lookup(c->epilogue.table, y, y, width * c->out_channels);
  }
  return PTQ_OK;
}

size_t ptq_depthwise_padding(const ptq_conv *c) { return ring_of(c).bytes; }

void ptq_depthwise_plan(ptq_node *node, const ptq_conv *c) {
  const ring g = ring_of(c);
  node->run = run;
  node->tasks = (int64_t)c->batch * c->out_dims[0] * c->out_dims[1];
  node->scratch = real_bytes(c) + ((size_t)c->phases->taps + most_asked(c)) * sizeof(void *);
  if (!g.direct) node->scratch += (size_t)(g.reach[0] * g.reach[1]) * (sizeof(int64_t) + g.bytes);
}
