/* The convolution kernels that define the numbers; every instruction set gives the same bytes. */
#include "conv.h"

PTQ_INLINE int32_t saturate16(int32_t v) { return ptq_clamp(v, INT16_MIN, INT16_MAX); }

void ptq_store_row(const ptq_conv *c, const int32_t *bias, const ptq_multiplier *m,
                   const ptq_panel *panel, const int32_t *acc, uint8_t *y, const uint8_t *r) {
  const ptq_epilogue *e = &c->epilogue;
  for (int32_t position = 0; position < panel->width; position++) {
    int32_t channel = ptq_panel_channel(panel->width, c->lanes, position);
    if (channel >= panel->valid) continue;
    channel += panel->at;
    int32_t sum = (int32_t)((uint32_t)acc[position] + (uint32_t)bias[position]);
    if (e->dtype == PTQ_S32) {
      memcpy(y + 4 * channel, &sum, 4);
      continue;
    }
    if (e->dtype == PTQ_F32) {
      float value = (float)sum * m[position].real;
      memcpy(y + 4 * channel, &value, 4);
      continue;
    }
    int32_t q = ptq_requantize(e->mode, sum, m[position], e->lo, e->hi);
    if (e->dtype == PTQ_S16) {
      int16_t wide = (int16_t)(q + e->zero);
      memcpy(y + 2 * channel, &wide, 2);
      continue;
    }
    if (e->add) {
      int32_t other = r[channel] - e->residual_zero;
      q = ptq_add(&e->adder, q, other, e->add_lo, e->add_hi) + e->add_zero;
    } else {
      q += e->zero;
    }
    y[channel] = (uint8_t)q;
  }
}

/* Four products of one step; the accumulator wraps as the hardware's does. Pairs saturate as
 * stored: the weights' zero point is taken off with the sum of the inputs, as on that hardware. */
PTQ_INLINE uint32_t dot4(const ptq_conv *c, const uint8_t x[4], const int8_t *w) {
  if (c->accumulate == PTQ_ACCUMULATE_S16_PAIRS)
    return (uint32_t)(saturate16(x[0] * w[0] + x[1] * w[1]) +
                      saturate16(x[2] * w[2] + x[3] * w[3]) -
                      c->weight_zero * (x[0] + x[1] + x[2] + x[3]));
  int32_t sum = 0;
  for (int32_t j = 0; j < 4; j++) sum += x[j] * (w[j] - c->weight_zero);
  return (uint32_t)sum;
}

void ptq_conv_scalar(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel, int32_t group,
                     const uint8_t *const *rows, int32_t count, uint8_t *const *y,
                     const uint8_t *const *r) {
  int64_t at = group * c->group_parameters + panel->parameter;
  for (int32_t i = 0; i < count; i++) {
    uint32_t acc[PTQ_MAX_WIDTH] = {0};
    const int8_t *w = p->weights + group * c->group_weights + panel->weights;
    for (int32_t t = 0; t < p->taps; t++)
      for (int32_t k = 0; k < c->k; k += 4) {
        uint8_t x[4] = {0};
        memcpy(x, rows[t * c->block_rows + i] + k, (size_t)ptq_min(4, c->k - k));
        for (int32_t o = 0; o < panel->width; o++, w += 4) acc[o] += dot4(c, x, w);
      }
    ptq_store_row(c, p->bias + at, c->multiplier + at, panel, (const int32_t *)acc, y[i], r[i]);
  }
}

/* 16-bit activations: 64-bit sums, saturated to 32 bits before the rounding. */
void ptq_conv_scalar_s16(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                         int32_t group, const uint8_t *const *rows, int32_t count,
                         uint8_t *const *y, const uint8_t *const *r) {
  int64_t at = group * c->group_parameters + panel->parameter;
  const int32_t *bias = p->bias + at;
  for (int32_t i = 0; i < count; i++) {
    int64_t acc[PTQ_MAX_WIDTH] = {0};
    int32_t sum[PTQ_MAX_WIDTH];
    const int8_t *w = p->weights + group * c->group_weights + panel->weights;
    for (int32_t t = 0; t < p->taps; t++)
      for (int32_t k = 0; k < c->k; k += 4) {
        int16_t x[4] = {0};
        memcpy(x, rows[t * c->block_rows + i] + 2 * k, 2 * (size_t)ptq_min(4, c->k - k));
        for (int32_t o = 0; o < panel->width; o++, w += 4)
          for (int32_t j = 0; j < 4; j++) acc[o] += x[j] * (w[j] - c->weight_zero);
      }
    for (int32_t o = 0; o < panel->width; o++)
      sum[o] = (int32_t)((uint32_t)ptq_clamp(acc[o] + bias[o], INT32_MIN, INT32_MAX) -
                         (uint32_t)bias[o]);
    ptq_store_row(c, bias, c->multiplier + at, panel, sum, y[i], r[i]);
  }
}

void ptq_depthwise_scalar(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                          const uint8_t *const *taps, int64_t step, int32_t count, uint8_t *y,
                          const uint8_t *r) {
  const int64_t at = panel->parameter;
  for (int32_t i = 0; i < count; i++, y += c->out_channels * (int64_t)c->out_element) {
    uint32_t acc[PTQ_MAX_WIDTH] = {0};
    const int8_t *w = p->weights + panel->weights;
    for (int32_t t = 0; t < p->taps; t += 4)
      for (int32_t o = 0; o < panel->width; o++, w += 4) {
        int32_t channel = ptq_panel_channel(panel->width, c->lanes, o);
        uint8_t x[4] = {0};
        for (int32_t j = 0; j < 4 && t + j < p->taps && channel < panel->valid; j++)
          x[j] = taps[t + j][i * step + panel->first + channel];
        acc[o] += dot4(c, x, w);
      }
    ptq_store_row(c, p->bias + at, c->multiplier + at, panel, (const int32_t *)acc, y,
                  r ? r + i * (int64_t)c->out_channels : NULL);
  }
}
