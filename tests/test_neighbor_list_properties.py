"""What holds for every neighbor list: symmetry, batches, threads, number types, odd cells, far and crowded atoms."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matscipy.neighbours import neighbour_list as matscipy_neighbour_list
from neighbor_systems import ALL_PBC, SYSTEMS, as_set, listed, oracle, random_structure, rattled, triples

import mlip
from mlip.neighbors import neighbor_list

BACKENDS = [
    pytest.param("compiled", marks=pytest.mark.skipif(not mlip.compiled, reason="the extension is not built")),
    "matscipy",
]
PERIODIC, OPEN = (True, True, True), (False, False, False)
TRICLINIC = [[19.0, 0.7, -1.3], [4.1, 17.0, 0.4], [-5.9, 2.3, 21.6]]
everywhere = pytest.mark.parametrize("backend", BACKENDS)


def reversed_triples(found: set[tuple[int, ...]]) -> set[tuple[int, ...]]:
    return {(j, i, -a, -b, -c) for i, j, a, b, c in found}


@everywhere
@pytest.mark.parametrize("pbc", ALL_PBC)
@pytest.mark.parametrize("cutoff", [2.1, 5.3])
def test_many_bins(backend: str, pbc: tuple[bool, ...], cutoff: float) -> None:
    atoms = random_structure(500, TRICLINIC)
    theirs = matscipy_neighbour_list("ijS", positions=atoms.positions, cell=atoms.cell.array, pbc=pbc, cutoff=cutoff)
    assert listed(atoms, pbc, cutoff, backend) == triples(*theirs)


@everywhere
@settings(max_examples=150, deadline=None)
@given(
    cell=arrays(float, (3, 3), elements=st.floats(-6, 6)),
    places=arrays(float, st.tuples(st.integers(0, 6), st.just(3)), elements=st.floats(-2, 2)),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    cutoff=st.floats(0.3, 6),
)
def test_any_cell(
    backend: str, cell: np.ndarray, places: np.ndarray, pbc: tuple[bool, bool, bool], cutoff: float
) -> None:
    volume = abs(np.dot(cell[0], np.cross(cell[1], cell[2])))
    assume(volume > 1.0 and volume > 0.02 * np.prod(np.linalg.norm(cell, axis=1)))
    atoms = Atoms(numbers=[1] * len(places), positions=places @ cell, cell=cell)
    assert listed(atoms, pbc, cutoff, backend) == oracle(atoms, pbc, cutoff)


@everywhere
@pytest.mark.parametrize("pbc", ALL_PBC)
def test_cutoff_on_a_shell_is_decided_symmetrically(backend: str, pbc: tuple[bool, ...]) -> None:
    atoms = bulk("Si", cubic=True) * (2, 1, 1)
    atoms.positions += [0.1, 1e3 / 3, -7.7]  # distances of one shell now differ in their last digits
    cutoff = float(np.sqrt(3) / 4 * 5.43)
    found = listed(atoms, pbc, cutoff, backend)
    assert found == reversed_triples(found) == oracle(atoms, pbc, cutoff)


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_equals_its_structures(backend: str, dtype: torch.dtype) -> None:
    structures = [*SYSTEMS.values(), Atoms(), random_structure(100, TRICLINIC), Atoms("H")]
    structures[-1].cell = np.eye(3)
    cell = torch.tensor(np.array([np.where(a.cell.array.any(), a.cell.array, np.eye(3)) for a in structures]))
    pbc = torch.tensor([ALL_PBC[k % 8] for k in range(len(structures))])
    positions = [torch.tensor(a.positions, dtype=dtype).reshape(-1, 3) for a in structures]
    batch = torch.repeat_interleave(torch.arange(len(structures)), torch.tensor([len(p) for p in positions]))
    edge_index, edge_shift = neighbor_list(torch.cat(positions), cell, pbc, 4.1, batch=batch, backend=backend)
    expected_index, expected_shift, first = [], [], 0
    for k, one in enumerate(positions):
        index, shift = neighbor_list(one, cell[k], pbc[k], 4.1, backend=backend)
        expected_index.append(index + first)
        expected_shift.append(shift)
        first += len(one)
    assert torch.equal(edge_index, torch.cat(expected_index, dim=1))
    assert torch.equal(edge_shift, torch.cat(expected_shift))


@pytest.mark.parametrize("backend", BACKENDS[:1])
def test_threads_do_not_change_a_bit(backend: str) -> None:
    atoms = random_structure(3000, np.array(TRICLINIC) * 2)
    arguments = torch.tensor(atoms.positions), torch.tensor(atoms.cell.array), torch.tensor([True, False, True]), 4.0
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = neighbor_list(*arguments, backend=backend)
        for threads in (2, 3):
            torch.set_num_threads(threads)
            several = neighbor_list(*arguments, backend=backend)
            assert all(torch.equal(a, b) for a, b in zip(single, several, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", BACKENDS[:1])
def test_memory_is_reused_only_when_its_tensors_are_gone(backend: str) -> None:
    """Large lists get the memory of earlier ones, also while other threads make lists of their own."""
    structures = [random_structure(n, np.eye(3) * 30, seed=n) for n in (4000, 4050, 4100)]
    arguments = [(torch.tensor(a.positions), torch.tensor(a.cell.array), torch.ones(3).bool(), 6.0) for a in structures]

    def make(k: int) -> tuple[torch.Tensor, ...]:
        for other in arguments:
            neighbor_list(*other, backend=backend)
        return neighbor_list(*arguments[k], backend=backend)

    expected = [tuple(t.clone() for t in make(k)) for k in range(3)]
    assert expected[0][0].nbytes > 2 << 22  # large enough to be kept
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(make, [0, 1, 2] * 4))
    for k, lists in enumerate(found):
        assert all(torch.equal(a, b) for a, b in zip(lists, expected[k % 3], strict=True))


@everywhere
def test_float32_positions_mean_their_float64_values(backend: str) -> None:
    atoms = random_structure(60, np.array(TRICLINIC) / 2)
    atoms.positions = atoms.positions.astype(np.float32)
    found = listed(atoms, PERIODIC, 4.0, backend, dtype=torch.float32)
    assert found == listed(atoms, PERIODIC, 4.0, backend) == oracle(atoms, PERIODIC, 4.0)


@everywhere
@pytest.mark.parametrize("offset", [1e4, 1e6])
@pytest.mark.parametrize("pbc", [PERIODIC, OPEN, (True, False, True)])
def test_far_from_the_origin(backend: str, offset: float, pbc: tuple[bool, ...]) -> None:
    atoms = random_structure(80, np.array(TRICLINIC) / 2)
    atoms.positions += np.array([1.0, -0.7, 0.3]) * offset
    assert listed(atoms, pbc, 4.0, backend) == oracle(atoms, pbc, 4.0)


@everywhere
def test_extremely_sheared_cell_lists_the_same_pairs(backend: str) -> None:
    atoms = random_structure(20, np.array(TRICLINIC) / 3)
    shear = np.array([[1, 40, 0], [0, 1, 0], [7, -300, 1]])  # integer, determinant 1: the same lattice
    if backend == "compiled":
        shear = shear @ np.array([[1, 0, 0], [90, 1, 0], [0, 11, 1]])
    sheared = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=shear @ atoms.cell.array)
    plain = listed(atoms, PERIODIC, 5.0, backend)
    found = listed(sheared, PERIODIC, 5.0, backend)
    assert {(i, j, *(np.array(shift) @ shear).tolist()) for i, j, *shift in found} == plain


@everywhere
def test_zero_vectors_along_open_axes(backend: str) -> None:
    atoms = rattled(bulk("Si", cubic=True))
    for pbc in ALL_PBC:
        flat = atoms.copy()
        flat.cell = np.where(np.array(pbc)[:, None], atoms.cell.array, 0.0)
        assert listed(flat, pbc, 5.0, backend) == listed(atoms, pbc, 5.0, backend), pbc


@everywhere
@pytest.mark.parametrize("pbc", [OPEN, PERIODIC])
def test_nothing_and_next_to_nothing(backend: str, pbc: tuple[bool, ...]) -> None:
    empty = Atoms(cell=[3.0, 3.0, 3.0])
    one = Atoms("H", cell=[3.0, 3.0, 3.0])
    assert listed(empty, pbc, 5.0, backend) == set()
    assert listed(one, pbc, 2.9, backend) == set()
    assert len(listed(one, pbc, 3.1, backend)) == (6 if any(pbc) else 0)
    no_structure = neighbor_list(torch.zeros(0, 3), torch.zeros(0, 3, 3), torch.zeros(0, 3), 5.0, torch.zeros(0).long())
    assert as_set(*no_structure) == set()


@everywhere
def test_coincident_atoms_are_neighbors(backend: str) -> None:
    atoms = Atoms("H2", positions=[[1.0, 2.0, 3.0]] * 2, cell=[9.0] * 3)
    assert listed(atoms, PERIODIC, 1.0, backend) == {(0, 1, 0, 0, 0), (1, 0, 0, 0, 0)}


@pytest.mark.parametrize("backend", BACKENDS[:1])
def test_far_outliers_cost_nothing(backend: str) -> None:
    cluster = random_structure(2000, np.eye(3) * 30).positions
    for far in (1e5, 1e9, 1e13):
        atoms = Atoms(
            numbers=[1] * 4002, positions=np.vstack([cluster, [[far] * 3], cluster + far / 3, [[-far, 0, 0]]])
        )
        atoms.positions[2001:4001] = np.round(atoms.positions[2001:4001], 3)
        found = listed(atoms, OPEN, 3.0, backend)
        first = {pair for pair in found if pair[0] < 2000}
        assert first == listed(atoms[:2000], OPEN, 3.0, backend)
        second = listed(atoms[2001:4001], OPEN, 3.0, backend)
        assert found - first == {(i + 2001, j + 2001, *shift) for i, j, *shift in second}


@everywhere
def test_extremely_thin_cells(backend: str) -> None:
    chain = Atoms("H", cell=[0.01, 50.0, 50.0])
    assert len(listed(chain, PERIODIC, 5.0, backend)) == 998  # 0.01 k < 5: k up to 499, or 500 by rounding
    thin = random_structure(30, [[0.3, 0, 0], [0, 9.0, 0], [0, 0, 9.0]])
    assert listed(thin, PERIODIC, 2.0, backend) == oracle(thin, PERIODIC, 2.0)


@everywhere
def test_inputs_are_left_alone(backend: str) -> None:
    positions, cell, pbc = torch.rand(9, 3) * 5 - 2, torch.eye(3) * 4, torch.tensor([True, False, True])
    copies = positions.clone(), cell.clone(), pbc.clone()
    neighbor_list(positions.requires_grad_(), cell, pbc, 3.0, backend=backend)
    neighbor_list(positions[::2], cell.T, pbc, 3.0, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip((positions, cell, pbc), copies, strict=True))
