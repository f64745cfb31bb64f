// Matrix products (../gemm.hpp): tiles of two vectors of columns, panels of rows whose sums stay in registers.
#include "../gemm.hpp"

#include <algorithm>

#include "vector.hpp"

namespace mlip::MLIP_ISA {
namespace {

constexpr int panel = vector_bytes == 64 ? 12 : 6;  // rows; with two vectors of columns each

template <class Real>
constexpr int tile = 2 * width<Real>;

template <class Real>
void pack(const Real* b, int64_t k, int64_t n, int64_t k_stride, int64_t n_stride, Real* packed) {
  for (int64_t column = 0; column < n; column += tile<Real>) {
    const int64_t present = std::min<int64_t>(tile<Real>, n - column);
    for (int64_t row = 0; row < k; row++, packed += tile<Real>) {
      const Real* from = b + row * k_stride + column * n_stride;
      if (n_stride == 1)
        std::copy(from, from + present, packed);
      else
        for (int64_t j = 0; j < present; j++) packed[j] = from[j * n_stride];
      std::fill(packed + present, packed + tile<Real>, Real(0));
    }
  }
}

template <class Real>
struct Operands {
  int64_t k;
  const Real* a;
  int64_t m_stride, k_stride;
  const Real* packed;
  Real* c;
  int64_t c_stride;
  bool add;
};

template <class Real, int rows>
void multiply_panel(const Operands<Real>& x) {
  constexpr int lanes = width<Real>;
  Vector<Real> left[rows] = {}, right[rows] = {};
  if (x.add)
    unroll<rows>([&](auto r) __attribute__((always_inline)) {
      left[r] = load(x.c + r * x.c_stride), right[r] = load(x.c + r * x.c_stride + lanes);
    });
  const Real *a = x.a, *b = x.packed;
  for (int64_t k = 0; k < x.k; k++, a += x.k_stride, b += 2 * lanes) {
    const Vector<Real> b0 = load(b), b1 = load(b + lanes);
    unroll<rows>([&](auto r) __attribute__((always_inline)) {
      const Real factor = a[r * x.m_stride];
      left[r] += factor * b0, right[r] += factor * b1;
    });
  }
  unroll<rows>([&](auto r) __attribute__((always_inline)) {
    store(x.c + r * x.c_stride, left[r]), store(x.c + r * x.c_stride + lanes, right[r]);
  });
}

template <class Real, size_t... rows>
void multiply_rows(const Operands<Real>& operands, int64_t count, std::index_sequence<rows...>) {
  static constexpr void (*panels[])(const Operands<Real>&) = {multiply_panel<Real, rows + 1>...};
  panels[count - 1](operands);
}

template <class Real>
void multiply(int64_t m, int64_t n, int64_t k, const Real* a, int64_t m_stride, int64_t k_stride, const Real* packed,
              Real* c, int64_t c_stride, bool add) {
  const int64_t panels = (m + panel - 1) / panel;
  for (int64_t column = 0; column < n; column += tile<Real>, packed += k * tile<Real>) {
    const int64_t present = std::min<int64_t>(tile<Real>, n - column);
    for (int64_t p = 0; p < panels; p++) {
      const int64_t begin = m * p / panels, rows = m * (p + 1) / panels - begin;
      Real* to = c + begin * c_stride + column;
      Operands<Real> operands{k, a + begin * m_stride, m_stride, k_stride, packed, to, c_stride, add};
      if (present == tile<Real>) {
        multiply_rows(operands, rows, std::make_index_sequence<panel>{});
        continue;
      }
      Real part[panel * tile<Real>];
      operands.c = part, operands.c_stride = tile<Real>, operands.add = false;
      multiply_rows(operands, rows, std::make_index_sequence<panel>{});
      for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < present; j++) {
          const Real value = part[r * tile<Real> + j];
          to[r * c_stride + j] = add ? to[r * c_stride + j] + value : value;
        }
    }
  }
}

}  // namespace

const GemmTable gemm{{tile<float>, pack<float>, multiply<float>}, {tile<double>, pack<double>, multiply<double>}};

}  // namespace mlip::MLIP_ISA
