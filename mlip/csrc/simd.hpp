// Functions marked MLIP_SIMD are compiled for several instruction sets; the loader picks one at run time.
#pragma once

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define MLIP_SIMD __attribute__((target_clones("default", "avx2", "avx512f"), noinline))
#else
#define MLIP_SIMD
#endif
