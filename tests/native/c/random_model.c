#include "random_model.h"

#include <stdlib.h>
#include <string.h>

static uint64_t state;

void random_seed(uint64_t seed) { state = seed * 0x9E3779B97F4A7C15u + 1; }

uint32_t random_bits(void) { /* splitmix64 */
  uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return (uint32_t)(z >> 32 ^ z);
}

int32_t random_int(int32_t low, int32_t high) {
  return low + (int32_t)(random_bits() % (uint32_t)(high - low + 1));
}

static int pick(int count) { return random_int(0, count - 1); }

/* Small sizes, and the tails of vectors of 16, 32 and 64 channels. */
static int32_t random_channels(void) {
  static const int32_t edges[] = {1, 3, 4, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 80, 96, 130};
  return pick(2) ? random_int(1, 20) : edges[pick(16)];
}

static float random_scale(void) { return (float)random_int(1, 1000) / (float)random_int(10, 5000); }

int64_t random_bytes(const ptq_tensor *t) {
  static const int64_t size[] = {1, 1, 2, 4, 8, 4, 0, 0};
  int64_t count = 1;
  for (int32_t i = 0; i < t->rank; i++) count *= t->dims[i];
  return size[t->dtype] ? count * size[t->dtype] : (count + 1) / 2;
}

void random_fill(void *to, size_t bytes, int32_t dtype) {
  uint8_t *b = to;
  int extreme = pick(4) == 0;
  for (size_t i = 0; i < bytes; i++)
    b[i] = extreme ? (pick(2) ? 0xFF : (dtype == PTQ_S8 ? 0x80 : 0)) : (uint8_t)random_bits();
  if (dtype == PTQ_F32)
    for (size_t i = 0; i + 4 <= bytes; i += 4) {
      float f = (float)random_int(-1000, 1000) / (float)random_int(1, 300);
      if (pick(50) == 0) f *= 1e30f;
      memcpy(b + i, &f, 4);
    }
  if (dtype == PTQ_S64)
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
      int64_t v = random_int(0, 3);
      memcpy(b + i, &v, 8);
    }
}

static int32_t add(random_model *m, int32_t dtype, int32_t role, int32_t rank,
                   const int32_t *dims) {
  ptq_tensor *t = &m->tensors[m->model.tensor_count];
  *t = (ptq_tensor){.dtype = dtype, .role = role, .rank = rank, .scale = random_scale()};
  if (rank) memcpy(t->dims, dims, (size_t)rank * sizeof *dims);
  if (dtype == PTQ_U8) t->zero_point = pick(3) ? random_int(0, 255) : pick(2) * 255;
  if (dtype == PTQ_S8) t->zero_point = pick(3) ? random_int(-128, 127) : pick(2) * 255 - 128;
  if (dtype == PTQ_S16) t->zero_point = random_int(-300, 300);
  return m->model.tensor_count++;
}

static int32_t add_constant(random_model *m, int32_t dtype, int32_t rank, const int32_t *dims) {
  int32_t id = add(m, dtype, PTQ_CONSTANT, rank, dims);
  ptq_tensor *t = &m->tensors[id];
  t->zero_point = 0;
  t->offset = m->model.data_size;
  int64_t bytes = random_bytes(t), end = t->offset + (bytes + 7) / 8 * 8;
  while (end > m->capacity) m->capacity *= 2;
  m->data = realloc(m->data, (size_t)m->capacity);
  if (!m->data) abort();
  random_fill(m->data + t->offset, (size_t)bytes, dtype);
  m->model.data_size = end;
  return id;
}

static void *constant_data(random_model *m, int32_t id) { return m->data + m->tensors[id].offset; }

static void put(random_model *m, int32_t value) { m->ints[m->model.int_count++] = value; }
static void put_all(random_model *m, int32_t n, const int32_t *v) {
  for (int32_t i = 0; i < n; i++) put(m, v[i]);
}

static int32_t activation_type(void) { return pick(3) ? PTQ_U8 : PTQ_S8; }

static void put_limits(random_model *m, int32_t dtype) {
  int32_t low = dtype == PTQ_S8 ? -128 : 0;
  if (dtype == PTQ_S16) {
    put(m, -32768), put(m, 32767);
  } else if (pick(3)) {
    put(m, low), put(m, low + 255);
  } else {
    int32_t a = random_int(0, 255), b = random_int(0, 255);
    put(m, low + (a < b ? a : b)), put(m, low + (a < b ? b : a));
  }
}

static void finish(random_model *m, int32_t kind, int32_t inputs, int32_t outputs) {
  m->ops[0] = (ptq_op){.kind = kind,
                       .inputs = inputs,
                       .outputs = outputs,
                       .attributes = m->model.int_count - inputs - outputs,
                       .first = 0};
  m->model.op_count = 1;
}

typedef struct {
  int32_t n, in[3], out[3], kernel[3], stride[3], dilation[3], pad[3];
} window;

static window random_window(int transposed) {
  const int far = pick(10) == 0; /* taps so far apart that whole tiles fall on padding */
  window w = {.n = random_int(1, far ? 2 : 3)};
  for (int32_t i = 0; i < w.n; i++) {
    do {
      w.in[i] = far ? random_int(8, w.n == 2 ? 16 : 90)
                    : random_int(1, w.n == 3   ? 4
                                    : w.n == 2 ? 9
                                               : 40);
      w.kernel[i] = pick(3) ? random_int(1, 3) : random_int(1, 5);
      w.stride[i] = random_int(1, far ? 2 : 3);
      w.dilation[i] = far ? random_int(4, 8) : pick(3) ? 1 : random_int(1, 3);
      w.pad[i] = far ? (w.kernel[i] - 1) * w.dilation[i] / 2 : pick(2) ? 0 : random_int(0, 2);
      int32_t extra = pick(3) ? 0 : random_int(0, 2);
      int32_t reach = (w.kernel[i] - 1) * w.dilation[i];
      w.out[i] = transposed ? (w.in[i] - 1) * w.stride[i] + reach + 1 - w.pad[i] + extra
                            : (w.in[i] + w.pad[i] + extra - reach - 1) / w.stride[i] + 1;
      if (!transposed && w.in[i] + w.pad[i] + extra < reach + 1) w.out[i] = 0;
    } while (w.out[i] < 1);
  }
  return w;
}

static int32_t add_image(random_model *m, int32_t dtype, int32_t role, int32_t batch, int32_t n,
                         const int32_t *size, int32_t channels) {
  int32_t dims[5] = {batch};
  memcpy(dims + 1, size, (size_t)n * sizeof *size);
  dims[n + 1] = channels;
  return add(m, dtype, role, n + 2, dims);
}

/* Weights around what two, four or twelve products may sum to in 16 bits: pairs that reach 128 or
 * -128 and no further, one more than that, of one sign around 257 / 12, and small ones that are far
 * from it. */
static void random_weights(random_model *m, int32_t id) {
  static const int8_t border[] = {64, 64, 127, 1, -128, 0, -64, -64, 32, 32, -32, 65, -65, 2, -127};
  ptq_tensor *t = &m->tensors[id];
  int8_t *w = constant_data(m, id);
  const int64_t bytes = random_bytes(t);
  const int32_t style = pick(5), limit = 1 << random_int(3, 6), rare = 1 << random_int(2, 9);
  const int32_t sign = pick(2) ? 1 : -1;
  for (int64_t i = 0; t->dtype == PTQ_S8 && style > 0 && i < bytes; i++) {
    const int odd_one = pick(rare) == 0;
    if (style == 1 || (style == 2 && odd_one))
      w[i] = border[pick(15)];
    else if (style == 4)
      w[i] = (int8_t)(sign * random_int(19, 22));
    else
      w[i] = (int8_t)(style == 3 && odd_one ? w[i] : random_int(-limit, limit));
  }
}

/* Any function, its parameters around what networks use. */
static int32_t add_function(random_model *m) {
  int32_t three = 3, id = add_constant(m, PTQ_F32, 1, &three);
  float *f = constant_data(m, id);
  f[0] = (float)pick(PTQ_FUNCTION_COUNT);
  f[1] = (float)random_int(1, 100) / 100.0f;
  f[2] = (float)random_int(0, 100) / 100.0f;
  return id;
}

static void make_function(random_model *m) {
  int32_t dims[] = {random_int(1, 40), random_int(1, 130)};
  put(m, add(m, PTQ_F32, PTQ_INPUT, 2, dims));
  put(m, add_function(m));
  int32_t y = add(m, pick(4) ? activation_type() : PTQ_F32, PTQ_OUTPUT, 2, dims);
  put(m, y);
  put_limits(m, m->tensors[y].dtype);
  finish(m, PTQ_FUNCTION, 2, 1);
}

/* 3x3 pixels with stride 1, on images of some tiles. */
static window tiled_window(void) {
  window w = {.n = random_int(2, 3)};
  const int32_t dilation = pick(3) ? 1 : random_int(2, 3);
  for (int32_t i = 0; i < w.n; i++) {
    const int slices = w.n == 3 && i == 0;
    w.kernel[i] = slices ? random_int(1, 3) : 3;
    w.stride[i] = slices && w.kernel[i] == 1 ? random_int(1, 2) : 1;
    w.dilation[i] = slices ? 1 : dilation;
    w.pad[i] = pick(3) ? w.kernel[i] / 2 * w.dilation[i] : random_int(0, 3);
    const int32_t reach = (w.kernel[i] - 1) * w.dilation[i] + 1;
    const int32_t least = reach > w.pad[i] ? reach - w.pad[i] : 1;
    w.in[i] = random_int(least, least + (slices ? 3 : 12));
    w.out[i] = (w.in[i] + w.pad[i] + random_int(0, w.pad[i]) - reach) / w.stride[i] + 1;
  }
  return w;
}

static void make_conv(random_model *m, int32_t kind) {
  const int tiled = kind == PTQ_CONV && pick(10) == 0;
  window w = tiled ? tiled_window() : random_window(kind == PTQ_CONV_TRANSPOSE);
  int depthwise = !tiled && pick(4) == 0;
  int32_t groups = depthwise ? random_channels() : pick(4) ? 1 : random_int(2, 4);
  int32_t gi = depthwise ? 1 : random_channels(), go = depthwise ? 1 : random_channels();
  if (!depthwise && pick(40) == 0) groups = 1, gi = 60, go = 90; /* enough to be shared out */
  if (tiled) groups = pick(8) ? 1 : 2, gi = random_int(16, 56), go = random_int(16, 90);
  int32_t batch = random_int(1, 2), in_type = pick(12) ? activation_type() : PTQ_S16;
  int32_t out_type = pick(8)   ? activation_type()
                     : pick(3) ? (pick(2) ? PTQ_S32 : PTQ_F32)
                               : PTQ_S16;
  int32_t x = add_image(m, in_type, PTQ_INPUT, batch, w.n, w.in, groups * gi);
  if (pick(3) == 0) m->tensors[x].zero_point = in_type == PTQ_S8 ? -128 : 0; /* as after a ReLU */
  int32_t fdims[5] = {groups * go};
  memcpy(fdims + 1, w.kernel, sizeof w.kernel);
  fdims[w.n + 1] = gi;
  int32_t f = add_constant(m, pick(6) ? PTQ_S8 : pick(2) ? PTQ_S4 : PTQ_U4, w.n + 2, fdims);
  random_weights(m, f);
  if (pick(6) == 0) m->tensors[f].zero_point = random_int(-8, 8);
  int32_t channels = groups * go, one = 1;
  int32_t scales = add_constant(m, PTQ_F32, 1, pick(2) ? &channels : &one);
  int32_t k = gi * w.kernel[0] * (w.n > 1 ? w.kernel[1] : 1) * (w.n > 2 ? w.kernel[2] : 1);
  float *s = constant_data(m, scales);
  for (int32_t i = 0; i < m->tensors[scales].dims[0]; i++)
    s[i] = (float)random_int(1, 100) / (100.0f * (float)k) * 0.02f;
  if (out_type == PTQ_S16) m->tensors[x].scale *= 100;
  int32_t bias = pick(3) ? add_constant(m, PTQ_S32, 1, &channels) : -1;
  if (bias >= 0)
    for (int32_t i = 0; i < channels; i++)
      ((int32_t *)constant_data(m, bias))[i] = random_int(-100000, 100000);
  int narrow = out_type == PTQ_U8 || out_type == PTQ_S8;
  int32_t residual = narrow && pick(3) == 0
                         ? add_image(m, activation_type(), PTQ_INPUT, batch, w.n, w.out, channels)
                         : -1;
  int32_t entries = 256, table = narrow && pick(4) == 0 ? add_constant(m, PTQ_U8, 1, &entries) : -1;
  int bare = narrow && residual < 0 && table < 0;
  int32_t function = bare && pick(4) == 0 ? add_function(m) : -1;
  int32_t y = add_image(m, out_type, PTQ_OUTPUT, batch, w.n, w.out, channels);
  int32_t grid_type = narrow ? out_type : out_type == PTQ_S16 ? PTQ_S16 : PTQ_U8;
  int32_t grid = add(m, grid_type, PTQ_GRID, 0, NULL);
  int32_t grid2 = residual >= 0 ? add(m, out_type, PTQ_GRID, 0, NULL) : -1;
  int32_t operands[] = {x, f, scales, bias, grid, grid2, residual, table, function, y};
  put_all(m, 10, operands);
  put(m, w.n), put(m, groups);
  put_all(m, w.n, w.stride), put_all(m, w.n, w.dilation), put_all(m, w.n, w.pad);
  put_limits(m, grid_type == PTQ_S16 ? PTQ_S16 : out_type == PTQ_S8 ? PTQ_S8 : PTQ_U8);
  put_limits(m, grid_type);
  finish(m, kind, 9, 1);
}

static void make_matmul(random_model *m) {
  int32_t batch = random_int(1, 3), mm = random_int(1, 30), k = random_channels();
  int32_t n = random_channels(), type = pick(6) ? activation_type() : pick(2) ? PTQ_S32 : PTQ_F32;
  int32_t a[] = {pick(3) ? batch : 1, mm, k}, b[] = {pick(3) ? batch : 1, k, n};
  int32_t y[] = {batch, mm, n};
  put(m, add(m, activation_type(), PTQ_INPUT, 3, a));
  put(m, add(m, activation_type(), PTQ_INPUT, 3, b));
  put(m, add(m, type, PTQ_OUTPUT, 3, y));
  put_limits(m, type);
  finish(m, PTQ_MATMUL, 2, 1);
}

static void make_block_gemm(random_model *m) {
  int32_t mm = random_int(1, 5), k = random_int(1, 100), n = random_channels();
  int32_t block = 2 * random_int(1, 32), blocks = (k + block - 1) / block;
  int32_t x[] = {mm, k}, w[] = {n, k}, s[] = {n, blocks}, y[] = {mm, n};
  static const int32_t types[] = {PTQ_S8, PTQ_S4, PTQ_U4};
  int32_t type = pick(2) ? activation_type() : PTQ_F32;
  put(m, add(m, activation_type(), PTQ_INPUT, 2, x));
  put(m, add_constant(m, types[pick(3)], 2, w));
  put(m, add_constant(m, PTQ_F32, 2, s));
  put(m, pick(2) ? add_constant(m, PTQ_S8, 2, s) : -1);
  put(m, pick(2) ? add_constant(m, PTQ_F32, 1, &n) : -1);
  put(m, add(m, type, PTQ_OUTPUT, 2, y));
  put(m, block);
  put_limits(m, type);
  finish(m, PTQ_BLOCK_GEMM, 5, 1);
}

static void make_pool(random_model *m, int32_t kind) {
  window w = random_window(0);
  int32_t batch = random_int(1, 2), c = random_channels(), type = activation_type();
  int32_t x = add_image(m, type, PTQ_INPUT, batch, w.n, w.in, c);
  int32_t y = add_image(m, type, PTQ_OUTPUT, batch, w.n, w.out, c);
  if (kind == PTQ_MAX_POOL) {
    m->tensors[y].scale = m->tensors[x].scale;
    m->tensors[y].zero_point = m->tensors[x].zero_point;
  }
  put(m, x), put(m, y), put(m, w.n);
  put_all(m, w.n, w.kernel), put_all(m, w.n, w.stride), put_all(m, w.n, w.dilation);
  put_all(m, w.n, w.pad);
  if (kind == PTQ_AVERAGE_POOL) put_all(m, w.n, w.pad), put(m, pick(2));
  finish(m, kind, 1, 1);
}

static void make_binary(random_model *m, int32_t kind) {
  int32_t rank = random_int(1, 4), a[4], b[4], y[4];
  for (int32_t d = 0; d < rank; d++) {
    y[d] = d == rank - 1 ? random_channels() : random_int(1, 6);
    a[d] = pick(4) ? y[d] : 1;
    b[d] = pick(3) ? y[d] : 1;
    if (a[d] == 1) b[d] = y[d];
  }
  int32_t type = pick(6) ? activation_type() : PTQ_S16, wide = type == PTQ_S16;
  put(m, add(m, wide ? type : activation_type(), PTQ_INPUT, rank, a));
  put(m, add(m, wide ? type : activation_type(), PTQ_INPUT, rank, b));
  put(m, add(m, type, PTQ_OUTPUT, rank, y));
  put_limits(m, type);
  finish(m, kind, 2, 1);
}

static void make_concat(random_model *m) {
  int32_t rank = random_int(1, 4), dims[4], axis = pick(rank), n = random_int(1, 4), sum = 0;
  for (int32_t d = 0; d < rank; d++) dims[d] = random_int(1, 20);
  for (int32_t i = 0; i < n; i++) {
    dims[axis] = random_int(1, 70);
    sum += dims[axis];
    put(m, add(m, activation_type(), PTQ_INPUT, rank, dims));
  }
  dims[axis] = sum;
  put(m, add(m, activation_type(), PTQ_OUTPUT, rank, dims));
  put(m, axis);
  finish(m, PTQ_CONCAT, n, 1);
}

/* What a scale and a bias of each channel become between two grids. */
static void draw_lines(uint8_t *table, int32_t channels) {
  for (int32_t c = 0; c < channels; c++) {
    double slope = random_int(-3000, 3000) / 1024.0, start = random_int(-300, 500);
    int32_t low = pick(2) ? 0 : random_int(0, 255);
    for (int32_t i = 0; i < 256; i++) {
      double y = slope * i + start + 0.123;
      *table++ = (uint8_t)(y < low ? low : y > 255 ? 255 : y);
    }
  }
}

static void make_lut(random_model *m) {
  int32_t dims[] = {random_int(1, 300), random_channels()}, entries[] = {dims[1], 256};
  int by_channel = pick(3) == 0;
  put(m, add(m, activation_type(), PTQ_INPUT, 2, dims));
  int32_t tables = add_constant(m, PTQ_U8, by_channel ? 2 : 1, by_channel ? entries : entries + 1);
  if (by_channel && pick(3)) draw_lines(constant_data(m, tables), dims[1]);
  put(m, tables);
  put(m, add(m, activation_type(), PTQ_OUTPUT, 2, dims));
  finish(m, PTQ_LUT, 2, 1);
}

static void make_softmax(random_model *m) {
  int32_t dims[] = {random_int(1, 9), random_int(1, 1100)};
  int reals = pick(3) == 0;
  put(m, add(m, reals ? PTQ_F32 : activation_type(), PTQ_INPUT, 2, dims));
  put(m, add(m, reals ? PTQ_F32 : activation_type(), PTQ_OUTPUT, 2, dims));
  m->tensors[1].scale = 1.0f / 256;
  finish(m, PTQ_SOFTMAX, 1, 1);
}

static void make_resize(random_model *m) {
  int32_t n = random_int(1, 3), in[3], out[3], batch = random_int(1, 2), c = random_channels();
  int32_t total = 0;
  for (int32_t d = 0; d < n; d++) {
    in[d] = random_int(1, 6), out[d] = random_int(1, 9);
    total += 3 * out[d];
  }
  int32_t x = add_image(m, activation_type(), PTQ_INPUT, batch, n, in, c);
  int32_t tables = add_constant(m, PTQ_S32, 1, &total);
  int linear = pick(2), reals = linear && n < 3 && pick(3) == 0;
  int32_t y = add_image(m, reals ? PTQ_F32 : activation_type(), PTQ_OUTPUT, batch, n, out, c);
  if (reals) { /* channel by channel */
    int32_t *dims = m->tensors[y].dims;
    for (int32_t d = n; d > 0; d--) dims[d + 1] = dims[d];
    dims[1] = c;
  }
  int32_t *t = constant_data(m, tables);
  for (int32_t d = 0; d < n; d++)
    for (int32_t j = 0; j < 3; j++)
      for (int32_t o = 0; o < out[d]; o++)
        *t++ = j == 2 ? (linear ? random_int(0, 2048) : 0) : random_int(0, in[d] - 1);
  put(m, x), put(m, tables), put(m, y), put(m, n), put(m, linear);
  finish(m, PTQ_RESIZE, 2, 1);
}

/* A transpose of a padded or cut block. */
static void make_copy(random_model *m) {
  static const int32_t types[] = {PTQ_U8, PTQ_S8, PTQ_S16, PTQ_F32, PTQ_S64};
  int32_t rank = random_int(1, 4), type = types[pick(5)], x[4], y[4], box[4], order[4];
  int32_t src[4], dst[4], size = 1, src_offset = 0, dst_offset = 0;
  int32_t other = pick(rank), padded = pick(2); /* long ones are turned in squares */
  for (int32_t d = 0; d < rank; d++) {
    order[d] = d;
    x[d] = random_int(1, d == rank - 1 || d == other ? 90 : 8);
    box[d] = random_int(1, x[d]);
  }
  for (int32_t d = rank - 1; d > 0; d--) {
    int32_t place = pick(d + 1), keep = order[d];
    order[d] = order[place], order[place] = keep;
  }
  for (int32_t d = rank - 1; d >= 0; d--) {
    int32_t start = random_int(0, x[d] - box[d]), back = pick(4) == 0;
    src[d] = back ? -size : size;
    src_offset += (back ? start + box[d] - 1 : start) * size;
    size *= x[d];
  }
  size = 1;
  for (int32_t i = rank - 1; i >= 0; i--) {
    int32_t d = order[i], before = padded && pick(2) ? random_int(0, 3) : 0;
    y[i] = box[d] + before + (padded && pick(2) ? random_int(0, 3) : 0);
    dst[d] = size;
    dst_offset += before * size;
    size *= y[i];
  }
  put(m, add(m, type, PTQ_INPUT, rank, x)), put(m, add(m, type, PTQ_OUTPUT, rank, y));
  put(m, rank), put(m, src_offset), put(m, dst_offset);
  put(m, type == PTQ_U8 ? random_int(0, 255) : 0);
  put_all(m, rank, box), put_all(m, rank, src), put_all(m, rank, dst);
  finish(m, PTQ_COPY, 1, 1);
}

static void make_gather(random_model *m) {
  int32_t x[] = {random_int(1, 5), random_int(4, 9), random_int(1, 40)}, n = random_int(1, 9);
  int32_t axis = pick(2), y[] = {x[0], x[1], x[2]};
  if (x[0] < 4) axis = 1;
  y[axis] = n;
  int32_t type = pick(2) ? PTQ_U8 : PTQ_F32;
  put(m, add(m, type, PTQ_INPUT, 3, x)), put(m, add(m, PTQ_S64, PTQ_INPUT, 1, &n));
  put(m, add(m, type, PTQ_OUTPUT, 3, y)), put(m, axis);
  finish(m, PTQ_GATHER, 2, 1);
}

static void make_reduce(random_model *m, int32_t kind) {
  int32_t x[] = {random_int(1, 4), random_int(1, 200), random_channels()}, y[] = {x[0], x[2]};
  int32_t type = kind == PTQ_ARG_MAX ? PTQ_S64 : pick(5) ? activation_type() : PTQ_F32;
  put(m, add(m, activation_type(), PTQ_INPUT, 3, x)), put(m, add(m, type, PTQ_OUTPUT, 2, y));
  put_all(m, 3, x);
  if (kind == PTQ_ARG_MAX)
    put(m, pick(2));
  else
    put_limits(m, type);
  finish(m, kind, 1, 1);
}

static void make_quantize(random_model *m, int32_t kind) {
  int32_t dims[] = {random_int(1, 3), random_int(1, 70), random_int(1, 70)};
  int32_t type = pick(4) ? activation_type() : PTQ_S16;
  int32_t from = kind == PTQ_QUANTIZE ? PTQ_F32 : pick(6) ? type : PTQ_S32;
  put(m, add(m, from, PTQ_INPUT, 3, dims));
  put(m, add(m, kind == PTQ_QUANTIZE ? type : PTQ_F32, PTQ_OUTPUT, 3, dims));
  put_all(m, 3, dims);
  finish(m, kind, 1, 1);
}

/* Regions in the image, across its border and turned around; some bins take any number of samples,
 * where no region is large. */
static void make_roi_align(random_model *m) {
  int32_t x[] = {random_int(1, 4), random_int(1, 9), random_int(1, 9), random_channels()};
  int32_t n = random_int(1, 5), one = 1, regions[] = {n, 4};
  int32_t y[] = {n, x[3], random_int(1, 4), random_int(1, 4)}, small = pick(2);
  put(m, add(m, activation_type(), PTQ_INPUT, 4, x));
  int32_t corners =
      small ? add_constant(m, PTQ_F32, 2, regions) : add(m, PTQ_F32, PTQ_INPUT, 2, regions);
  for (int32_t i = 0; small && i < 4 * n; i++)
    ((float *)constant_data(m, corners))[i] = (float)random_int(-100, 300) / 10.0f;
  int32_t images = add_constant(m, PTQ_S64, 1, &n), scale = add_constant(m, PTQ_F32, 1, &one);
  for (int32_t i = 0; i < n; i++) ((int64_t *)constant_data(m, images))[i] = pick(x[0]);
  *(float *)constant_data(m, scale) = 1.0f / (float)random_int(1, 4);
  put(m, corners), put(m, images), put(m, scale);
  put(m, n >= 3 && pick(2) ? add(m, PTQ_S64, PTQ_INPUT, 1, &one) : -1);
  put(m, add(m, PTQ_F32, PTQ_OUTPUT, 4, y));
  put(m, small ? pick(4) : random_int(1, 3)), put(m, pick(2)), put(m, pick(2));
  finish(m, PTQ_ROI_ALIGN, 5, 1);
}

void random_make(random_model *m) {
  memset(m, 0, sizeof *m);
  m->capacity = 64;
  m->data = malloc((size_t)m->capacity);
  if (!m->data) abort();
  int32_t kind = pick(3) ? random_int(0, PTQ_KIND_COUNT - 1) : PTQ_CONV;
  switch (kind) {
    case PTQ_CONV:
    case PTQ_CONV_TRANSPOSE: make_conv(m, kind); break;
    case PTQ_MATMUL: make_matmul(m); break;
    case PTQ_BLOCK_GEMM: make_block_gemm(m); break;
    case PTQ_MAX_POOL:
    case PTQ_AVERAGE_POOL: make_pool(m, kind); break;
    case PTQ_ADD:
    case PTQ_SUB:
    case PTQ_MUL: make_binary(m, kind); break;
    case PTQ_CONCAT: make_concat(m); break;
    case PTQ_LUT: make_lut(m); break;
    case PTQ_SOFTMAX: make_softmax(m); break;
    case PTQ_RESIZE: make_resize(m); break;
    case PTQ_COPY: make_copy(m); break;
    case PTQ_GATHER: make_gather(m); break;
    case PTQ_REDUCE_MEAN:
    case PTQ_ARG_MAX: make_reduce(m, kind); break;
    case PTQ_FUNCTION: make_function(m); break;
    case PTQ_ROI_ALIGN: make_roi_align(m); break;
    default: make_quantize(m, kind); break;
  }
  m->model.tensors = m->tensors;
  m->model.ops = m->ops;
  m->model.ints = m->ints;
  m->model.data = m->data;
}
