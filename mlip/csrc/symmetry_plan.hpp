// What functions a model has, from the tables of mlip.ops.SymmetryTables, as kernels take it.
#pragma once
#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <vector>

#include "geometry_arguments.hpp"
#include "kernels/symmetry_functions.hpp"

namespace mlip {
namespace {

enum Shape : int64_t { radial, narrow, wide };
// Columns of the table of functions.
enum Field { of_center, of_column, of_shape, of_first, of_second, of_part, of_angle, n_fields };

template <class T>
View<T> view(const std::vector<T>& numbers) {
  return {numbers.data(), static_cast<int64_t>(numbers.size())};
}

void keep_sorted(std::vector<int32_t>& numbers) {
  std::sort(numbers.begin(), numbers.end());
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
}

// The parameters of all functions, as they come from Python.
struct Tables {
  explicit Tables(const StableIValue* stack)
      : numbers(stack[0]), windows(stack[1]), parts(stack[2]), angles(stack[3]), functions(stack[4]),
        columns(abi::from_stack<int64_t>(stack[5])) {}

  void check(const char* name) {
    const auto real = [&](const abi::Tensor& t, std::initializer_list<int64_t> shape) {
      return has_shape(t, shape) && t.dtype() == aoti_torch_dtype_float64();
    };
    expect(real(numbers, {-1}) && real(windows, {-1, 4}) && real(parts, {-1, 8}) && real(angles, {-1, 7}) &&
               has_shape(functions, {-1, n_fields}) && is_integer(functions) && columns >= 0,
           name, "expected the tables of mlip.ops.SymmetryTables, on the CPU");
    n_species = numbers.size(0);
    const auto between = [&](int64_t x, int64_t low, int64_t end) {
      expect(low <= x && x < end, name, "a function whose element, part or column is not there");
    };
    for (int64_t w = 0; w < windows.size(0); w++) {
      between(static_cast<int64_t>(window(w)[0]), 0, CutoffWindow::hard + 1);
      between(static_cast<int64_t>(window(w)[1]), 0, exponential + 1);
    }
    for (int64_t p = 0; p < parts.size(0); p++) {
      if (part(p)[0] == 0) between(static_cast<int64_t>(part(p)[1]), 0, windows.size(0));
      between(static_cast<int64_t>(part(p)[4]), 0, exponential + 1);
    }
    for (int64_t a = 0; a < angles.size(0); a++) between(static_cast<int64_t>(angle(a)[4]), 0, exponential + 1);
    for (int64_t f = 0; f < functions.size(0); f++) {
      const int64_t* at = function(f);
      between(at[of_center], 0, n_species);
      between(at[of_column], 0, columns);
      between(at[of_shape], radial, wide + 1);
      between(at[of_first], -1, n_species);
      between(at[of_second], -1, n_species);
      between(at[of_part], 0, parts.size(0));
      if (at[of_shape] != radial) between(at[of_angle], 0, angles.size(0));
    }
  }

  const double* window(int64_t k) const { return windows.data<double>() + 4 * k; }
  const double* part(int64_t k) const { return parts.data<double>() + 8 * k; }
  const double* angle(int64_t k) const { return angles.data<double>() + 7 * k; }
  const int64_t* function(int64_t k) const { return functions.data<int64_t>() + n_fields * k; }
  double number(int64_t species) const { return numbers.data<double>()[species]; }

  abi::Tensor numbers, windows, parts, angles, functions;
  int64_t columns, n_species = 0;
};

// What the plans have in common.
struct Parts {
  explicit Parts(const Tables& tables) {
    for (int64_t w = 0; w < tables.windows.size(0); w++) {
      const double* at = tables.window(w);
      windows.push_back({static_cast<CutoffWindow::Kind>(static_cast<int32_t>(at[0])),
                         static_cast<Core>(static_cast<int32_t>(at[1])), at[2], at[3]});
    }
    for (int64_t p = 0; p < tables.parts.size(0); p++) {
      const double* at = tables.part(p);
      parts.push_back({at[0] != 0, static_cast<int32_t>(at[1]), at[2], at[3],
                       static_cast<Core>(static_cast<int32_t>(at[4])), at[5] != 0, at[6], at[7]});
    }
    for (int64_t a = 0; a < tables.angles.size(0); a++) {
      const double* at = tables.angle(a);
      const bool is_integer = at[2] == std::floor(at[2]) && 1 <= at[2] && at[2] <= largest_power;
      angles.push_back({at[0] != 0, at[1], at[2], at[3], is_integer ? static_cast<int32_t>(at[2]) : 0,
                        static_cast<Core>(static_cast<int32_t>(at[4])), at[5], at[6]});
    }
  }
  // Where the part ends.
  double reach(int32_t part) const {
    const DistancePart& p = parts[static_cast<size_t>(part)];
    return p.is_bump ? p.high : windows[static_cast<size_t>(p.window)].cutoff;
  }

  std::vector<CutoffWindow> windows;
  std::vector<DistancePart> parts;
  std::vector<AnglePart> angles;
};

// Some of the parts, the windows of these, and how far they reach.
struct OwnList {
  explicit OwnList(std::vector<int32_t> chosen = {}, const Parts* all = nullptr) : parts(std::move(chosen)) {
    keep_sorted(parts);
    for (const int32_t p : parts) {
      const DistancePart& part = all->parts[static_cast<size_t>(p)];
      if (!part.is_bump) windows.push_back(part.window);
      reach = std::max(reach, all->reach(p));
    }
    keep_sorted(windows);
  }
  PartList list() const { return {view(windows), view(parts)}; }

  std::vector<int32_t> parts, windows;
  double reach = 0;
};

// Owns what the plan of one element looks at.
class OwnedPlan {
 public:
  OwnedPlan(const Tables& tables, const Parts& parts, int64_t center) {
    std::vector<int32_t> of_radial, of_angular, of_narrow;
    std::vector<const int64_t*> own;
    for (int64_t f = 0; f < tables.functions.size(0); f++) {
      const int64_t* at = tables.function(f);
      if (at[of_center] != center) continue;
      own.push_back(at);
      const auto part = static_cast<int32_t>(at[of_part]);
      (at[of_shape] == radial ? of_radial : of_angular).push_back(part);
      if (at[of_shape] == narrow) of_narrow.push_back(part);
      plan_.bump_of_angle |= at[of_shape] != radial && parts.angles[static_cast<size_t>(at[of_angle])].is_bump;
    }
    radial_ = OwnList(std::move(of_radial), &parts);
    angular_ = OwnList(std::move(of_angular), &parts);
    narrow_ = OwnList(std::move(of_narrow), &parts);
    for (int64_t s = 0; s < tables.n_species; s++) add_neighbors(tables, own, s);
    for (int64_t s = 0; s < tables.n_species; s++)
      for (int64_t t = s; t < tables.n_species; t++) add_pairs(tables, parts, own, s, t);
    for (const auto& terms : radial_terms_) neighbors_.push_back({view(terms)});
    for (const auto& pairs : pairs_) plan_.most_terms = std::max(plan_.most_terms, pairs.terms.size);
    for (const auto& terms : radial_terms_) plan_.most_terms = std::max(plan_.most_terms, view(terms).size);
    plan_.windows = view(parts.windows), plan_.parts = view(parts.parts), plan_.angles = view(parts.angles);
    plan_.radial = radial_.list(), plan_.angular = angular_.list(), plan_.narrow = narrow_.list();
    plan_.radial_reach = radial_.reach, plan_.angular_reach = angular_.reach;
    plan_.neighbors = view(neighbors_), plan_.pairs = view(pairs_);
  }
  OwnedPlan(const OwnedPlan&) = delete;
  OwnedPlan& operator=(const OwnedPlan&) = delete;

  const SymmetryPlan& plan() const { return plan_; }

 private:
  void add_neighbors(const Tables& tables, const std::vector<const int64_t*>& own, int64_t s) {
    std::vector<RadialTerm> terms;
    for (const int64_t* at : own)
      if (at[of_shape] == radial && (at[of_first] < 0 || at[of_first] == s))
        terms.push_back({static_cast<int32_t>(at[of_part]), static_cast<int32_t>(at[of_column]),
                         at[of_first] < 0 ? tables.number(s) : 1.0});
    radial_terms_.push_back(std::move(terms));
  }

  void add_pairs(const Tables& tables, const Parts& parts, const std::vector<const int64_t*>& own, int64_t s,
                 int64_t t) {
    std::map<std::pair<int32_t, bool>, std::vector<Term>> found;
    std::vector<int32_t> angles;
    int64_t n_terms = 0;
    double narrow_reach = 0;
    bool any_narrow = false;
    for (const int64_t* at : own) {
      if (at[of_shape] == radial) continue;
      const bool weighted = at[of_first] < 0;
      const auto [low, high] = std::minmax(at[of_first], at[of_second]);
      if (!weighted && (low != s || high != t)) continue;
      const auto part = static_cast<int32_t>(at[of_part]), angle = static_cast<int32_t>(at[of_angle]);
      const bool is_narrow = at[of_shape] == narrow;
      found[{part, is_narrow}].push_back(
          {angle, static_cast<int32_t>(at[of_column]), weighted ? tables.number(s) * tables.number(t) : 1.0});
      angles.push_back(angle);
      n_terms++;
      any_narrow |= is_narrow;
      if (is_narrow) narrow_reach = std::max(narrow_reach, parts.reach(part));
    }
    if (found.empty()) return;
    keep_sorted(angles);
    auto& terms = terms_.emplace_back();
    terms.reserve(static_cast<size_t>(n_terms));
    auto& groups = groups_.emplace_back();
    bool all_narrow = true;
    for (const auto& [key, of_group] : found) {
      const auto size = static_cast<int64_t>(of_group.size()), first = static_cast<int64_t>(terms.size());
      groups.push_back({key.first, key.second, first, {terms.data() + first, size}});
      all_narrow &= key.second;
      terms.insert(terms.end(), of_group.begin(), of_group.end());
    }
    auto& own_angles = angles_.emplace_back(std::move(angles));
    pairs_.push_back({static_cast<int32_t>(s), static_cast<int32_t>(t), any_narrow, all_narrow, narrow_reach,
                      view(groups), view(terms), view(own_angles)});
  }

  SymmetryPlan plan_{};
  OwnList radial_, angular_, narrow_;
  std::vector<std::vector<RadialTerm>> radial_terms_;
  std::vector<NeighborClass> neighbors_;
  std::vector<PairClass> pairs_;
  std::deque<std::vector<Term>> terms_;  // elements of a deque stay where they are
  std::deque<std::vector<Group>> groups_;
  std::deque<std::vector<int32_t>> angles_;
};

#define MLIP_SYMMETRY_ARGUMENTS                                                                                  \
  "Tensor vectors, Tensor offsets, Tensor neighbors, Tensor species, Tensor numbers, Tensor windows, Tensor parts, " \
  "Tensor angles, Tensor functions, int columns"

}  // namespace
}  // namespace mlip
