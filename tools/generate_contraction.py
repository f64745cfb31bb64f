"""Writes mlip/csrc/kernels/contraction_trees.hpp: the polynomials for which straight-line code is compiled.

Run it after a change of `mlip.ops.contraction_program`; a test tells whether the file is up to date.
"""

from __future__ import annotations

import textwrap
from itertools import product
from pathlib import Path

from e3nn import o3

from mlip.nn.irreps import spherical_irreps
from mlip.nn.product_basis import polynomial
from mlip.ops.contraction_program import ContractionProgram

HEADER = Path(__file__).resolve().parents[1] / "mlip/csrc/kernels/contraction_trees.hpp"
DEGREES, ORDERS, OUTPUTS = (1, 2, 3), (2, 3), ("0e", "1o", "2e")


def trees(l_max: int, largest_order: int, output: str) -> list[list[int]]:
    """Tree of each component of an output irrep."""
    irrep = o3.Irrep(output)
    terms = [polynomial(spherical_irreps(l_max), irrep, order) for order in range(1, largest_order + 1)]
    blocks = [(0, *found) for found in terms if found is not None]
    program = ContractionProgram((l_max + 1) ** 2, irrep.dim, blocks)
    return program.trees


def header() -> str:
    """Text of the generated file."""
    lines = [
        "// Made by tools/generate_contraction.py. Trees (contraction.hpp) of the product basis of 0e + 1o + ...",
        "// up to l_max, to be compiled into straight-line code.",
        "#pragma once",
        "#include <cstdint>",
        "",
        "namespace mlip::contraction_trees {",
    ]
    names = []
    for l_max, order, output in product(DEGREES, ORDERS, OUTPUTS):
        for component, tree in enumerate(trees(l_max, order, output)):
            name = f"L{l_max}_order{order}_{output}_{component}"
            names.append(name)
            numbers = textwrap.wrap(", ".join(map(str, tree)), 112)
            lines += ["", f"struct {name} {{", f"  static constexpr int n_in = {(l_max + 1) ** 2};"]
            lines += ["  static constexpr int32_t nodes[] = {", *("      " + line for line in numbers), "  };", "};"]
    lines += ["", "template <class... Trees>", "struct List {};"]
    lines += textwrap.wrap(f"using All = List<{', '.join(names)}>;", 120, subsequent_indent="    ")
    return "\n".join([*lines, "", "}  // namespace mlip::contraction_trees", ""])


if __name__ == "__main__":
    HEADER.write_text(header())
