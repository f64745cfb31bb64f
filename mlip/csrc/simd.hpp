// The three inner loops of the CPU search, compiled for several instruction sets; the loader picks one at run time.
//
// They work on whole blocks: arrays must be readable up to the next multiple of `block`.
#pragma once
#include <cstdint>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define MLIP_SIMD __attribute__((target_clones("default", "avx2", "avx512f"), noinline))
#else
#define MLIP_SIMD
#endif

namespace mlip {

constexpr int32_t block = 16;

struct Points {
  const float *x, *y, *z;
  int32_t count;
};

struct Box {
  float low[3], high[3];
};

// Number of points whose squared distance to the center is below `inner` and below `outer`. NaN fills the last block.
void count_within(Points points, const float* center, float inner, float outer, int32_t* n_inner, int32_t* n_outer);

// Points whose squared distance to the center is below `outer`: their numbers in `hits` (room for all), and how many.
int32_t find_within(Points points, const float* center, float outer, int32_t* hits);

// Points whose squared distance to the box is below `outer`: their numbers in `hits` (room for all), and how many.
int32_t find_near(Points points, const Box& box, float outer, int32_t* hits);

}  // namespace mlip
