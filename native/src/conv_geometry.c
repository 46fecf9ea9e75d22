/* Where each output pixel of a convolution reads its input. */
#include "conv.h"
#include "versions.h"

static void rotate(int32_t v[3]) {
  int32_t last = v[2];
  v[2] = v[1];
  v[1] = v[0];
  v[0] = last;
}

/* Attributes of 1, 2 or 3 spatial dimensions, right-aligned in three. */
static ptq_status read_window(const ptq_build *build, const ptq_node *node, ptq_window *w,
                              ptq_conv *c) {
  int32_t n = node->attr[0];
  PTQ_REQUIRE(n >= 1 && n <= 3 && node->attr_count == 2 + 3 * n + 4, "wrong attributes");
  const ptq_value *x = node->in[0], *f = node->in[1], *y = node->out[0];
  PTQ_REQUIRE(x->rank == n + 2 && y->rank == n + 2 && f->rank == n + 2, "ranks do not match");
  for (int32_t i = 0; i < 3; i++) {
    int32_t j = i - (3 - n);
    bool real = j >= 0;
    w->kernel[i] = real ? f->dims[1 + j] : 1;
    w->stride[i] = real ? node->attr[2 + j] : 1;
    w->dilation[i] = real ? node->attr[2 + n + j] : 1;
    w->pad[i] = real ? node->attr[2 + 2 * n + j] : 0;
    c->in_dims[i] = real ? x->dims[1 + j] : 1;
    c->out_dims[i] = real ? y->dims[1 + j] : 1;
    PTQ_REQUIRE(w->kernel[i] >= 1 && w->stride[i] >= 1 && w->stride[i] <= 64 &&
                    w->dilation[i] >= 1 && w->kernel[i] <= 1 << 12 && w->dilation[i] <= 1 << 12 &&
                    w->pad[i] >= -(1 << 24) && w->pad[i] <= 1 << 24,
                "kernel, stride, dilation or pad out of range");
  }
  /* A trailing dimension of one position gives way, so that the one before it is contiguous. */
  for (int32_t turn = 0;
       turn < 2 && c->in_dims[2] == 1 && c->out_dims[2] == 1 && w->kernel[2] == 1 && w->pad[2] == 0;
       turn++) {
    rotate(c->in_dims);
    rotate(c->out_dims);
    rotate(w->kernel);
    rotate(w->stride);
    rotate(w->dilation);
    rotate(w->pad);
  }
  PTQ_REQUIRE((int64_t)w->kernel[0] * w->kernel[1] * w->kernel[2] <= 1 << 14, "kernel too large");
  c->batch = x->dims[0];
  c->in_channels = x->dims[n + 1];
  c->out_channels = y->dims[n + 1];
  c->groups = node->attr[1];
  PTQ_REQUIRE(y->dims[0] == c->batch, "batch sizes differ");
  PTQ_REQUIRE(c->groups >= 1 && c->in_channels % c->groups == 0 && c->out_channels % c->groups == 0,
              "channels are not a multiple of groups");
  c->group_in = c->in_channels / c->groups;
  c->group_out = c->out_channels / c->groups;
  PTQ_REQUIRE(f->dims[0] == c->out_channels && f->dims[n + 1] == c->group_in,
              "the weights' shape does not fit the channels");
  return PTQ_OK;
}

static ptq_status add_phase(const ptq_build *build, ptq_phase *p, const ptq_conv *c, int64_t taps) {
  p->tap = ptq_alloc((size_t)taps * sizeof *p->tap);
  p->place = ptq_alloc((size_t)taps * sizeof *p->place);
  if (!p->tap || !p->place) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  p->rows = (int64_t)c->batch * p->count[0] * p->count[1] * p->count[2];
  return PTQ_OK;
}

/* Depthwise kernels of three rows take their taps by columns, each filled up to four with a tap
 * that has no weights: neighbouring pixels then share whole columns. */
static ptq_status plain_phase(const ptq_build *build, ptq_conv *c, const ptq_window *w,
                              bool merge) {
  ptq_phase *p = c->phases;
  const int32_t width = merge ? 1 : w->kernel[2], height = w->kernel[1];
  for (int32_t i = 0; i < 3; i++) {
    p->count[i] = c->out_dims[i];
    p->in_step[i] = w->stride[i];
    p->out_step[i] = 1;
  }
  p->taps = c->columns ? 4 * width : w->kernel[0] * height * width;
  ptq_status status = add_phase(build, p, c, p->taps);
  if (status != PTQ_OK) return status;
  for (int32_t t = 0; t < p->taps; t++) {
    int32_t row = c->columns ? (t % 4 < 3 ? t % 4 : 2) : t / width % height;
    int32_t column = c->columns ? t / 4 : t % width;
    p->tap[t][0] = t / width / height * w->dilation[0] - w->pad[0];
    p->tap[t][1] = row * w->dilation[1] - w->pad[1];
    p->tap[t][2] = column * w->dilation[2] - w->pad[2];
    if (c->columns) p->tap[t][0] = -w->pad[0];
    p->place[t] = !c->columns ? t : t % 4 < 3 ? row * width + column : -1;
  }
  return PTQ_OK;
}

/* Output o = input * stride + tap * dilation - pad, so the outputs of residue class `r` see the
 * taps with (r + pad - tap * dilation) divisible by the stride. */
static ptq_status transposed_phase(const ptq_build *build, ptq_conv *c, const ptq_window *w,
                                   ptq_phase *p, const int32_t residue[3]) {
  int64_t taps = 1;
  for (int32_t i = 0; i < 3; i++) {
    p->out_first[i] = residue[i];
    p->out_step[i] = w->stride[i];
    p->in_step[i] = 1;
    p->count[i] =
        (int32_t)(((int64_t)c->out_dims[i] - residue[i] + w->stride[i] - 1) / w->stride[i]);
    if (p->count[i] < 0) p->count[i] = 0;
    taps *= w->kernel[i];
  }
  ptq_status status = add_phase(build, p, c, taps);
  if (status != PTQ_OK) return status;
  for (int32_t flat = 0; flat < taps; flat++) {
    int32_t at[3] = {flat / (w->kernel[1] * w->kernel[2]), flat / w->kernel[2] % w->kernel[1],
                     flat % w->kernel[2]};
    int32_t *tap = p->tap[p->taps];
    bool seen = true;
    for (int32_t i = 0; i < 3; i++) {
      int32_t distance = residue[i] + w->pad[i] - at[i] * w->dilation[i];
      seen = seen && distance % w->stride[i] == 0;
      tap[i] = distance / w->stride[i];
    }
    p->place[p->taps] = flat;
    p->taps += seen;
  }
  return PTQ_OK;
}

static bool inside(const ptq_conv *c, const ptq_window *w) {
  for (int32_t i = 0; i < 3; i++) {
    int64_t last =
        (int64_t)(c->out_dims[i] - 1) * w->stride[i] + (int64_t)(w->kernel[i] - 1) * w->dilation[i];
    if (w->pad[i] != 0 || last >= c->in_dims[i]) return false;
  }
  return true;
}

/* What the pointers of pixels away from the border need. */
static ptq_status find_interior(const ptq_build *build, const ptq_conv *c, ptq_phase *p) {
  p->offset = ptq_alloc((size_t)p->taps * sizeof *p->offset);
  if (!p->offset) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  const int64_t pixel = (int64_t)c->in_channels * (int64_t)c->in_element;
  for (int32_t d = 0; d < 3; d++) {
    p->low[d] = 0;
    p->high[d] = c->in_dims[d] - 1;
    for (int32_t t = 0; t < p->taps; t++) {
      p->low[d] = (int32_t)ptq_max(p->low[d], -(int64_t)p->tap[t][d]);
      p->high[d] = (int32_t)ptq_min(p->high[d], (int64_t)c->in_dims[d] - 1 - p->tap[t][d]);
    }
  }
  for (int32_t t = 0; t < p->taps; t++) {
    const int32_t *tap = p->tap[t];
    p->offset[t] = (((int64_t)tap[0] * c->in_dims[1] + tap[1]) * c->in_dims[2] + tap[2]) * pixel;
  }
  return PTQ_OK;
}

ptq_status ptq_conv_geometry(const ptq_build *build, const ptq_node *node, ptq_conv *c) {
  ptq_window *w = &c->window;
  ptq_status status = read_window(build, node, w, c);
  if (status != PTQ_OK) return status;
  const ptq_value *x = node->in[0];
  PTQ_REQUIRE(x->dtype == PTQ_U8 || x->dtype == PTQ_S16, "input is not 8 or 16 bits");
  c->in_element = ptq_dtype_bytes(x->dtype);
  c->out_element = node->in[8] ? sizeof(float) : ptq_dtype_bytes(node->out[0]->dtype);
  c->in_zero = x->zero_point;
  c->k = c->group_in;
  bool transposed = node->kind == PTQ_CONV_TRANSPOSE;
  c->depthwise =
      c->groups > 1 && c->group_in == 1 && c->group_out == 1 && c->in_element == 1 && !transposed;
  if (c->depthwise) { /* one group of independent channels */
    c->k = 1;
    c->group_in = c->group_out = c->in_channels;
    c->groups = 1;
    c->columns = w->kernel[0] == 1 && w->kernel[1] == 3 && w->kernel[2] == 3;
  }
  if (transposed) {
    PTQ_REQUIRE((int64_t)w->stride[0] * w->stride[1] * w->stride[2] <= 4096, "strides too large");
    c->phase_count = w->stride[0] * w->stride[1] * w->stride[2];
  } else {
    c->phase_count = 1;
  }
  c->phases = ptq_alloc((size_t)c->phase_count * sizeof *c->phases);
  if (!c->phases) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  if (!transposed) {
    /* Without padding a row of the window is contiguous in memory: fewer, longer taps, which fill
     * the groups of four better (the 3-channel first layer). */
    bool merge =
        c->groups == 1 && !c->depthwise && w->kernel[2] > 1 && w->dilation[2] == 1 && inside(c, w);
    if (merge) c->k *= w->kernel[2];
    c->steps = (c->k + 3) / 4;
    status = plain_phase(build, c, w, merge);
    c->pointwise = c->phases->taps == 1 && inside(c, w);
    for (int32_t i = 0; i < 3; i++)
      if (c->in_dims[i] != c->out_dims[i]) c->pointwise = false;
    return status == PTQ_OK ? find_interior(build, c, c->phases) : status;
  }
  c->steps = (c->k + 3) / 4;
  for (int32_t i = 0; i < c->phase_count; i++) {
    const int32_t residue[3] = {i / (w->stride[1] * w->stride[2]), i / w->stride[2] % w->stride[1],
                                i % w->stride[2]};
    status = transposed_phase(build, c, w, &c->phases[i], residue);
    if (status == PTQ_OK) status = find_interior(build, c, &c->phases[i]);
    if (status != PTQ_OK) return status;
  }
  return PTQ_OK;
}

/* Taps of few bytes waste the ends of their steps and are soon over: copy each pixel's inputs side
 * by side, and let the kernel see one tap. */
ptq_status ptq_conv_gather(const ptq_build *build, ptq_conv *c) {
  enum { FEW_BYTES = 24, MOST_BYTES = 2048 };
  const int32_t taps = c->phases->taps;
  if (c->groups > 1 || c->phase_count > 1 || c->depthwise || taps == 1) return PTQ_OK;
  if (c->k > FEW_BYTES || (int64_t)taps * c->k > MOST_BYTES) return PTQ_OK;
  c->gathered = c->phases;
  c->gathered_bytes = (size_t)c->k;
  c->phases = ptq_alloc(sizeof *c->phases);
  if (!c->phases) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  *c->phases = (ptq_phase){.taps = 1, .rows = c->gathered->rows};
  c->phases->place = ptq_alloc(sizeof *c->phases->place);
  if (!c->phases->place) return ptq_fail(build, PTQ_NO_MEMORY, "no memory");
  c->k *= taps;
  c->steps = (c->k + 3) / 4;
  return PTQ_OK;
}

PTQ_INLINE void evenly_body(const uint8_t **to, const uint8_t *from, int64_t step, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = from + i * step;
}

PTQ_INLINE void places_body(const uint8_t **to, const uint8_t *from, const int64_t *restrict at,
                            int64_t step, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = from + at[i] * step;
}

PTQ_VERSIONS(evenly, (const uint8_t **to, const uint8_t *from, int64_t step, int64_t n),
             (to, from, step, n))
PTQ_VERSIONS(places,
             (const uint8_t **to, const uint8_t *from, const int64_t *at, int64_t step, int64_t n),
             (to, from, at, step, n))

void ptq_conv_fillers(const ptq_build *build, ptq_conv *c) {
  c->evenly = PTQ_SELECT(build, evenly);
  c->places = PTQ_SELECT(build, places);
}

/* One pixel near the border: each tap by itself. */
static void border_taps(const ptq_conv *c, const ptq_phase *p, const uint8_t *image,
                        const int64_t in[3], const uint8_t **rows) {
  const int64_t pixel = (int64_t)c->in_channels * (int64_t)c->in_element;
  for (int32_t t = 0; t < p->taps; t++) {
    int64_t z = in[0] + p->tap[t][0], y = in[1] + p->tap[t][1], x = in[2] + p->tap[t][2];
    bool exists = (uint64_t)z < (uint64_t)c->in_dims[0] && (uint64_t)y < (uint64_t)c->in_dims[1] &&
                  (uint64_t)x < (uint64_t)c->in_dims[2];
    rows[t * c->block_rows] =
        exists ? image + ((z * c->in_dims[1] + y) * c->in_dims[2] + x) * pixel : c->padding;
  }
}

/* `run` pixels of one line, the first of which is at `in`. */
static void line_pointers(const ptq_conv *c, const ptq_phase *p, const uint8_t *image,
                          const int64_t in[3], int32_t run, const uint8_t **rows) {
  const int64_t pixel = (int64_t)c->in_channels * (int64_t)c->in_element;
  const int64_t step = p->in_step[2] * pixel;
  const bool inside =
      in[0] >= p->low[0] && in[0] <= p->high[0] && in[1] >= p->low[1] && in[1] <= p->high[1];
  for (int32_t i = 0; i < run;) {
    const int64_t at[3] = {in[0], in[1], in[2] + (int64_t)i * p->in_step[2]};
    if (!inside || at[2] < p->low[2] || at[2] > p->high[2]) {
      border_taps(c, p, image, at, rows + i);
      i++;
      continue;
    }
    const int32_t more = (int32_t)ptq_min(run - i, (p->high[2] - at[2]) / p->in_step[2] + 1);
    const uint8_t *origin =
        image + ((at[0] * c->in_dims[1] + at[1]) * c->in_dims[2] + at[2]) * pixel;
    for (int32_t t = 0; t < p->taps; t++)
      c->evenly(rows + t * c->block_rows + i, origin + p->offset[t], step, more);
    i += more;
  }
}

void ptq_conv_pointers(const ptq_conv *c, const ptq_box *box, int32_t group, int64_t row,
                       int32_t count, const uint8_t *x, const uint8_t **rows, int64_t *pixels) {
  const ptq_phase *p = c->gathered ? c->gathered : box->phase;
  const int64_t pixel = (int64_t)c->in_channels * (int64_t)c->in_element;
  const int64_t image = pixel * c->in_dims[0] * c->in_dims[1] * c->in_dims[2];
  x += (int64_t)group * c->group_in * (int64_t)c->in_element;
  if (c->pointwise) {
    c->evenly(rows, x + row * pixel, pixel, count);
    for (int32_t i = 0; i < count; i++) pixels[i] = row + i;
    return;
  }
  int64_t n = row, at[3];
  for (int32_t d = 2; d >= 0; d--) {
    at[d] = n % box->count[d];
    n /= box->count[d];
  }
  for (int32_t i = 0, run; i < count; i += run) { /* a piece of one line of output */
    run = (int32_t)ptq_min(count - i, box->count[2] - at[2]);
    int64_t in[3], out[3];
    for (int32_t d = 0; d < 3; d++) {
      in[d] = (box->first[d] + at[d]) * p->in_step[d];
      out[d] = (box->first[d] + at[d]) * p->out_step[d] + p->out_first[d];
    }
    const int64_t line = ((n * c->out_dims[0] + out[0]) * c->out_dims[1] + out[1]) * c->out_dims[2];
    for (int32_t j = 0; j < run; j++) pixels[i + j] = line + out[2] + j * p->out_step[2];
    line_pointers(c, p, x + n * image, in, run, rows + i);
    at[2] += run;
    for (int32_t d = 2; d >= 0 && at[d] == box->count[d]; d--) {
      at[d] = 0;
      *(d > 0 ? &at[d - 1] : &n) += 1;
    }
  }
}
