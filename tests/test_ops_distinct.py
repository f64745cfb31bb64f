"""Equal distances are found to the bit, and pairs of atoms have the same one in both directions."""

from __future__ import annotations

import math

import pytest
import torch
from ase.build import bulk, molecule

import mlip
from mlip import ops
from mlip.convert import atoms_to_graph
from mlip.ops.distinct import distinct_reference

compiled = pytest.mark.skipif(not mlip.compiled, reason="the extension is not built")


@pytest.mark.parametrize("function", [ops.distinct, distinct_reference])
@pytest.mark.parametrize("count", [0, 1, 7, 3000])
@pytest.mark.parametrize("kinds", [1, 40, 10**9])
def test_each_distance_once(function, count: int, kinds: int) -> None:  # noqa: ANN001
    torch.manual_seed(count)
    r = torch.randint(kinds, (count,)).double() / 7
    t = torch.randint(3, (count,)).double()
    first, place = function(r)
    assert torch.equal(r[first][place], r) and len(first) == len(r.unique())
    assert all(int((r == r[k]).nonzero()[0]) == k for k in first[:20])
    first, place = function(r, t)
    assert torch.equal(r[first][place], r) and torch.equal(t[first][place], t)
    assert len(first) == len({*zip(r.tolist(), t.tolist(), strict=True)})


def test_to_the_bit() -> None:
    r = torch.tensor([0.0, -0.0, math.nan, math.nan, 1, math.nextafter(1, 2), math.inf, 1, math.inf]).double()
    r[5] = math.nextafter(1, 2)
    first, place = ops.distinct(r)
    assert len(first) == 6 and place[4] == place[7] != place[5]
    single = torch.tensor([0.1, 0.2, 0.1])
    assert ops.distinct(single)[1].tolist() == [0, 1, 0]


def test_pairs_of_atoms() -> None:
    atoms = bulk("Si", cubic=True) * (2, 2, 2)
    atoms.rattle(0.1, seed=1)
    atoms.set_cell(atoms.cell.array @ [[1, 0.13, 0.07], [0, 1.02, 0.31], [0.01, 0, 1]], scale_atoms=True)
    graph = atoms_to_graph([atoms], 5.0)
    vectors = ops.edge_vectors(graph.positions, graph.cell, graph.edge_index, graph.edge_shift, graph.batch)
    for r in (ops.spherical_harmonics(vectors, 2)[1], vectors.norm(dim=1)):
        assert 2 * len(ops.distinct(r)[0]) <= len(r)


def test_rows() -> None:
    for dtype in (torch.float32, torch.float64, torch.int64):
        x = torch.randn(9, 5).to(dtype)
        for rows in (torch.randint(9, (3000,)), torch.zeros(0, dtype=torch.int64)):
            assert torch.equal(ops.take_rows(x, rows), x[rows])
    assert torch.equal(ops.take_rows(x.T.double(), rows), x.T.double()[rows])


@compiled
def test_opcheck() -> None:
    r = torch.tensor([1.0, 2, 1, 3]).double()
    torch.library.opcheck(torch.ops.mlip.distinct.default, (r, r.flip(0)))
    torch.library.opcheck(torch.ops.mlip.distinct.default, (r, r[:0]))
    torch.library.opcheck(torch.ops.mlip.take_rows.default, (torch.randn(3, 2), torch.tensor([2, 1, 1, 0])))


@compiled
def test_threads_do_not_change_a_bit() -> None:
    x, rows, threads = torch.randn(50, 8), torch.randint(50, (5000,)), torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert torch.equal(ops.take_rows(x, rows), x[rows])
    finally:
        torch.set_num_threads(threads)


@compiled
def test_refusals() -> None:
    r, x, rows = torch.zeros(4).double(), torch.zeros(4, 3), torch.tensor([0, 3])
    for given, message in (((r.float(), r), "distance"), ((r[:, None], r), "distance"), ((r, r[:3]), "transformed")):
        with pytest.raises((ValueError, RuntimeError), match=f"distinct: {message}:"):
            torch.ops.mlip.distinct(*given)
    for given, message in (((x[0], rows), "x"), ((x.T, rows), "x"), ((x, rows.int()), "rows"), ((x, rows + 1), "rows")):
        with pytest.raises((ValueError, RuntimeError), match=f"take_rows: {message}:"):
            torch.ops.mlip.take_rows(*given)
    with pytest.raises((ValueError, RuntimeError), match="take_rows: rows:"):
        ops.take_rows(x, rows - 1)
    with pytest.raises(NotImplementedError, match="take_rows"):
        ops.take_rows(x.clone().requires_grad_(), rows).sum().backward()


@pytest.mark.parametrize("repeat", [(1, 1, 1), (2, 1, 3)])
def test_edges_without_direction(repeat: tuple[int, int, int]) -> None:
    """In a primitive cell an atom is its own neighbor many times, in images both near and far."""
    atoms = bulk("Si") * repeat
    atoms.rattle(0.1, seed=1)
    graph = atoms_to_graph([atoms, molecule("C2H6")], 5.0)
    found = ops.undirected(graph.edge_index, graph.edge_shift, len(graph.numbers))
    assert found is not None
    first, place = found
    ends = zip(*graph.edge_index.tolist(), graph.edge_shift.tolist(), strict=True)
    edges = [(i, j, *shift) for i, j, shift in ends]
    pairs: dict[frozenset[tuple[int, ...]], list[int]] = {}
    for e, (i, j, *shift) in enumerate(edges):
        pairs.setdefault(frozenset({(i, j, *shift), (j, i, *(-s for s in shift))}), []).append(e)
    assert all(len(both) == 2 for both in pairs.values()) and len(first) == len(pairs)
    for both in pairs.values():
        assert place[both[0]] == place[both[1]] and first[place[both[0]]] == both[0]


def test_edges_of_one_direction_and_none() -> None:
    index, shift = torch.tensor([[0, 1, 1], [1, 0, 1]]), torch.tensor([[0, 0, 1], [0, 0, 1], [0, 0, 1]]).int()
    first, place = ops.undirected(index, shift, 2)  # the second is not the reverse of the first
    assert sorted(first.tolist()) == [0, 1, 2] and len(set(place.tolist())) == 3
    first, place = ops.undirected(index[:, :0], shift[:0], 2)
    assert len(first) == len(place) == 0
    assert ops.undirected(index, shift * 2**30, 2**20) is None
