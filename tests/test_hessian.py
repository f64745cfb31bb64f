"""Second derivatives: against finite differences, for the calculator, phonons and vibrations."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write
from ase.vibrations import Vibrations, VibrationsData
from stillinger_weber import stillinger_weber
from toy_potentials import Toy

import mlip
import mlip.hessian
from mlip.calculators import MLIPCalculator
from mlip.cli import main
from mlip.convert import atoms_to_graph
from mlip.errors import InputError, UnknownElementError
from mlip.models import MACE
from mlip.potential import Potential
from mlip.workflows.phonons import phonons
from mlip.workflows.relax import relax


def water_like(**options: object) -> Potential:
    torch.manual_seed(3)
    chosen = {"hidden_irreps": "8x0e+8x1o", "l_max": 2, "correlation": 2, **options}
    model = MACE([1, 8], 4.0, radial_mlp=(8,), avg_num_neighbors=2.0, **chosen)  # type: ignore[arg-type]
    return Potential(model.double(), {1: -10.0, 8: -400.0}, scale=3.0)


def rattled(atoms: Atoms, amount: float = 0.05) -> Atoms:
    atoms.rattle(amount, seed=0)
    return atoms


def by_differences(potential: Potential, atoms: Atoms, step: float = 1e-3) -> np.ndarray:
    """Central differences of fourth order of the forces, (3N, 3N)."""
    graph = atoms_to_graph(atoms, potential.cutoff + 1.0).within(potential.cutoff)

    def gradient(direction: torch.Tensor) -> torch.Tensor:
        return -potential(graph._replace(positions=graph.positions + direction), stress=False).forces.flatten()

    rows = []
    for unit in step * torch.eye(3 * len(atoms), dtype=torch.float64).view(-1, len(atoms), 3):
        near, far = (gradient(s * unit) - gradient(-s * unit) for s in (1, 2))
        rows.append((8 * near - far) / (12 * step))
    return torch.stack(rows).numpy()


def relative(a: np.ndarray | torch.Tensor, b: np.ndarray | torch.Tensor) -> float:
    a, b = np.asarray(a), np.asarray(b)
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("kind", ["crystal", "molecule", "toy"])
def test_it_is_the_derivative_of_the_forces(backend: str, kind: str) -> None:
    if kind == "crystal":
        potential, atoms = mlip.load("silicon", dtype=torch.float64), bulk("Si")
    elif kind == "molecule":
        potential, atoms = water_like(), molecule("H2O")
    else:
        potential, atoms = Potential(Toy(), {6: 0.0, 14: 0.0}), bulk("SiC", "zincblende", 4.36)
    potential.acceleration.backend = backend
    atoms, n = rattled(atoms), 3 * len(atoms)
    graph = atoms_to_graph(atoms, potential.cutoff)
    found = potential.hessian(graph)
    assert found.shape == (len(atoms), 3, len(atoms), 3) and found.dtype == torch.float64
    assert not found.requires_grad and not graph.positions.requires_grad
    matrix = found.view(n, n)
    assert relative(matrix, by_differences(potential, atoms)) < 1e-8
    assert relative(matrix, matrix.T) < 1e-12
    assert found.sum(dim=2).abs().max() < 1e-12 * matrix.abs().max()
    for indices in ([1], [1, 0, 1], []):
        assert relative(potential.hessian(graph, indices).numpy(), found[indices].numpy()) < 1e-13 if indices else True
    assert potential.hessian(graph, []).shape == (0, 3, len(atoms), 3)


@pytest.mark.parametrize(
    "options",
    [
        {
            "interaction": "residual_nonlinear",
            "interaction_first": "residual_nonlinear",
            "edge_irreps": "8x0e+8x1o+8x2e",
        },
        {"distance_transform": "Agnesi", "pair_repulsion": True, "hidden_irreps": "8x0e+8x1o+8x2e", "l_max": 3},
        {"so3": True, "num_interactions": 3, "correlation": 3},
    ],
    ids=["nonlinear", "repulsion", "so3"],
)
def test_every_kind_of_network(options: dict[str, object]) -> None:
    """Nothing on the way may have second derivatives that are silently zero."""
    potential, atoms = water_like(**options), rattled(molecule("H2O"))
    found = potential.hessian(atoms_to_graph(atoms, potential.cutoff)).view(9, 9)
    assert relative(found, by_differences(potential, atoms)) < 1e-7
    potential.acceleration.backend = "reference"
    assert relative(found, potential.hessian(atoms_to_graph(atoms, potential.cutoff)).view(9, 9)) < 1e-11


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    potential, atoms = water_like(), rattled(molecule("CH3OH")[[1, 2, 3, 4, 5]], 0.1)
    atoms.numbers = [8, 1, 8, 1, 1]
    graph = atoms_to_graph(atoms, potential.cutoff)
    found, reports = [], []
    for block in (1, 20, 1000):  # one copy, blocks that leave a rest, all rows at once
        monkeypatch.setitem(mlip.hessian.BLOCK, "cpu", block)
        reports.clear()
        found.append(potential.hessian(graph, progress=lambda *report: reports.append(report)))
        assert reports[-1] == (15, 15, "") and len(reports) == {1: 15, 20: 4, 1000: 1}[block]
    assert relative(found[1], found[0]) < 1e-13 and relative(found[2], found[0]) < 1e-13


def test_float32_and_tables() -> None:
    atoms = rattled(bulk("Si", cubic=True))
    exact = mlip.load("silicon", dtype=torch.float64)
    expected = exact.hessian(atoms_to_graph(atoms, exact.cutoff)).flatten(0, 1)
    for dtype, tolerance in (("float64", 1e-12), ("float32", 5e-6)):
        calculator = MLIPCalculator("silicon", dtype=dtype, device="cpu", radial="table")
        assert relative(calculator.get_hessian(atoms), expected) < tolerance


def test_every_grad_mode() -> None:
    potential, atoms = water_like(), rattled(molecule("H2O"))
    expected = potential.hessian(atoms_to_graph(atoms, potential.cutoff))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert relative(potential.hessian(atoms_to_graph(atoms, potential.cutoff)), expected) < 1e-13
    potential.requires_grad_(False)
    graph = atoms_to_graph(atoms, potential.cutoff, dtype=torch.float32)  # rounded positions
    assert relative(potential.hessian(graph), expected) < 1e-4


def test_lone_atoms_feel_nothing() -> None:
    potential = water_like()
    for atoms in (Atoms("O"), Atoms("OH", positions=[[0, 0, 0], [0, 0, 9]])):
        hessian = potential.hessian(atoms_to_graph(atoms, potential.cutoff))
        assert hessian.shape == (len(atoms), 3, len(atoms), 3) and not hessian.any()


def test_refused() -> None:
    potential = water_like()
    water = molecule("H2O")
    with pytest.raises(InputError, match="batch of 2 structures"):
        potential.hessian(atoms_to_graph([water, water], potential.cutoff))
    for indices in ([3], [-1], [0.5], [True, False, True], np.array([True, False, True]), [[0, 1]]):
        with pytest.raises(InputError, match="from 0 to 2"):
            potential.hessian(atoms_to_graph(water, potential.cutoff), indices)  # type: ignore[arg-type]
    calculator = MLIPCalculator(potential, device="cpu")
    with pytest.raises(UnknownElementError, match="C"):
        calculator.get_hessian(molecule("CO"))
    with pytest.raises(InputError, match="no structure"):
        calculator.get_hessian()
    with pytest.raises(InputError, match="no atoms"):
        calculator.get_hessian(Atoms())


def test_calculator() -> None:
    potential, atoms = water_like(), rattled(molecule("H2O"))
    calculator = MLIPCalculator(potential, device="cpu")
    hessian = calculator.get_hessian(atoms)
    assert hessian.shape == (9, 3, 3)  # as mace-torch's
    assert calculator.get_hessian(atoms, indices=[2]).shape == (3, 3, 3) and not calculator.results
    atoms.calc = calculator
    atoms.get_forces()
    assert relative(calculator.get_hessian(), hessian) < 1e-13  # of the last calculation
    assert relative(hessian.reshape(9, 9), by_differences(potential, atoms)) < 1e-8


def test_committee() -> None:
    other = water_like(num_interactions=1)
    other.model.cutoff = 3.0
    atoms = rattled(molecule("H2O"))
    alone = [MLIPCalculator(p, device="cpu").get_hessian(atoms) for p in (water_like(), other)]
    together = MLIPCalculator([water_like(), other], device="cpu")
    assert relative(together.get_hessian(atoms), (alone[0] + alone[1]) / 2) < 1e-13


def test_vibrations_of_a_molecule(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """ASE's analysis of our Hessian equals ASE's own finite differences."""
    potential = water_like()
    atoms = molecule("H2O")
    atoms.calc = MLIPCalculator(potential, device="cpu")
    hessian = atoms.calc.get_hessian(atoms)
    exact = VibrationsData(atoms, hessian.reshape(3, 3, 3, 3)).get_frequencies()
    numerical = Vibrations(atoms, name=str(tmp_path / "vib"), delta=1e-4, nfree=4)
    numerical.run()
    expected = numerical.get_frequencies()
    largest = np.abs(expected).max()
    assert largest > 100  # 1/cm
    assert np.allclose(exact**2, expected**2, rtol=0, atol=1e-7 * largest**2)  # zero modes as squares


@pytest.fixture(scope="module")
def silicon() -> Atoms:
    return relax(bulk("Si", a=5.47), MLIPCalculator("silicon", device="cpu"), cell=True, fmax=1e-5).atoms


def test_phonons_equal_those_of_displacements(silicon: Atoms) -> None:
    calculator = MLIPCalculator("silicon", device="cpu")
    options = {"supercell": (2, 2, 2), "mesh_length": 30.0}
    displaced = phonons(silicon, calculator, displacement=1e-3, **options)
    reports: list[tuple[int, int, str]] = []
    exact = phonons(silicon, calculator, method="hessian", progress=lambda *r: reports.append(r), **options)
    assert reports[-1] == (6, 6, "") and exact.displacements == 0 and displaced.displacements == 1
    assert exact.frequencies_gamma_THz[3:] == pytest.approx(displaced.frequencies_gamma_THz[3:], abs=1e-3)
    assert np.abs(exact.frequencies_gamma_THz[:3]).max() < 1e-3
    for a, b in zip(exact.bands.frequencies, displaced.bands.frequencies, strict=True):
        assert np.allclose(a, b, atol=2e-3)
    assert exact.heat_capacity_300K == pytest.approx(displaced.heat_capacity_300K, rel=1e-4)
    # Γ by hand: the supercell's Hessian is periodic, the primitive cell's own is that at Γ.
    hessian = calculator.get_hessian(silicon).reshape(6, 6) / silicon.get_masses()[0]
    frequencies = 15.633302 * np.sqrt(np.abs(np.linalg.eigvalsh(hessian)))
    assert frequencies[3:] == pytest.approx(exact.frequencies_gamma_THz[3:], abs=1e-4)


def test_phonons_of_a_crystal_without_symmetry() -> None:
    calculator = MLIPCalculator(Potential(Toy(), {6: 0.0, 14: 0.0}), device="cpu")
    atoms = bulk("SiC", "zincblende", 4.36)
    atoms.set_cell(atoms.cell @ [[1, 0.03, 0], [0, 1.02, 0.05], [0, 0, 0.98]], scale_atoms=True)
    with pytest.warns(UserWarning, match="not relaxed"):
        one, other = (
            phonons(atoms, calculator, supercell=(3, 3, 3), mesh_length=10, displacement=1e-3, method=method)
            for method in ("displacements", "hessian")
        )
    assert other.frequencies_gamma_THz == pytest.approx(one.frequencies_gamma_THz, abs=2e-3)


def test_methods_that_can_not_be(silicon: Atoms) -> None:
    with pytest.raises(InputError, match="expected one of displacements, hessian"):
        phonons(silicon, stillinger_weber(), method="dfpt")
    with pytest.raises(InputError, match="needs an MLIPCalculator, not Manybody"):
        phonons(silicon, stillinger_weber(), method="hessian")


def test_command(silicon: Atoms, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path / "si.extxyz", silicon)
    words = ["phonon", str(tmp_path / "si.extxyz"), "--supercell", "2", "2", "2", "--mesh_length", "20", "--json"]
    found = []
    for method in ("displacements", "hessian"):
        assert main([*words, "--method", method, "--device", "cpu"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[1]["frequencies_gamma_THz"] == pytest.approx(found[0]["frequencies_gamma_THz"], abs=0.02)
    assert found[1]["displacements"] == 0
