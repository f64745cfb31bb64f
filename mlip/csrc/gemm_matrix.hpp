// Matrices that rows of channels are multiplied with, each in the form that is best for the number of rows.
#pragma once
#include <algorithm>

#include "gemm.hpp"
#include "memory.hpp"

namespace mlip {

// Rows that one call of a kernel takes, so that they stay in the cache; also the unit of work of a thread.
constexpr int64_t rows_at_once = 96;

// Whether so many multiply-adds are worth the start of threads.
inline bool worth_threads(int64_t work) { return work > 4'000'000; }

// B (k, n), or the transposed of the matrix (n, k) that is given. The matrix must outlive this.
template <class Real>
class Matrix {
 public:
  Matrix(const Real* data, int64_t k, int64_t n, bool transposed, int64_t rows)
      : data_(data), k_(k), n_(n), transposed_(transposed) {
    const bool few = transposed ? k % gemm_.lanes == 0 && rows < 24 : n % gemm_.lanes == 0 && rows < 2 * rows_at_once;
    if (few) return;
    Real* packed = packed_.reset(packed_size<Real>(k, n));
    if (transposed)
      gemm_.pack_transposed(data, k, n, k, packed);
    else
      gemm_.pack(data, k, n, n, 1, packed);
  }

  // C (m, n) = A (m, k) B, added to C if asked for.
  void multiply(int64_t m, const Real* a, Real* c, bool add) const {
    if (packed_.data())
      gemm_.multiply(m, n_, k_, a, k_, 1, packed_.data(), c, n_, add);
    else if (transposed_)
      gemm_.multiply_transposed(m, n_, k_, a, k_, data_, k_, c, n_, add);
    else
      gemm_.multiply_direct(m, n_, k_, a, k_, 1, data_, n_, c, n_, add);
  }

 private:
  const GemmKernels<Real>& gemm_ = gemm_kernels<Real>();
  const Real* data_;
  int64_t k_, n_;
  bool transposed_;
  Buffer<Real> packed_;
};

// Rows that are added up at once in products A^T B: more, since C comes and goes each time.
constexpr int64_t rows_of_sum = 256;

// A part of a matrix.
struct Part {
  int64_t row, end_row, column, end_column;
};

// C (k, n) = A^T B of A (m, k) and B (m, n), m <= rows_of_sum; added to C if asked for. Only a part of C, with all columns
// where n is not a whole number of vectors.
template <class Real>
class TransposedProduct {
 public:
  TransposedProduct(int64_t k, int64_t n, const Part& part) : k_(k), n_(n), part_(part) {
    if (n % gemm_.lanes) packed_.reset(packed_size<Real>(rows_of_sum, n));
  }

  void operator()(int64_t m, const Real* a, const Real* b, Real* c, bool add) {
    const int64_t rows = part_.end_row - part_.row, columns = part_.end_column - part_.column;
    a += part_.row, b += part_.column, c += part_.row * n_ + part_.column;
    if (!packed_.data()) return gemm_.multiply_direct(rows, columns, m, a, 1, k_, b, n_, c, n_, add);
    gemm_.pack(b, m, n_, n_, 1, packed_.data());
    gemm_.multiply(rows, n_, m, a, 1, k_, packed_.data(), c, n_, add);
  }

 private:
  const GemmKernels<Real>& gemm_ = gemm_kernels<Real>();
  int64_t k_, n_;
  Part part_;
  Buffer<Real> packed_;
};

// Parts [first, last) of `parts` of C (k, n), so that a thread reads little of A and B: whole panels of the kernels.
template <class Real>
Part part_of(int64_t k, int64_t n, int64_t first, int64_t last, int64_t parts) {
  const bool by_column = n > k && n % gemm_kernels<Real>().lanes == 0;
  const int64_t size = by_column ? n : k, panel = by_column ? 4 * gemm_kernels<Real>().lanes : 12;
  const auto begin_of = [&](int64_t part) { return std::min(size, (size + panel - 1) / panel * part / parts * panel); };
  const int64_t begin = begin_of(first), end = begin_of(last);
  return by_column ? Part{0, k, begin, end} : Part{begin, end, 0, n};
}

}  // namespace mlip
