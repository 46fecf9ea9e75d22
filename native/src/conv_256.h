/* Convolution and depthwise kernels for 256-bit vectors. The including file says what a dot
 * product of four bytes is on its instruction set:
 *   PTQ_256        target attribute
 *   ROWS           pixels of a tile, such that 2 * ROWS accumulators fit the registers
 *   factor         four weights per lane, ready to multiply; factor_of(__m256i)
 *   input          four inputs per lane likewise; input_of(__m256i)
 *   dot(acc, x, w) acc + their product sums
 * A panel is 32 channels; accumulators go through memory to the epilogue, since sixteen registers
 * do not hold four vectors of several pixels. */
#include <immintrin.h>

#include "conv.h"

enum { PANEL = 32 };

PTQ_INLINE PTQ_256 __m256i load256(const void *p) { return _mm256_loadu_si256(p); }
PTQ_INLINE PTQ_256 void store256(void *p, __m256i v) { _mm256_storeu_si256(p, v); }

/* 32 results, relative to `zero` and not above the upper limit, as bytes. */
PTQ_INLINE PTQ_256 void narrow(const __m256i q[4], int32_t zero, int32_t lowest, int32_t valid,
                               uint8_t *y) {
  const __m256i zero16 = _mm256_set1_epi16((int16_t)zero);
  __m256i a = _mm256_adds_epi16(_mm256_packs_epi32(q[0], q[1]), zero16);
  __m256i b = _mm256_adds_epi16(_mm256_packs_epi32(q[2], q[3]), zero16);
  __m256i bytes = _mm256_max_epu8(_mm256_packus_epi16(a, b), _mm256_set1_epi8((char)lowest));
  if (valid == PANEL) {
    store256(y, bytes);
  } else {
    uint8_t all[PANEL];
    store256(all, bytes);
    memcpy(y, all, (size_t)valid);
  }
}

/* The residual's bytes as four vectors in the accumulators' order. */
PTQ_INLINE PTQ_256 void widen(const uint8_t *r, int32_t valid, __m256i out[4]) {
  const __m256i zero = _mm256_setzero_si256();
  uint8_t all[PANEL];
  if (valid < PANEL) r = memcpy(all, r, (size_t)valid);
  const __m256i bytes = load256(r);
  const __m256i low = _mm256_unpacklo_epi8(bytes, zero), high = _mm256_unpackhi_epi8(bytes, zero);
  out[0] = _mm256_unpacklo_epi16(low, zero);
  out[1] = _mm256_unpackhi_epi16(low, zero);
  out[2] = _mm256_unpacklo_epi16(high, zero);
  out[3] = _mm256_unpackhi_epi16(high, zero);
}

/* One pixel of one panel: sums without bias to stored bytes. */
PTQ_INLINE PTQ_256 void store_pixel(const ptq_conv *c, const int32_t *bias, int64_t parameter,
                                    const ptq_panel *panel, const int32_t *sums, uint8_t *y,
                                    const uint8_t *r) {
  const ptq_epilogue *e = &c->epilogue;
  if (!e->direct) {
    ptq_store_row(c, bias, c->multiplier + parameter, panel, sums, y, r);
    return;
  }
  const __m256 high = _mm256_set1_ps((float)e->hi);
  int32_t zero = e->zero, lowest = e->lo + e->zero;
  __m256i q[4];
  __m256 f[4];
  for (int j = 0; j < 4; j++) {
    const __m256i sum = _mm256_add_epi32(load256(sums + 8 * j), load256(bias + 8 * j));
    f[j] = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(c->real + parameter + 8 * j));
    f[j] = _mm256_min_ps(f[j], high); /* beyond 2^31 the conversion would wrap */
  }
  if (e->add) {
    __m256i residual[4];
    const __m256 low = _mm256_set1_ps((float)e->lo), high2 = _mm256_set1_ps((float)e->add_hi);
    const __m256 ma = _mm256_set1_ps(e->adder.ma), mb = _mm256_set1_ps(e->adder.mb);
    const __m256i rz = _mm256_set1_epi32(e->residual_zero);
    widen(r, panel->valid, residual);
    for (int j = 0; j < 4; j++) {
      __m256 own =
          _mm256_round_ps(_mm256_max_ps(f[j], low), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      __m256 other = _mm256_cvtepi32_ps(_mm256_sub_epi32(residual[j], rz));
      f[j] = _mm256_add_ps(_mm256_mul_ps(own, ma), _mm256_mul_ps(other, mb));
      f[j] = _mm256_min_ps(f[j], high2);
    }
    zero = e->add_zero;
    lowest = e->add_lo + e->add_zero;
  }
  for (int j = 0; j < 4; j++) q[j] = _mm256_cvtps_epi32(f[j]);
  narrow(q, zero, lowest, panel->valid, y);
}

/* `m` pixels by two vectors of channels; m is a literal at every call. */
PTQ_INLINE PTQ_256 void half_tile(const ptq_conv *c, const ptq_phase *p, const int8_t *w,
                                  const uint8_t *const *rows, const int m, int32_t (*sums)[PANEL]) {
  __m256i acc[ROWS][2];
  for (int i = 0; i < m; i++) acc[i][0] = acc[i][1] = _mm256_setzero_si256();
  const int64_t bytes = 4 * (int64_t)c->steps;
  for (int32_t t = 0; t < p->taps; t++, rows += c->block_rows)
    for (int64_t k = 0; k < bytes; k += 4, w += 4 * PANEL) {
      const factor w0 = factor_of(load256(w)), w1 = factor_of(load256(w + 32));
      for (int i = 0; i < m; i++) {
        int32_t four;
        memcpy(&four, rows[i] + k, sizeof four);
        const input x = input_of(_mm256_set1_epi32(four));
        acc[i][0] = dot(acc[i][0], x, w0);
        acc[i][1] = dot(acc[i][1], x, w1);
      }
    }
  for (int i = 0; i < m; i++) {
    store256(sums[i], acc[i][0]);
    store256(sums[i] + 8, acc[i][1]);
  }
}

PTQ_INLINE PTQ_256 void conv_256(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                                 int32_t group, const uint8_t *const *rows, int32_t count,
                                 uint8_t *const *y, const uint8_t *const *r) {
  const int64_t parameter = group * c->group_parameters + panel->parameter;
  const int8_t *w = p->weights + group * c->group_weights + panel->weights;
  for (int32_t i = 0; i < count;) {
    int32_t sums[ROWS][PANEL];
    const bool tall = count - i >= ROWS;
    for (int half = 0; half < 2; half++) {
      const int8_t *part = w + 64 * half;
      if (tall)
        half_tile(c, p, part, rows + i, ROWS, (int32_t (*)[PANEL])(&sums[0][16 * half]));
      else
        half_tile(c, p, part, rows + i, 1, (int32_t (*)[PANEL])(&sums[0][16 * half]));
    }
    for (int32_t end = i + (tall ? ROWS : 1), j = 0; i < end; i++, j++)
      store_pixel(c, p->bias + parameter, parameter, panel, sums[j], y[i], r[i]);
  }
}

/* Four taps of 32 channels interleaved, so that each lane holds one channel's four inputs. */
PTQ_INLINE PTQ_256 void interleave(const __m256i x[4], __m256i out[4]) {
  const __m256i low01 = _mm256_unpacklo_epi8(x[0], x[1]), high01 = _mm256_unpackhi_epi8(x[0], x[1]);
  const __m256i low23 = _mm256_unpacklo_epi8(x[2], x[3]), high23 = _mm256_unpackhi_epi8(x[2], x[3]);
  out[0] = _mm256_unpacklo_epi16(low01, low23);
  out[1] = _mm256_unpackhi_epi16(low01, low23);
  out[2] = _mm256_unpacklo_epi16(high01, high23);
  out[3] = _mm256_unpackhi_epi16(high01, high23);
}

/* Activations may be read a vector past their end, so no tail needs care here. */
PTQ_INLINE PTQ_256 void depthwise_256(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                                      const uint8_t *const *taps, const int64_t *steps,
                                      int32_t count, uint8_t *y, const uint8_t *r) {
  const int64_t pixel = c->out_channels * (int64_t)c->out_element;
  for (int32_t i = 0; i < count; i++, y += pixel) {
    __m256i acc[4], x[4], quad[4];
    int32_t sums[PANEL];
    for (int j = 0; j < 4; j++) acc[j] = _mm256_setzero_si256();
    const int8_t *w = p->weights + panel->weights;
    for (int32_t t = 0; t < p->taps; t += 4, w += 4 * PANEL) {
      for (int32_t j = 0; j < 4; j++) { /* missing taps have zero weights: any pixel will do */
        int32_t tap = t + j < p->taps ? t + j : t;
        x[j] = load256(taps[tap] + i * steps[tap] + panel->first);
      }
      interleave(x, quad);
      for (int j = 0; j < 4; j++)
        acc[j] = dot(acc[j], input_of(quad[j]), factor_of(load256(w + 32 * j)));
    }
    for (int j = 0; j < 4; j++) store256(sums + 8 * j, acc[j]);
    store_pixel(c, p->bias + panel->parameter, panel->parameter, panel, sums, y,
                r ? r + i * (int64_t)c->out_channels : NULL);
  }
}
