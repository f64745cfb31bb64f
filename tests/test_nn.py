"""Building blocks of networks against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from e3nn import o3

from mlip.errors import InputError
from mlip.models import MACE
from mlip.nn.cutoff import PolynomialCutoff
from mlip.nn.irreps import ElementLinear, parse_irreps, slices, spherical_irreps, wigner_3j
from mlip.nn.product_basis import SymmetricContraction, _couplings, polynomial
from mlip.nn.radial import BesselBasis, RadialMLP
from mlip.ops import segment_sum


@pytest.mark.parametrize("p", [2, 5, 6])
def test_polynomial_cutoff(p: int) -> None:
    cutoff = PolynomialCutoff(4.0, p)
    r = torch.tensor([0.0, 4.0, 4.5], dtype=torch.float64)
    assert cutoff(r).tolist() == [1.0, 0.0, 0.0]
    edge = torch.tensor([4.0 - 1e-9], dtype=torch.float64, requires_grad=True)
    value = cutoff(edge)
    for _ in range(2):  # value, first and second derivative vanish
        assert abs(value.item()) < 1e-7
        (value,) = torch.autograd.grad(value, edge, create_graph=True)
    assert abs(value.item()) < 1e-6
    (first,) = torch.autograd.grad(cutoff(edge), edge, create_graph=True)
    (second,) = torch.autograd.grad(first, edge, create_graph=True)
    assert torch.autograd.grad(second, edge)[0].abs() > 0.1  # and the third does not


def test_bessel_basis_is_orthonormal() -> None:
    basis = BesselBasis(5.0, 6).double()
    r = torch.linspace(1e-6, 5, 20001, dtype=torch.float64)
    values = basis(r) * r.unsqueeze(1)
    overlap = torch.trapezoid(values.unsqueeze(2) * values.unsqueeze(1), r, dim=0)
    torch.testing.assert_close(overlap, torch.eye(6, dtype=torch.float64), atol=1e-6, rtol=0)


def test_radial_mlp_vanishes_with_its_input_and_keeps_variance() -> None:
    torch.manual_seed(0)
    mlp = RadialMLP([8, 64, 64, 16])
    assert not mlp(torch.zeros(2, 8)).any()
    out = mlp(torch.randn(4000, 8))
    assert 0.7 < out.var().item() < 1.4


def test_wigner_signs_are_orthogonal_couplings() -> None:
    for l1 in range(4):
        for l2 in range(4):
            total = torch.zeros((2 * l1 + 1) * (2 * l2 + 1), (2 * l1 + 1) * (2 * l2 + 1), dtype=torch.float64)
            for l3 in range(abs(l1 - l2), l1 + l2 + 1):
                c = wigner_3j(l1, l2, l3).flatten(0, 1)
                total += (2 * l3 + 1) * c @ c.T
            torch.testing.assert_close(total, torch.eye(len(total), dtype=torch.float64), atol=1e-10, rtol=0)
    assert torch.equal(wigner_3j(2, 1, 2), -o3.wigner_3j(2, 1, 2, dtype=torch.float64))


def test_wigner_signs_are_those_of_published_weights() -> None:
    """Sums of the symbols in e3nn 0.4.4 (run in mace-torch's environment), weighted so that none is zero."""
    recorded = {
        (1, 1, 2): -0.403438515466,
        (1, 4, 4): 0.165965787735,
        (1, 7, 7): -0.0185310537924,
        (3, 3, 5): 0.337914543408,
        (3, 4, 6): -0.48420870839,
        (4, 4, 5): 0.0654441670789,
        (5, 5, 9): 0.46143590642,
        (5, 6, 10): 0.515725964554,
        (9, 11, 11): 0.434001687203,
    }
    for degrees, expected in recorded.items():
        symbol = wigner_3j(*degrees).flatten()
        weights = torch.sin(1.7 * torch.arange(len(symbol), dtype=torch.float64))
        assert (symbol @ weights).item() == pytest.approx(expected, rel=1e-9)


def test_parse_irreps() -> None:
    assert parse_irreps("8x0e+8x1o") == (8, (o3.Irrep("0e"), o3.Irrep("1o")))
    for wrong in ("nonsense", "8x0e+4x1o", "8x1o", "8x0e+8x0e"):
        with pytest.raises(InputError, match="irreps"):
            parse_irreps(wrong)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_polynomial_equals_the_dense_coupling(order: int) -> None:
    irreps = spherical_irreps(2)
    torch.manual_seed(order)
    x = torch.randn(9, dtype=torch.float64)
    for ir in (o3.Irrep("0e"), o3.Irrep("1o"), o3.Irrep("2e"), o3.Irrep("1e")):
        dense = [u for out, u in _couplings(irreps, order, False) if out == ir]
        terms = polynomial(irreps, ir, order)
        if terms is None:  # no path, or antisymmetric ones only
            sparse = torch.zeros(ir.dim, len(dense), dtype=torch.float64)
        else:
            monomials, coefficients = terms
            sparse = coefficients @ x[monomials].prod(dim=1)
        for path, u in enumerate(dense):
            for _ in range(order):
                u = u @ x
            torch.testing.assert_close(sparse[:, path], u, atol=1e-12, rtol=1e-10)


def test_number_of_monomials_and_paths() -> None:
    """94 monomials and 23 paths for l_max 3, order 3: as in the reference implementation's U matrix."""
    monomials, coefficients = polynomial(spherical_irreps(3), o3.Irrep("0e"), 3)
    assert coefficients.shape[1] == 23
    lower = sum(len(polynomial(spherical_irreps(3), o3.Irrep("0e"), n)[0]) for n in (1, 2))
    assert len(monomials) + lower == 94


def test_symmetric_contraction_is_equivariant_and_per_element() -> None:
    torch.manual_seed(0)
    irreps_in, irreps_out = spherical_irreps(3), spherical_irreps(2)
    contraction = SymmetricContraction(irreps_in, irreps_out, 3, 5, 2).double()
    species = torch.tensor([0, 1, 0, 1])
    x = torch.randn(16, 4, 5, dtype=torch.float64)
    rotation = -o3.rand_matrix(dtype=torch.float64)
    d_in = o3.Irreps(list(irreps_in)).D_from_matrix(rotation)
    d_out = o3.Irreps(list(irreps_out)).D_from_matrix(rotation)
    out = contraction(x, species)
    turned = contraction(torch.einsum("ij,jnc->inc", d_in, x), species)
    # e3nn's Wigner matrices of a given rotation matrix are good to 1e-6.
    torch.testing.assert_close(turned, torch.einsum("ij,jnc->inc", d_out, out), atol=1e-5, rtol=1e-5)
    swapped = contraction(x, 1 - species)
    assert (out - swapped).abs().max() > 1e-3
    small = SymmetricContraction(spherical_irreps(1), irreps_out, 3, 2, 2).double()
    assert torch.autograd.gradgradcheck(lambda y: small(y, species[:2]), x[:4, :2, :2].clone().requires_grad_())


def test_element_linear_uses_the_atoms_own_matrix() -> None:
    torch.manual_seed(0)
    irreps = spherical_irreps(1)
    linear = ElementLinear(irreps[:1], irreps, 4, 4, 3).double()
    species = torch.tensor([2, 0, 2, 1])
    x = torch.randn(1, 4, 4, dtype=torch.float64)
    out = linear(x, species)
    assert not out[slices(irreps)[1]].any()  # the input has no vectors
    for atom, z in enumerate(species.tolist()):
        torch.testing.assert_close(out[:1, atom], x[:, atom] @ linear.weights[0][z] / math.sqrt(12))


def test_segment_sum_derivatives() -> None:
    index = torch.tensor([0, 0, 2, 3, 3])
    values = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(segment_sum(values, index, 5).sum(1)[1], torch.tensor(0.0, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda v: segment_sum(v**2, index, 5), values)
    assert torch.autograd.gradgradcheck(lambda v: segment_sum(v**2, index, 5), values)


def test_segment_sum_equals_torch_scatter() -> None:
    scatter = pytest.importorskip("torch_scatter", reason="the extra `scatter` is not installed")
    index, values = torch.tensor([0, 0, 2, 3, 3]), torch.randn(5, 2, dtype=torch.float64)
    torch.testing.assert_close(segment_sum(values, index, 5), scatter.scatter(values, index, dim=0, dim_size=5))


@pytest.mark.parametrize(
    "options",
    [{"correlation": 0}, {"num_interactions": 0}, {"l_max": -1}, {"avg_num_neighbors": 0}, {"mlp_irreps": "4x0e+4x1o"},
     {"elements": []}, {"elements": [0]}, {"cutoff": 0.0}, {"correlation": 9}, {"interaction": "other"},
     {"interaction_first": "RealAgnosticInteractionBlock"}, {"gate": "relu"}, {"l_max": [1, 2, 3]},
     {"correlation": [2]}, {"hidden_irreps": ["4x0e"]}, {"radial_basis": "sinc"}, {"distance_transform": "none"},
     {"heads": []}, {"heads": ["a", "a"]}, {"last_readout_only": True, "num_interactions": 1},
     {"radial_basis": "gaussian", "num_bessel": 1},
     {"interaction": "residual_nonlinear", "hidden_irreps": "4x0e+4x0o"}, {"radial_mlp": (8, 0)}],
)  # fmt: skip
def test_mace_refuses(options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        MACE(**({"elements": [14], "hidden_irreps": "4x0e", "radial_mlp": (4,)} | options))
