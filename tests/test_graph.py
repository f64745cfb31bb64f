"""AtomGraph, its conversion from ase.Atoms, and units."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from mlip.convert import atoms_to_graph, check_structure
from mlip.errors import InputError
from mlip.graph import collate
from mlip.units import EV_PER_A3_TO_GPA, full_3x3_to_voigt_6, voigt_6_to_full_3x3


def test_units_are_those_of_ase() -> None:
    from ase.units import GPa

    assert pytest.approx(1 / GPa, rel=1e-6) == EV_PER_A3_TO_GPA
    rng = np.random.default_rng(0)
    symmetric = rng.normal(size=(3, 3))
    symmetric = symmetric + symmetric.T
    np.testing.assert_array_equal(full_3x3_to_voigt_6(symmetric), full_3x3_to_voigt_6_stress(symmetric))
    np.testing.assert_array_equal(voigt_6_to_full_3x3(range(6)), voigt_6_to_full_3x3_stress(range(6)))
    batch = rng.normal(size=(4, 6))
    np.testing.assert_allclose(full_3x3_to_voigt_6(voigt_6_to_full_3x3(batch)), batch, rtol=1e-15)


def test_one_structure() -> None:
    atoms = bulk("NaCl", "rocksalt", 5.64) * (2, 1, 1)
    graph = atoms_to_graph(atoms, 5.0)
    center, neighbor = graph.edge_index
    expected = atoms.positions[neighbor] - atoms.positions[center] + graph.edge_shift.numpy() @ np.array(atoms.cell)
    np.testing.assert_allclose(graph.edge_vectors(), expected, atol=1e-12)
    assert graph.n_graphs == 1 and graph.n_atoms.tolist() == [4]
    assert (center.diff() >= 0).all()
    assert graph.numbers.tolist() == atoms.numbers.tolist()
    assert graph.positions.dtype == torch.float64 and graph.edge_index.dtype == torch.int64
    assert graph.to(dtype=torch.float32).cell.dtype == torch.float32
    within = graph.within(3.0)
    assert 0 < within.edge_index.shape[1] < graph.edge_index.shape[1]
    assert within.edge_vectors().norm(dim=1).max() < 3.0


def test_batch_equals_singles() -> None:
    structures = [bulk("Si"), molecule("H2O"), Atoms("H"), bulk("Cu", cubic=True)]
    singles = [atoms_to_graph(a, 4.0) for a in structures]
    for batch in (atoms_to_graph(structures, 4.0), collate(singles)):
        assert batch.n_atoms.tolist() == [2, 3, 1, 4]
        assert batch.batch.tolist() == [0, 0, 1, 1, 1, 2, 3, 3, 3, 3]
        vectors = batch.edge_vectors()
        assert vectors.shape[0] == sum(g.edge_index.shape[1] for g in singles)
        of_edge = batch.batch[batch.edge_index[0]]
        for k, single in enumerate(singles):
            torch.testing.assert_close(
                vectors[of_edge == k].norm(dim=1).sort().values, single.edge_vectors().norm(dim=1).sort().values
            )


def test_the_structure_is_not_shared_with_the_graph() -> None:
    atoms = bulk("Si")
    graph = atoms_to_graph(atoms, 4.0)
    graph.positions.add_(1.0)
    graph.cell.mul_(2.0)
    assert atoms == bulk("Si")


def test_labels_do_not_matter() -> None:
    atoms = bulk("Si")
    atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    assert atoms_to_graph(atoms, 4.0).n_graphs == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": [[0, 0, 0], [np.inf, 0, 0]]}, "positions of 1 of 2 atoms are not finite"),
        ({"cell": np.diag([np.nan, 5, 5])}, "cell is not finite"),
        ({"numbers": [14, 0]}, "atomic numbers"),
        ({"cell": np.zeros((3, 3))}, "zero or linearly dependent"),
        ({"cell": [[5, 0, 0], [0, 5, 0], [5, 5, 0]]}, "zero or linearly dependent"),
        ({"positions": [[0, 0, 0], [0, 0, 0.01]]}, "0.01 Å apart"),
    ],
)
def test_wrong_structures(change: dict[str, object], message: str) -> None:
    good = {"numbers": [14, 14], "positions": [[0, 0, 0], [0, 0, 2.3]], "cell": np.eye(3) * 6, "pbc": True}
    check_structure(Atoms(**good))
    with pytest.raises(InputError, match=message):
        atoms_to_graph(Atoms(**(good | change)), 4.0)


def test_coincident_atoms_are_named_within_their_structure() -> None:
    with pytest.raises(InputError, match="atoms 0 and 1"):
        atoms_to_graph([bulk("Si"), Atoms("H2", positions=np.zeros((2, 3)))], 4.0)
    with pytest.raises(InputError, match="no structures"):
        atoms_to_graph([], 4.0)
