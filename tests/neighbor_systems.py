"""Structures and comparisons for the neighbor-list tests."""

import itertools

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from mlip.neighbors import neighbor_list
from mlip.neighbors.reference import brute_force

ALL_PBC = list(itertools.product([False, True], repeat=3))
CUTOFFS = (1.3, 2.9, 4.7, 7.1)  # none is the distance of a shell of the perfect crystals below


def rattled(atoms: Atoms, seed: int = 1, stdev: float = 0.08) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(stdev, seed=seed)
    return atoms


def random_structure(n: int, cell: object, seed: int = 0) -> Atoms:
    """Atoms anywhere in a cell, also outside of it."""
    generator = np.random.default_rng(seed)
    return Atoms(numbers=[1] * n, cell=cell, scaled_positions=generator.uniform(-0.6, 1.6, (n, 3)))


def unwrapped(atoms: Atoms, reach: int, seed: int = 2) -> Atoms:
    atoms = atoms.copy()
    atoms.positions += np.random.default_rng(seed).integers(-reach, reach + 1, (len(atoms), 3)) @ atoms.cell.array
    return atoms


def in_box(atoms: Atoms, lengths: tuple[float, float, float]) -> Atoms:
    atoms.cell = lengths
    return atoms


SYSTEMS = {
    "Si primitive": bulk("Si"),
    "Si cubic, rattled": rattled(bulk("Si", cubic=True)),
    "Cu, one atom": bulk("Cu"),
    "Cu, one atom, far away": Atoms("Cu", positions=[[1e5, -3e5, 12.0]], cell=bulk("Cu").cell),
    "NaCl cubic": bulk("NaCl", "rocksalt", 5.64, cubic=True),
    "Mg hcp": rattled(bulk("Mg") * (2, 1, 1)),
    "triclinic": random_structure(10, [[4.0, 0.2, -0.3], [1.1, 5.0, 0.4], [-0.9, 1.3, 4.6]]),
    "left-handed": random_structure(9, [[4.0, 0.2, -0.3], [1.1, -5.0, 0.4], [-0.9, 1.3, 4.6]], seed=1),
    "sheared": random_structure(6, [[4.0, 0.0, 0.0], [9.5, 4.2, 0.0], [-7.0, 11.0, 5.0]], seed=2),
    "needle": random_structure(5, [[1.1, 0.0, 0.1], [0.0, 14.0, 0.0], [0.3, 0.0, 5.0]], seed=3),
    "flake": random_structure(4, [[7.0, 0.0, 0.1], [0.2, 6.0, 0.0], [0.0, 0.0, 0.9]], seed=4),
    "water in a box": in_box(molecule("H2O"), (6.0, 7.0, 8.0)),
    "ethanol in a small box": in_box(molecule("CH3CH2OH"), (3.5, 3.0, 2.8)),
    "Cu(111) slab": rattled(fcc111("Cu", (1, 2, 3), vacuum=5.0)),
    "Si, unwrapped": unwrapped(rattled(bulk("Si", cubic=True)), reach=4),
    "Si, moved by 1e4 Å": Atoms("Si8", positions=bulk("Si", cubic=True).positions + 1e4, cell=[5.43] * 3),
}


def as_set(edge_index: torch.Tensor, edge_shift: torch.Tensor) -> set[tuple[int, ...]]:
    """The list as a set of (i, j, S), after checking what holds for any list: types, shapes, order, no repetition."""
    assert edge_index.dtype == torch.int64 and edge_shift.dtype == torch.int32
    assert edge_index.shape == (2, len(edge_shift)) and edge_shift.shape[1:] == (3,)
    assert edge_index.is_contiguous() and edge_shift.is_contiguous()
    assert (edge_index[0].diff() >= 0).all()
    return triples(*edge_index.cpu().numpy(), edge_shift.cpu().numpy())


def triples(i: np.ndarray, j: np.ndarray, shift: np.ndarray) -> set[tuple[int, ...]]:
    found = {tuple(row) for row in np.column_stack([i, j, shift]).tolist()}
    assert len(found) == len(i), "a pair was listed twice"
    return found


def listed(
    atoms: Atoms, pbc: tuple[bool, ...], cutoff: float, backend: str | None = None, dtype: torch.dtype = torch.float64
) -> set[tuple[int, ...]]:
    positions = torch.tensor(atoms.positions, dtype=dtype)
    cell = torch.tensor(atoms.cell.array)
    return as_set(*neighbor_list(positions, cell, torch.tensor(pbc), cutoff, backend=backend))


def oracle(atoms: Atoms, pbc: tuple[bool, ...], cutoff: float) -> set[tuple[int, ...]]:
    (i, j), shift = brute_force(atoms.positions, atoms.cell.array, np.array(pbc), cutoff)
    return triples(i, j, shift)


def any_system(seed: int) -> tuple[Atoms, tuple[bool, ...], float]:
    """A random structure, its open and periodic axes, and a cutoff; of all the kinds that a search may stumble over."""
    generator = np.random.default_rng(seed)
    pbc = ALL_PBC[int(generator.integers(8))]
    n = int(generator.integers(1, 40))
    cell = np.diag(generator.uniform(2.0, 9.0, 3)) + generator.normal(0, 0.4, (3, 3))
    cell *= generator.choice([-1, 1], (3, 1))
    cutoff = float(generator.uniform(0.5, 5.5))
    kind = seed % 10
    if kind == 1:  # thin
        cell[generator.integers(3)] *= 0.1
        n, cutoff = min(n, 8), min(cutoff, 3.0)
    elif kind == 2:  # sheared
        cell[1] += generator.integers(-9, 10) * cell[0]
        cell[2] += generator.integers(-9, 10) * cell[1]
    elif kind == 3:  # wide, with bins by the dozen
        cell *= 3
        n *= 5
    positions = generator.uniform(-0.5, 1.5, (n, 3)) @ cell
    if kind == 4:  # wrapped hundreds of times, each atom by itself
        positions += generator.integers(-400, 400, (n, 3)) @ cell
    elif kind == 5:  # far away, all together
        positions += generator.integers(-(10**6), 10**6, 3) @ cell
    elif kind == 6:  # an atom far away from the others
        positions[0] += 10.0 ** generator.integers(1, 7)
    elif kind == 7:  # many pairs at the cutoff but for rounding
        grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        cell, cutoff = np.eye(3) * 3.3, float(1.1 * np.sqrt(generator.integers(1, 9)))
        positions = grid * 1.1 + generator.normal(0, 30, 3)
    elif kind == 8:  # crowded, some atoms at one point
        positions[: n // 2] = positions[0] + generator.normal(0, 0.2, (n // 2, 3))
        positions[: n // 4] = positions[0]
    return Atoms(numbers=[1] * len(positions), positions=positions, cell=cell), pbc, cutoff


def differing(seeds: range) -> list[int]:
    """The random systems whose compiled list is not the one of the definition, in float64 or in float32."""
    wrong = []
    for seed in seeds:
        atoms, pbc, cutoff = any_system(seed)
        rounded = atoms.copy()
        rounded.positions = atoms.positions.astype(np.float32)
        for one, dtype in ((atoms, torch.float64), (rounded, torch.float32))[: 1 + seed % 2]:
            if listed(one, pbc, cutoff, "compiled", dtype) != oracle(one, pbc, cutoff):
                wrong.append(seed)
    return wrong
