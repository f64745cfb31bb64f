"""The black-box checks pass on ASE's calculators and fail on ones that are broken in one way each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.tersoff import Tersoff, TersoffParameters
from ase.io import write

from mlip.calculators import MLIPCalculator
from mlip.cli import main
from mlip.errors import InputError
from mlip.models.mace import MACE
from mlip.potential import Potential
from mlip.testing.physics import CALCULATOR_CHECKS, CalculatorPhysics, check_calculator
from mlip.testing.physics.calculator import Subject, subject_of
from mlip.testing.physics.calculator.derivatives import check_forces_are_gradient
from mlip.testing.physics.calculator.elements import supported_structures
from mlip.testing.physics.invariances import net_force
from mlip.testing.physics.result import name_of

SILICON = TersoffParameters(
    m=3, gamma=1, lambda3=0, c=1.0039e5, d=16.217, h=-0.59825, n=0.78734, beta=1.1e-6, lambda2=1.73222, B=471.18,
    R=2.85, D=0.15, lambda1=2.4799, A=1830.8,
)  # fmt: skip


class TestEMT(CalculatorPhysics):
    """ASE's effective medium theory, whose cutoff has a jump of 1e-4 of the pair energy."""

    @pytest.fixture
    def calculator(self) -> Any:
        return EMT


def small_mace(**options: Any) -> MLIPCalculator:
    torch.manual_seed(0)
    model = MACE([6, 14], cutoff=4.0, hidden_irreps="4x0e+4x1o", l_max=2, correlation=2, radial_mlp=[8])
    return MLIPCalculator(Potential(model.double(), E0s={6: -1020.0, 14: -7870.0}), device="cpu", **options)


class TestOurs(CalculatorPhysics):
    """Our own calculator, at large total energies."""

    @pytest.fixture(params=["float64", "float32"])
    def calculator(self, request: pytest.FixtureRequest) -> Any:
        return small_mace(dtype=request.param)


@pytest.mark.parametrize(
    "make",
    [
        EMT(),
        lambda: EMT(asap_cutoff=True),
        LennardJones,
        lambda: LennardJones(sigma=2.3, rc=6.0, ro=4.5, smooth=True),
        lambda: Tersoff({("Si", "Si", "Si"): SILICON}),
    ],
    ids=["EMT object", "EMT with ASAP's cutoff", "Lennard-Jones cut", "Lennard-Jones smooth", "Tersoff"],
)
def test_right_calculators_pass(make: Any) -> None:
    results = check_calculator(make)
    assert all(r.passed for r in results), [str(r) for r in results if not r.passed]


class Altered(EMT):
    """EMT whose results are changed by a function of the atoms and the results."""

    def __init__(self, change: Callable[[Atoms, dict[str, Any]], None]) -> None:
        super().__init__()
        self.change = change

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",), changes: Sequence[str] = all_changes
    ) -> None:
        super().calculate(atoms, properties, changes)
        assert atoms is not None
        self.change(atoms, self.results)


def scaled_forces(_: Atoms, results: dict[str, Any]) -> None:
    results["forces"] *= 1.01


def drifting(_: Atoms, results: dict[str, Any]) -> None:
    results["forces"] += 1e-3


def voigt(order: list[int], sign: float = 1.0) -> Callable[[Atoms, dict[str, Any]], None]:
    def change(_: Atoms, results: dict[str, Any]) -> None:
        if "stress" in results:
            results["stress"] = sign * results["stress"][order]

    return change


def stress_scaled(_: Atoms, results: dict[str, Any]) -> None:
    if "stress" in results:
        results["stress"] = results["stress"] * 1.01


def add_energy(term: Callable[[Atoms], float]) -> Callable[[Atoms, dict[str, Any]], None]:
    def change(atoms: Atoms, results: dict[str, Any]) -> None:
        for name in ("energy", "free_energy"):
            results[name] += term(atoms)

    return change


def triple_product(atoms: Atoms) -> float:
    """Of the vectors between the first four atoms: a mirror flips its sign."""
    vectors = atoms.get_distances(0, [1, 2, 3], mic=True, vector=True)
    return 1e-3 * float(np.linalg.det(vectors))


def wraps_atoms(atoms: Atoms, _: dict[str, Any]) -> None:
    atoms.positions += 1e-9


def leaves_info(atoms: Atoms, _: dict[str, Any]) -> None:
    atoms.info["energy"] = 1.0


def other_free_energy(_: Atoms, results: dict[str, Any]) -> None:
    results["energy"] += 0.1


def partial_energies(_: Atoms, results: dict[str, Any]) -> None:
    results["energies"] = results["energies"] * 0.99


class Stale(EMT):
    """Its cache notices only some of the changes."""

    def __init__(self, unnoticed: str) -> None:
        super().__init__()
        self.unnoticed = unnoticed

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        first = self.atoms is None
        return [c for c in super().check_state(atoms, tol) if first or c != self.unnoticed]


class Forgetful(EMT):
    """Calculates again each time it is asked."""

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        return list(all_changes)


class SharesItsArrays(EMT):
    """Hands out the array it keeps."""

    def get_forces(self, atoms: Atoms | None = None) -> np.ndarray:
        super().get_forces(atoms)
        return self.results["forces"]


class Intensive(EMT):
    """Divides energy and forces by the number of atoms."""

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",), changes: Sequence[str] = all_changes
    ) -> None:
        super().calculate(atoms, properties, changes)
        assert atoms is not None
        self.results = {name: value / len(atoms) for name, value in self.results.items()}


BROKEN: dict[str, tuple[str, Callable[[], Calculator]]] = {
    "forces 1% off": ("forces-are-gradient", lambda: Altered(scaled_forces)),
    "forces drift": ("net-force", lambda: Altered(drifting)),
    "shear swapped": ("voigt-order", lambda: Altered(voigt([0, 1, 2, 4, 3, 5]))),
    "LAMMPS order": ("voigt-order", lambda: Altered(voigt([0, 1, 2, 5, 4, 3]))),
    "xx and zz swapped": ("stress-is-derivative", lambda: Altered(voigt([2, 1, 0, 3, 4, 5]))),
    "stress 1% off": ("stress-is-derivative", lambda: Altered(stress_scaled)),
    "stress of wrong sign": ("stress-sign", lambda: Altered(voigt([0, 1, 2, 3, 4, 5], -1.0))),
    "external field": ("translation", lambda: Altered(add_energy(lambda a: 1e-3 * float(a.positions[:, 0].sum())))),
    "unwrapped atoms": ("wrapping", lambda: Altered(add_energy(lambda a: 1e-3 * float(np.ptp(a.positions[:, 0]))))),
    "anisotropic": ("rotation", lambda: Altered(add_energy(lambda a: 1e-3 * float(np.ptp(a.positions[:, 2]))))),
    "handed": ("inversion", lambda: Altered(add_energy(triple_product))),
    "ordered": ("permutation", lambda: Altered(add_energy(lambda a: 1e-3 * float(a.numbers[0])))),
    "intensive": ("supercell", Intensive),
    "moves the atoms": ("atoms-unchanged", lambda: Altered(wraps_atoms)),
    "writes to info": ("atoms-unchanged", lambda: Altered(leaves_info)),
    "shares its arrays": ("atoms-unchanged", SharesItsArrays),
    "stale for positions": ("cache", lambda: Stale("positions")),
    "stale for the cell": ("cache", lambda: Stale("cell")),
    "stale for numbers": ("cache", lambda: Stale("numbers")),
    "stale for pbc": ("cache", lambda: Stale("pbc")),
    "never caches": ("cache", Forgetful),
    "another free energy": ("energies-consistent", lambda: Altered(other_free_energy)),
    "energies do not sum": ("energies-consistent", lambda: Altered(partial_energies)),
}


@pytest.fixture(scope="module")
def right() -> Subject:
    return subject_of(EMT)


@pytest.mark.parametrize("case", BROKEN)
def test_broken_calculators_fail(case: str, right: Subject) -> None:
    name, make = BROKEN[case]
    (check,) = (c for c in CALCULATOR_CHECKS if name_of(c) == name)
    outcome = check(replace(right, make=make))
    assert not outcome.passed, str(outcome)


def test_every_check_is_shown_to_fail() -> None:
    assert {name_of(check) for check in CALCULATOR_CHECKS} == {name for name, _ in BROKEN.values()}


def single(_: Atoms, results: dict[str, Any]) -> None:
    """Round all results to float32."""
    for name, value in results.items():
        results[name] = np.asarray(value, dtype=np.float32).astype(float)[()]


def single_and_wrong(atoms: Atoms, results: dict[str, Any]) -> None:
    results["forces"] *= 1.01
    single(atoms, results)


def test_single_precision_widens_the_tolerance_but_one_percent_fails() -> None:
    loose = subject_of(lambda: Altered(single), bulk("Au", cubic=True).repeat(2))
    assert loose.symmetry_tolerance > subject_of(EMT, bulk("Au", cubic=True).repeat(2)).symmetry_tolerance
    assert all(r.passed for r in check_calculator(lambda: Altered(single)))
    assert not check_forces_are_gradient(subject_of(lambda: Altered(single_and_wrong))).passed


@pytest.mark.parametrize(
    "atoms",
    [bulk("Al"), bulk("Cu", cubic=True).repeat((2, 1, 1)), molecule("CH3OH"), fcc111("Ni", (2, 2, 2), vacuum=6.0)],
    ids=["primitive cell", "perfect crystal", "molecule", "slab"],
)
def test_structure_given(atoms: Atoms) -> None:
    before = atoms.copy()
    results = check_calculator(EMT, atoms)
    assert all(r.passed for r in results), [str(r) for r in results if not r.passed]
    assert atoms == before
    assert {r.name for r in results if r.skipped} >= (set() if atoms.pbc.all() else {"supercell", "voigt-order"})


def test_elements_are_found() -> None:
    assert set(supported_structures(EMT)["crystal"].symbols) == {"Cu", "Al"}
    tersoff = supported_structures(lambda: Tersoff({("Si", "Si", "Si"): SILICON}))
    assert set(tersoff["crystal"].symbols) == {"Si"}


class SupportsNothing(Calculator):
    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, *_: Any) -> None:
        raise RuntimeError("unknown element")


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (SupportsNothing, "--structure FILE"),
        (3, "no ASE calculator"),
        (lambda: 3, "returned int"),
        (MLIPCalculator, "without arguments failed"),
        (lambda: open("/no/such/file"), "no/such/file"),
    ],
)
def test_what_can_not_be_checked_is_refused(thing: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_calculator(thing)


MODULE = """
from ase.calculators.emt import EMT

class Wrong(EMT):
    def calculate(self, *args):
        super().calculate(*args)
        self.results["forces"] *= 1.01

right = EMT()
"""


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # restores the path that the command extends
    Path("my_calculators.py").write_text(MODULE)
    write("gold.xyz", bulk("Au", cubic=True))
    assert main(["check", "--calculator", "my_calculators:right", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["passed"] and len(printed["checks"]) > 10
    assert main(["check", "--calculator", "my_calculators:Wrong", "--structure", "gold.xyz"]) == 1
    out = capsys.readouterr().out
    assert "FAIL" in out and "forces-are-gradient" in out and "1 of 14 checks failed" in out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["silicon", "--calculator", "ase.calculators.emt:EMT"],
        ["silicon", "--tolerance", "1"],
        ["--calculator", "ase.calculators.emt:EMT", "--tolerance", "0"],
        ["--calculator", "ase.calculators.emt"],
        ["--calculator", "ase.calculators.emt:Nothing"],
        ["--calculator", "no_such_module:x"],
        ["no_such_model"],
    ],
)
def test_command_refuses(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("mlip check: error:") and captured.err.count("\n") == 1 and not captured.out


def test_net_force_that_is_not_a_number_is_no_zero() -> None:
    assert np.isnan(net_force(np.full((2, 3), np.nan)))
    assert net_force(np.zeros((2, 3))) == 0.0
