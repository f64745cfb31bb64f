"""The neighbor list against ASE, matscipy and brute force: equal as sets of (i, j, S)."""

import pytest
from ase.neighborlist import primitive_neighbor_list
from matscipy.neighbours import neighbour_list as matscipy_neighbour_list
from neighbor_systems import ALL_PBC, CUTOFFS, SYSTEMS, listed, oracle, triples

import mlip

CASES = [(pbc, cutoff) for pbc in ALL_PBC for cutoff in CUTOFFS]
BACKENDS = ["compiled", "matscipy"]


@pytest.fixture(autouse=True, params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "compiled" and not mlip.compiled:
        pytest.skip("the extension is not built")
    return request.param


@pytest.mark.parametrize("name", SYSTEMS)
def test_equals_brute_force(name: str, backend: str) -> None:
    for pbc, cutoff in CASES:
        assert listed(SYSTEMS[name], pbc, cutoff, backend) == oracle(SYSTEMS[name], pbc, cutoff), (pbc, cutoff)


@pytest.mark.parametrize("name", SYSTEMS)
def test_equals_ase(name: str, backend: str) -> None:
    atoms = SYSTEMS[name]
    for pbc, cutoff in CASES:
        theirs = primitive_neighbor_list("ijS", pbc, atoms.cell.array, atoms.positions, cutoff, self_interaction=False)
        assert listed(atoms, pbc, cutoff, backend) == triples(*theirs), (pbc, cutoff)


@pytest.mark.parametrize("name", SYSTEMS)
def test_equals_matscipy(name: str, backend: str) -> None:
    atoms = SYSTEMS[name]
    for pbc, cutoff in CASES:
        theirs = matscipy_neighbour_list(
            "ijS", positions=atoms.positions, cell=atoms.cell.array, pbc=pbc, cutoff=cutoff
        )
        assert listed(atoms, pbc, cutoff, backend) == triples(*theirs), (pbc, cutoff)
