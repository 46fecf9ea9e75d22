/* ptq kernels: INT8 operators for quantized neural networks and an executor that runs whole models.
 *
 * A model is plain data (tensors, operators, constants). ptq_program_create checks it, packs its
 * weights for the instruction set of this machine and plans its memory; ptq_program_run runs it
 * with no allocation on the way. Every instruction set gives the same bytes as the scalar code.
 *
 * Tensors are dense and row-major. Convolutions and pools are channels-last: [N, spatial..., C]
 * with one to three spatial dimensions. Nothing here depends on anything but libc and pthreads.
 */
#ifndef PTQ_KERNELS_H
#define PTQ_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

enum { PTQ_MAX_RANK = 8 };

typedef enum {
  PTQ_OK = 0,
  PTQ_INVALID = 1,     /* shapes, types, attributes or offsets that contradict each other */
  PTQ_UNSUPPORTED = 2, /* well-formed, but not implemented */
  PTQ_NO_MEMORY = 3,
  PTQ_BAD_INDEX = 4 /* an index outside its axis or a region too large, found while running */
} ptq_status;

/* Instruction sets in the order of preference; a limit allows itself and everything before it. */
typedef enum {
  PTQ_ISA_SCALAR = 0,
  PTQ_ISA_AVX2 = 1,
  PTQ_ISA_AVXVNNI = 2,
  PTQ_ISA_AVX512VNNI = 3,
  PTQ_ISA_AMX = 4,
  PTQ_ISA_COUNT = 5
} ptq_isa;

typedef enum {
  PTQ_U8 = 0,
  PTQ_S8 = 1,
  PTQ_S16 = 2,
  PTQ_S32 = 3,
  PTQ_S64 = 4,
  PTQ_F32 = 5,
  PTQ_S4 = 6, /* constants only: two to a byte, the first in the low bits */
  PTQ_U4 = 7,
  PTQ_DTYPE_COUNT = 8
} ptq_dtype;

typedef enum {
  PTQ_TEMPORARY = 0,
  PTQ_INPUT = 1,
  PTQ_OUTPUT = 2,
  PTQ_CONSTANT = 3, /* data at `offset` in the model's data */
  PTQ_VIEW = 4,     /* the bytes of tensor number `offset` under another shape */
  PTQ_GRID = 5,     /* a scale and a zero point that an operator passes through; no storage */
  PTQ_ROLE_COUNT = 6
} ptq_role;

/* Rounding from the 32-bit accumulator to the output grid. */
typedef enum {
  PTQ_REQUANT_FLOAT = 0,   /* rint(float(acc) * float(m)), ties to even */
  PTQ_REQUANT_FIXED = 1,   /* 24-bit multiplier and shift, one rounding, ties up */
  PTQ_REQUANT_GEMMLOWP = 2 /* doubling high multiply, then rounding shift, ties away */
} ptq_requant;

typedef enum {
  PTQ_ACCUMULATE_S32 = 0,
  PTQ_ACCUMULATE_S16_PAIRS = 1 /* saturate each u8*s8 pair to 16 bits, as vpmaddubsw does */
} ptq_accumulate;

/* Operators. Inputs are listed in order, [x] may be -1; attributes follow after the colon.
 * Element types are U8 or S8 unless said otherwise; spatial attributes have one entry per
 * dimension. `lo, hi` clamp the result, in units of the output type. */
typedef enum {
  /* x, w [O, k..., C/groups] S8|S4|U4, w_scale F32 [1|O], [bias S32 O], conv_grid, [add_grid],
   * [residual], [table U8 256], [function] : spatial, groups, strides, dilations, pads_begin,
   * lo, hi, conv_lo, conv_hi.  x may be S16; y may be S32 (accumulator) or F32 (dequantized).
   * y = table[clamp(conv_grid -> add_grid with residual)], or function of the real sum */
  PTQ_CONV = 0,
  /* the same with w [O, k..., C/groups]; the output size is the output tensor's */
  PTQ_CONV_TRANSPOSE = 1,
  /* a [..., M, K], b [..., K, N], batches equal or 1 : lo, hi.  y may be S32 or F32. */
  PTQ_MATMUL = 2,
  /* x, w S8|S4|U4 [O, K], scale F32 [O, blocks], [zero_point S8 O, blocks], [bias F32 O]
   * : block, lo, hi.  One scale per block of K; y may be F32. */
  PTQ_BLOCK_GEMM = 3,
  /* x : spatial, kernel, strides, dilations, pads_begin */
  PTQ_MAX_POOL = 4,
  /* x : spatial, kernel, strides, dilations, pads_begin, pads_end, include_pad */
  PTQ_AVERAGE_POOL = 5,
  /* a, b broadcast as NumPy does : lo, hi.  S16 as well. */
  PTQ_ADD = 6,
  PTQ_SUB = 7,
  PTQ_MUL = 8,
  /* x..., of any grid, or all of another type : axis */
  PTQ_CONCAT = 9,
  /* x, table U8 [256] or [C, 256] with C the last dimension of x */
  PTQ_LUT = 10,
  /* x, of 8 bits or F32 as y : over the last axis */
  PTQ_SOFTMAX = 11,
  /* x, tables S32 : spatial, linear.  Per spatial dimension of n outputs: n low indices, n high
   * indices, n weights of the high one in units of 1/2048. Linear ones of up to two dimensions may
   * give y F32 [N, C, spatial...]. */
  PTQ_RESIZE = 12,
  /* x of any type : n, src_offset, dst_offset, fill, dims[n], src_strides[n], dst_strides[n].
   * Transpose, Slice, Split, Pad, DepthToSpace, Expand: y[dst] = x[src], elsewhere fill. */
  PTQ_COPY = 13,
  /* x of any type, indices S64 : axis */
  PTQ_GATHER = 14,
  /* x : outer, count, inner; mean over the middle one.  lo, hi.  y may be F32. */
  PTQ_REDUCE_MEAN = 15,
  /* x : outer, count, inner, last -> S64 */
  PTQ_ARG_MAX = 16,
  /* x F32 [outer, channels, inner] -> U8|S8|S16 [outer, inner, channels] : outer, channels,
   * inner (channels = 1 keeps the order) */
  PTQ_QUANTIZE = 17,
  /* x U8|S8|S16|S32 [outer, inner, channels] -> F32 [outer, channels, inner] : the same */
  PTQ_DEQUANTIZE = 18,
  /* x F32, function F32 [3] (a ptq_function, a, b) : lo, hi.  y, of 8 bits or F32, is
   * the function's value */
  PTQ_FUNCTION = 19,
  /* x, regions F32 [N, 4] (x and y of two corners), batch S64 [N], spatial_scale F32 [1],
   * [count S64 [1]] : sampling_ratio, half_pixel, largest.  y F32 [N, C, h, w], channels first
   * as ONNX has it; rows from the count on are 0. */
  PTQ_ROI_ALIGN = 20,
  PTQ_KIND_COUNT = 21
} ptq_kind;

/* Functions of a real x, computed in float before the only rounding. */
typedef enum {
  PTQ_HARD_SIGMOID = 0, /* clamp(a x + b, 0, 1) */
  PTQ_HARD_SWISH = 1,   /* x clamp(a x + b, 0, 1) */
  PTQ_LEAKY_RELU = 2,   /* a x below 0, x above */
  PTQ_ELU = 3,          /* a (exp(x) - 1) below 0, x above */
  PTQ_SIGMOID = 4,
  PTQ_SWISH = 5, /* x sigmoid(a x) */
  PTQ_TANH = 6,
  PTQ_GELU = 7,      /* x (1 + erf(x / sqrt 2)) / 2 */
  PTQ_GELU_TANH = 8, /* its approximation by tanh */
  PTQ_FUNCTION_COUNT = 9
} ptq_function_kind;

typedef struct {
  int32_t dtype; /* ptq_dtype */
  int32_t role;  /* ptq_role */
  int32_t rank;
  int32_t zero_point;
  int32_t dims[8];
  float scale;
  int32_t reserved;
  int64_t offset;
} ptq_tensor;

typedef struct {
  int32_t kind; /* ptq_kind */
  int32_t inputs, outputs, attributes;
  int32_t first; /* in `ints`: the inputs' tensor numbers, the outputs', the attributes */
} ptq_op;

typedef struct {
  const ptq_tensor *tensors;
  const ptq_op *ops;
  const int32_t *ints;
  const uint8_t *data;
  int64_t data_size;
  int32_t tensor_count, op_count, int_count;
} ptq_model;

typedef struct {
  int32_t isa;        /* upper limit; the best one at or below it that this machine has is used */
  int32_t threads;    /* 1 to 64 */
  int32_t requantize; /* ptq_requant */
  int32_t accumulate; /* ptq_accumulate */
} ptq_options;

typedef struct {
  int32_t op; /* number of the operator at fault, -1 if none */
  char message[156];
} ptq_error;

typedef struct {
  int64_t arena_bytes;    /* temporaries of one run */
  int64_t live_bytes;     /* the largest set of temporaries alive at one time */
  int64_t constant_bytes; /* packed weights and tables */
  int32_t isa;            /* in use */
  int32_t threads;
} ptq_info;

typedef struct ptq_program ptq_program;

/* The best instruction set of this machine, and its name ("scalar", "avx2", ...; NULL if none). */
int32_t ptq_best_isa(void);
const char *ptq_isa_name(int32_t isa);

/* Read a serialized model in place: `model` then points into `bytes`, which must be aligned to 8.
 */
ptq_status ptq_model_parse(const void *bytes, size_t size, ptq_model *model, ptq_error *error);

/* Check, pack and plan. The model's memory is not needed afterwards. */
ptq_status ptq_program_create(const ptq_model *model, const ptq_options *options,
                              ptq_program **program, ptq_error *error);
void ptq_program_free(ptq_program *program);
void ptq_program_info(const ptq_program *program, ptq_info *info);

/* Multiply-accumulates of one operator, and the name of the kernel chosen for it. */
double ptq_program_work(const ptq_program *program, int32_t op);
const char *ptq_program_kernel(const ptq_program *program, int32_t op);

/* Run once. Inputs and outputs in the order of their tensors, dense. May be called from several
 * threads at a time. `nanoseconds`, if given, receives the time of each operator. */
ptq_status ptq_program_run(ptq_program *program, const void *const *inputs, void *const *outputs,
                           int64_t *nanoseconds, ptq_error *error);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
