"""A foreign ASE calculator under test: how to ask it, what it can do, how precise its numbers are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray

from mlip.errors import InputError
from mlip.testing.physics.answers import Answer, joined
from mlip.testing.physics.structures import moved
from mlip.units import voigt_6_to_full_3x3

Array = NDArray[np.float64]
Factory = Callable[[], Any]

DERIVATIVE_TOLERANCE = 1e-4
"""Finite differences of a smooth energy in float64 reach 1e-7; ASE's EMT, whose cutoff has a small jump, 1e-5."""

SYMMETRY_TOLERANCE = 1e-6

LOOSEST_TOLERANCE = 5e-3
"""However noisy a calculator is, forces wrong by one percent must not pass."""

_LINE_STEP = 1e-5  # Å between the points of the difference table that measures the noise; a few ulps of float32


@dataclass(frozen=True)
class Subject:
    """A calculator with the structures it is tested on.

    Attributes:
        make: returns the calculator to test; a new one each time if it came as a factory.
        structures: by kind, among them ``crystal`` (periodic) and ``cluster`` (open) where they are supported.
        properties: names of the properties that it implements.
        derivative_tolerance: of finite differences, relative.
        symmetry_tolerance: of everything else, relative.
    """

    make: Factory
    structures: Mapping[str, Atoms]
    properties: frozenset[str]
    derivative_tolerance: float
    symmetry_tolerance: float

    def evaluate(self, structures: Sequence[Atoms]) -> Answer:
        """Return energies, forces and (for periodic structures) stresses, nothing cached."""
        return evaluate_with(self.make(), structures, "stress" in self.properties)

    def energies(self, structures: Sequence[Atoms]) -> Array:
        """Return the energies (eV) of which the forces are the derivatives, nothing cached."""
        calculator = self.make()
        return np.array([energy_of(attached(calculator, atoms)) for atoms in structures])

    @property
    def periodic(self) -> dict[str, Atoms]:
        """The structures that are periodic along all three axes."""
        return {kind: atoms for kind, atoms in self.structures.items() if atoms.pbc.all()}


def factory_of(calculator_or_factory: Any) -> Factory:
    """Return a function that returns the calculator to test.

    A calculator object is handed out again and again, its cache emptied; a class or function is called each
    time.

    Raises:
        InputError: the object is neither, or calling it does not give an ASE calculator.
    """
    if _is_calculator(calculator_or_factory):

        def same() -> Any:
            forget(calculator_or_factory)
            return calculator_or_factory

        return same
    if not callable(calculator_or_factory):
        raise InputError(f"{calculator_or_factory!r} is no ASE calculator and can't be called to make one")
    try:
        made = calculator_or_factory()
    except Exception as error:  # foreign code: a missing argument, file or license
        raise InputError(f"calling {calculator_or_factory!r} without arguments failed: {error}") from error
    if not _is_calculator(made):
        raise InputError(f"{calculator_or_factory!r} returned {type(made).__name__}; expected an ASE calculator")
    return calculator_or_factory


def _is_calculator(thing: Any) -> bool:
    return not isinstance(thing, type) and all(hasattr(thing, n) for n in ("get_potential_energy", "get_forces"))


def forget(calculator: Any) -> None:
    """Empty the cache of a calculator that has one."""
    if hasattr(calculator, "reset"):
        calculator.reset()


def attached(calculator: Any, atoms: Atoms) -> Atoms:
    """Return a copy of the atoms with the calculator, whose cache is emptied."""
    forget(calculator)
    copy = atoms.copy()
    copy.calc = calculator
    return copy


def energy_of(atoms: Atoms) -> float:
    """Return the energy that the forces derive from: the free energy where the calculator has one."""
    try:
        return float(atoms.get_potential_energy(force_consistent=True))
    except (PropertyNotImplementedError, KeyError, TypeError):
        return float(atoms.get_potential_energy())


def evaluate_with(calculator: Any, structures: Sequence[Atoms], stress: bool) -> Answer:
    """Return what the calculator says of the structures, one after the other."""
    answers = []
    for structure in structures:
        atoms = attached(calculator, structure)
        energy, forces = energy_of(atoms), np.array(atoms.get_forces(), dtype=float)
        full = None
        if stress and atoms.pbc.all():
            full = voigt_6_to_full_3x3(atoms.get_stress(voigt=True))[None]
        answers.append(Answer(np.array([energy]), forces, full, np.array([len(atoms)])))
    return joined(answers)


def noise(factory: Factory, atoms: Atoms) -> tuple[float, float]:
    """Return the rounding noise of the energy (eV) and of the forces (eV/Å).

    From fourth differences along a line: a smooth function leaves h^4 of its fourth derivative, rounding leaves
    sqrt(70) of its standard deviation (Moré and Wild, SIAM J. Sci. Comput. 33, 1292 (2011)). The median over
    the differences is taken, so that a jump at a cutoff is not mistaken for noise.
    """
    rng = np.random.default_rng(11)
    direction = rng.normal(size=(len(atoms), 3))
    line = [moved(atoms, k * _LINE_STEP * direction) for k in range(12)]
    answer = evaluate_with(factory(), line, stress=False)
    forces = answer.forces.reshape(len(line), -1)
    per_point = [np.diff(series, n=4, axis=0) / np.sqrt(70) for series in (answer.energy, forces)]
    return float(1.5 * np.median(np.abs(per_point[0]))), float(1.5 * np.median(np.abs(per_point[1]).max(axis=1)))
