/* 3x3 depthwise windows at stride 1 or 2 to bytes, nothing added: two pixels at a time, so that
 * each weight is read once for both, and neighbours share columns. The including file, after
 * conv.h, defines
 *   PTQ_V       the target attribute
 *   V(name)     an intrinsic of its vector length
 *   vector, vector_mask   its types; LANES, its 32-bit lanes */

typedef struct {
  vector v[4];
} column; /* three taps of 4 * LANES channels; each lane holds one channel's, and a zero */

/* What every pixel needs. */
typedef struct {
  const int8_t *weights;
  const int32_t *bias;
  const float *real;
  vector zero, lowest, highest;
  vector_mask mask;
} plain;

PTQ_INLINE PTQ_V column load_plain(const uint8_t *const rows[3], int64_t at, vector_mask mask) {
  const vector none = V(set1_epi32)(0), a = V(maskz_loadu_epi8)(mask, rows[0] + at);
  const vector b = V(maskz_loadu_epi8)(mask, rows[1] + at);
  const vector c = V(maskz_loadu_epi8)(mask, rows[2] + at);
  const vector low_ab = V(unpacklo_epi8)(a, b), high_ab = V(unpackhi_epi8)(a, b);
  const vector low_c = V(unpacklo_epi8)(c, none), high_c = V(unpackhi_epi8)(c, none);
  return (column){{V(unpacklo_epi16)(low_ab, low_c), V(unpackhi_epi16)(low_ab, low_c),
                   V(unpacklo_epi16)(high_ab, high_c), V(unpackhi_epi16)(high_ab, high_c)}};
}

PTQ_INLINE PTQ_V void store_plain(const plain *e, const vector acc[4], uint8_t *y) {
  vector q[4];
  _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) q[j] =
      V(cvtps_epi32)(V(mul_ps)(V(cvtepi32_ps)(acc[j]), V(loadu_ps)(e->real + LANES * j)));
  const vector a = V(adds_epi16)(V(packs_epi32)(q[0], q[1]), e->zero);
  const vector b = V(adds_epi16)(V(packs_epi32)(q[2], q[3]), e->zero);
  const vector bytes = V(max_epu8)(V(packus_epi16)(a, b), e->lowest);
  V(mask_storeu_epi8)(y, e->mask, V(min_epu8)(bytes, e->highest));
}

/* `n` pixels; x holds the columns that they share with those before, then with those after. */
PTQ_INLINE PTQ_V void plain_pixels(const plain *e, const uint8_t *const rows[3], int64_t at,
                                   int64_t apart, column x[5], const int stride, const int n,
                                   uint8_t *y, int64_t pixel) {
  vector acc[2][4];
  _Pragma("GCC unroll 4") for (int i = 3 - stride; i < stride * (n - 1) + 3; i++) x[i] =
      load_plain(rows, at + i * apart, e->mask);
  _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {
    acc[0][j] = acc[1][j] = V(loadu_epi32)(e->bias + LANES * j);
    _Pragma("GCC unroll 4") for (int t = 0; t < 3; t++) {
      const vector w = V(loadu_epi32)(e->weights + (16 * t + 4 * j) * LANES);
      _Pragma("GCC unroll 4") for (int i = 0; i < n; i++) acc[i][j] =
          V(dpbusd_epi32)(acc[i][j], x[i * stride + t].v[j], w);
    }
  }
  _Pragma("GCC unroll 4") for (int i = 0; i < n; i++) store_plain(e, acc[i], y + i * pixel);
  x[0] = x[n * stride];
  if (stride == 1) x[1] = x[n + 1];
}

PTQ_INLINE PTQ_V void plain_row(const ptq_conv *c, const plain *e, const uint8_t *const rows[3],
                                int64_t apart, const int stride, int32_t count, uint8_t *y) {
  const int64_t pixel = c->out_channels;
  column x[5];
  x[0] = load_plain(rows, 0, e->mask);
  if (stride == 1) x[1] = load_plain(rows, apart, e->mask);
  int64_t i = 0;
  for (; i + 2 <= count; i += 2)
    plain_pixels(e, rows, i * stride * apart, apart, x, stride, 2, y + i * pixel, pixel);
  if (i < count)
    plain_pixels(e, rows, i * stride * apart, apart, x, stride, 1, y + i * pixel, pixel);
}

/* Whether the layer is one of those; then it is computed. */
PTQ_INLINE PTQ_V bool plain_columns(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                                    const uint8_t *const *taps, int32_t count, uint8_t *y) {
  const ptq_epilogue *e = &c->epilogue;
  if (!c->columns || !e->direct || e->add || e->dtype != PTQ_U8) return false;
  const int32_t apart = p->tap[4][2] - p->tap[0][2], stride = p->in_step[2];
  if (stride != apart && stride != 2 * apart) return false;
  const plain v = {.weights = p->weights + panel->weights,
                   .bias = p->bias + panel->parameter,
                   .real = c->real + panel->parameter,
                   .zero = V(set1_epi16)((int16_t)e->zero),
                   .lowest = V(set1_epi8)((char)(e->lo + e->zero)),
                   .highest = V(set1_epi8)((char)(e->hi + e->zero)),
                   .mask = (vector_mask)~0ULL >> (4 * LANES - panel->valid)};
  const uint8_t *const rows[3] = {taps[0] + panel->first, taps[1] + panel->first,
                                  taps[2] + panel->first};
  if (stride == apart)
    plain_row(c, &v, rows, taps[4] - taps[0], 1, count, y + panel->first);
  else
    plain_row(c, &v, rows, taps[4] - taps[0], 2, count, y + panel->first);
  return true;
}
