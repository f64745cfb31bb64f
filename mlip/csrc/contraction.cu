// The operator `mlip::symmetric_contraction` on CUDA, with first and second derivatives: a thread for an atom and a
// channel walks through the tree of monomials (kernels/contraction.hpp) by Horner's rule, as kernels/contraction.cpp.
//
// All threads read the same node at the same time. Features and their gradient lie in shared memory, since the tree
// picks them by number. The program is on the CPU: it is checked and sent to the device in each call, without waiting.
#include <algorithm>
#include <array>
#include <vector>

#include "cuda.hpp"
#include "device.cuh"
#include "kernels/dual.hpp"

namespace mlip::cuda {
namespace {

constexpr int most_threads = 128;
constexpr int shared_bytes = 32768;
constexpr int largest_width = 64;  // components of the features
constexpr int deepest = 4;         // factors of a monomial; the CPU takes more
constexpr int header = 3;

// A term: its output component, its number of factors, and these.
struct Term {
  int32_t output, size, factor[deepest];
};

template <class Real>
struct Contraction {
  static constexpr int block = 64 / sizeof(Real);
  int64_t n_in, n_out, n_terms, n_atoms, n_channels, n_elements;
  const int32_t* tree;
  const Term* terms;
  const Real *features, *grad, *tangent;  // (n_in or n_out, n_atoms, n_channels)
  const int64_t* species;
  const Real* coefficients;  // (n_elements, n_channels / block, n_terms, block)
  Real *values, *gradient, *term_gradient;

  MLIP_INLINE int64_t place(int64_t component, int64_t atom, int64_t channel) const {
    return (component * n_atoms + atom) * n_channels + channel;
  }
  MLIP_INLINE int64_t term_place(int64_t element, int64_t term, int64_t channel) const {
    return ((element * (n_channels / block) + channel / block) * n_terms + term) * block + channel % block;
  }
};


// The numbers of one thread in shared memory; X is a number, or a dual number in two places.
template <class Real, class X>
struct Column {
  Real* at;
  int stride, size;  // from one number to the next; how many there are

  MLIP_INLINE X get(int k) const {
    if constexpr (std::is_same_v<X, Real>)
      return at[k * stride];
    else
      return {at[k * stride], at[(size + k) * stride]};
  }
  MLIP_INLINE void set(int k, const X& x) {
    if constexpr (std::is_same_v<X, Real>) {
      at[k * stride] = x;
    } else {
      at[k * stride] = x.value;
      at[(size + k) * stride] = x.tangent;
    }
  }
  MLIP_INLINE void add(int k, const X& x) {
    X sum = get(k);
    sum += x;
    set(k, sum);
  }
};

// With q the product of the factors on the way to a node, u its polynomial: see kernels/contraction.cpp.
template <class Real, class X, bool gradient>
struct Walk {
  const int32_t* tree;
  const Real* coefficient;
  Column<Real, X> a, da;

  MLIP_INLINE X next() {
    const Real c = *coefficient;
    coefficient += Contraction<Real>::block;
    if constexpr (std::is_same_v<X, Real>)
      return c;
    else
      return {c, Real(0)};
  }

  template <int depth>
  MLIP_INLINE void node(const X& q, X& u) {
    const int32_t own = tree[0], leaves = tree[1], inner = tree[2];
    tree += 3;
    if (own) u += next();
    for (int32_t n = 0; n < leaves; n++) {
      const int32_t k = *tree++;
      const X c = next();
      u += c * a.get(k);
      if constexpr (gradient) da.add(k, c * q);
    }
    if constexpr (depth + 1 < deepest) {
      for (int32_t n = 0; n < inner; n++) {
        const int32_t k = *tree++;
        X below{};
        const X factor = a.get(k);
        node<depth + 1>(gradient ? q * factor : q, below);
        u += below * factor;
        if constexpr (gradient) da.add(k, below * q);
      }
    }
  }
};

enum class Task { value, gradient, second };

// Numbers in shared memory for each component.
constexpr int arrays_of(Task task) { return task == Task::value ? 1 : task == Task::gradient ? 2 : 4; }
template <class Real>
int threads_of(Task task, int64_t n_in) {
  const auto fits = static_cast<int>(shared_bytes / (n_in * arrays_of(task) * static_cast<int64_t>(sizeof(Real))));
  return fits >= warp ? std::min(fits / warp * warp, most_threads) : fits;
}

template <class Real, Task task>
__global__ void __launch_bounds__(most_threads) contract(Contraction<Real> all) {
  constexpr bool gradient = task != Task::value;
  using X = std::conditional_t<task == Task::second, Dual<Real>, Real>;
  __shared__ Real memory[shared_bytes / sizeof(Real)];
  const int64_t number = thread_number(), atom = number / all.n_channels, channel = number % all.n_channels;
  if (atom >= all.n_atoms) return;
  const int stride = static_cast<int>(blockDim.x), n_in = static_cast<int>(all.n_in);
  const bool right = below(all.species[atom], all.n_elements);
  Walk<Real, X, gradient> walk{
      all.tree,
      all.coefficients + all.term_place(right ? all.species[atom] : 0, 0, channel),
      {memory + threadIdx.x, stride, n_in},
      {memory + threadIdx.x + (task == Task::second ? 2 : 1) * n_in * stride, stride, n_in}};
  for (int k = 0; k < n_in; k++) {
    const int64_t place = all.place(k, atom, channel);
    const Real feature = right ? all.features[place] : not_a_number<Real>();
    if constexpr (task == Task::second)
      walk.a.set(k, {feature, all.tangent[place]});
    else
      walk.a.set(k, feature);
    if constexpr (gradient) walk.da.set(k, X{});
  }
  for (int64_t m = 0; m < all.n_out; m++) {
    const int64_t place = all.place(m, atom, channel);
    X q{}, u{};
    if constexpr (task == Task::gradient) q = all.grad[place];
    if constexpr (task == Task::second) q.value = all.grad[place];
    walk.template node<0>(q, u);
    if constexpr (task == Task::value) all.values[place] = right ? u : not_a_number<Real>();
    if constexpr (task == Task::second) all.values[place] = right ? u.tangent : not_a_number<Real>();
  }
  if constexpr (gradient)
    for (int k = 0; k < n_in; k++) {
      const X sum = walk.da.get(k);
      Real& to = all.gradient[all.place(k, atom, channel)];
      if constexpr (task == Task::second)
        to = right ? sum.tangent : not_a_number<Real>();
      else
        to = right ? sum : not_a_number<Real>();
    }
}

// The gradient of the coefficients, a thread for each term and channel, over the atoms in their order.
template <class Real, bool second>
__global__ void sum_terms(Contraction<Real> all) {
  using X = std::conditional_t<second, Dual<Real>, Real>;
  const int64_t number = thread_number(), t = number / all.n_channels, channel = number % all.n_channels;
  if (t >= all.n_terms) return;
  const Term term = all.terms[t];
  bool right = true;
  for (int64_t z = 0; z < all.n_elements; z++) all.term_gradient[all.term_place(z, t, channel)] = 0;
  for (int64_t atom = 0; atom < all.n_atoms; atom++) {
    const int64_t z = all.species[atom];
    if (!below(z, all.n_elements)) {
      right = false;
      continue;
    }
    X product{};
    const Real g = all.grad[all.place(term.output, atom, channel)];
    if constexpr (second)
      product.value = g;
    else
      product = g;
    unroll<deepest>([&](auto n) {
      if (n < term.size) {
        const int64_t place = all.place(term.factor[n], atom, channel);
        if constexpr (second)
          product = product * X{all.features[place], all.tangent[place]};
        else
          product = product * all.features[place];
      }
    });
    Real& sum = all.term_gradient[all.term_place(z, t, channel)];
    if constexpr (second)
      sum += product.tangent;
    else
      sum += product;
  }
  if (right) return;
  for (int64_t z = 0; z < all.n_elements; z++)
    all.term_gradient[all.term_place(z, t, channel)] = not_a_number<Real>();
}

// Reads the trees through and lists their terms.
class Reader {
 public:
  Reader(const Checks& checks, const int32_t* tree, int64_t size, int64_t n_in)
      : checks_(checks), tree_(tree), size_(size), n_in_(n_in) {}

  std::vector<Term> terms(int64_t n_out) {
    for (int64_t m = 0; m < n_out; m++) node(0, Term{static_cast<int32_t>(m), 0, {}});
    require(place_ == size_);
    return std::move(terms_);
  }

 private:
  void require(bool condition) const {
    checks_.expect(condition, "program: expected one made by ContractionProgram, of up to 4 factors on CUDA");
  }
  int32_t next() {
    require(place_ < size_);
    return tree_[place_++];
  }
  Term times_next(Term term) {
    const int32_t k = next();
    require(0 <= k && k < n_in_ && term.size < deepest);
    term.factor[term.size++] = k;
    return term;
  }
  void node(int depth, const Term& term) {
    const int32_t own = next(), leaves = next(), inner = next();
    require((own == 0 || own == 1) && leaves >= 0 && inner >= 0 && depth < deepest);
    if (own) terms_.push_back(term);
    for (int32_t n = 0; n < leaves; n++) terms_.push_back(times_next(term));
    for (int32_t n = 0; n < inner; n++) {
      const Term longer = times_next(term);
      node(depth + 1, longer);
    }
  }

  const Checks& checks_;
  const int32_t* tree_;
  int64_t size_, n_in_, place_ = 0;
  std::vector<Term> terms_;
};

// What all operators of the family are given last: features, species, program.
struct Arguments {
  const abi::Tensor &features, &species, &program;
  Checks checks;
  int64_t n_in = 0, n_out = 0, n_atoms = 0, n_channels = 0, block = 0;
  std::vector<Term> terms;

  Arguments(const char* name, const abi::Tensor& features_, const abi::Tensor& species_, const abi::Tensor& program_)
      : features(features_), species(species_), program(program_), checks(name, features_) {
    checks.expect(program.on_cpu() && program.contiguous() && program.ndim() == 1 && program.size(0) >= header &&
                      program.dtype() == aoti_torch_dtype_int32(),
                  "program: expected a contiguous int32 tensor on the CPU");
    const int32_t* numbers = program.data<int32_t>();
    n_in = numbers[0], n_out = numbers[1];
    checks.expect(0 < n_in && n_in <= largest_width && n_out >= 0, "program: expected 1 to 64 components");
    terms = Reader(checks, numbers + header, program.size(0) - header, n_in).terms(n_out);
    checks.expect(numbers[2] == static_cast<int64_t>(terms.size()), "program: expected one made by ContractionProgram");
    checks.real(features, "features: expected float32 or float64");
    checks.tensor(features, features.dtype(), {n_in, -1, -1},
                  "features: expected a contiguous tensor (components, N, channels)");
    n_atoms = features.size(1), n_channels = features.size(2);
    block = features.dtype() == aoti_torch_dtype_float32() ? 16 : 8;
    checks.expect(n_channels % block == 0, "features: expected channels in multiples of 16 (float32) or 8 (float64)");
    checks.integers(species, {n_atoms}, "species: expected a contiguous int64 tensor of shape (N,)");
  }
  int64_t n_terms() const { return static_cast<int64_t>(terms.size()); }

  void check_coefficients(const abi::Tensor& coefficients) const {
    checks.tensor(coefficients, features.dtype(), {-1, n_channels / block, n_terms(), block},
                  "coefficients: expected those of pack_coefficients, (Z, C / block, terms, block)");
    checks.expect(n_atoms == 0 || coefficients.size(0) > 0, "coefficients: expected those of one element at least");
  }
  void check_grad(const abi::Tensor& grad) const {
    checks.tensor(grad, features.dtype(), {n_out, n_atoms, n_channels},
                  "grad: expected a contiguous tensor (outputs, N, channels) of the features' type");
  }
  void check_tangent(const abi::Tensor& tangent) const {
    checks.tensor(tangent, features.dtype(), {n_in, n_atoms, n_channels},
                  "tangent: expected a contiguous tensor of the shape and type of the features");
  }
  abi::Tensor like_values() const { return features.new_empty({n_out, n_atoms, n_channels}, features.dtype()); }
  abi::Tensor like_features() const { return features.new_empty({n_in, n_atoms, n_channels}, features.dtype()); }

  template <class Real>
  Contraction<Real> contraction(int64_t n_elements) const {
    Contraction<Real> all{};
    all.n_in = n_in, all.n_out = n_out, all.n_terms = n_terms();
    all.n_atoms = n_atoms, all.n_channels = n_channels, all.n_elements = n_elements;
    all.features = features.data<Real>();
    all.species = species.data<int64_t>();
    return all;
  }
};

template <class Real, Task task>
void run_contraction(const Arguments& args, Contraction<Real> all) {
  const cudaStream_t on = stream(args.features);
  const int64_t size = args.program.size(0) - header;
  const auto tree = upload(args.features, args.program.data<int32_t>() + header, size, on);
  all.tree = tree.data();
  const int threads = threads_of<Real>(task, args.n_in);
  launch(contract<Real, task>, blocks_for(args.n_atoms * args.n_channels, threads), threads, on, all);
}

template <class Real, bool second>
void run_terms(const Arguments& args, Contraction<Real> all) {
  constexpr int threads = 64;
  const cudaStream_t on = stream(args.features);
  const auto terms = upload(args.features, args.terms.data(), args.n_terms(), on);
  all.terms = terms.data();
  launch(sum_terms<Real, second>, blocks_for(args.n_terms() * args.n_channels, threads), threads, on, all);
}

void symmetric_contraction(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor features(stack[0]), species(stack[1]), coefficients(stack[2]), program(stack[3]);
  const Arguments args("symmetric_contraction", features, species, program);
  args.check_coefficients(coefficients);
  args.checks.expect(abi::from_stack<int64_t>(stack[4]) == args.n_out, "n_out: expected that of the program");
  const Device device(features);
  auto values = args.like_values();
  for_real(features, [&](auto zero) {
    using Real = decltype(zero);
    auto all = args.contraction<Real>(coefficients.size(0));
    all.coefficients = coefficients.data<Real>();
    all.values = values.template data<Real>();
    run_contraction<Real, Task::value>(args, all);
  });
  stack[0] = values.release();
}

void symmetric_contraction_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]), features(stack[1]), species(stack[2]), coefficients(stack[3]), program(stack[4]);
  const Arguments args("symmetric_contraction_backward", features, species, program);
  args.check_coefficients(coefficients);
  args.check_grad(grad);
  const Device device(features);
  auto gradient = args.like_features();
  for_real(features, [&](auto zero) {
    using Real = decltype(zero);
    auto all = args.contraction<Real>(coefficients.size(0));
    all.coefficients = coefficients.data<Real>();
    all.grad = grad.data<Real>();
    all.gradient = gradient.template data<Real>();
    run_contraction<Real, Task::gradient>(args, all);
  });
  stack[0] = gradient.release();
}

void symmetric_contraction_second(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor tangent(stack[0]), grad(stack[1]), features(stack[2]), species(stack[3]), coefficients(stack[4]),
      program(stack[5]);
  const Arguments args("symmetric_contraction_second", features, species, program);
  args.check_coefficients(coefficients);
  args.check_grad(grad);
  args.check_tangent(tangent);
  const Device device(features);
  auto values = args.like_values(), gradient = args.like_features();
  for_real(features, [&](auto zero) {
    using Real = decltype(zero);
    auto all = args.contraction<Real>(coefficients.size(0));
    all.coefficients = coefficients.data<Real>();
    all.grad = grad.data<Real>(), all.tangent = tangent.data<Real>();
    all.values = values.template data<Real>(), all.gradient = gradient.template data<Real>();
    run_contraction<Real, Task::second>(args, all);
  });
  stack[0] = values.release();
  stack[1] = gradient.release();
}

// The gradient of the coefficients, (Z, C / block, terms, block), or its derivative along a tangent.
abi::Tensor terms_gradient(const Arguments& args, const abi::Tensor& grad, const abi::Tensor* tangent, int64_t n_terms,
                           int64_t n_elements) {
  args.check_grad(grad);
  if (tangent) args.check_tangent(*tangent);
  args.checks.expect(n_elements >= 0, "n_elements: expected a number of elements");
  args.checks.expect(n_terms == args.n_terms(), "n_terms: expected that of the program");
  const Device device(args.features);
  auto out = args.features.new_empty({n_elements, args.n_channels / args.block, n_terms, args.block},
                                     args.features.dtype());
  for_real(args.features, [&](auto zero) {
    using Real = decltype(zero);
    auto all = args.contraction<Real>(n_elements);
    all.grad = grad.data<Real>();
    all.term_gradient = out.template data<Real>();
    if (!tangent) return run_terms<Real, false>(args, all);
    all.tangent = tangent->data<Real>();
    run_terms<Real, true>(args, all);
  });
  return out;
}

void symmetric_contraction_terms(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]), features(stack[1]), species(stack[2]), program(stack[3]);
  const Arguments args("symmetric_contraction_terms", features, species, program);
  stack[0] = terms_gradient(args, grad, nullptr, abi::from_stack<int64_t>(stack[4]), abi::from_stack<int64_t>(stack[5]))
                 .release();
}

void symmetric_contraction_terms_second(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor tangent(stack[0]), grad(stack[1]), features(stack[2]), species(stack[3]), program(stack[4]);
  const Arguments args("symmetric_contraction_terms_second", features, species, program);
  stack[0] = terms_gradient(args, grad, &tangent, abi::from_stack<int64_t>(stack[5]), abi::from_stack<int64_t>(stack[6]))
                 .release();
}

const auto operators = abi::Library("mlip", "CUDA")
                           .impl("symmetric_contraction", symmetric_contraction)
                           .impl("symmetric_contraction_backward", symmetric_contraction_backward)
                           .impl("symmetric_contraction_second", symmetric_contraction_second)
                           .impl("symmetric_contraction_terms", symmetric_contraction_terms)
                           .impl("symmetric_contraction_terms_second", symmetric_contraction_terms_second);

}  // namespace
}  // namespace mlip::cuda
