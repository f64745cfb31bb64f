"""Symmetric contraction: tables against plain torch, against the network's module, derivatives, instruction sets."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from itertools import combinations_with_replacement
from pathlib import Path

import pytest
import torch
from e3nn import o3
from torch import Tensor

import mlip
from mlip.nn.irreps import spherical_irreps
from mlip.nn.product_basis import SymmetricContraction, polynomial
from mlip.ops.contraction_program import Block, ContractionProgram
from mlip.ops.symmetric_contraction import (
    pack_coefficients,
    symmetric_contraction,
    symmetric_contraction_reference,
)

needs_extension = pytest.mark.skipif(not mlip.compiled, reason="the extension is not built")
DTYPES = [torch.float32, torch.float64]
#: l_max, output irreps, order
LAYERS = [
    (3, ("0e",), 3),
    (3, ("0e", "1o"), 3),
    (3, ("0e", "1o", "2e"), 3),
    (2, ("0e", "1o"), 3),
    (1, ("0e", "1o"), 2),
    (2, ("0e", "1o"), 1),
    (1, ("0e",), 4),
    (3, ("3o",), 2),
]


def layer(l_max: int, outputs: tuple[str, ...], order: int) -> tuple[ContractionProgram, list[Block]]:
    """Program of a product basis, and the blocks it is made of."""
    first, blocks = 0, []
    for ir in map(o3.Irrep, outputs):
        found = (polynomial(spherical_irreps(l_max), ir, n) for n in range(1, order + 1))
        blocks += [(first, *terms) for terms in found if terms is not None]
        first += ir.dim
    return ContractionProgram((l_max + 1) ** 2, first, blocks), blocks


def full_program(dim_in: int, orders: tuple[int, ...]) -> ContractionProgram:
    """Two outputs of all monomials of some orders."""
    monomials = [torch.tensor(list(combinations_with_replacement(range(dim_in), n))) for n in orders]
    return ContractionProgram(dim_in, 3, [(k % 2, m, torch.ones(1, 1, len(m))) for k, m in enumerate(monomials)])


def tensors(
    program: ContractionProgram, n_atoms: int, channels: int, dtype: torch.dtype, n_elements: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, species, coefficients."""
    features = torch.randn(program.dim_in, n_atoms, channels, dtype=dtype)
    coefficients = torch.randn(n_elements, program.n_terms, channels, dtype=dtype)
    return features, torch.randint(n_elements, (n_atoms,)), coefficients


def compare(program: ContractionProgram, n_atoms: int, channels: int, dtype: torch.dtype) -> None:
    """Outputs, gradients and gradients of gradients, against the reference in float64."""
    features, species, coefficients = tensors(program, n_atoms, channels, dtype)
    results = []
    weights = torch.randn(program.dim_out, n_atoms, channels, dtype=dtype)
    directions = [torch.randn_like(x) for x in (features, coefficients)]
    for function, kind in ((symmetric_contraction, dtype), (symmetric_contraction_reference, torch.float64)):
        a, c, w = (x.to(kind).clone().requires_grad_() for x in (features, coefficients, weights))
        out = function(a, species, c, program)
        first = torch.autograd.grad(out, (a, c), w, create_graph=True)
        second = torch.autograd.grad(first, (a, c, w), [d.to(kind) for d in directions])
        results.append([x.detach().double() for x in (out, *first, *second)])
        assert out.dtype == kind
        (alone,) = torch.autograd.grad(function(a, species, c.detach(), program), a, w)
        results[-1].append(alone.double())
    tolerance = {torch.float32: 3e-6, torch.float64: 1e-13}[dtype]
    for mine, exact in zip(*results, strict=True):
        scale = max(1.0, float(exact.abs().max())) if exact.numel() else 1.0
        torch.testing.assert_close(mine, exact, rtol=0, atol=tolerance * scale)


@needs_extension
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", LAYERS, ids=str)
def test_equals_the_reference(spec: tuple, dtype: torch.dtype) -> None:
    program, _ = layer(*spec)
    for n_atoms, channels in ((5, 16), (37, 48), (1, 128)):
        compare(program, n_atoms, channels, dtype)


@needs_extension
@pytest.mark.parametrize("orders", [(1,), (2,), (5,), (1, 2, 3, 4, 5), (6, 4)], ids=str)
def test_any_orders(orders: tuple[int, ...]) -> None:
    compare(full_program(4, orders), 6, 32, torch.float64)


@needs_extension
def test_straight_line_code_is_that_of_the_tables() -> None:
    """A term with the coefficient zero more, and no tree is known any longer."""
    program, blocks = layer(2, ("0e", "1o"), 3)
    more = ContractionProgram(9, 4, [*blocks, (3, torch.tensor([[0, 0, 0]]), torch.ones(1, 1, 1))])
    features, species, coefficients = tensors(program, 9, 32, torch.float64)
    terms = list(zip(program.outputs, program.monomials, strict=True))
    padded = torch.zeros(3, more.n_terms, 32, dtype=torch.float64)
    for t, term in enumerate(zip(more.outputs, more.monomials, strict=True)):
        if term in terms:
            padded[:, t] = coefficients[:, terms.index(term)]
    results = []
    for p, c in ((program, coefficients), (more, padded)):
        a = features.clone().requires_grad_()
        out = symmetric_contraction(a, species, c, p)
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), a)])
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-11)


def test_generated_code_is_up_to_date() -> None:
    """tools/generate_contraction.py has been run after the last change of the trees."""
    path = Path(__file__).parents[1] / "tools/generate_contraction.py"
    spec = importlib.util.spec_from_file_location("generate_contraction", path)
    assert spec is not None and spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert generator.HEADER.read_text() == generator.header(), "run tools/generate_contraction.py"


def module_and_program(spec: tuple, channels: int) -> tuple[SymmetricContraction, ContractionProgram]:
    l_max, outputs, order = spec
    irreps = tuple(o3.Irrep(ir) for ir in outputs)
    return SymmetricContraction(spherical_irreps(l_max), irreps, order, channels, 3).double(), layer(*spec)[0]


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_extension), False])
@pytest.mark.parametrize("spec", LAYERS, ids=str)
def test_equals_the_module(spec: tuple, compiled: bool) -> None:
    """With coefficients that the program makes of the module's weights."""
    module, program = module_and_program(spec, 24)
    weights = [module.weights[name] for _, name in module.terms]
    features, species, _ = tensors(program, 7, 24, torch.float64)
    coefficients = program.coefficients(weights)
    function = symmetric_contraction if compiled else symmetric_contraction_reference
    packed = pack_coefficients(coefficients) if compiled else coefficients
    out = function(features, species, packed, program)
    expected = module(features, species)
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-11)
    grad = torch.randn_like(out)
    torch.testing.assert_close(
        torch.autograd.grad(out, weights, grad), torch.autograd.grad(expected, weights, grad), rtol=1e-10, atol=1e-10
    )


def test_program_has_only_distinct_terms() -> None:
    program, _ = layer(3, ("0e",), 3)
    assert program.n_terms == len(set(program.monomials)) == 94
    assert program.outputs == [0] * 94 and program.order == 3


def test_program_without_terms() -> None:
    program = ContractionProgram(4, 2, [])
    assert program.n_terms == 0 and program.order == 0
    features, species, coefficients = tensors(program, 3, 16, torch.float32)
    for c in (coefficients, pack_coefficients(coefficients)):
        assert torch.equal(symmetric_contraction(features, species, c, program), torch.zeros(2, 3, 16))


def test_outputs_without_terms_and_terms_in_two_blocks() -> None:
    monomials = torch.tensor([[1, 0], [1, 1]])
    one, two = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 0.0]]])
    program = ContractionProgram(2, 3, [(1, monomials, one), (1, monomials, two)])
    assert program.n_terms == 2
    coefficients = program.coefficients([torch.full((1, 1, 16), w) for w in (1.0, 10.0)])
    features = torch.randn(2, 4, 16)
    out = symmetric_contraction(features, torch.zeros(4, dtype=torch.int64), coefficients, program)
    torch.testing.assert_close(out[1], 31 * features[0] * features[1] + 2 * features[1] ** 2)
    assert out[0].eq(0).all() and out[2].eq(0).all()


@pytest.mark.parametrize("channels", [1, 12, 20])
def test_other_channels_run_in_plain_torch(channels: int) -> None:
    program, _ = layer(1, ("0e", "1o"), 3)
    features, species, coefficients = tensors(program, 5, channels, torch.float32)
    packed = pack_coefficients(coefficients)
    expected = symmetric_contraction_reference(features, species, coefficients, program)
    assert torch.equal(symmetric_contraction(features, species, packed, program), expected)


@needs_extension
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_atoms", [0, 3])
@pytest.mark.parametrize("outputs", [("0e",), ("0e", "1o")], ids=str)
def test_opcheck(outputs: tuple[str, ...], n_atoms: int, dtype: torch.dtype) -> None:
    program, _ = layer(1, outputs, 3)
    features, species, coefficients = tensors(program, n_atoms, 32, dtype)
    packed = pack_coefficients(coefficients).requires_grad_()
    grad = torch.randn(program.dim_out, n_atoms, 32, dtype=dtype, requires_grad=True)
    tangent = torch.randn_like(features)
    features.requires_grad_()
    ops, sizes = torch.ops.mlip, (program.n_terms, 3)
    arguments = (features, species, packed, program.table)
    torch.library.opcheck(ops.symmetric_contraction.default, (*arguments, program.dim_out))
    torch.library.opcheck(ops.symmetric_contraction_backward.default, (grad, *arguments))
    torch.library.opcheck(ops.symmetric_contraction_terms.default, (grad, features, species, program.table, *sizes))
    plain = [x.detach() for x in (tangent, grad, features, species, packed)]
    torch.library.opcheck(ops.symmetric_contraction_second.default, (*plain, program.table))
    torch.library.opcheck(ops.symmetric_contraction_terms_second.default, (*plain[:4], program.table, *sizes))


@needs_extension
@pytest.mark.parametrize("outputs", [("0e",), ("0e", "1o")], ids=str)
@pytest.mark.parametrize("trained", [True, False])
def test_derivatives(outputs: tuple[str, ...], trained: bool) -> None:
    program, _ = layer(1, outputs, 3)
    features, species, coefficients = tensors(program, 3, 8, torch.float64)
    inputs = (features.requires_grad_(), coefficients.requires_grad_(trained))

    def function(a: Tensor, c: Tensor) -> Tensor:
        return symmetric_contraction(a, species, c, program)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@needs_extension
def test_third_derivative_raises() -> None:
    program, _ = layer(1, ("0e",), 3)
    features, species, coefficients = tensors(program, 3, 16, torch.float32)
    total = symmetric_contraction(features.requires_grad_(), species, coefficients, program).sum()
    with pytest.raises(NotImplementedError, match="third derivative"):
        for _ in range(3):
            (grad,) = torch.autograd.grad(total, features, create_graph=True)
            total = grad.pow(2).sum()


@needs_extension
@pytest.mark.parametrize(
    ("which", "wrong", "message"),
    [
        (0, torch.zeros(3, 5, 32), "features"),
        (0, torch.zeros(4, 5, 24), "features"),
        (0, torch.zeros(4, 5, 32, dtype=torch.float16), "features"),
        (0, torch.zeros(4, 32, 5).transpose(1, 2), "features"),
        (0, torch.zeros(4, 6, 32), "species"),
        (1, torch.full((5,), 3), "species"),
        (1, torch.full((5,), -1), "species"),
        (1, torch.zeros(5), "species"),
        (2, torch.zeros(3, 2, 10, 16), "coefficients"),
        (2, torch.zeros(3, 2, 9, 16, dtype=torch.float64), "coefficients"),
        (3, torch.zeros(5), "program"),
        (3, torch.zeros(2, dtype=torch.int32), "program"),
        (3, torch.tensor([4, 1, 1, 0, 1, 0, 4], dtype=torch.int32), "program"),
        (3, torch.tensor([4, 1, 1, 0, 1, 0], dtype=torch.int32), "program"),
        (3, torch.tensor([4, 1, 1, 0, 2**31 - 1, 0, 1], dtype=torch.int32), "program"),
        (3, torch.tensor([4, 1, 2, 0, 1, 0, 1], dtype=torch.int32), "program"),
        (3, torch.tensor([4, 1, 1, 0, 1, 0, 1, 1], dtype=torch.int32), "program"),
        (3, torch.tensor([65, 1, 1, 0, 1, 0, 1], dtype=torch.int32), "program"),
        (3, torch.tensor([4, 1, 0, *[0, 0, 1, 0] * 40, 0, 0, 0], dtype=torch.int32), "program"),
    ],
)
def test_refuses(which: int, wrong: Tensor, message: str) -> None:
    program, _ = layer(1, ("0e",), 3)
    features, species, coefficients = tensors(program, 5, 32, torch.float32)
    arguments = [features, species, pack_coefficients(coefficients), program.table]
    arguments[which] = wrong
    kinds = (ValueError, RuntimeError)
    with pytest.raises(kinds, match=f"symmetric_contraction: {message}"):
        torch.ops.mlip.symmetric_contraction(*arguments, 1)
    grad = torch.zeros(1, 5, 32)
    with pytest.raises(kinds, match=f"symmetric_contraction_backward: ({message}|grad)"):
        torch.ops.mlip.symmetric_contraction_backward(grad, *arguments)
    if which != 2:
        arguments.pop(2)
        with pytest.raises(kinds, match=f"symmetric_contraction_terms: ({message}|grad)"):
            torch.ops.mlip.symmetric_contraction_terms(grad, *arguments, 9, 3)


@needs_extension
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_and_number_of_threads(isa: str) -> None:
    program = (
        "import torch, test_ops_contraction as t; torch.manual_seed(3); ops = torch.ops.mlip\n"
        "for spec in t.LAYERS[1::2]:\n"
        "    [t.compare(t.layer(*spec)[0], 5, 80, dtype) for dtype in t.DTYPES]\n"
        "p, out = t.layer(3, ('0e', '1o'), 3)[0], []\n"
        "a, z, c = t.tensors(p, 301, 96, torch.float32)\n"
        "c, g = t.pack_coefficients(c), torch.randn(4, 301, 96)\n"
        "for threads in (1, 2, 5):\n"
        "    torch.set_num_threads(threads)\n"
        "    out.append((ops.symmetric_contraction(a, z, c, p.table, 4),\n"
        "        ops.symmetric_contraction_backward(g, a, z, c, p.table),\n"
        "        ops.symmetric_contraction_terms(g, a, z, p.table, p.n_terms, 3)))\n"
        "assert all(torch.equal(a, b) for o in out for a, b in zip(out[0], o))\n"
    )
    paths = os.pathsep.join([str(Path(mlip.__file__).parents[1]), str(Path(__file__).parent)])
    environment = os.environ | {"MLIP_SIMD": isa, "PYTHONPATH": paths, "OMP_NUM_THREADS": "5"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
