/* Tables of channels that are lines, rounded and cut off: what a scale and a bias for each channel
 * are between two grids. Two operations on vectors instead of 256 bytes to look up in, for each. */
#include "lut.h"
#include "requant.h"
#include "versions.h"

PTQ_INLINE void lines_body(const ptq_lines *v, const uint8_t *restrict x, uint8_t *restrict y) {
  const float *restrict slope = v->slope, *restrict start = v->start;
  const float *restrict low = v->low, *restrict high = v->high;
  for (int64_t c = 0; c < v->channels; c++) {
    const float line = (float)x[c] * slope[c] + start[c];
    y[c] = (uint8_t)ptq_rint(ptq_clampf(line, low[c], high[c]));
  }
}

PTQ_VERSIONS(lines, (const ptq_lines *v, const uint8_t *x, uint8_t *y), (v, x, y))

/* How far apart two parallel lines of this slope can be that both round to the table, and in
 * `start` the middle between them. Entries at the ends bound a line from one side only. */
static double room(const uint8_t *table, uint8_t low, uint8_t high, double slope, double *start) {
  double above = -1e9, below = 1e9;
  for (int i = 0; i < 256; i++) {
    const double rest = table[i] - slope * i;
    if (table[i] != low && rest - 0.5 > above) above = rest - 0.5;
    if (table[i] != high && rest + 0.5 < below) below = rest + 0.5;
  }
  *start = (above + below) / 2;
  return below - above;
}

/* The line in the middle of all that round to the table: `room` is concave in the slope. */
static bool fit(const uint8_t *table, ptq_lines *v, int64_t c) {
  enum { ROUNDS = 70 };
  uint8_t low = 255, high = 0;
  double start = 0, least = -256, most = 256;
  for (int i = 0; i < 256; i++) {
    low = table[i] < low ? table[i] : low;
    high = table[i] > high ? table[i] : high;
  }
  for (int i = 0; i < ROUNDS && low < high; i++) {
    const double third = (most - least) / 3, a = least + third, b = most - third;
    if (room(table, low, high, a, &start) < room(table, low, high, b, &start))
      least = a;
    else
      most = b;
  }
  const double slope = low < high ? (least + most) / 2 : 0;
  room(table, low, high, slope, &start);
  v->slope[c] = (float)slope;
  v->start[c] = low < high ? (float)start : (float)low;
  v->low[c] = (float)low;
  v->high[c] = (float)high;
  for (int i = 0; i < 256; i++) {
    const float line = (float)i * v->slope[c] + v->start[c];
    if (ptq_rint(ptq_clampf(line, v->low[c], v->high[c])) != table[i]) return false;
  }
  return true;
}

bool ptq_lines_fit(const ptq_build *build, const uint8_t *tables, int64_t channels, float *storage,
                   ptq_lines *v) {
  *v = (ptq_lines){channels,
                   storage,
                   storage + channels,
                   storage + 2 * channels,
                   storage + 3 * channels,
                   PTQ_SELECT(build, lines)};
  for (int64_t c = 0; c < channels; c++)
    if (!fit(tables + 256 * c, v, c)) return false;
  return true;
}
