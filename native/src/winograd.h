/* Convolution with 3x3 windows as Winograd's F(4x4, 3x3) in exact integer arithmetic: a tile of
 * 6x6 inputs and the weights are transformed, multiplied at 36 places instead of 144, and the
 * products transformed into 4x4 outputs (Lavin and Gray, "Fast Algorithms for Convolutional Neural
 * Networks", CVPR 2016).
 *
 * Over the reals the transforms have fractions. Here they are integers: the weights' rows are
 * scaled by 4, 6 and 24, and what that multiplies the outputs by, 24 * 24 = 2^6 * 9, is divided out
 * at the end. Everything up to there is computed modulo 2^32, where 9 has an inverse and a factor
 * of 2^6 costs six bits: the sum comes out exact if it fits 26 bits, which the weights tell
 * (`ptq_winograd_pack`). Transformed inputs and weights fit 16 bits, of which instructions multiply
 * half as many as bytes, so that 2 of the factor 4 remain.
 *
 * A window of three dimensions adds up its slices, each transformed once. */
#ifndef PTQ_WINOGRAD_H
#define PTQ_WINOGRAD_H

#include "conv.h"

enum {
  PTQ_TILE = 4,                       /* outputs of a tile, in each of two dimensions */
  PTQ_PATCH = 6,                      /* its inputs */
  PTQ_PLACES = PTQ_PATCH * PTQ_PATCH, /* products of a tile, channel by channel */
  PTQ_TILE_PIXELS = PTQ_TILE * PTQ_TILE,
  PTQ_MAX_SLICES = 8, /* of a window */
  PTQ_WORDS = 32      /* channels are transformed so many at a time */
};

/* Transform a patch: rows[i] points at the channels of its i-th pixel, the results are at
 * v[i * stride + channel]. Reads and writes whole multiples of PTQ_WORDS channels. */
typedef void ptq_patch_fn(const uint8_t *const rows[PTQ_PLACES], int64_t channels, int16_t *v,
                          int64_t stride);

/* Products at one place: sums[i][width] of `count` tiles, tile i of slice s being at
 * v[s] + i * step, over `pairs` of channels. w is [slices][pairs][width][2]. */
typedef void ptq_products_fn(const int16_t *const *v, int64_t step, int32_t slices, int64_t pairs,
                             const int16_t *w, int32_t width, int32_t count, int32_t *sums);

/* Transform one tile's products, at m[i * stride + position], into sums [PTQ_TILE_PIXELS][width],
 * and add the bias. */
typedef void ptq_outputs_fn(const int32_t *m, int64_t stride, int32_t width, const int32_t *bias,
                            int32_t *sums);

/* Store sums [count][width] of one panel, in packed order; y and r at the group's first channel. */
typedef void ptq_store_fn(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                          int32_t group, const int32_t *sums, int32_t count, uint8_t *const *y,
                          const uint8_t *const *r);

struct ptq_winograd_kernels {
  const char *name;
  ptq_patch_fn *patch;
  ptq_products_fn *products;
  ptq_outputs_fn *outputs;
  ptq_store_fn *store;
};

struct ptq_winograd {
  const ptq_winograd_kernels *kernels;
  int32_t dilation[2];
  int32_t count[2];   /* tiles per dimension of an image */
  int32_t *origin[2]; /* of each the first output's coordinate */
  int32_t window;     /* slices of it */
  int32_t slices;     /* outputs of a tile in the first dimension: 1 if the window has one slice */
  int64_t tiles;      /* of all images, and of their slices if each is by itself */
  int64_t block;      /* tiles that share a panel of weights from cache */
  int64_t blocks, parts; /* tasks: parts of the slices */
  int64_t step;          /* values of one transformed pixel */
  int64_t pairs;         /* of input channels */
  int16_t *weights;      /* [groups][panels][PTQ_PLACES][window][pairs][width][2] */
};

/* Set what the executor needs of a planned convolution. */
void ptq_winograd_run(ptq_node *node, const ptq_conv *c);

#endif
