/* Convolution as GEMM over pointers: for every output pixel and kernel tap a pointer to the input
 * pixel's channels (or to a row of zero points where the tap falls on padding). Gemm, 1x1 and
 * general convolutions, their transposes, groups and one to three dimensions are all this.
 *
 * Packed weights: panels of `width` output channels, each [taps][k / 4][width][4], so that one
 * step of a kernel reads `width` groups of four input channels in a row. */
#ifndef PTQ_CONV_H
#define PTQ_CONV_H

#include "function.h"
#include "lut.h"
#include "requant.h"

enum {
  PTQ_MAX_BLOCK_ROWS = 32,
  PTQ_MAX_WIDTH = 64,
  PTQ_SUMS_WIDTH = 32,
  PTQ_ROUND_PAIRS = 5,
  PTQ_LONG_SUM = 6,
  PTQ_SUM_LANES = 32
};

typedef struct {
  int32_t kernel[3], stride[3], dilation[3], pad[3];
} ptq_window;

typedef struct {
  int32_t first;     /* first channel within the group */
  int32_t at;        /* where kernels store it: as `first`, or 0 if a function reads it first */
  int32_t valid;     /* channels that exist */
  int32_t width;     /* channels with padding */
  int64_t weights;   /* offset within the group's packed weights */
  int64_t parameter; /* offset within the group's bias and multipliers */
} ptq_panel;

/* The steps of one tap in one panel, in the order of their packed weights: so many sums of
 * PTQ_LONG_SUM steps, of two (`pairs`) and of one (`singles`) that stay within 16 bits for all
 * inputs, and steps that may leave them (`wide`). Long sums have starts, from row `start` on. */
typedef struct {
  int32_t longs, pairs, singles, wide;
  int64_t start;
} ptq_run;

/* The taps of one panel of a depthwise layer, gathered into sums of 16 bits (depthwise_sums.c). A
 * round is five pairs of taps, in two sums of three and two or in five. */
typedef struct {
  int32_t rounds;
  bool single;     /* one pair in each sum */
  int32_t *taps;   /* two for each pair */
  int8_t *weights; /* [pairs][PTQ_SUMS_WIDTH][2] */
  int16_t *start;  /* [rounds][2][PTQ_SUMS_WIDTH] unless single, taken off the bias */
} ptq_sums;

/* Output pixels that see the same taps: all of them in a convolution, one residue class of the
 * stride in a transposed one. Input coordinate = position * in_step + tap. */
typedef struct {
  int32_t taps;
  int32_t (*tap)[3];
  int32_t *place;          /* of each tap among the weights' taps; -1 for one without weights */
  int64_t *offset;         /* of each tap in bytes, for positions whose taps all exist */
  int32_t low[3], high[3]; /* those positions' input coordinates */
  int32_t count[3];        /* positions per spatial dimension */
  int32_t in_step[3], out_step[3], out_first[3];
  int64_t rows;    /* positions of the whole batch */
  int8_t *weights; /* [groups][group_weights] */
  ptq_run *runs;   /* [groups][panels][taps], for kernels that sum in 16 bits */
  int32_t *places; /* [groups][panels][taps][steps]: which input bytes each packed step reads */
  int16_t *starts; /* [sum_count][PTQ_SUM_LANES], taken off the bias */
  int64_t sum_count;
  ptq_sums *sums;  /* [panels] of depthwise layers, likewise */
  int32_t *bias;   /* [groups][group_parameters]: bias - x zero point * sum of weights */
  int32_t *padded; /* [groups][taps][group_parameters]: what a tap on padding adds; NULL if 0 */
} ptq_phase;

/* A part of a phase's positions: `count` per spatial dimension from `first` on, all images. */
typedef struct {
  const ptq_phase *phase;
  int32_t first[3], count[3];
  int64_t rows, chunks; /* positions; tasks' shares of them */
} ptq_box;

typedef struct {
  ptq_requant mode;
  int32_t dtype; /* kernels store: U8 through the rounding, S16 likewise, S32 sums, F32 reals */
  int32_t zero, lo, hi; /* of the convolution's own grid; limits relative to zero */
  bool add;
  ptq_adder adder;
  int32_t add_zero, add_lo, add_hi, residual_zero;
  bool has_table;
  uint8_t table[256];
  ptq_lut_fn *lookup; /* for the table */
  bool has_function;
  ptq_function function; /* of the reals, panel by panel */
  bool direct;           /* F32, S32, or U8 and float rounding: vector kernels do it in registers */
} ptq_epilogue;

typedef struct ptq_conv ptq_conv;
typedef struct ptq_winograd ptq_winograd;
typedef struct ptq_winograd_kernels ptq_winograd_kernels;

/* to[i] = from + i * step; and to[i] = from + at[i] * step. */
typedef void ptq_evenly_fn(const uint8_t **to, const uint8_t *from, int64_t step, int64_t n);
typedef void ptq_places_fn(const uint8_t **to, const uint8_t *from, const int64_t *at, int64_t step,
                           int64_t n);

/* Compute and store one panel of `count` <= block_rows pixels. rows[tap * block_rows + i] points
 * at pixel i's channels, y[i] at its first output channel of the group, r[i] at the residual's. */
typedef void ptq_conv_kernel(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                             int32_t group, const uint8_t *const *rows, int32_t count,
                             uint8_t *const *y, const uint8_t *const *r);

/* Compute and store one panel of `count` neighbouring pixels: tap t of pixel i is at
 * taps[t] + i * step, its results at y + i * out_channels, the residual likewise. Taps are the
 * phase's, or those that the panel's `sums` ask for. */
typedef void ptq_depthwise_kernel(const ptq_conv *c, const ptq_phase *p, const ptq_panel *panel,
                                  const uint8_t *const *taps, int64_t step, int32_t count,
                                  uint8_t *y, const uint8_t *r);

struct ptq_conv {
  ptq_window window;
  int32_t in_dims[3], out_dims[3];
  int32_t batch, groups, in_channels, out_channels; /* channels of all groups together */
  int32_t group_in, group_out;
  int32_t k;                      /* input values per tap, group_in unless taps are merged */
  int32_t steps;                  /* k / 4, rounded up */
  size_t in_element, out_element; /* of what kernels load and store */
  int32_t weight_zero, in_zero;
  bool pointwise; /* output pixel i reads input pixel i alone */
  bool columns;   /* depthwise with three rows: taps go column by column, four to each */
  bool depthwise; /* then groups = 1 here, and weights are [taps / 4][width][4 taps] */
  ptq_accumulate accumulate;
  int32_t lanes;   /* 32-bit lanes of a vector */
  int32_t vectors; /* of the widest panel */
  bool short_sums; /* the kernel sums in 16 bits where that is exact: `runs`, `sums` */
  int32_t block_rows;
  ptq_conv_kernel *kernel;
  ptq_depthwise_kernel *depthwise_kernel;
  const ptq_winograd_kernels *winograd_kernels; /* NULL if there are none */
  ptq_winograd *winograd;                       /* NULL unless it is computed so */
  ptq_evenly_fn *evenly;
  ptq_places_fn *places;
  int32_t panel_count;
  ptq_panel *panels;
  int64_t group_weights, group_parameters;
  float *real; /* [groups][group_parameters] multipliers, in the order of the panels */
  ptq_multiplier *multiplier;
  uint8_t *padding; /* one pixel of zero points */
  ptq_phase
      *gathered; /* the taps whose inputs are copied side by side, then one tap to the kernel */
  size_t gathered_bytes; /* of each */
  ptq_epilogue epilogue;
  int32_t phase_count;
  ptq_phase *phases;
  int32_t box_count;
  ptq_box *boxes; /* all phases' positions */
  int64_t chunk_rows, panel_chunks;
};

/* Which channel of a panel sits at `position` of its packed order. Vector instructions that narrow
 * 32 -> 16 -> 8 bits work within 128-bit lanes; with this order their result comes out sorted. */
PTQ_INLINE int32_t ptq_panel_channel(int32_t width, int32_t lanes, int32_t position) {
  int32_t vectors = width / lanes, v = position / lanes, e = position % lanes;
  return e / 4 * (4 * vectors) + v * 4 + e % 4;
}

/* Whether a tap falls on padding for all of these pixels: then its sums are known. */
PTQ_INLINE bool ptq_skips_tap(const ptq_conv *c, const uint8_t *const *rows, int32_t count) {
  if (rows[0] != c->padding) return false;
  for (int32_t i = 1; i < count; i++)
    if (rows[i] != c->padding) return false;
  return true;
}

/* Those sums for a panel's channels; NULL if they are zeros. */
PTQ_INLINE const int32_t *ptq_skipped_sums(const ptq_conv *c, const ptq_phase *p, int32_t group,
                                           int64_t parameter, int32_t tap) {
  if (!p->padded) return NULL;
  return p->padded + ((int64_t)group * p->taps + tap) * c->group_parameters + parameter;
}

/* The epilogue of one pixel in plain C, for every rounding and type; acc in packed order, y and r
 * at the group's first channel. */
void ptq_store_row(const ptq_conv *c, const int32_t *bias, const ptq_multiplier *m,
                   const ptq_panel *panel, const int32_t *acc, uint8_t *y, const uint8_t *r);

ptq_status ptq_conv_geometry(const ptq_build *build, const ptq_node *node, ptq_conv *c);
const char *ptq_conv_choose(const ptq_build *build, ptq_conv *c);
void ptq_conv_fillers(const ptq_build *build, ptq_conv *c);
ptq_status ptq_conv_panels(const ptq_build *build, ptq_conv *c, int64_t per_channel);
ptq_status ptq_conv_runs(const ptq_build *build, ptq_conv *c, ptq_phase *p);
ptq_status ptq_depthwise_sums(const ptq_build *build, const ptq_conv *c, ptq_phase *p);
ptq_status ptq_conv_check(const ptq_build *build, const ptq_node *node, const ptq_conv *c);
int32_t ptq_conv_weight(const ptq_value *w, int64_t index);
ptq_status ptq_conv_pack(const ptq_build *build, const ptq_node *node, ptq_conv *c);
ptq_status ptq_conv_gather(const ptq_build *build, ptq_conv *c);
ptq_status ptq_conv_epilogue(const ptq_build *build, const ptq_node *node, ptq_conv *c);
ptq_status ptq_conv_boxes(const ptq_build *build, ptq_conv *c);
void ptq_conv_pointers(const ptq_conv *c, const ptq_box *box, int32_t group, int64_t row,
                       int32_t count, const uint8_t *x, const uint8_t **rows, int64_t *pixels);

ptq_status ptq_winograd_choose(const ptq_build *build, const ptq_node *node, ptq_conv *c);
ptq_status ptq_winograd_prepare(const ptq_build *build, ptq_node *node, ptq_conv *c);
void ptq_winograd_release(ptq_winograd *g);

size_t ptq_depthwise_padding(const ptq_conv *c); /* bytes of zero points that it reads */
void ptq_depthwise_plan(ptq_node *node, const ptq_conv *c);

ptq_conv_kernel ptq_conv_scalar, ptq_conv_scalar_s16;
ptq_depthwise_kernel ptq_depthwise_scalar;
#if PTQ_X86
ptq_conv_kernel ptq_conv_avx2, ptq_conv_avxvnni, ptq_conv_avx512vnni, ptq_conv_amx;
ptq_depthwise_kernel ptq_depthwise_avx2, ptq_depthwise_avxvnni, ptq_depthwise_avx512vl,
    ptq_depthwise_avx512vnni;
extern const ptq_winograd_kernels ptq_winograd_avx2, ptq_winograd_avxvnni, ptq_winograd_avx512vnni;
#endif

#endif
