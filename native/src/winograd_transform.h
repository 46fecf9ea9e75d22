/* Winograd's transforms of inputs and products, in vectors of the compiler. The including file
 * defines PTQ_LANES, how many 32-bit numbers a vector has, and PTQ_VECTORS, its target attribute.
 */
#include "winograd.h"

enum { WORDS = 2 * PTQ_LANES };
typedef int16_t words __attribute__((vector_size(2 * WORDS)));
typedef uint8_t short_bytes __attribute__((vector_size(WORDS)));
typedef uint32_t modular __attribute__((vector_size(4 * PTQ_LANES)));
typedef int32_t sums_vector __attribute__((vector_size(4 * PTQ_LANES)));

#define PTQ_LINES _Pragma("GCC unroll 8")

/* One dimension of a patch: the points 0, 1, -1, 2, -2 and infinity. In two dimensions bytes stay
 * within 16 bits: the weights of an input are 10 together at most, and 255 * 10 * 10 < 2^15. */
PTQ_INLINE PTQ_VECTORS void patch_line(const words d[PTQ_PATCH], words out[PTQ_PATCH]) {
  const words even = d[4] - 4 * d[2], odd = d[3] - 4 * d[1];
  const words half = d[4] - d[2], twice = 2 * (d[3] - d[1]);
  out[0] = 4 * (d[0] - d[2]) + half;
  out[1] = even + odd;
  out[2] = even - odd;
  out[3] = half + twice;
  out[4] = half - twice;
  out[5] = d[5] - d[3] - 2 * twice;
}

PTQ_VECTORS static void transform_patch(const uint8_t *const rows[PTQ_PLACES], int64_t channels,
                                        int16_t *v, int64_t stride) {
  for (int64_t c = 0; c < channels; c += WORDS) {
    words lines[PTQ_PATCH][PTQ_PATCH], line[PTQ_PATCH], out[PTQ_PATCH];
    PTQ_LINES for (int x = 0; x < PTQ_PATCH; x++) {
      PTQ_LINES for (int y = 0; y < PTQ_PATCH; y++) {
        short_bytes bytes;
        memcpy(&bytes, rows[PTQ_PATCH * y + x] + c, sizeof bytes);
        line[y] = __builtin_convertvector(bytes, words);
      }
      patch_line(line, out);
      PTQ_LINES for (int y = 0; y < PTQ_PATCH; y++) lines[y][x] = out[y];
    }
    PTQ_LINES for (int y = 0; y < PTQ_PATCH; y++) {
      patch_line(lines[y], out);
      PTQ_LINES for (int x = 0; x < PTQ_PATCH; x++)
          memcpy(v + (PTQ_PATCH * y + x) * stride + c, &out[x], sizeof out[x]);
    }
  }
}

/* One dimension of the products, times 24. */
PTQ_INLINE PTQ_VECTORS void outputs_line(const modular m[PTQ_PATCH], modular out[PTQ_TILE]) {
  const modular sum1 = m[1] + m[2], sum2 = m[3] + m[4];
  const modular twice = (m[2] - m[1]) << 1, difference = m[3] - m[4];
  out[0] = ((((m[0] - sum1) << 1) + m[0]) << 1) + sum2;
  out[1] = (twice + difference) << 1;
  out[2] = (sum2 - sum1) << 2;
  out[3] = ((((m[5] << 1) + m[5] + difference) << 2) + twice) << 1;
}

/* What is left of 24 * 24 = 9 * 2^6 after its nine is divided out is shifted out with its sign. */
PTQ_INLINE PTQ_VECTORS sums_vector unscaled(modular m) {
  const uint32_t ninth = 0x38E38E39;
  return (sums_vector)(m * ninth) >> 6;
}

PTQ_VECTORS static void transform_outputs(const int32_t *m, int64_t stride, int32_t width,
                                          const int32_t *bias, int32_t *sums) {
  for (int32_t j = 0; j < width; j += PTQ_LANES) {
    modular lines[PTQ_TILE][PTQ_PATCH], line[PTQ_PATCH], out[PTQ_TILE];
    PTQ_LINES for (int x = 0; x < PTQ_PATCH; x++) {
      PTQ_LINES for (int y = 0; y < PTQ_PATCH; y++)
          memcpy(&line[y], m + (PTQ_PATCH * y + x) * stride + j, sizeof line[y]);
      outputs_line(line, out);
      PTQ_LINES for (int y = 0; y < PTQ_TILE; y++) lines[y][x] = out[y];
    }
    sums_vector start = {0};
    if (bias) memcpy(&start, bias + j, sizeof start);
    PTQ_LINES for (int y = 0; y < PTQ_TILE; y++) {
      outputs_line(lines[y], out);
      PTQ_LINES for (int x = 0; x < PTQ_TILE; x++) {
        const sums_vector sum = unscaled(out[x]) + start;
        memcpy(sums + (PTQ_TILE * y + x) * width + j, &sum, sizeof sum);
      }
    }
  }
}
