// Matrix products (../gemm.hpp): panels of rows and a few vectors of columns, whose sums stay in registers.
#include "../gemm.hpp"

#include <algorithm>

#include "reduce.hpp"

namespace mlip::MLIP_ISA {
namespace {

constexpr int panel = vector_bytes == 64 ? 12 : 6;  // rows; with two vectors of columns each
constexpr int few = panel / 3;                      // rows that four vectors of columns fit beside

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

// One step of the transposition of a square: of two rows, what is `distance` off the diagonal changes places.
template <class Real, int distance, size_t... I>
MLIP_INLINE void exchange(Vector<Real>& a, Vector<Real>& b, std::index_sequence<I...>) {
  constexpr int lanes = width<Real>;
  const Vector<Real> upper = __builtin_shufflevector(a, b, (I & distance ? lanes + (I ^ distance) : I)...);
  b = __builtin_shufflevector(a, b, (I & distance ? lanes + I : I + distance)...);
  a = upper;
}
template <class Real, int distance>
MLIP_INLINE void transpose(Vector<Real>* rows) {
  if constexpr (distance > 0) {
    unroll<width<Real> / 2>([&](auto pair) __attribute__((always_inline)) {
      constexpr int first = pair / distance * 2 * distance + pair % distance;
      exchange<Real, distance>(rows[first], rows[first + distance], std::make_index_sequence<width<Real>>{});
    });
    transpose<Real, distance / 2>(rows);
  }
}

template <class Real>
void pack_transposed(const Real* b, int64_t k, int64_t n, int64_t stride, Real* packed) {
  constexpr int lanes = width<Real>;
  if (k % lanes || n % tile<Real>) return pack(b, k, n, 1, stride, packed);
  for (int64_t column = 0; column < n; column += tile<Real>)
    for (int64_t row = 0; row < k; row += lanes, packed += lanes * tile<Real>)
      for (int half = 0; half < tile<Real>; half += lanes) {
        Vector<Real> square[lanes];
        unroll<lanes>([&](auto r) __attribute__((always_inline)) {
          square[r] = load(b + (column + half + r) * stride + row);
        });
        transpose<Real, lanes / 2>(square);
        unroll<lanes>([&](auto r) __attribute__((always_inline)) { store(packed + r * tile<Real> + half, square[r]); });
      }
}

template <class Real>
struct Operands {
  int64_t k;
  const Real* a;
  int64_t m_stride, k_stride;
  const Real* b;
  int64_t b_stride;
  Real* c;
  int64_t c_stride;
  bool add;
};

template <class Real, int rows, int vectors>
void multiply_panel(const Operands<Real>& x) {
  constexpr int lanes = width<Real>;
  Vector<Real> sums[rows][vectors] = {};
  if (x.add)
    unroll<rows>([&](auto r) __attribute__((always_inline)) {
      unroll<vectors>([&](auto v)
                          __attribute__((always_inline)) { sums[r][v] = load(x.c + r * x.c_stride + v * lanes); });
    });
  const Real *a = x.a, *b = x.b;
  for (int64_t k = 0; k < x.k; k++, a += x.k_stride, b += x.b_stride) {
    Vector<Real> row[vectors];
    unroll<vectors>([&](auto v) __attribute__((always_inline)) { row[v] = load(b + v * lanes); });
    unroll<rows>([&](auto r) __attribute__((always_inline)) {
      const Real factor = a[r * x.m_stride];
      unroll<vectors>([&](auto v) __attribute__((always_inline)) { sums[r][v] += factor * row[v]; });
    });
  }
  unroll<rows>([&](auto r) __attribute__((always_inline)) {
    unroll<vectors>([&](auto v)
                        __attribute__((always_inline)) { store(x.c + r * x.c_stride + v * lanes, sums[r][v]); });
  });
}

template <int vectors, class Real, size_t... rows>
void multiply_rows(const Operands<Real>& operands, int64_t count, std::index_sequence<rows...>) {
  static constexpr void (*panels[])(const Operands<Real>&) = {multiply_panel<Real, rows + 1, vectors>...};
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
      Operands<Real> operands{k, a + begin * m_stride, m_stride, k_stride, packed, tile<Real>, to, c_stride, add};
      if (present == tile<Real>) {
        multiply_rows<2>(operands, rows, std::make_index_sequence<panel>{});
        continue;
      }
      Real part[panel * tile<Real>];
      operands.c = part, operands.c_stride = tile<Real>, operands.add = false;
      multiply_rows<2>(operands, rows, std::make_index_sequence<panel>{});
      for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < present; j++) {
          const Real value = part[r * tile<Real> + j];
          to[r * c_stride + j] = add ? to[r * c_stride + j] + value : value;
        }
    }
  }
}

template <class Real>
void multiply_direct(int64_t m, int64_t n, int64_t k, const Real* a, int64_t m_stride, int64_t k_stride, const Real* b,
                     int64_t b_stride, Real* c, int64_t c_stride, bool add) {
  constexpr int lanes = width<Real>;
  const int64_t panels = (m + panel - 1) / panel;
  for (int64_t column = 0, vectors = 0; column < n; column += vectors * lanes) {
    const int64_t left = (n - column) / lanes;
    vectors = left >= 4 && m <= few ? 4 : left >= 2 ? 2 : 1;
    for (int64_t p = 0; p < panels; p++) {
      const int64_t begin = m * p / panels, rows = m * (p + 1) / panels - begin;
      const Operands<Real> operands{k, a + begin * m_stride, m_stride, k_stride, b + column, b_stride,
                                    c + begin * c_stride + column, c_stride, add};
      if (vectors == 4)
        multiply_rows<4>(operands, rows, std::make_index_sequence<few>{});
      else if (vectors == 2)
        multiply_rows<2>(operands, rows, std::make_index_sequence<panel>{});
      else
        multiply_rows<1>(operands, rows, std::make_index_sequence<panel>{});
    }
  }
}

constexpr int dot_rows = 3, dot_columns = vector_bytes == 64 ? 8 : 4;

// c[r][j] (+)= <a[r], b[j]>: each in the lanes of a vector, which are added up at the end.
template <class Real, int rows, int columns>
void dot_panel(const Operands<Real>& x) {
  constexpr int lanes = width<Real>, count = rows * columns, room = (count + lanes - 1) / lanes * lanes;
  Vector<Real> sums[count] = {};
  for (int64_t k = 0; k < x.k; k += lanes) {
    Vector<Real> left[rows];
    unroll<rows>([&](auto r) __attribute__((always_inline)) { left[r] = load(x.a + r * x.m_stride + k); });
    unroll<columns>([&](auto j) __attribute__((always_inline)) {
      const Vector<Real> right = load(x.b + j * x.b_stride + k);
      unroll<rows>([&](auto r) __attribute__((always_inline)) { sums[r * columns + j] += left[r] * right; });
    });
  }
  Real values[room];
  store_lane_sums<Real, count, room>(sums, values);
  unroll<rows>([&](auto r) __attribute__((always_inline)) {
    Real* to = x.c + r * x.c_stride;
    unroll<columns>([&](auto j) __attribute__((always_inline)) {
      to[j] = x.add ? to[j] + values[r * columns + j] : values[r * columns + j];
    });
  });
}

template <class Real, int columns>
void dot_rows_with(Operands<Real> x, int64_t m) {
  static constexpr void (*panels[])(const Operands<Real>&) = {
      dot_panel<Real, 1, columns>, dot_panel<Real, 2, columns>, dot_panel<Real, 3, columns>};
  const int64_t count = (m + dot_rows - 1) / dot_rows;
  for (int64_t p = 0; p < count; p++) {
    const int64_t rows = m * (p + 1) / count - m * p / count;
    panels[rows - 1](x);
    x.a += rows * x.m_stride, x.c += rows * x.c_stride;
  }
}

template <class Real>
void multiply_transposed(int64_t m, int64_t n, int64_t k, const Real* a, int64_t a_stride, const Real* b,
                         int64_t b_stride, Real* c, int64_t c_stride, bool add) {
  Operands<Real> operands{k, a, a_stride, 1, b, b_stride, c, c_stride, add};
  for (int64_t column = 0, columns = 0; column < n; column += columns) {
    columns = n - column >= dot_columns ? dot_columns : 1;
    operands.b = b + column * b_stride, operands.c = c + column;
    if (columns > 1)
      dot_rows_with<Real, dot_columns>(operands, m);
    else
      dot_rows_with<Real, 1>(operands, m);
  }
}

template <class Real>
constexpr GemmKernels<Real> kernels{
    tile<Real>,     width<Real>,           pack<Real>,               pack_transposed<Real>,
    multiply<Real>, multiply_direct<Real>, multiply_transposed<Real>};

}  // namespace

const GemmTable gemm{kernels<float>, kernels<double>};

}  // namespace mlip::MLIP_ISA
