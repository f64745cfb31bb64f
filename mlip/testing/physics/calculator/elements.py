"""Structures of elements that a calculator is found to support."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from ase import Atoms
from ase.build import bulk as reference_crystal
from ase.data import atomic_numbers, chemical_symbols

from mlip.errors import InputError
from mlip.testing.physics import structures as generic
from mlip.testing.physics.calculator.subject import Factory, evaluate_with

_FIRST = ("Cu", "Al", "Si", "C", "O", "H", "Fe", "Ni", "Na", "Mg", "Ti", "Ar")
_NO_CRYSTAL = (ValueError, RuntimeError, NotImplementedError, KeyError, AssertionError)  # what ase.build.bulk raises
_MIN_ATOMS = 8
_SECONDS_FOR_A_SECOND_ELEMENT = 10.0


def supported_structures(factory: Factory) -> dict[str, Atoms]:
    """Return a rattled, strained ``crystal`` and an open ``cluster`` of one or two elements.

    Elements are tried one by one, common ones first; two elements are mixed if the calculator takes the
    mixture.

    Raises:
        InputError: the calculator evaluates none of the elements 1 to 94.
    """
    chosen: list[int] = []
    errors: dict[str, str] = {}
    started = time.monotonic()
    for z in _candidates():
        reason = _refusal(factory, crystal([z])) if not chosen else _refusal(factory, crystal([*chosen, z]))
        if not reason:
            chosen.append(z)
        else:
            errors[chemical_symbols[z]] = reason
        if len(chosen) == 2 or (chosen and time.monotonic() - started > _SECONDS_FOR_A_SECOND_ELEMENT):
            break
    if not chosen:
        symbol, reason = next(iter(errors.items()))
        raise InputError(
            f"the calculator evaluates a crystal of none of the elements 1 to 94 (the first, {symbol}: {reason}); "
            "give a structure that it supports with --structure FILE"
        )
    found = {"crystal": crystal(chosen)}
    cluster = open_cluster(chosen)
    if not _refusal(factory, cluster):
        found["cluster"] = cluster
    return found


def structures_from(factory: Factory, atoms: Atoms) -> dict[str, Atoms]:
    """Return the given structure, rattled by 0.05 Å and strained by 1%, so that no force or stress vanishes.

    A crystal of less than 8 atoms is repeated: in a primitive cell all forces vanish by symmetry.

    Raises:
        InputError: the calculator does not evaluate it.
    """
    given = _disturbed(_enlarged(atoms) if atoms.pbc.all() else atoms, rattle=0.05, strain=0.01)
    reason = _refusal(factory, given)
    if reason:
        raise InputError(f"the calculator does not evaluate {atoms.get_chemical_formula()}: {reason}")
    return {"crystal" if given.pbc.all() else "slab" if given.pbc.any() else "cluster": given}


def crystal(numbers: list[int]) -> Atoms:
    """Return at least 8 atoms in the reference crystal of the first element, the others put on its sites in turn."""
    symbol = chemical_symbols[numbers[0]]
    try:
        atoms = reference_crystal(symbol)
    except _NO_CRYSTAL:
        atoms = generic.bulk(numbers[:1], np.inf, np.random.default_rng(12))
    atoms = _enlarged(atoms)
    atoms.numbers[:] = np.resize(numbers, len(atoms))
    return _disturbed(atoms, rattle=0.1, strain=0.02)


def _enlarged(atoms: Atoms) -> Atoms:
    """Return the smallest supercell, doubling the shortest axis each time, of at least 8 atoms."""
    while len(atoms) < _MIN_ATOMS:
        atoms = atoms.repeat(np.where(np.arange(3) == int(np.argmin(atoms.cell.lengths())), 2, 1))
    return atoms


def open_cluster(numbers: list[int]) -> Atoms:
    """Return 6 atoms without a cell."""
    atoms = crystal(numbers)
    center = atoms.positions.mean(axis=0)
    nearest = np.argsort(np.linalg.norm(atoms.positions - center, axis=1))[:6]
    return Atoms(atoms.numbers[nearest], positions=atoms.positions[nearest])


def _disturbed(atoms: Atoms, rattle: float, strain: float) -> Atoms:
    rng = np.random.default_rng(13)
    bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    for key in ("initial_charges", "initial_magmoms"):
        if key in atoms.arrays:
            bare.set_array(key, atoms.arrays[key].copy())
    bare.info = dict(atoms.info)
    deformation = rng.uniform(-strain, strain, (3, 3))
    deformed = generic.strained(bare, (deformation + deformation.T) / 2) if atoms.cell.rank == 3 else bare
    return generic.moved(deformed, rng.uniform(-rattle, rattle, (len(atoms), 3)))


def _candidates() -> Iterator[int]:
    first = [atomic_numbers[symbol] for symbol in _FIRST]
    yield from first
    yield from (z for z in range(1, 95) if z not in first)


def _refusal(factory: Factory, atoms: Atoms) -> str:
    """Return why the calculator can't be tested on the atoms, or an empty string."""
    try:
        answer = evaluate_with(factory(), [atoms], stress=False)
    except Exception as error:  # whatever a foreign calculator raises for an element that it does not know
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    if not (np.isfinite(answer.energy).all() and np.isfinite(answer.forces).all()):
        return "energy or forces are not finite"
    return "" if np.abs(answer.forces).max() > 0 else "all forces are zero"
