/* Simple loops are written once, in C that compilers vectorize, and compiled for each instruction
 * set: `name##_body` must be PTQ_INLINE. Integer arithmetic and single IEEE operations give the
 * same bytes in every version (the build passes -ffp-contract=off). */
#ifndef PTQ_VERSIONS_H
#define PTQ_VERSIONS_H

#include "internal.h"

#if PTQ_X86
#define PTQ_VERSIONS(name, parameters, arguments) \
  static void name##_base parameters { name##_body arguments; } \
  PTQ_AVX2 static void name##_avx2 parameters { name##_body arguments; } \
  PTQ_AVX512 static void name##_avx512 parameters { name##_body arguments; }
#define PTQ_SELECT(build, name) \
  ((build)->isa >= PTQ_ISA_AVX512VNNI ? name##_avx512 \
   : (build)->isa >= PTQ_ISA_AVX2     ? name##_avx2 \
                                      : name##_base)
#else
#define PTQ_VERSIONS(name, parameters, arguments) \
  static void name##_base parameters { name##_body arguments; }
#define PTQ_SELECT(build, name) ((void)(build), name##_base)
#endif

#endif
