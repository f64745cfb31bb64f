// Sums over directions: a few edges at a time, so that what is loaded of the density serves all of them.
#include "directional_sums.hpp"

#include "reduce.hpp"

namespace mlip::MLIP_ISA {
namespace {

constexpr int panel = vector_bytes == 64 ? 8 : 4;  // edges, with two vectors of sums each

// The edges of a panel.
template <class Real>
struct Panel {
  const DirectedEdges<Real>& center;
  int64_t first;

  const Real* weights(int64_t l) const { return center.weights + l * center.degree_stride + first * center.channels; }
  const Real* harmonics() const { return center.harmonics + first * center.components(); }
};

// Σ_m Y[e, m] density[m] of one degree and vector of channels, for each edge; `y` and `density` at the degree's first m.
template <class Real, int edges>
MLIP_INLINE void along(const Real* y, int64_t components, const Real* density, int64_t channels, int64_t degree,
                       Vector<Real>* sums) {
  unroll<edges>([&](auto e) __attribute__((always_inline)) { sums[e] = Vector<Real>{}; });
  for (int64_t m = 0; m < 2 * degree + 1; m++, y++, density += channels) {
    const Vector<Real> value = load(density);
    unroll<edges>([&](auto e) __attribute__((always_inline)) { sums[e] += y[e * components] * value; });
  }
}

template <class Real, int edges>
void forward_panel(const Panel<Real>& x, Real* out) {
  const int64_t channels = x.center.channels, components = x.center.components();
  for (int64_t c = 0; c < channels; c += width<Real>) {
    Vector<Real> sums[edges] = {}, of_degree[edges];
    for (int64_t l = 0; l < x.center.degrees; l++) {
      along<Real, edges>(x.harmonics() + l * l, components, x.center.density + l * l * channels + c, channels, l,
                         of_degree);
      const Real* weight = x.weights(l) + c;
      unroll<edges>([&](auto e) __attribute__((always_inline)) {
        sums[e] += load(weight + e * channels) * of_degree[e];
      });
    }
    unroll<edges>([&](auto e) __attribute__((always_inline)) { store(out + e * channels + c, sums[e]); });
  }
}

// weighted[l, e, c] = weights[l, e, c] grad[e, c]
template <class Real, int edges>
void weigh(const Panel<Real>& x, const Real* grad, Real* weighted) {
  const int64_t count = edges * x.center.channels;
  for (int64_t l = 0; l < x.center.degrees; l++, weighted += count) {
    const Real* weight = x.weights(l);
    for (int64_t k = 0; k < count; k += width<Real>) store(weighted + k, load(weight + k) * load(grad + k));
  }
}

template <class Real, int edges>
void gradient_of_weights(const Panel<Real>& x, const Real* grad, Real* out) {
  const int64_t channels = x.center.channels, components = x.center.components();
  for (int64_t l = 0; l < x.center.degrees; l++, out += x.center.degree_stride)
    for (int64_t c = 0; c < channels; c += width<Real>) {
      Vector<Real> of_degree[edges];
      along<Real, edges>(x.harmonics() + l * l, components, x.center.density + l * l * channels + c, channels, l,
                         of_degree);
      unroll<edges>([&](auto e) __attribute__((always_inline)) {
        store(out + e * channels + c, load(grad + e * channels + c) * of_degree[e]);
      });
    }
}

template <class Real, int edges>
void gradient_of_harmonics(const Panel<Real>& x, const Real* weighted, Real* out) {
  const int64_t channels = x.center.channels, components = x.center.components();
  const Real* density = x.center.density;
  constexpr int room = (edges + width<Real> - 1) / width<Real> * width<Real>;
  for (int64_t l = 0; l < x.center.degrees; l++, weighted += edges * channels)
    for (int64_t m = 0; m < 2 * l + 1; m++, density += channels, out++) {
      Vector<Real> sums[edges] = {};
      for (int64_t c = 0; c < channels; c += width<Real>) {
        const Vector<Real> value = load(density + c);
        unroll<edges>([&](auto e) __attribute__((always_inline)) {
          sums[e] += load(weighted + e * channels + c) * value;
        });
      }
      Real values[room];
      store_lane_sums<Real, edges, room>(sums, values);
      unroll<edges>([&](auto e) __attribute__((always_inline)) { out[e * components] = values[e]; });
    }
}

template <class Real, int edges>
void gradient_of_density(const Panel<Real>& x, const Real* weighted, Real* out) {
  const int64_t channels = x.center.channels, components = x.center.components();
  for (int64_t c = 0; c < channels; c += width<Real>) {
    const Real* y = x.harmonics();
    Real* to = out + c;
    for (int64_t l = 0; l < x.center.degrees; l++) {
      Vector<Real> of_edge[edges];
      unroll<edges>([&](auto e) __attribute__((always_inline)) {
        of_edge[e] = load(weighted + (l * edges + e) * channels + c);
      });
      for (int64_t m = 0; m < 2 * l + 1; m++, y++, to += channels) {
        Vector<Real> sum = load(to);
        unroll<edges>([&](auto e) __attribute__((always_inline)) { sum += y[e * components] * of_edge[e]; });
        store(to, sum);
      }
    }
  }
}

template <class Real, int edges>
void backward_panel(const Panel<Real>& x, const Real* grad, Real* scratch, const DirectedGradients<Real>& to) {
  const int64_t first = x.first;
  if (to.weights) gradient_of_weights<Real, edges>(x, grad, to.weights + first * x.center.channels);
  if (!to.harmonics && !to.density) return;
  weigh<Real, edges>(x, grad, scratch);
  if (to.harmonics) gradient_of_harmonics<Real, edges>(x, scratch, to.harmonics + first * x.center.components());
  if (to.density) gradient_of_density<Real, edges>(x, scratch, to.density);
}

// body(number of edges, first edge) for panels of about equal size.
template <class Body>
void for_panels(int64_t count, const Body& body) {
  const int64_t panels = (count + panel - 1) / panel;
  for (int64_t p = 0; p < panels; p++) {
    const int64_t first = count * p / panels;
    body(count * (p + 1) / panels - first, first);
  }
}

template <class Real, size_t... edges>
void forward_with(const DirectedEdges<Real>& center, Real* out, std::index_sequence<edges...>) {
  static constexpr void (*panels[])(const Panel<Real>&, Real*) = {forward_panel<Real, edges + 1>...};
  for_panels(center.count, [&](int64_t count, int64_t first) {
    panels[count - 1]({center, first}, out + first * center.channels);
  });
}
template <class Real>
void forward(const DirectedEdges<Real>& center, Real* out) {
  forward_with(center, out, std::make_index_sequence<panel>{});
}

template <class Real, size_t... edges>
void backward_with(const DirectedEdges<Real>& center, const Real* grad, Real* scratch,
                   const DirectedGradients<Real>& to, std::index_sequence<edges...>) {
  static constexpr void (*panels[])(const Panel<Real>&, const Real*, Real*, const DirectedGradients<Real>&) = {
      backward_panel<Real, edges + 1>...};
  for_panels(center.count, [&](int64_t count, int64_t first) {
    panels[count - 1]({center, first}, grad + first * center.channels, scratch, to);
  });
}
template <class Real>
void backward(const DirectedEdges<Real>& center, const Real* grad, Real* scratch, const DirectedGradients<Real>& to) {
  backward_with(center, grad, scratch, to, std::make_index_sequence<panel>{});
}

int64_t scratch(int64_t degrees, int64_t channels) { return panel * degrees * channels; }

}  // namespace

const DirectionalTable directional_table = {{forward<float>, backward<float>, scratch},
                                            {forward<double>, backward<double>, scratch}};

}  // namespace mlip::MLIP_ISA
