/* Which convolutions Winograd's way pays for and is exact for, their tiles and packed weights. */
#include "winograd.h"

/* Cycles, in which a vector is multiplied by another: of a tile, of each of its channels in and
 * out, and bytes of weights that memory gives in one. As measured on a Zen 4. */
enum { TILE_COST = 300, PATCH_COST = 10, OUTPUTS_COST = 20, WEIGHTS_PER_CYCLE = 8 };

static int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

/* Pixels `dilation` apart see each other: tiles of every residue class, by their first output. */
static ptq_status place_tiles(const ptq_build *build, ptq_winograd *g, int32_t d, int32_t size) {
  const int32_t dilation = g->dilation[d];
  g->origin[d] = ptq_alloc((size_t)(size / PTQ_TILE + dilation + 1) * sizeof *g->origin[d]);
  if (!g->origin[d]) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  for (int32_t r = 0; r < ptq_min(dilation, size); r++)
    for (int64_t first = r; first < size; first += (int64_t)PTQ_TILE * dilation)
      g->origin[d][g->count[d]++] = (int32_t)first;
  return PTQ_OK;
}

static bool fits(const ptq_node *node, const ptq_conv *c) {
  const ptq_window *w = &c->window;
  const bool square = w->kernel[1] == 3 && w->kernel[2] == 3 && w->stride[1] == 1 &&
                      w->stride[2] == 1 && node->kind == PTQ_CONV && !c->depthwise;
  const bool slices = w->kernel[0] == 1 ||
                      (w->kernel[0] <= PTQ_MAX_SLICES && w->stride[0] == 1 && w->dilation[0] == 1);
  return square && slices && c->winograd_kernels;
}

/* Whether it is faster than the products one by one. */
static bool pays(const ptq_conv *c, const ptq_winograd *g) {
  const int64_t lines = divide_up(c->group_out, 16), slices = g->window;
  const int64_t products = PTQ_PLACES * slices * g->pairs * lines;
  const int64_t quads = 9 * slices * divide_up(c->group_in, 4) * lines;
  const int64_t positions = (int64_t)c->batch * c->out_dims[0] * c->out_dims[1] * c->out_dims[2];
  const int64_t transforms = TILE_COST + PATCH_COST * g->step + OUTPUTS_COST * 16 * lines;
  const double vector = 64.0 / WEIGHTS_PER_CYCLE;
  const double ours =
      (double)(products + transforms) * (double)(g->tiles * g->slices) + (double)products * vector;
  const double others = (double)quads * ((double)positions + vector);
  return ours < 0.9 * others;
}

/* Whether all sums of an output channel stay within 26 bits. */
static bool exact(const ptq_node *node, const ptq_conv *c) {
  const ptq_value *w = node->in[1];
  const int64_t inner = w->count / c->out_channels;
  for (int64_t o = 0; o < c->out_channels; o++) {
    int64_t low = 0, high = 0;
    for (int64_t i = 0; i < inner; i++) {
      const int32_t value = ptq_conv_weight(w, o * inner + i);
      *(value < 0 ? &low : &high) += (int64_t)value * UINT8_MAX;
    }
    if (low < -(1 << 25) || high >= 1 << 25) return false;
  }
  return true;
}

ptq_status ptq_winograd_choose(const ptq_build *build, const ptq_node *node, ptq_conv *c) {
  if (!fits(node, c)) return PTQ_OK;
  ptq_winograd *g = c->winograd = ptq_alloc(sizeof *g);
  if (!g) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  g->kernels = c->winograd_kernels;
  g->window = c->window.kernel[0];
  g->slices = g->window == 1 ? 1 : c->out_dims[0];
  g->step = (int64_t)ptq_round_up((size_t)c->group_in, PTQ_WORDS);
  g->pairs = divide_up(c->group_in, 2);
  for (int32_t d = 0; d < 2; d++) {
    g->dilation[d] = c->window.dilation[1 + d];
    const ptq_status status = place_tiles(build, g, d, c->out_dims[1 + d]);
    if (status != PTQ_OK) return status;
  }
  g->tiles = (int64_t)c->batch * (c->out_dims[0] / g->slices) * g->count[0] * g->count[1];
  if (pays(c, g) && exact(node, c)) {
    c->short_sums = false;
    return PTQ_OK;
  }
  ptq_winograd_release(g);
  c->winograd = NULL;
  return PTQ_OK;
}

void ptq_winograd_release(ptq_winograd *g) {
  free(g->origin[0]);
  free(g->origin[1]);
  free(g->weights);
  free(g);
}

/* One dimension of the weights, scaled by 4, 6, 6, 24, 24 and 1: step from one value to the next.
 */
static void weights_line(const int32_t *w, int32_t step, int32_t *out, int32_t out_step) {
  const int32_t ends = w[0] + w[2 * step], far = w[0] + 4 * w[2 * step];
  out[0] = w[0];
  out[out_step] = ends + w[step];
  out[2 * out_step] = ends - w[step];
  out[3 * out_step] = far + 2 * w[step];
  out[4 * out_step] = far - 2 * w[step];
  out[5 * out_step] = w[2 * step];
}

/* The nine weights from `index` on, `step` apart, as PTQ_PLACES. */
static void transform_weights(const ptq_value *w, int64_t index, int64_t step,
                              int32_t out[PTQ_PLACES]) {
  int32_t taps[9], lines[3 * PTQ_PATCH];
  for (int32_t t = 0; t < 9; t++) taps[t] = ptq_conv_weight(w, index + t * step);
  for (int32_t x = 0; x < 3; x++) weights_line(taps + x, 3, lines + x, 3);
  for (int32_t y = 0; y < PTQ_PATCH; y++) weights_line(lines + 3 * y, 1, out + PTQ_PATCH * y, 1);
}

/* The weights of one output channel, at `position` of its panel. */
static void pack_channel(const ptq_conv *c, const ptq_value *w, int64_t channel,
                         const ptq_panel *panel, int32_t position, int16_t *to) {
  const ptq_winograd *g = c->winograd;
  const int64_t place = g->window * g->pairs * panel->width * 2;
  for (int64_t s = 0; s < g->window; s++)
    for (int64_t k = 0; k < c->group_in; k++) {
      int32_t values[PTQ_PLACES];
      transform_weights(w, (channel * g->window + s) * 9 * c->group_in + k, c->group_in, values);
      int16_t *at = to + ((s * g->pairs + k / 2) * panel->width + position) * 2 + k % 2;
      for (int32_t i = 0; i < PTQ_PLACES; i++) at[i * place] = (int16_t)values[i];
    }
}

static ptq_status pack(const ptq_build *build, ptq_node *node, const ptq_conv *c) {
  ptq_winograd *g = c->winograd;
  const int64_t per_channel = PTQ_PLACES * g->window * g->pairs * 2;
  const size_t bytes = (size_t)(c->groups * c->group_parameters * per_channel) * sizeof *g->weights;
  g->weights = ptq_alloc(bytes);
  if (!g->weights) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  node->state_bytes += bytes;
  for (int32_t group = 0; group < c->groups; group++)
    for (int32_t i = 0; i < c->panel_count; i++) {
      const ptq_panel *panel = &c->panels[i];
      int16_t *to = g->weights + (group * c->group_parameters + panel->parameter) * per_channel;
      for (int32_t position = 0; position < panel->width; position++) {
        const int32_t channel = ptq_panel_channel(panel->width, c->lanes, position);
        if (channel < panel->valid)
          pack_channel(c, node->in[1], (int64_t)group * c->group_out + panel->first + channel,
                       panel, position, to);
      }
    }
  return PTQ_OK;
}

/* Blocks of tiles: their transformed inputs stay in cache while all weights pass by. */
static void plan_tasks(const ptq_build *build, ptq_conv *c) {
  enum { MOST_TILES = 24, FEWEST_TILES = 12, CACHED = 896 << 10 };
  ptq_winograd *g = c->winograd;
  const int64_t bytes = g->window * PTQ_PLACES * g->step * (int64_t)sizeof(int16_t);
  const int64_t most = ptq_max(6, ptq_min(MOST_TILES, CACHED / bytes / 6 * 6));
  const int64_t threads = build->threads, all = g->tiles * c->groups;
  g->blocks = divide_up(g->tiles, most);
  if (threads > 1 && all >= threads * FEWEST_TILES)
    g->blocks = (int64_t)ptq_round_up((size_t)g->blocks, (size_t)threads);
  g->block = divide_up(g->tiles, g->blocks);
  g->blocks = divide_up(g->tiles, g->block);
  int64_t tasks = g->blocks * c->groups;
  g->parts = tasks < 4 * threads && threads > 1 ? ptq_min(g->slices, 4 * threads) : 1;
  tasks *= g->parts;
  c->panel_chunks = tasks < threads ? ptq_min(c->panel_count, 2 * threads) : 1;
}

ptq_status ptq_winograd_prepare(const ptq_build *build, ptq_node *node, ptq_conv *c) {
  const ptq_status status = pack(build, node, c);
  if (status != PTQ_OK) return status;
  node->state_bytes -= (size_t)(c->groups * c->group_weights);
  free(c->phases->weights);
  c->phases->weights = NULL;
  plan_tasks(build, c);
  ptq_winograd_run(node, c);
  return PTQ_OK;
}
