// The operator `mlip::symmetric_contraction` on CUDA, with first and second derivatives.
//
// The program is on the CPU: it is checked and sent to the device in each call, without waiting.
#include <vector>

#include "contraction.cuh"

namespace mlip::cuda {
namespace {

constexpr int header = 3;

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
