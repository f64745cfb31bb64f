// Arithmetic of one thread with subnormal numbers taken as zero.
//
// Weight decay leaves weights such as 1e-310 in trained models (hundreds of thousands in MACE-MP-0a small). On Intel's
// processors each operation on one of them costs some hundred cycles, which made whole evaluations twenty times slower.
#pragma once
#include <cstdint>

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace mlip {

// While it lives; the thread's own mode comes back after it.
class SubnormalsAreZero {
 public:
  SubnormalsAreZero() : saved_(mode()) { set_mode(saved_ | bits); }
  ~SubnormalsAreZero() { set_mode(saved_); }
  SubnormalsAreZero(const SubnormalsAreZero&) = delete;
  SubnormalsAreZero& operator=(const SubnormalsAreZero&) = delete;

 private:
#if defined(__SSE2__)
  static constexpr uint64_t bits = 0x8040;  // MXCSR: flush to zero, denormals are zero
  static uint64_t mode() { return _mm_getcsr(); }
  static void set_mode(uint64_t mode) { _mm_setcsr(static_cast<unsigned>(mode)); }
#elif defined(__aarch64__)
  static constexpr uint64_t bits = uint64_t(1) << 24;  // FPCR: FZ
  static uint64_t mode() {
    uint64_t mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void set_mode(uint64_t mode) { asm volatile("msr fpcr, %0" ::"r"(mode)); }
#else
  static constexpr uint64_t bits = 0;
  static uint64_t mode() { return 0; }
  static void set_mode(uint64_t) {}
#endif

  const uint64_t saved_;
};

}  // namespace mlip
