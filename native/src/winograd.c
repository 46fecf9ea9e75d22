/* Convolution by Winograd's tiles. */
#include "winograd.h"

enum { IN_X = 0, IN_RESIDUAL = 6 };

/* What a thread works with; in its scratch. */
typedef struct {
  int16_t *patches;  /* [window][PTQ_PLACES][block][step], slices in a ring */
  int32_t *products; /* [PTQ_PLACES][block][width] */
  int32_t *sums;     /* [PTQ_TILE_PIXELS][width] */
} work;

/* From one place to the next, a cache line further than they need: at a multiple of 4096 bytes all
 * places of a tile would fall on the same lines. */
static int64_t patches_stride(const ptq_winograd *g) {
  return g->block * g->step + PTQ_ALIGN / (int64_t)sizeof(int16_t);
}

static int64_t products_stride(const ptq_winograd *g, int32_t width) {
  return g->block * width + PTQ_ALIGN / (int64_t)sizeof(int32_t);
}

static size_t patches_bytes(const ptq_winograd *g) {
  return (size_t)(g->window * PTQ_PLACES * patches_stride(g)) * sizeof(int16_t);
}

static size_t products_bytes(const ptq_winograd *g, int32_t width) {
  return (size_t)(PTQ_PLACES * products_stride(g, width)) * sizeof(int32_t);
}

/* Image, slice and first output of a tile. */
typedef struct {
  int64_t image, slice;
  int32_t y, x;
} place;

static place place_of(const ptq_conv *c, int64_t tile) {
  const ptq_winograd *g = c->winograd;
  const int64_t row = tile / g->count[1], plane = row / g->count[0];
  const int64_t each = c->out_dims[0] / g->slices;
  return (place){.image = plane / each,
                 .slice = plane % each,
                 .y = g->origin[0][row % g->count[0]],
                 .x = g->origin[1][tile % g->count[1]]};
}

/* Transform the inputs of one tile in input slice z; what lies outside is zero points. */
static void transform(const ptq_conv *c, const place *at, int64_t z, const uint8_t *x, int16_t *v,
                      int64_t stride) {
  const ptq_winograd *g = c->winograd;
  const uint8_t *rows[PTQ_PLACES];
  const bool exists = z >= 0 && z < c->in_dims[0];
  const int64_t slice = (at->image * c->in_dims[0] + z) * c->in_dims[1];
  for (int32_t i = 0; i < PTQ_PLACES; i++) {
    const int64_t row = at->y - c->window.pad[1] + (int64_t)(i / PTQ_PATCH) * g->dilation[0];
    const int64_t column = at->x - c->window.pad[2] + (int64_t)(i % PTQ_PATCH) * g->dilation[1];
    const bool inside =
        exists && row >= 0 && row < c->in_dims[1] && column >= 0 && column < c->in_dims[2];
    const int64_t pixel = (slice + row) * c->in_dims[2] + column;
    rows[i] = inside ? x + pixel * c->in_channels : c->padding;
  }
  g->kernels->patch(rows, c->group_in, v, stride);
}

/* Sums of one panel as bytes of the function of their reals. */
static void store_function(const ptq_conv *c, const ptq_panel *panel, int32_t group,
                           const int32_t *sums, int32_t count, uint8_t *const *y,
                           const uint8_t *const *r) {
  const ptq_function *f = &c->epilogue.function;
  float reals[PTQ_TILE_PIXELS * PTQ_MAX_WIDTH];
  uint8_t *to[PTQ_TILE_PIXELS];
  for (int32_t i = 0; i < PTQ_TILE_PIXELS; i++) to[i] = (uint8_t *)(reals + i * panel->valid);
  c->winograd->kernels->store(c, c->phases, panel, group, sums, count, to, r);
  f->apply(f, reals, (int64_t)count * panel->valid);
  for (int32_t i = 0; i < count; i++)
    f->round(f, reals + i * panel->valid, panel->valid, y[i] + panel->first);
}

/* The outputs of one tile and panel that exist: their sums in front, then stored. */
static void store(const ptq_conv *c, const ptq_panel *panel, int32_t group, const place *at,
                  int64_t z, int32_t *sums, const uint8_t *r, uint8_t *y) {
  const ptq_winograd *g = c->winograd;
  const ptq_epilogue *e = &c->epilogue;
  const int64_t element = e->has_function ? 1 : (int64_t)c->out_element;
  const int64_t channel = (int64_t)group * c->group_out;
  uint8_t *to[PTQ_TILE_PIXELS];
  const uint8_t *from[PTQ_TILE_PIXELS];
  int32_t count = 0;
  for (int32_t i = 0; i < PTQ_TILE_PIXELS; i++) {
    const int64_t row = at->y + (int64_t)(i / PTQ_TILE) * g->dilation[0];
    const int64_t column = at->x + (int64_t)(i % PTQ_TILE) * g->dilation[1];
    if (row >= c->out_dims[1] || column >= c->out_dims[2]) continue;
    const int64_t pixel =
        ((at->image * c->out_dims[0] + z) * c->out_dims[1] + row) * c->out_dims[2] + column;
    to[count] = y + (pixel * c->out_channels + channel) * element;
    from[count] = r ? r + pixel * c->out_channels + channel : NULL;
    if (count < i)
      memcpy(sums + count * panel->width, sums + i * panel->width,
             (size_t)panel->width * sizeof *sums);
    count++;
  }
  if (e->has_function)
    store_function(c, panel, group, sums, count, to, from);
  else
    g->kernels->store(c, c->phases, panel, group, sums, count, to, from);
  for (int32_t i = 0; e->has_table && i < count; i++)
    e->lookup(e->table, to[i] + panel->first, to[i] + panel->first, panel->valid);
}

/* One panel of `count` tiles from `first` on in output slice z of the block. */
static void run_panel(const ptq_conv *c, const ptq_panel *panel, int32_t group, int64_t first,
                      int32_t count, int64_t z, const work *s, const uint8_t *r, uint8_t *y) {
  const ptq_winograd *g = c->winograd;
  const int64_t parameter = group * c->group_parameters + panel->parameter;
  const int64_t per_place = g->window * g->pairs * 2, width = panel->width;
  const int64_t stride = products_stride(g, panel->width);
  const int16_t *w = g->weights + parameter * PTQ_PLACES * per_place;
  for (int32_t i = 0; i < PTQ_PLACES; i++) {
    const int16_t *v[PTQ_MAX_SLICES];
    for (int32_t t = 0; t < g->window; t++)
      v[t] = s->patches + ((z + t) % g->window * PTQ_PLACES + i) * patches_stride(g);
    g->kernels->products(v, g->step, g->window, g->pairs, w + i * per_place * width, panel->width,
                         count, s->products + i * stride);
  }
  const int32_t *bias = c->epilogue.direct ? c->phases->bias + parameter : NULL;
  for (int32_t i = 0; i < count; i++) {
    const place at = place_of(c, first + i);
    g->kernels->outputs(s->products + i * width, stride, panel->width, bias, s->sums);
    store(c, panel, group, &at, g->slices > 1 ? z : at.slice, s->sums, r, y);
  }
}

static void run_block(const ptq_conv *c, int32_t group, int64_t block, int64_t slice_begin,
                      int64_t slice_end, int32_t panel_begin, int32_t panel_end, const uint8_t *x,
                      const uint8_t *r, uint8_t *y, const work *s) {
  const ptq_winograd *g = c->winograd;
  const int64_t first = block * g->block, stride = patches_stride(g);
  const int32_t count = (int32_t)ptq_min(g->block, g->tiles - first);
  x += (int64_t)group * c->group_in;
  for (int64_t z = slice_begin; z < slice_end; z++) {
    for (int32_t t = z == slice_begin ? 0 : g->window - 1; t < g->window; t++)
      for (int32_t i = 0; i < count; i++) {
        const place at = place_of(c, first + i);
        const int64_t in = (g->slices > 1 ? z : at.slice) * c->window.stride[0] - c->window.pad[0];
        int16_t *v = s->patches + (z + t) % g->window * PTQ_PLACES * stride + i * g->step;
        transform(c, &at, in + t, x, v, stride);
      }
    for (int32_t p = panel_begin; p < panel_end; p++)
      run_panel(c, &c->panels[p], group, first, count, z, s, r, y);
  }
}

static ptq_status run(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                      int64_t begin, int64_t end, uint8_t *scratch) {
  const ptq_conv *c = node->state;
  const ptq_winograd *g = c->winograd;
  const int32_t width = c->panels->width;
  const work s = {
      .patches = (int16_t *)(void *)scratch,
      .products = (int32_t *)(void *)(scratch + patches_bytes(g)),
      .sums = (int32_t *)(void *)(scratch + patches_bytes(g) + products_bytes(g, width))};
  for (int64_t task = begin; task < end; task++) {
    const int64_t panels = task % c->panel_chunks, rest = task / c->panel_chunks;
    const int64_t part = rest % g->parts, block = rest / g->parts % g->blocks;
    run_block(c, (int32_t)(rest / g->parts / g->blocks), block, g->slices * part / g->parts,
              g->slices * (part + 1) / g->parts,
              (int32_t)(c->panel_count * panels / c->panel_chunks),
              (int32_t)(c->panel_count * (panels + 1) / c->panel_chunks), in[IN_X],
              c->epilogue.add ? in[IN_RESIDUAL] : NULL, out[0], &s);
  }
  return PTQ_OK;
}

void ptq_winograd_run(ptq_node *node, const ptq_conv *c) {
  const ptq_winograd *g = c->winograd;
  const int32_t width = c->panels->width;
  node->run = run;
  node->kernel = g->kernels->name;
  node->tasks = c->groups * g->blocks * g->parts * c->panel_chunks;
  node->scratch = patches_bytes(g) + products_bytes(g, width) +
                  (size_t)(PTQ_TILE_PIXELS * width) * sizeof(int32_t);
}
