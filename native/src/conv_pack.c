/* Weights, biases and multipliers in the order in which the kernels read them. */
#include "conv.h"

/* One weight; 4-bit ones come without their zero point, since the difference fits 8 bits. */
int32_t ptq_conv_weight(const ptq_value *w, int64_t index) {
  if (w->dtype == PTQ_S8) return (int8_t)w->data[index];
  int32_t nibble = w->data[index / 2] >> (index % 2 * 4) & 15;
  return (w->dtype == PTQ_U4 || nibble < 8 ? nibble : nibble - 16) - w->zero_point;
}

ptq_status ptq_conv_panels(const ptq_build *build, ptq_conv *c, int64_t per_channel) {
  int32_t widest = c->vectors * c->lanes;
  c->panels = ptq_alloc(((size_t)c->group_out / (size_t)widest + 3) * sizeof *c->panels);
  if (!c->panels) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  for (int32_t first = 0; first < c->group_out;) {
    int32_t rest = c->group_out - first, width = widest;
    /* Vectors of 16 lanes can be narrowed one or two at a time. */
    if (c->lanes == 16 && !c->depthwise && rest <= 48) width = rest <= 16 ? 16 : 32;
    ptq_panel *panel = &c->panels[c->panel_count++];
    *panel = (ptq_panel){.first = first,
                         .at = c->epilogue.has_function && !c->depthwise ? 0 : first,
                         .width = width,
                         .valid = rest < width ? rest : width,
                         .weights = c->group_weights,
                         .parameter = c->group_parameters};
    c->group_weights += width * per_channel;
    c->group_parameters += width;
    first += panel->valid;
  }
  return PTQ_OK;
}

static ptq_status pack_phase(const ptq_build *build, const ptq_node *node, ptq_conv *c,
                             ptq_phase *p, int64_t total_taps) {
  const ptq_value *w = node->in[1], *bias = node->in[3];
  int64_t inner = (int64_t)p->taps * c->steps * 4; /* packed weights of one channel */
  if (c->depthwise) inner = ((int64_t)p->taps + 3) / 4 * 4;
  /* group_weights was laid out for all taps; a phase uses the front of each panel */
  p->weights = ptq_alloc((size_t)(c->groups * c->group_weights) + PTQ_SLACK);
  p->bias = ptq_alloc((size_t)(c->groups * c->group_parameters) * sizeof *p->bias);
  if (c->in_zero != 0 && !c->depthwise) {
    p->padded = ptq_alloc((size_t)(c->groups * p->taps * c->group_parameters) * sizeof *p->padded);
    if (!p->padded) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  }
  if (!p->weights || !p->bias) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  memset(p->weights, c->weight_zero, (size_t)(c->groups * c->group_weights));
  for (int32_t g = 0; g < c->groups; g++)
    for (int32_t i = 0; i < c->panel_count; i++) {
      const ptq_panel *panel = &c->panels[i];
      int8_t *to = p->weights + g * c->group_weights + panel->weights;
      for (int32_t position = 0; position < panel->width; position++) {
        int32_t channel = ptq_panel_channel(panel->width, c->lanes, position);
        if (channel >= panel->valid) continue;
        int64_t o = (int64_t)g * c->group_out + panel->first + channel, sum = 0, reach = 0;
        for (int64_t j = 0; j < inner; j++) {
          int64_t t = c->depthwise ? j : j / (c->steps * 4),
                  k = c->depthwise ? 0 : j % (c->steps * 4);
          if (t >= p->taps || k >= c->k || p->place[t] < 0) continue;
          int32_t value = ptq_conv_weight(w, (o * total_taps + p->place[t]) * c->k + k);
          to[(j / 4 * panel->width + position) * 4 + j % 4] = (int8_t)value;
          sum += value - c->weight_zero;
          if (p->padded)
            p->padded[(g * p->taps + t) * c->group_parameters + panel->parameter + position] +=
                (value - c->weight_zero) * c->in_zero;
          reach += abs(value) * 255;
        }
        int64_t b = bias ? ((const int32_t *)(const void *)bias->data)[o] : 0;
        b -= sum * c->in_zero;
        PTQ_REQUIRE(b >= INT32_MIN && b <= INT32_MAX, "the bias of channel %d overflows", (int)o);
        const int64_t at = g * c->group_parameters + panel->parameter + position;
        p->bias[at] = (int32_t)b;
        /* Vector kernels convert to integers before they clamp, which wraps beyond 2^31. */
        if (c->epilogue.dtype == PTQ_U8 && (double)(reach + llabs(b)) * (double)c->real[at] > 2e9)
          c->epilogue.direct = false;
      }
    }
  return PTQ_OK;
}

ptq_status ptq_conv_check(const ptq_build *build, const ptq_node *node, const ptq_conv *c) {
  const ptq_value *w = node->in[1], *scale = node->in[2], *bias = node->in[3];
  PTQ_REQUIRE(w->role == PTQ_CONSTANT && scale->role == PTQ_CONSTANT &&
                  (!bias || bias->role == PTQ_CONSTANT),
              "weights, their scales and biases must be constants");
  PTQ_REQUIRE(w->dtype == PTQ_S8 || w->dtype == PTQ_S4 || w->dtype == PTQ_U4,
              "weights are not S8, S4 or U4");
  int32_t limit = w->dtype == PTQ_S8 ? 128 : 16;
  PTQ_REQUIRE(w->zero_point >= -limit && w->zero_point < limit, "weight zero point out of range");
  PTQ_REQUIRE(scale->dtype == PTQ_F32 && (scale->count == 1 || scale->count == c->out_channels),
              "one weight scale, or one per output channel");
  PTQ_REQUIRE(!bias || (bias->dtype == PTQ_S32 && bias->count == c->out_channels),
              "the bias is not one S32 per output channel");
  return PTQ_OK;
}

static ptq_status pack_multipliers(const ptq_build *build, const ptq_node *node, ptq_conv *c) {
  size_t n = (size_t)(c->groups * c->group_parameters);
  c->real = ptq_alloc(n * sizeof *c->real);
  c->multiplier = ptq_alloc(n * sizeof *c->multiplier);
  if (!c->real || !c->multiplier) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  const float *scales = (const float *)(const void *)node->in[2]->data;
  for (int32_t g = 0; g < c->groups; g++)
    for (int32_t i = 0; i < c->panel_count; i++) {
      const ptq_panel *panel = &c->panels[i];
      for (int32_t position = 0; position < panel->width; position++) {
        int32_t channel = ptq_panel_channel(panel->width, c->lanes, position);
        if (channel >= panel->valid) continue;
        int64_t o = (int64_t)g * c->group_out + panel->first + channel;
        float m = node->in[0]->scale * scales[node->in[2]->count == 1 ? 0 : o];
        if (c->epilogue.dtype == PTQ_U8 || c->epilogue.dtype == PTQ_S16) m /= node->in[4]->scale;
        PTQ_REQUIRE(m >= 0 && ptq_multiplier_fits(build, m),
                    "multiplier of channel %d out of range", (int)o);
        int64_t at = g * c->group_parameters + panel->parameter + position;
        c->real[at] = m;
        c->multiplier[at] = ptq_make_multiplier(c->epilogue.mode, m);
      }
    }
  return PTQ_OK;
}

ptq_status ptq_conv_pack(const ptq_build *build, const ptq_node *node, ptq_conv *c) {
  int64_t total_taps = 1, most_taps = 0;
  for (int32_t i = 1; i < node->in[1]->rank - 1; i++) total_taps *= node->in[1]->dims[i];
  total_taps =
      total_taps * node->in[1]->dims[node->in[1]->rank - 1] / c->k; /* taps may be merged */
  for (int32_t i = 0; i < c->phase_count; i++) most_taps = ptq_max(most_taps, c->phases[i].taps);
  int64_t per_channel = c->depthwise ? (most_taps + 3) / 4 * 4 : most_taps * c->steps * 4;
  PTQ_REQUIRE(per_channel * 255 * 128 <= ((int64_t)1 << 46), "too many weights per channel");
  ptq_status status = ptq_conv_panels(build, c, per_channel);
  if (status == PTQ_OK) status = pack_multipliers(build, node, c);
  if (status != PTQ_OK) return status;
  size_t pixel = ptq_round_up((size_t)ptq_max(c->group_in, c->k) * c->in_element, 4) + PTQ_SLACK;
  if (c->depthwise) pixel = ptq_depthwise_padding(c);
  c->padding = ptq_alloc(pixel);
  if (!c->padding) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  for (size_t i = 0; i < pixel; i++) {
    int16_t wide = (int16_t)c->in_zero;
    c->padding[i] = c->in_element == 1 ? (uint8_t)c->in_zero : ((const uint8_t *)&wide)[i % 2];
  }
  for (int32_t i = 0; status == PTQ_OK && i < c->phase_count; i++)
    status = pack_phase(build, node, c, &c->phases[i], total_taps);
  for (int32_t i = 0; status == PTQ_OK && c->short_sums && i < c->phase_count; i++)
    status = c->depthwise ? ptq_depthwise_sums(build, c, &c->phases[i])
                          : ptq_conv_runs(build, c, &c->phases[i]);
  return status;
}
