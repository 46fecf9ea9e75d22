/* What the operators and the executor share. Not installed. */
#ifndef PTQ_INTERNAL_H
#define PTQ_INTERNAL_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "ptq/kernels.h"

/* PTQ_PORTABLE builds what other machines get. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(PTQ_PORTABLE)
#define PTQ_X86 1
#ifndef PTQ_TARGET /* tests compile everything for one target and emulate what it lacks */
#define PTQ_TARGET(features) __attribute__((target(features)))
#endif
#define PTQ_AVX2   PTQ_TARGET("avx2")
#define PTQ_AVX512 PTQ_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
#else
#define PTQ_X86 0
#endif

#define PTQ_INLINE static inline __attribute__((always_inline))

/* 8-bit kernels may read (never write) this many bytes past the end of an activation. */
enum { PTQ_SLACK = 64, PTQ_ALIGN = 64, PTQ_MAX_OPERANDS = 512 };

/* Inside the library every 8-bit activation is unsigned: adding 128 to a signed value and to its
 * zero point names the same real number, so S8 tensors are converted where they enter and leave
 * (`flip`) and the kernels know one type only. */
typedef struct {
  int32_t dtype, role, rank, zero_point;
  int32_t dims[PTQ_MAX_RANK];
  float scale;
  bool flip;           /* the model says S8; dtype and zero_point are already those of U8 */
  bool keep;           /* a constant that is read while running */
  int32_t base;        /* the tensor that owns the storage, itself unless a view */
  int64_t count;       /* elements */
  size_t bytes;        /* count in bytes, without slack */
  const uint8_t *data; /* of a constant */
  size_t offset;       /* in the arena */
} ptq_value;

typedef struct ptq_node ptq_node;

/* Tasks [begin, end) of an operator; in and out follow the operator's operands. */
typedef ptq_status ptq_run_fn(const ptq_node *node, const uint8_t *const *in, uint8_t *const *out,
                              int64_t begin, int64_t end, uint8_t *scratch);

struct ptq_node {
  int32_t kind, input_count, output_count, attr_count;
  ptq_value **in; /* NULL where absent */
  ptq_value **out;
  const int32_t *attr;
  /* set by prepare */
  ptq_run_fn *run;
  void *state;        /* one block, released with free() */
  size_t state_bytes; /* of it and of what it owns, where that is more than a few words */
  void (*release)(void *state);
  const char *kernel;
  double work;    /* multiply-accumulates, or bytes / 8 for what only moves data */
  int64_t tasks;  /* units that threads share out */
  size_t scratch; /* bytes per thread */
};

typedef struct {
  ptq_isa isa;
  bool vbmi;
  ptq_requant requant;
  ptq_accumulate accumulate;
  int32_t threads;
  int32_t op; /* being prepared */
  ptq_error *error;
} ptq_build;

/* Record why a model is refused; returns `status`. */
ptq_status ptq_fail(const ptq_build *build, ptq_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define PTQ_REQUIRE(condition, ...) \
  do { \
    if (!(condition)) return ptq_fail(build, PTQ_INVALID, __VA_ARGS__); \
  } while (0)

typedef ptq_status ptq_prepare_fn(const ptq_build *build, ptq_node *node);
ptq_prepare_fn ptq_prepare_conv, ptq_prepare_matmul, ptq_prepare_block_gemm, ptq_prepare_pool,
    ptq_prepare_binary, ptq_prepare_concat, ptq_prepare_lut, ptq_prepare_softmax,
    ptq_prepare_resize, ptq_prepare_copy, ptq_prepare_gather, ptq_prepare_reduce_mean,
    ptq_prepare_arg_max, ptq_prepare_quantize, ptq_prepare_dequantize, ptq_prepare_function,
    ptq_prepare_roi_align;

bool ptq_have_vbmi(void);
bool ptq_have_isa(int32_t isa);

/* Zeroed, aligned to PTQ_ALIGN, released with free(); NULL when there is no memory. */
void *ptq_alloc(size_t bytes);

/* A thread pool of `threads - 1` workers; run() returns when every task is done. */
typedef struct ptq_pool ptq_pool;
typedef void ptq_job(void *context, int thread);
ptq_pool *ptq_pool_create(int threads);
void ptq_pool_free(ptq_pool *pool);
bool ptq_pool_try(ptq_pool *pool); /* claim it for one run */
void ptq_pool_release(ptq_pool *pool);
void ptq_pool_run(ptq_pool *pool, ptq_job *job, void *context);

/* Arena offsets for `count` buffers alive in [first, last]; returns the arena's size, and the
 * largest live set. SIZE_MAX when there is no memory. */
typedef struct {
  size_t bytes, offset;
  int32_t first, last;
} ptq_lifetime;
size_t ptq_plan_arena(ptq_lifetime *buffers, int32_t count, int32_t steps, size_t *live);

PTQ_INLINE size_t ptq_round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }
PTQ_INLINE int64_t ptq_min(int64_t a, int64_t b) { return a < b ? a : b; }
PTQ_INLINE int64_t ptq_max(int64_t a, int64_t b) { return a > b ? a : b; }

size_t ptq_dtype_bytes(int32_t dtype); /* 0 for 4-bit types */

/* The attributes `lo, hi` of a grid, relative to its zero point. Types without limits are let be.
 */
ptq_status ptq_read_limits(const ptq_build *build, const int32_t attr[2], const ptq_value *grid,
                           int32_t *lo, int32_t *hi);
bool ptq_same_dims(const ptq_value *a, const ptq_value *b);

#endif
