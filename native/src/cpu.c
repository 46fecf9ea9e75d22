/* Which instruction sets this machine and its operating system allow. */
#include "internal.h"

#ifdef PTQ_EMULATE
int32_t ptq_best_isa(void) { return PTQ_ISA_AMX; }
bool ptq_have_vbmi(void) { return true; }
bool ptq_have_isa(int32_t isa) { return isa <= PTQ_ISA_AMX; }
#elif PTQ_X86
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

static uint64_t enabled_state(void) {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

/* Tile registers are handed out per process on request. */
static bool tiles_permitted(void) {
#if defined(__linux__) && defined(SYS_arch_prctl)
  enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
  return false;
#endif
}

typedef struct {
  ptq_isa best;
  bool vbmi;
} machine;

static machine detect(void) {
  enum { OSXSAVE = 1 << 27, AVX = 1 << 28 };                       /* leaf 1, ecx */
  enum { AVX2 = 1 << 5, F = 1 << 16, DQ = 1 << 17, BW = 1 << 30 }; /* leaf 7, ebx */
  enum { VBMI = 1 << 1, VNNI512 = 1 << 11 };                       /* leaf 7, ecx */
  enum { TILE = 1 << 24, TILE_INT8 = 1 << 25 };                    /* leaf 7, edx */
  enum { VNNI256 = 1 << 4 };                                       /* leaf 7.1, eax */
  const uint64_t ymm = 0x6, zmm = 0xe6, tiles = 0x60000;           /* XCR0 */
  machine m = {PTQ_ISA_SCALAR, false};
  uint32_t a, b, c, d, leaf1, ignored;
  if (!__get_cpuid(1, &a, &b, &leaf1, &d) || !(leaf1 & OSXSAVE) || !(leaf1 & AVX)) return m;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return m;
  uint64_t state = enabled_state();
  if ((state & ymm) != ymm || !(b & AVX2)) return m;
  m.best = PTQ_ISA_AVX2;
  uint32_t vnni256 = 0;
  if (a >= 1) __get_cpuid_count(7, 1, &vnni256, &ignored, &ignored, &ignored);
  if (vnni256 & VNNI256) m.best = PTQ_ISA_AVXVNNI;
  bool vl = b >> 31 & 1;
  if ((state & zmm) != zmm || !(b & F) || !(b & DQ) || !(b & BW) || !vl || !(c & VNNI512)) return m;
  m.best = PTQ_ISA_AVX512VNNI;
  m.vbmi = c & VBMI;
  if ((state & tiles) == tiles && (d & TILE) && (d & TILE_INT8) && tiles_permitted())
    m.best = PTQ_ISA_AMX;
  return m;
}

int32_t ptq_best_isa(void) { return detect().best; }
bool ptq_have_vbmi(void) { return detect().vbmi; }

bool ptq_have_isa(int32_t isa) {
  /* The order is one of preference, not of inclusion: AVX-VNNI may be absent below AVX-512. */
  if (isa != PTQ_ISA_AVXVNNI) return isa <= (int32_t)detect().best;
  uint32_t a, b, c, d;
  return detect().best >= PTQ_ISA_AVXVNNI && __get_cpuid_count(7, 0, &a, &b, &c, &d) && a >= 1 &&
         __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#else
int32_t ptq_best_isa(void) { return PTQ_ISA_SCALAR; }
bool ptq_have_vbmi(void) { return false; }
bool ptq_have_isa(int32_t isa) { return isa == PTQ_ISA_SCALAR; }
#endif

const char *ptq_isa_name(int32_t isa) {
  static const char *const names[PTQ_ISA_COUNT] = {"scalar", "avx2", "avxvnni", "avx512vnni",
                                                   "amx"};
  return isa >= 0 && isa < PTQ_ISA_COUNT ? names[isa] : NULL;
}
