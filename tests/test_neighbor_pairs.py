"""Pairs of a list while atoms and cell move: compiled operators against plain torch, and against a list made afresh."""

import numpy as np
import pytest
import torch
from neighbor_systems import SYSTEMS, as_set, random_structure

import mlip
from mlip import _extension
from mlip.convert import atoms_to_graph
from mlip.graph import AtomGraph, collate
from mlip.neighbors import furthest_move, neighbor_list, pairs_within, shortest_pair

needs_extension = pytest.mark.skipif(not mlip.compiled, reason="the extension is not built")


def graphs() -> list[AtomGraph]:
    crowd = random_structure(400, np.diag([15.0, 16.0, 17.0]))  # more pairs than one part
    one = [atoms_to_graph(atoms, 6.0) for atoms in (SYSTEMS["Si cubic, rattled"], SYSTEMS["sheared"], crowd)]
    return [*one, collate(one), atoms_to_graph(SYSTEMS["Cu, one atom"], 1.0)]


@pytest.fixture(params=range(len(graphs())))
def graph(request: pytest.FixtureRequest) -> AtomGraph:
    return graphs()[request.param]


@needs_extension
def test_compiled_equals_plain(graph: AtomGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = graph._replace(positions=graph.positions * 1.01 + 0.1, cell=graph.cell * 1.01)
    found = pairs_within(*moved.pairs(), 4.0), shortest_pair(*moved.pairs())
    monkeypatch.setattr(_extension, "compiled", False)
    plain = pairs_within(*moved.pairs(), 4.0), shortest_pair(*moved.pairs())
    assert all(torch.equal(a, b) for a, b in zip((*found[0], found[1]), (*plain[0], plain[1]), strict=True))
    assert found[0][2] == found[1]


def test_what_is_left_is_the_list_of_now() -> None:
    atoms = SYSTEMS["Si cubic, rattled"] * (2, 2, 2)
    graph = atoms_to_graph(atoms, 5.0)
    atoms.rattle(0.05, seed=3)
    moved = graph._replace(positions=torch.tensor(atoms.positions))
    afresh = neighbor_list(moved.positions, moved.cell, moved.pbc, 4.5)
    assert as_set(*pairs_within(*moved.pairs(), 4.5)[:2]) == as_set(*afresh)
    assert as_set(*moved.within(4.5)[4:6]) == as_set(*afresh)


def test_threads_do_not_change_a_bit() -> None:
    pairs = atoms_to_graph(random_structure(2000, np.eye(3) * 30), 4.0).pairs()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = pairs_within(*pairs, 3.5)
        torch.set_num_threads(3)
        assert all(torch.equal(a, b) for a, b in zip(single, pairs_within(*pairs, 3.5), strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_extension), False])
def test_furthest_move(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_extension, "compiled", compiled)
    generator = torch.Generator().manual_seed(0)
    now, before, deformation = (
        torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (40_000, 40_000, 3)
    )
    expected = (now - before @ deformation).norm(dim=1).max()
    torch.testing.assert_close(furthest_move(now, before, deformation), expected, rtol=1e-14, atol=0)
    assert furthest_move(now[:0], before[:0], deformation) == 0
    for bad in (float("nan"), float("inf")):
        for atom in (7, 39_999):
            broken = now.clone()
            broken[atom, 1] = bad
            assert not furthest_move(broken, before, deformation) <= 1e300


@needs_extension
def test_opcheck(graph: AtomGraph) -> None:
    torch.library.opcheck(torch.ops.mlip.pairs_within.default, (*graph.pairs(), 4.0))
    torch.library.opcheck(torch.ops.mlip.shortest_pair.default, graph.pairs())
    moved = graph.positions, graph.positions + 0.1, torch.eye(3, dtype=torch.float64)
    torch.library.opcheck(torch.ops.mlip.furthest_move.default, moved)


@needs_extension
@pytest.mark.parametrize(
    ("argument", "change", "message"),
    [
        (0, lambda t: t.float(), "positions: expected"),
        (0, lambda t: t[:, :2].contiguous(), "positions: expected"),
        (1, lambda t: t[0], "expected positions"),
        (1, lambda t: t.float(), "cell: expected"),
        (2, lambda t: t[1:], "batch: expected contiguous"),
        (2, lambda t: t + 1, "batch: expected numbers"),
        (2, lambda t: t - 1, "batch: expected numbers"),
        (3, lambda t: t + 1, "edge_index: expected numbers"),
        (3, lambda t: t.flip(0) - 1, "edge_index: expected numbers"),
        (3, lambda t: t.T.contiguous().T, "edge_index: expected contiguous"),
        (4, lambda t: t.long(), "edge_shift: expected"),
        (4, lambda t: t[1:], "edge_shift: expected"),
    ],
)
def test_the_operators_defend_themselves(argument: int, change, message: str) -> None:
    pairs = list(graphs()[0].pairs())
    pairs[argument] = change(pairs[argument])
    for call in (lambda: torch.ops.mlip.shortest_pair(*pairs), lambda: torch.ops.mlip.pairs_within(*pairs, 3.0)):
        with pytest.raises((ValueError, RuntimeError), match=f"neighbor_list: .*{message}"):
            call()
