"""Atoms outside the range of the training set: counted, warned about once, in calculators, MD and evaluation."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read, write

import mlip
from mlip import MLIPCalculator, ops
from mlip.cli.main import main
from mlip.convert import atoms_to_graph
from mlip.errors import ExtrapolationWarning, InputError
from mlip.models import HDNNP
from mlip.nn.symmetry_functions import SymmetryFunction
from mlip.potential import Potential
from mlip.workflows.evaluate import evaluate, with_predictions
from mlip.workflows.md import run_md
from mlip.workflows.md_integrators import MDSettings

CUTOFF = 4.0


def crystal(stretch: float = 1.0) -> Atoms:
    """Eight atoms of SiC."""
    atoms = bulk("SiC", "zincblende", a=4.36, cubic=True)
    atoms.rattle(0.02, seed=1)
    atoms.set_cell(stretch * atoms.cell, scale_atoms=True)
    return atoms


def untrained() -> Potential:
    torch.manual_seed(0)
    made = [
        SymmetryFunction(2, z, (other,), CUTOFF, eta=0.2, shift=s) for z in (6, 14) for other in (6, 14) for s in (0, 2)
    ]
    return Potential(HDNNP((6, 14), CUTOFF, made, hidden=(3,), activations=("tanh", "identity")), {6: 0.0, 14: 0.0})


def ranged(elements: tuple[int, ...] = (6, 14), margin: float = 0.2) -> Potential:
    """With the ranges that the crystal's own functions have, and a little more."""
    potential = untrained()
    graph = atoms_to_graph(crystal(), CUTOFF)
    for k, (_, values) in enumerate(potential.model.symmetry_functions(graph)):
        if potential.elements[k] in elements:
            potential.model.of_element("lowest", k).copy_(values.min(dim=0).values - margin)
            potential.model.of_element("highest", k).copy_(values.max(dim=0).values + margin)
    return potential


def expected(potential: Potential, atoms: Atoms) -> np.ndarray:
    """(N,), by the definition."""
    counts = np.zeros(len(atoms), dtype=int)
    for k, (members, values) in enumerate(potential.model.symmetry_functions(atoms_to_graph(atoms, CUTOFF))):
        low, high = (potential.model.of_element(name, k).numpy() for name in ("lowest", "highest"))
        counts[members.numpy()] = ((values.detach().numpy() < low) | (values.detach().numpy() > high)).sum(axis=1)
    return counts


def test_rounding_is_no_extrapolation() -> None:
    """The structures that gave the range, in other orders, moved and repeated."""
    potential, atoms = ranged(margin=0.0), crystal()
    order = np.random.default_rng(0).permutation(len(atoms))
    moved = atoms[order]
    moved.positions += [0.1, 0.2, 0.3]
    for structure in (atoms, moved, atoms.repeat((2, 1, 1))):
        found = potential.extrapolations(atoms_to_graph(structure, CUTOFF))
        assert found is not None and not found.any()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_counted_with_each_calculation_and_warned_about_once(dtype: str) -> None:
    potential = ranged()
    inside, outside = crystal(), crystal(0.8)
    counts = expected(potential, outside)
    assert counts.any()
    calculator = MLIPCalculator(potential, dtype=dtype)
    assert calculator.has_training_range and calculator.extrapolations is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calculator.get_forces(inside)
    assert calculator.extrapolations.tolist() == [0] * 8 and calculator.extrapolating_structures == 0
    with pytest.warns(ExtrapolationWarning, match=rf"{(counts > 0).sum()} of 8 atoms \(C, Si\).*{counts.sum()} desc"):
        calculator.get_forces(outside)
    assert calculator.extrapolations.tolist() == counts.tolist()
    assert "extrapolations" not in calculator.results
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = calculator.evaluate([inside, outside, inside], batch_atoms=16)
        calculator.get_stress(crystal(0.79))
    assert [result["extrapolations"].sum() for result in found] == [0, counts.sum(), 0]
    assert calculator.extrapolating_structures == 3
    assert calculator.extrapolations_total == 2 * counts.sum() + expected(potential, crystal(0.79)).sum()
    assert pickle.loads(pickle.dumps(calculator)).extrapolating_structures == 3


def test_the_symmetry_functions_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the compiled operator or in plain torch."""
    calls = []

    def count(place: Any) -> None:
        whole = place.symmetry_functions
        monkeypatch.setattr(place, "symmetry_functions", lambda *given: calls.append(1) or whole(*given))

    count(HDNNP)
    count(ops)
    calculator = MLIPCalculator(ranged())
    calculator.get_potential_energy(crystal())  # with the comparison of both
    calculator.reset()
    calls.clear()
    calculator.get_potential_energy(crystal())
    assert len(calls) == 1 and calculator.extrapolations is not None


def test_elements_without_range_and_models_without_any() -> None:
    atoms = crystal(0.8)
    graph = atoms_to_graph(atoms, CUTOFF)
    half = ranged(elements=(6,)).extrapolations(graph).numpy()
    assert half[atoms.numbers == 6].all() and not half[atoms.numbers == 14].any()
    for potential in (untrained(), mlip.load("silicon")):
        structure = atoms if 6 in potential.elements else bulk("Si") * 2
        calculator = MLIPCalculator(potential)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            calculator.get_potential_energy(structure)
        assert not calculator.has_training_range and calculator.extrapolations is None
        assert potential.extrapolations(atoms_to_graph(structure, potential.cutoff)) is None
        assert "extrapolations" not in calculator.evaluate([structure])[0]
        assert evaluate(calculator, [labelled(structure)]).n_extrapolating is None


def test_of_a_committee_the_most_counts() -> None:
    atoms, members = crystal(0.8), [ranged(elements=(6,)), ranged(elements=(14,)), untrained()]
    calculator = MLIPCalculator(members)
    with pytest.warns(ExtrapolationWarning):
        calculator.get_potential_energy(atoms)
    carbon, silicon = (
        expected(potential, atoms) * (atoms.numbers == z) for potential, z in zip(members, (6, 14), strict=False)
    )
    assert carbon.any() and silicon.any()
    assert calculator.extrapolations.tolist() == (carbon + silicon).tolist()


def labelled(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.info["REF_energy"] = 0.0
    return copy


def test_evaluation_tells_how_many_structures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    potential = ranged()
    structures = [labelled(crystal(stretch)) for stretch in (1.0, 0.8, 0.7)]
    result = evaluate(potential, structures)
    assert result.n_extrapolating == 2
    assert evaluate(MLIPCalculator([potential, potential]), structures).n_extrapolating == 2
    assert (
        with_predictions(result)[1].arrays["MLIP_extrapolations"].tolist()
        == expected(potential, structures[1]).tolist()
    )
    potential.save(tmp_path / "m.safetensors")
    write(tmp_path / "data.xyz", structures)
    arguments = ["evaluate", str(tmp_path / "data.xyz"), "--model", str(tmp_path / "m.safetensors")]
    assert main(arguments) == 0
    assert "outside the range of the training set: 2 of 3 structures" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_extrapolating"] == 2


def settings(**options) -> MDSettings:
    return MDSettings(**{"ensemble": "nve", "temperature": 500.0, "interval": 5, "seed": 2} | options)


def md(potential: Potential, steps: int = 30, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)
        return run_md(crystal(), MLIPCalculator(potential), settings(), steps=steps, **options)


def counted_by_hand(potential: Potential, trajectory: Path) -> list[int]:
    return [int(expected(potential, frame).sum()) for frame in read(trajectory, ":")]


def test_md_counts_steps_also_across_a_resume(tmp_path: Path) -> None:
    potential = ranged(margin=0.02)
    whole = md(potential, trajectory=tmp_path / "whole.traj")
    every = run_md(
        crystal(), MLIPCalculator(untrained()), settings(interval=1), steps=30, trajectory=tmp_path / "every.traj"
    )
    counts = counted_by_hand(potential, tmp_path / "every.traj")
    assert 3 < np.count_nonzero(counts) < 31
    assert whole.extrapolated_steps == np.count_nonzero(counts)
    assert whole.log["extrapolated_steps"].tolist() == [np.count_nonzero(counts[: s + 1]) for s in range(0, 31, 5)]
    assert every.extrapolated_steps is None and "extrapolated_steps" not in every.log
    md(potential, steps=12, trajectory=tmp_path / "parts.traj")
    resumed = md(potential, trajectory=tmp_path / "parts.traj", resume=True)
    assert resumed.extrapolated_steps == whole.extrapolated_steps
    assert (tmp_path / "parts.traj.log").read_text() == (tmp_path / "whole.traj.log").read_text()


def test_md_stops_where_too_much_is_extrapolated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    potential = ranged(margin=0.02)
    md(potential, trajectory=tmp_path / "whole.extxyz")
    run_md(crystal(), MLIPCalculator(untrained()), settings(interval=1), steps=30, trajectory=tmp_path / "every.extxyz")
    counts = counted_by_hand(potential, tmp_path / "every.extxyz")
    limit = max(counts[:20])
    first = next(step for step, count in enumerate(counts) if count >= limit)
    assert 5 < first < 20
    stopped = md(potential, trajectory=tmp_path / "stopped.extxyz", stop_on_extrapolation=limit)
    assert stopped.steps == first and stopped.frames == first // 5 + 1
    assert stopped.stopped.startswith(f"step {first}: ") and f"training set: {limit}," in stopped.stopped
    again = md(potential, trajectory=tmp_path / "stopped.extxyz", stop_on_extrapolation=limit, resume=True)
    assert again.steps == first and again.stopped
    on = md(potential, trajectory=tmp_path / "stopped.extxyz", resume=True)
    assert on.stopped is None and on.steps == 30
    assert (tmp_path / "stopped.extxyz").read_text() == (tmp_path / "whole.extxyz").read_text()


def test_md_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranged(margin=0.0).save(tmp_path / "m.safetensors")
    write(tmp_path / "s.extxyz", crystal())
    arguments = ["md", str(tmp_path / "s.extxyz"), "--model", str(tmp_path / "m.safetensors"), "--steps", "10"]
    arguments += ["-o", str(tmp_path / "out.traj")]
    assert main([*arguments, "--stop_on_extrapolation", "1", "--json"]) == 3
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert found["steps"] < 10 and found["extrapolated_steps"] == 1 and found["stopped"].startswith("step ")
    assert f"mlip md: stopped at {found['stopped']}" in output.err
    assert len(read(tmp_path / "out.traj", ":")) == found["frames"] == 1
    assert main([*arguments, "--overwrite"]) == 0
    assert "of 11 structures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("potential", "limit", "message"),
    [(untrained, 1, "does not know the range"), (ranged, 0, "at least 1")],
    ids=["no range", "zero"],
)
def test_stop_that_would_do_nothing_is_refused(potential, limit: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        md(potential(), stop_on_extrapolation=limit)
