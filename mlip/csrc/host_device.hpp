// Functions that CPU and CUDA share.
#pragma once

// Inlined always: files compiled for different instruction sets must not share a copy.
#if defined(__CUDACC__)
#define MLIP_HOST_DEVICE __host__ __device__ inline
#elif defined(__GNUC__)
#define MLIP_HOST_DEVICE __attribute__((always_inline)) inline
#else
#define MLIP_HOST_DEVICE inline
#endif
