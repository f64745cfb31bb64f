"""DimeNet by densities of messages: the numbers and derivatives of sums over triplets. Physics: test_dimenet.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from test_dimenet import random_model

import mlip
from mlip.acceleration import Acceleration, disagreement, gradient_disagreement
from mlip.convert import atoms_to_graph
from mlip.graph import AtomGraph, collate
from mlip.models import DimeNet, DimeNetPlusPlus
from mlip.models.arrivals import DensityArrivals, edges_back
from mlip.models.compiled_dimenet import CompiledDimeNet, _series

pytestmark = pytest.mark.skipif(not mlip.compiled, reason="the extension is not built")

SIZES = {"hidden_channels": 8, "num_blocks": 2, "num_spherical": 4, "num_radial": 3, "num_output_layers": 1}
KINDS: dict[str, tuple[type[DimeNet | DimeNetPlusPlus], dict[str, Any]]] = {
    "dimenet": (DimeNet, SIZES | {"num_bilinear": 3}),
    "dimenet_plus_plus": (DimeNetPlusPlus, SIZES | {"int_emb_size": 8, "basis_emb_size": 3, "out_emb_channels": 7}),
}


def structures() -> dict[str, Atoms]:
    """A cell with several images of its one atom, a crystal, a molecule, a line of atoms, and too few atoms."""
    crystal = bulk("Si", cubic=True)
    crystal.rattle(0.1, seed=1)
    skewed = bulk("Si")
    skewed.set_cell(skewed.cell.array @ [[1, 0.1, 0], [0, 1, 0.2], [0.05, 0, 0.9]], scale_atoms=True)
    slab = crystal.copy()
    slab.pbc = [True, False, True]
    return {
        "one atom": Atoms("Si", cell=[2.4, 2.5, 2.6], pbc=True),
        "crystal": crystal,
        "skewed": skewed,
        "slab": slab,
        "molecule": molecule("Si2H6"),
        "line": Atoms("HSiH", positions=[[0, 0, -1.5], [0, 0, 0], [0, 0, 1.6]]),
        "pair": Atoms("SiH", positions=[[0, 0, 0], [0, 0, 1.5]]),
        "lone atom": Atoms("Si"),
    }


@pytest.mark.parametrize("few", [0, 100])
@pytest.mark.parametrize("structure", structures())
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_plain_torch(kind: str, structure: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Energies, forces and virial; gradients of a force loss by positions and parameters; by densities and triplets."""
    monkeypatch.setattr("mlip.models.compiled_dimenet.FEW_NEIGHBORS", few)
    model_type, options = KINDS[kind]
    model, atoms = random_model(model_type, (1, 14), 4.0, **options), structures()[structure]
    compiled = model.compiled("exact")
    assert isinstance(compiled, CompiledDimeNet)
    assert disagreement(model, compiled, atoms, 0) < 1e-12
    graph = atoms_to_graph(atoms, 4.0)
    torch.testing.assert_close(compiled(graph).features, model(graph).features, rtol=1e-11, atol=1e-12)
    if structure != "lone atom":
        assert gradient_disagreement(model, "exact", atoms, 0) < 1e-11


@pytest.mark.parametrize("kind", KINDS)
def test_triplets_of_few_neighbors_only(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model_type, options = KINDS[kind]
    model = random_model(model_type, (1, 14), 4.0, vectors=True, **options)
    batch = collate([atoms_to_graph(atoms, 6.0) for atoms in structures().values()])
    expected = model(batch)

    def refuse(*args: Any) -> Any:
        raise AssertionError("triplets")

    monkeypatch.setattr("mlip.models.dimenet.edge_triplets", refuse)
    found = model.compiled("exact")(batch)
    torch.testing.assert_close(found.energy, expected.energy, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.dipole, expected.dipole, rtol=1e-11, atol=1e-12)
    with pytest.raises(AssertionError, match="triplets"):
        model.compiled("exact")(atoms_to_graph(structures()["molecule"], 4.0))


@pytest.mark.parametrize("kind", KINDS)
def test_functional_transforms(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlip.models.compiled_dimenet.FEW_NEIGHBORS", 0)
    model_type, options = KINDS[kind]
    model, graph = random_model(model_type, (1, 14), 4.0, **options), atoms_to_graph(structures()["pair"], 4.0)
    hessians = [
        torch.func.jacrev(torch.func.grad(lambda r, f=f: f(graph._replace(positions=r)).energy.sum()))(graph.positions)
        for f in (model, model.compiled("exact"))
    ]
    torch.testing.assert_close(*hessians, rtol=1e-10, atol=1e-12)


def test_edges_without_their_counterpart() -> None:
    """Triplets are what such a graph has."""
    model_type, options = KINDS["dimenet_plus_plus"]
    model = random_model(model_type, (1, 14), 4.0, **options)
    graph = atoms_to_graph(structures()["crystal"], 4.0)
    for kept in (range(1, graph.edge_index.shape[1]), range(0, graph.edge_index.shape[1], 2)):
        fewer = graph._replace(edge_index=graph.edge_index[:, kept], edge_shift=graph.edge_shift[kept])
        assert edges_back(fewer.edge_index, fewer.edge_shift, 8) is None
        torch.testing.assert_close(model.compiled("exact")(fewer).energy, model(fewer).energy)


def test_edges_back() -> None:
    graph: AtomGraph = collate([atoms_to_graph(atoms, 4.0) for atoms in structures().values()])
    back = edges_back(graph.edge_index, graph.edge_shift, len(graph.numbers))
    assert back is not None
    assert torch.equal(graph.edge_index[:, back], graph.edge_index.flip(0))
    assert torch.equal(graph.edge_shift[back], -graph.edge_shift)
    twice = torch.cat([graph.edge_index, graph.edge_index], dim=1), torch.cat([graph.edge_shift, graph.edge_shift])
    assert edges_back(*twice, len(graph.numbers)) is None
    first = int((graph.edge_index[0] != graph.edge_index[1]).nonzero()[0])
    doubled = torch.arange(len(back)).where(torch.arange(len(back)) != back[first], torch.tensor(first))
    one_way = graph.edge_index[:, doubled], graph.edge_shift[doubled]  # an edge twice, the one back not at all
    assert edges_back(*one_way, len(graph.numbers)) is None


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("dimenet", {"faithful": True}),
        ("dimenet_plus_plus", {"faithful": True}),
        ("dimenet_plus_plus", {"int_emb_size": 5}),
        ("dimenet_plus_plus", {"num_spherical": 8}),
    ],
)
def test_not_covered(kind: str, options: dict[str, Any]) -> None:
    model_type, given = KINDS[kind]
    assert random_model(model_type, (14,), 4.0, **given | options).compiled("exact") is None


def test_envelope_beyond_a_series() -> None:
    model_type, options = KINDS["dimenet_plus_plus"]
    model = random_model(model_type, (14,), 4.0, envelope_exponent=3000, **options)
    assert _series(4, 3, 3000) is None
    assert disagreement(model, model.compiled("exact"), structures()["one atom"], 0) < 1e-10


@pytest.mark.parametrize(("element", "cutoff"), [(55, 5.0), (14, 3.0), (1, 1.5), (11, 4.0)])
def test_verification_sees_sums_over_densities(element: int, cutoff: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large atoms and short cutoffs, too; few neighbors would take triplets."""
    model_type, options = KINDS["dimenet_plus_plus"]
    model = random_model(model_type, (element,), cutoff, **options)
    monkeypatch.setattr(DensityArrivals, "__call__", lambda self, linear, m: 1.1 * m)
    with pytest.warns(RuntimeWarning, match="compiled operators disagree"):
        assert Acceleration().trainer(model) is model
    with pytest.warns(RuntimeWarning, match="compiled operators disagree"):
        assert Acceleration().evaluator(model.requires_grad_(False)) is model


def test_wide_networks_in_single_precision_are_verified() -> None:
    """Their random weights must not make energies explode."""
    model = DimeNetPlusPlus((1, 6, 7, 8, 16), 3.5, num_blocks=2)
    assert isinstance(Acceleration().trainer(model), CompiledDimeNet)


def test_training_from_zero_energies_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """All gradients of the loss are zero there, whatever the operators do."""
    model_type, options = KINDS["dimenet_plus_plus"]
    model = model_type((14,), 4.0, **options).double()
    assert isinstance(Acceleration().trainer(model), CompiledDimeNet)
    monkeypatch.setattr("mlip.models.arrivals.DensityArrivals.__call__", lambda self, linear, m: 1.1 * m)
    with pytest.warns(RuntimeWarning, match="disagree with plain torch"):
        assert Acceleration().trainer(model) is model
