"""DimeNet and DimeNet++: physics, collinear atoms, bases against scipy, and PyTorch Geometric's numbers.

tests/reference/make_pyg_dimenet.py made the fixtures.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from pyg_references import FOLDER, Reference, batched
from scipy.integrate import quad
from scipy.special import eval_legendre, spherical_jn
from torch import Tensor

from mlip.convert import atoms_to_graph
from mlip.errors import InputError, ModelFileError
from mlip.graph import collate
from mlip.importers.pyg_dimenet import dimenet_from_pyg, load_pyg_dimenet
from mlip.models import DimeNet, DimeNetPlusPlus
from mlip.models.dimenet_blocks import SphericalBasis
from mlip.nn.edge_triplets import edge_triplets
from mlip.nn.spherical_basis import RadialBasis, SphericalRadialBasis, spherical_bessel, spherical_bessel_roots
from mlip.potential import Potential
from mlip.testing.physics import PotentialPhysics

NAMES = ("dimenet", "dimenet_plus_plus")
SMALL = {"hidden_channels": 6, "num_blocks": 2, "num_spherical": 4, "num_radial": 3, "num_output_layers": 1}
DIMENET = SMALL | {"num_bilinear": 3}
PLUS_PLUS = SMALL | {"int_emb_size": 5, "basis_emb_size": 3, "out_emb_channels": 7}


def random_model(
    kind: type[DimeNet | DimeNetPlusPlus], elements: tuple[int, ...], cutoff: float, **options: Any
) -> Any:
    """In float64, all its parameters moved away from where they start: biases and energies are zero there."""
    torch.manual_seed(3)
    model = kind(elements, cutoff, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def random_potential(
    kind: type[DimeNet | DimeNetPlusPlus], elements: tuple[int, ...], scale: float = 1.0, **options: Any
) -> Potential:
    return Potential(random_model(kind, elements, 4.0, **options), {z: -100.0 * z for z in elements}, scale, 0.3)


class TestDimeNetPhysics(PotentialPhysics):
    """DimeNet, two elements."""

    @pytest.fixture
    def potential(self) -> Potential:
        return random_potential(DimeNet, (8, 14), 0.7, **DIMENET)


class TestDimeNetPlusPlusPhysics(PotentialPhysics):
    """DimeNet++, one element, other numbers of residual layers; eight channels are summed by compiled operators."""

    @pytest.fixture
    def potential(self) -> Potential:
        options = PLUS_PLUS | {"int_emb_size": 8}
        return random_potential(DimeNetPlusPlus, (14,), **options, num_before_skip=0, num_after_skip=1)


class TestFaithfulPhysics(PotentialPhysics):
    """The published DimeNet breaks no law either: its faults are not in its symmetries."""

    @pytest.fixture
    def potential(self) -> Potential:
        return random_potential(DimeNet, (6,), **DIMENET, faithful=True)


@pytest.mark.parametrize(
    ("kind", "published"), [(DimeNet, 2_100_070), (DimeNetPlusPlus, 1_885_830)], ids=["DimeNet", "DimeNet++"]
)
def test_number_of_parameters(kind: type[DimeNet | DimeNetPlusPlus], published: int) -> None:
    """That of PyTorch Geometric, with its 95 embeddings; without faults there is one bias vector less."""
    counts = [sum(p.numel() for p in kind(range(1, 96), faithful=f).parameters()) for f in (True, False)]
    assert counts == [published, published - 128]


def perfect_crystals() -> dict[str, Atoms]:
    """With straight lines of three atoms, among them images of one atom only."""
    return {
        "one atom": Atoms("Si", cell=[2.3] * 3, pbc=True),
        "rocksalt": bulk("SiO", "rocksalt", a=4.1),
        "chain": Atoms("Si2O", positions=[[0, 0, 0], [2, 0, 0], [1, 0, 0]], cell=[4, 0, 0], pbc=[True, False, False]),
    }


@pytest.mark.parametrize("crystal", sorted(perfect_crystals()))
@pytest.mark.parametrize(("kind", "options"), [(DimeNet, DIMENET), (DimeNetPlusPlus, PLUS_PLUS)], ids=NAMES)
def test_collinear_atoms(kind: type[DimeNet | DimeNetPlusPlus], options: dict[str, Any], crystal: str) -> None:
    """First and second derivatives are finite, and those of the energy."""
    model = random_model(kind, (8, 14), 3.0, **options)
    graph = atoms_to_graph(perfect_crystals()[crystal], model.cutoff)
    triplets = edge_triplets(graph.edge_index, graph.edge_shift, len(graph.numbers))
    directions = torch.nn.functional.normalize(graph.edge_vectors())
    cosines = (directions[triplets.first] * directions[triplets.second]).sum(dim=1)
    assert float(cosines.max()) > 1 - 1e-15

    def energy(positions: Tensor, cell: Tensor) -> Tensor:
        return model(graph._replace(positions=positions, cell=cell)).energy.sum()

    inputs = graph.positions.clone().requires_grad_(), graph.cell.clone().requires_grad_()
    assert torch.autograd.gradcheck(energy, inputs, atol=1e-7)
    assert torch.autograd.gradgradcheck(energy, inputs, atol=1e-6)
    hessian = Potential(model, {8: 0.0, 14: 0.0}).hessian(graph)
    assert bool(hessian.isfinite().all()) and float(hessian.sum(dim=2).abs().max()) < 1e-9
    if len(graph.numbers) > 1:
        assert float(hessian.abs().max()) > 1e-4


def test_triplets_are_all_but_the_way_back() -> None:
    """Of a batch of a crystal with many images, a molecule, a lone atom and a slab; against plain loops."""
    slab = bulk("Cu", cubic=True)
    slab.pbc = (True, True, False)
    structures = [Atoms("Si", cell=[2.3, 2.2, 2.4], pbc=True), molecule("CH4"), Atoms("He"), slab]
    graph = collate([atoms_to_graph(atoms, 3.0) for atoms in structures])
    edges = list(zip(*graph.edge_index.tolist(), map(tuple, graph.edge_shift.tolist()), strict=True))
    expected = {
        (a, b)
        for a, (i, j, there) in enumerate(edges)
        for b, (center, k, back) in enumerate(edges)
        if center == j and (k, *np.add(there, back)) != (i, 0, 0, 0)
    }
    triplets = edge_triplets(graph.edge_index, graph.edge_shift, len(graph.numbers))
    assert len(triplets.first) == len(expected) and set(zip(*(t.tolist() for t in triplets), strict=True)) == expected
    assert bool((triplets.first.diff() >= 0).all())
    cubic = atoms_to_graph(Atoms("Po", cell=[3.3] * 3, pbc=True), 3.4)
    assert len(edge_triplets(cubic.edge_index, cubic.edge_shift, 1).first) == 6 * 5


@pytest.mark.parametrize("order", [0, 1, 2, 6, 16])
def test_spherical_bessel_functions(order: int) -> None:
    """Against scipy, with derivatives, around zero and where the series ends."""
    y = torch.tensor([0, 1e-9, 1e-3, 0.1, 1, order + 1 - 1e-9, order + 1 + 1e-9, 20, 55], dtype=torch.float64)
    y.requires_grad_()
    value = spherical_bessel(order, y)
    (slope,) = torch.autograd.grad(value.sum(), y, create_graph=True)
    expected = spherical_jn(order, y.detach().numpy()), spherical_jn(order, y.detach().numpy(), derivative=True)
    for ours, theirs in zip((value, slope), expected, strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradgradcheck(lambda x: spherical_bessel(order, x), y[2:].detach().requires_grad_())
    single = spherical_bessel(order, y.detach().float()).double().numpy()
    np.testing.assert_allclose(single, spherical_jn(order, y.detach().float().double().numpy()), atol=2e-6)
    hessian = torch.func.vmap(torch.func.grad(lambda x: spherical_bessel(order, x)))(y.detach())
    np.testing.assert_allclose(hessian.numpy(), expected[1], rtol=1e-12, atol=1e-14)


def test_forward_mode_in_forward_mode_is_refused() -> None:
    """Torch would leave out the derivative of what custom functions save."""
    y = torch.tensor([0.3, 4.0], dtype=torch.float64)

    def function(y: Tensor) -> Tensor:
        return spherical_bessel(2, y)

    of_gradient = torch.func.jacfwd(torch.func.grad(lambda y: function(y).sum()))(y).diagonal()
    step = 1e-4
    expected = (function(y + step) - 2 * function(y) + function(y - step)) / step**2
    torch.testing.assert_close(of_gradient, expected, rtol=1e-5, atol=1e-7)
    with pytest.raises(NotImplementedError, match="one derivative at most in forward mode"):
        torch.func.jacfwd(torch.func.jacfwd(function))(y)


def test_spherical_bessel_roots() -> None:
    """4.4934, 5.7635, 6.9879: Abramowitz and Stegun, table 10.6."""
    roots = spherical_bessel_roots(7, 6)
    np.testing.assert_allclose(roots[:4, 0], [math.pi, 4.493409, 5.763459, 6.987932], atol=1e-6)
    assert all(np.abs(spherical_jn(order, row)).max() < 1e-15 for order, row in enumerate(roots))
    assert all((np.diff(row) > math.pi - 1e-12).all() for row in roots)  # none is left out


def test_radial_parts_are_orthonormal() -> None:
    basis = SphericalRadialBasis(4, 3)
    roots, norms = (basis.constants[k].numpy() for k in range(2))
    for order in range(4):
        for n in range(3):
            for m in range(3):
                found, _ = quad(
                    lambda x, o=order, a=n, b=m: (
                        x**2 * np.prod([norms[o, k] * spherical_jn(o, roots[o, k] * x) for k in (a, b)])
                    ),
                    *(0, 1),
                )
                assert found == pytest.approx(float(n == m), abs=1e-10)


def envelope(x: float, p: int) -> float:
    """Eq. 8 of the paper."""
    return 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)


def test_radial_basis() -> None:
    found = RadialBasis(4, envelope_exponent=5).double()(torch.tensor([0.3, 1.0, 1.2], dtype=torch.float64))
    expected = [envelope(0.3, 6) * math.sin(n * math.pi * 0.3) / 0.3 for n in range(1, 5)]
    np.testing.assert_allclose(found[0].detach().numpy(), expected, rtol=1e-6)  # the frequencies start in float32
    assert float(found[1:].detach().abs().max()) == 0


@pytest.mark.parametrize("published", [False, True])
def test_spherical_basis(published: bool) -> None:
    """Which distance and which angle of a triangle, with and without the published faults."""
    basis = SphericalBasis(3, 2, envelope_exponent=5, faithful=published, angle_at_center=published)
    atoms = Atoms("H3", positions=[[0, 0, 0], [1.0, 0.2, 0], [0.3, 1.5, 0.4]])
    graph = atoms_to_graph(atoms, 3.0)
    x = graph.edge_vectors().norm(dim=1) / 3.0
    triplets = edge_triplets(graph.edge_index, graph.edge_shift, 3)
    values = basis(basis.radial(x), graph.edge_vectors(), triplets)
    assert len(values) == 6
    for value, first, second in zip(values, *triplets, strict=True):
        i, j = graph.edge_index[:, first].tolist()
        k = int(graph.edge_index[1, second])
        cosine = math.cos(math.radians(atoms.get_angle(j, i, k) if published else atoms.get_angle(i, j, k)))
        d = atoms.get_distance(k, j) / 3 if published else atoms.get_distance(j, i) / 3
        expected = [
            envelope(d, 6) / (d if published else 1)
            * math.sqrt(2) / abs(spherical_jn(degree + 1, root)) * spherical_jn(degree, root * d)
            * math.sqrt((2 * degree + 1) / (4 * math.pi)) * eval_legendre(degree, cosine)
            for degree in range(3)
            for root in spherical_bessel_roots(3, 2)[degree]
        ]  # fmt: skip
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-6 if published else 1e-12, atol=1e-6 * published)


def test_longer_list_has_no_more_triplets(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(DimeNet, (14,), 3.0, **DIMENET)
    counts = []

    def counting(*args: Any) -> Any:
        counts.append(len(edge_triplets(*args).first))
        return edge_triplets(*args)

    monkeypatch.setattr("mlip.models.dimenet.edge_triplets", counting)
    for reach in (3.0, 6.0):
        model(atoms_to_graph(bulk("Si"), reach))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize(("kind", "options"), [(DimeNet, DIMENET), (DimeNetPlusPlus, PLUS_PLUS)], ids=NAMES)
def test_heads_and_features(kind: type[DimeNet | DimeNetPlusPlus], options: dict[str, Any]) -> None:
    model = random_model(kind, (1, 6), 4.0, heads=["a", "b"], **options)
    graph = atoms_to_graph(molecule("C2H6"), 4.0)
    first, second = model(graph), model(graph, head=1)
    assert first.energy.dtype == torch.float64 and not torch.allclose(first.energy, second.energy)
    weights = torch.cat([output.last.weight[1] for output in model.outputs])
    torch.testing.assert_close(second.features @ weights, second.energy)  # the energy is linear in the features


def test_untrained_energies_are_zero() -> None:
    """As published: training starts from the reference energies."""
    energy = DimeNet((1, 6), **DIMENET)(atoms_to_graph(molecule("CH4"), 5.0)).energy
    assert energy.tolist() == [0] * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_spherical": 17}, "num_spherical = 17: expected 1 to 16"),
        ({"hidden_channels": 0}, "hidden_channels = 0: expected 1 or more"),
        ({"num_before_skip": -1}, "num_before_skip = -1: expected 0 or more"),
        ({"cutoff": 0}, "cutoff 0: expected a positive"),
        ({"num_radial": "six"}, "num_radial = 'six': expected an integer"),
    ],
)
def test_wrong_hyperparameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DimeNet((1,), **options)


def deviation(found: Tensor, expected: Any) -> float:
    """Largest, relative to the largest magnitude."""
    reference = torch.as_tensor(np.asarray(expected)).double()
    return float((found.double() - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_pyg(name: str, tmp_path: Path) -> None:
    """In float64 to 1e-12; in float32 as close as PyG's own numbers in float32 are to those in float64."""
    reference = Reference(name)
    assert (FOLDER / f"{name}.npz").stat().st_size < 100_000
    file = tmp_path / "pyg.pt"
    torch.save(reference.state, file)
    potential = load_pyg_dimenet(file, [1, 6, 8], reference.kwargs)
    assert type(potential.model).__name__ == reference.kind and potential.dtype == torch.float32
    graph, arrays = reference.graph(), reference.arrays
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        found = potential.to(dtype)(graph, forces=True, stress=False)
        assert deviation(found.energy, arrays["energy64"]) < tolerance
        assert deviation(-found.forces, arrays["gradient64"]) < tolerance
    potential.save(tmp_path / "ours.safetensors")


@pytest.mark.parametrize("name", ["pyg_dimenet_random_reference.pt", "pyg_dimenet_pp_random_reference.pt"])
def test_equal_to_pyg_on_outside_data(name: str, mlip_data: Path) -> None:
    """Other random weights; numbers made by others with PyG 2.8.1 in float64."""
    stored = torch.load(mlip_data / "dimenet" / name, weights_only=True)
    potential = load_pyg_dimenet(mlip_data / "dimenet" / name, stored["z"].unique().tolist()).double()
    graph = batched(stored["z"], stored["pos"], stored["batch"], potential.cutoff)
    found = potential(graph, forces=True, stress=False)
    assert deviation(found.energy, stored["energy"].flatten()) < 1e-12
    assert deviation(-found.forces, stored["grad"]) < 1e-12


def test_import_keeps_scale_and_reference_energies(tmp_path: Path) -> None:
    reference, graph = Reference("dimenet"), Reference("dimenet").graph()
    torch.save({"state_dict": reference.state, "kwargs": reference.kwargs}, tmp_path / "both.pt")
    plain = load_pyg_dimenet(tmp_path / "both.pt", [1, 6, 8])
    scaled = load_pyg_dimenet(tmp_path / "both.pt", [1, 6, 8], E0s={1: -1.0, 6: -2.0, 8: -3.0}, scale=0.5, shift=0.25)
    offset = {1: -0.75, 6: -1.75, 8: -2.75}
    expected = 0.5 * plain(graph, stress=False).atom_energies + torch.tensor(
        [offset[z] for z in graph.numbers.tolist()]
    )
    torch.testing.assert_close(scaled(graph, stress=False).atom_energies, expected)
    assert scaled.metadata["source"]["program"] == "PyTorch Geometric"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"state": {"extra.weight": torch.ones(1)}}, ModelFileError, "extra.weight: not a tensor of"),
        ({"state": {"rbf.freq": torch.full((6,), math.nan)}}, ModelFileError, "rbf.freq: numbers that are not finite"),
        ({"state": {"emb.lin.bias": torch.ones(6).int()}}, ModelFileError, "expected float32 or float64"),
        ({"state": {"emb.lin.bias": "text"}}, ModelFileError, "str; expected float32 or float64"),
        ({"state": {"emb.lin.bias": torch.ones(7)}}, ModelFileError, "does not fit a DimeNet of its own sizes"),
        ({"state": {"emb.emb.weight": torch.ones(7)}}, ModelFileError, "no state dict of PyTorch Geometric"),
        ({"kwargs": {"num_blocks": 3}}, ModelFileError, "num_blocks = 3, but the state dict has 2"),
        ({"kwargs": {"unheard": 3}}, ModelFileError, "unheard = 3, but the state dict has no such argument"),
        ({"kwargs": {"cutoff": "five"}}, InputError, "cutoff 'five': expected"),
        ({"kwargs": {"act": "relu"}}, ModelFileError, "activation 'relu'"),
        ({"elements": [95]}, InputError, "atomic numbers 1 to 94"),
        ({"elements": []}, InputError, "atomic numbers 1 to 94"),
        ({"heads": ["a", "b"]}, InputError, "the model has 1 outputs"),
    ],
)
def test_wrong_imports(change: dict[str, Any], error: type[Exception], message: str) -> None:
    reference = Reference("dimenet")
    with pytest.raises(error, match=message):
        dimenet_from_pyg(
            reference.state | change.get("state", {}),
            change.get("elements", [1]),
            reference.kwargs | {"max_num_neighbors": 32} | change.get("kwargs", {}),
            change.get("heads"),
        )


def test_files_that_hold_no_state_dict(tmp_path: Path) -> None:
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    torch.save({"a": torch.ones(3)}, tmp_path / "other.pt")
    for name in ("tensor.pt", "other.pt"):
        with pytest.raises(ModelFileError, match=r"state dict"):
            load_pyg_dimenet(tmp_path / name, [1])
