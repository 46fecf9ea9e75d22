/* Gemm 1024 x 1024 x 1024 beside what the processor's dot-product instruction can do, in one run:
 *   bench_gemm [seconds]
 * Times are the best of many, so that a busy machine does not blur the comparison. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ptq/kernels.h"

enum { N = 1024 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#if defined(__x86_64__)
#include <immintrin.h>

/* Twenty-four independent accumulators, operands in registers: GOP/s of vpdpbusd itself. */
__attribute__((target("avx512f,avx512vnni"))) static double vnni_peak(double seconds) {
  enum { CHAINS = 24, ROUNDS = 20000 };
  __m512i acc[CHAINS], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
#pragma GCC unroll 24
  for (int i = 0; i < CHAINS; i++) acc[i] = _mm512_setzero_si512();
  double best = 0, end = now() + seconds;
  do {
    double start = now();
    for (int r = 0; r < ROUNDS; r++) {
#pragma GCC unroll 24
      for (int i = 0; i < CHAINS; i++)
        __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(acc[i]) : "v"(a), "v"(b));
    }
    double rate = 2.0 * 64 * CHAINS * ROUNDS / (now() - start) * 1e-9;
    if (rate > best) best = rate;
  } while (now() < end);
  __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 24
  for (int i = 0; i < CHAINS; i++) sum = _mm512_add_epi32(sum, acc[i]);
  volatile int32_t keep = _mm512_reduce_add_epi32(sum);
  (void)keep;
  return best;
}
#else
static double vnni_peak(double seconds) { return 0 * seconds; }
#endif

/* 0 where this machine has no such instruction set. */
static double gemm(int32_t isa, double seconds) {
  static uint8_t data[(size_t)N * N + 8 * N];
  static uint8_t x[(size_t)N * N], y[(size_t)N * N];
  for (size_t i = 0; i < sizeof x; i++) x[i] = (uint8_t)(i * 2654435761u >> 13);
  for (size_t i = 0; i < (size_t)N * N; i++) data[i] = (uint8_t)(i * 2246822519u >> 11);
  const float scale = 1.0f;
  memcpy(data + (size_t)N * N, &scale, sizeof scale);
  const ptq_tensor tensors[] = {
      {.dtype = PTQ_U8, .role = PTQ_INPUT, .rank = 3, .dims = {1, N, N}, .scale = 1},
      {.dtype = PTQ_S8, .role = PTQ_CONSTANT, .rank = 3, .dims = {N, 1, N}, .scale = 1},
      {.dtype = PTQ_F32,
       .role = PTQ_CONSTANT,
       .rank = 1,
       .dims = {1},
       .scale = 1,
       .offset = (int64_t)N * N},
      {.dtype = PTQ_U8, .role = PTQ_GRID, .scale = 1e5f, .zero_point = 128},
      {.dtype = PTQ_U8,
       .role = PTQ_OUTPUT,
       .rank = 3,
       .dims = {1, N, N},
       .scale = 1e5f,
       .zero_point = 128},
  };
  const int32_t ints[] = {0, 1, 2, -1, 3, -1, -1, -1, 4, 1, 1, 1, 1, 0, 0, 255, 0, 255};
  const ptq_op op = {.kind = PTQ_CONV, .inputs = 8, .outputs = 1, .attributes = 9};
  const ptq_model model = {tensors, &op, ints, data, sizeof data, 5, 1, 18};
  const ptq_options options = {.isa = isa, .threads = 1};
  const void *inputs[] = {x};
  void *outputs[] = {y};
  ptq_program *program;
  ptq_error error;
  if (ptq_program_create(&model, &options, &program, &error) != PTQ_OK) {
    printf("%s\n", error.message);
    exit(1);
  }
  ptq_info info;
  ptq_program_info(program, &info);
  if (info.isa != isa) seconds = 0;
  int64_t best = INT64_MAX, nanoseconds;
  for (double end = now() + seconds; now() < end;) {
    ptq_program_run(program, inputs, outputs, &nanoseconds, &error);
    if (nanoseconds < best) best = nanoseconds;
  }
  ptq_program_free(program);
  return seconds > 0 ? 2.0 * N * N * N / (double)best : 0;
}

int main(int argc, char **argv) {
  double seconds = argc > 1 ? atof(argv[1]) : 1;
  double peak = ptq_best_isa() >= PTQ_ISA_AVX512VNNI ? vnni_peak(seconds) : 0;
  if (peak > 0) printf("vpdpbusd, 512 bits: %.0f GOP/s\n", peak);
  for (int32_t isa = PTQ_ISA_AVX2; isa <= ptq_best_isa(); isa++) {
    double rate = gemm(isa, seconds);
    if (rate == 0) continue;
    printf("Gemm 1024^3, %s: %.0f GOP/s", ptq_isa_name(isa), rate);
    if (isa == PTQ_ISA_AVX512VNNI && peak > 0) printf(" = %.0f %% of the peak", 100 * rate / peak);
    printf("\n");
  }
  return 0;
}
