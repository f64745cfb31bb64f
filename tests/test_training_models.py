"""Training of HDNNP, DimeNet and DimeNet++: runs, restarts, options; symmetry functions that are chosen or read."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from ase import Atoms
from lj_data import argon, isolated, label, write_xyz
from small_runs import assert_equal, run_state

import mlip
from mlip.cli import main
from mlip.convert import atoms_to_graph
from mlip.data.batches import make_samples
from mlip.data.labels import LabelKeys, read_labelled
from mlip.errors import InputError, ModelFileError
from mlip.models.hdnnp import ACTIVATIONS, HDNNP
from mlip.nn.symmetry_functions import CUTOFFS, KINDS, RADIAL, SymmetryFunction
from mlip.testing.physics import check_forces_are_gradient
from mlip.training.architectures import BUILDERS, read_functions
from mlip.training.candidates import candidates
from mlip.training.checkpointing import load_checkpoint, save_checkpoint
from mlip.training.choose_functions import choose_functions, most_informative
from mlip.training.config import TrainingConfig
from mlip.training.data import load_data
from mlip.training.dry_run import rehearse
from mlip.training.function_scaling import Ranges
from mlip.training.model_options import MODELS_WITH, Activation, CutoffName, Model
from mlip.training.setup import build_potential
from mlip.training.train import train
from mlip.units import BOHR

SMALL_DIMENET = {
    "num_channels": 8,
    "num_interactions": 1,
    "num_spherical": 3,
    "num_radial_basis": 4,
    "num_output_layers": 1,
}
SMALL: dict[str, dict[str, Any]] = {
    "HDNNP": {"num_symmetry_functions": 10, "hidden_layers": "[6]"},
    "DimeNet": SMALL_DIMENET | {"num_bilinear": 2},
    "DimeNet++": SMALL_DIMENET | {"int_emb_size": 4, "basis_emb_size": 4, "out_emb_channels": 8},
}
RUN = {"r_max": 4.5, "batch_size": 4, "plot": False, "device": "cpu", "overwrite": True, "scheduler": "constant"}
models = pytest.mark.parametrize("model", list(SMALL))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xyz(tmp_path_factory.mktemp("data") / "train.xyz", [*argon(16), isolated()])


def config(data: Path, folder: Path, model: str, **options: Any) -> TrainingConfig:
    defaults = RUN | SMALL[model]
    return TrainingConfig(**{"train_file": str(data), "work_dir": str(folder), "model": model, **defaults, **options})


# -- runs --------------------------------------------------------------------------------------------------------------


@models
def test_training_lowers_the_errors_and_the_file_gives_the_same(model: str, data: Path, tmp_path: Path) -> None:
    result = train(config(data, tmp_path, model, max_num_epochs=12, lr=0.03))
    first, last = result.history[0], result.history[-1]
    assert last["valid_forces_rmse"] < 0.7 * first["valid_forces_rmse"]
    graph = atoms_to_graph(argon(2, seed=5), 4.5)
    again = mlip.load(result.path)(graph)
    now = result.potential(graph)
    assert torch.equal(again.energy, now.energy) and torch.equal(again.forces, now.forces)
    assert check_forces_are_gradient(result.potential.double(), {"argon": argon(1, seed=5)[0]}).passed
    report = result.report.read_text()
    assert model in report and f"--model {model}" in " ".join(report.split())


@models
def test_restart_continues_bit_for_bit(model: str, data: Path, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("whole", "parts")]
    train(config(data, runs[0], model, max_num_epochs=3))
    train(config(data, runs[1], model, max_num_epochs=1))
    train(config(data, runs[1], model, max_num_epochs=3, restart_latest=True))
    assert_equal(*(run_state(folder) for folder in runs))
    assert_equal(*(dict(mlip.load(folder / "mlip.safetensors").state_dict()) for folder in runs))


@models
def test_dry_run_writes_nothing(model: str, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "none"
    assert rehearse(config(data, folder, model)).parameters > 10
    assert not folder.exists()


def test_forces_train_from_the_first_step_though_dimenet_begins_with_zero(data: Path, tmp_path: Path) -> None:
    options = config(data, tmp_path, "DimeNet++", loss="forces_only")
    potential = build_potential(options, load_data(options))
    prediction = potential(atoms_to_graph(argon(1), 4.5), training=True)
    assert not prediction.forces.any()
    (prediction.forces - torch.randn(4, 3)).square().mean().backward()
    assert potential.model.outputs[-1].last.weight.grad.abs().max() > 0


@models
def test_energies_are_shifted_by_the_mean(model: str, data: Path, tmp_path: Path) -> None:
    options = config(data, tmp_path, model, scaling="std_scaling")
    read = load_data(options)
    potential = build_potential(options, read)
    assert potential.energy_scale.shift.item() == read.statistics.interaction_mean != 0
    assert potential.energy_scale.scale.item() == read.statistics.interaction_std


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "HDNNP", "hidden_irreps": "8x0e"}, "--hidden_irreps 8x0e .* --model MACE or ScaleShiftMACE"),
        ({"model": "DimeNet", "correlation": 2}, "--correlation 2 would do nothing: it needs --model MACE or Sc"),
        ({"model": "DimeNet++", "interaction": "RealAgnosticInteractionBlock"}, "--interaction Real.* --model MACE or"),
        ({"model": "HDNNP", "num_channels": 8}, "--num_channels 8 .* MACE, ScaleShiftMACE, DimeNet or DimeNet\\+\\+"),
        ({"model": "HDNNP", "num_interactions": 2}, "--num_interactions"),
        ({"model": "MACE", "hidden_layers": "[8]"}, "--hidden_layers \\[8\\] .* --model HDNNP"),
        ({"model": "MACE", "num_spherical": 3}, "--num_spherical 3 .* --model DimeNet or DimeNet\\+\\+"),
        ({"model": "DimeNet++", "num_bilinear": 3}, "--num_bilinear 3 .* --model DimeNet\\."),
        ({"model": "DimeNet", "int_emb_size": 3}, "--int_emb_size 3 .* --model DimeNet\\+\\+\\."),
        ({"model": "HDNNP", "symmetry_functions": "x", "num_symmetry_functions": 3}, "needs no --symmetry_functions"),
        ({"model": "HDNNP", "length_unit": "Angstrom"}, "--length_unit Angstrom .* --symmetry_functions"),
        ({"model": "HDNNP", "hidden_layers": "[8, x]"}, "--hidden_layers '\\[8, x\\]' is not a list of widths"),
        ({"model": "HDNNP", "activation": "silu"}, "--activation is 'silu'; expected one of identity, tanh"),
        ({"model": "HDNNP", "cutoff_function": "hard"}, "--cutoff_function is 'hard'"),
        ({"model": "HDNNP", "num_symmetry_functions": 0}, "--num_symmetry_functions is 0"),
        ({"model": "SchNet"}, "--model is 'SchNet'; expected one of MACE, "),
    ],
)
def test_options_of_other_models(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingConfig(train_file="a.xyz", **options)


def test_defaults_by_model() -> None:
    of = {model: TrainingConfig(train_file="a.xyz", model=model) for model in get_args(Model)}
    assert of.keys() == BUILDERS.keys() >= {model for models in MODELS_WITH.values() for model in models}
    assert [of[m].num_interactions for m in of] == [2, 2, None, 4, 4]
    assert [of[m].num_radial_basis for m in of] == [8, 8, None, 6, 6]
    assert of["HDNNP"].hidden_layers == [32, 32] and of["MACE"].hidden_layers is None
    assert of["HDNNP"].command() == "mlip train --train_file a.xyz --model HDNNP"
    assert "max_ell" not in of["DimeNet"].portable() and "max_ell" in of["MACE"].portable()
    assert get_args(Activation) == tuple(ACTIVATIONS) and get_args(CutoffName) == tuple(CUTOFFS)[1:]


def test_a_checkpoint_from_before_these_options(tmp_path: Path) -> None:
    now = TrainingConfig(train_file="a.xyz").as_dict()
    before = {name: v for name, v in now.items() if v is not None or name in ("hidden_irreps", "num_channels", "max_L")}
    assert len(before) < len(now) - 10
    path = tmp_path / "old.pt"
    save_checkpoint({"config": before, "data": {}}, path)
    assert load_checkpoint(path, now, {})["config"] == before
    with pytest.raises(InputError, match="--model MACE -> HDNNP"):
        load_checkpoint(path, TrainingConfig(train_file="a.xyz", model="HDNNP").as_dict(), {})


# -- symmetry functions that are chosen --------------------------------------------------------------------------------


def columns(n: int = 300) -> np.ndarray:
    """Five independent columns of size 1 to 5, three mixtures of them, a constant and a copy."""
    rng = np.random.default_rng(0)
    free = rng.normal(size=(n, 5)) * np.arange(1, 6)
    mixed = free @ rng.normal(size=(5, 3))
    return np.concatenate([np.full((n, 1), 7.0), free, mixed, free[:, :1]], axis=1)


def test_most_informative_columns() -> None:
    values = columns()
    chosen = most_informative(values, 10)
    assert len(chosen) == 5 and 0 not in chosen and not {1, 9} <= set(chosen)
    assert most_informative(values, 3) == chosen[:3]
    scaled = (values[:, 1:] - values[:, 1:].mean(axis=0)) / values[:, 1:].std(axis=0)

    def unexplained(picked: list[int]) -> float:
        basis = np.linalg.qr(scaled[:, [k - 1 for k in picked]])[0]
        return float(np.square(scaled - basis @ (basis.T @ scaled)).mean())

    all_choices = [unexplained(list(picked)) for picked in combinations(range(1, 9), 3)]
    assert unexplained(chosen[:3]) < 1.05 * min(all_choices) < 0.9 * float(np.median(all_choices))
    assert most_informative(np.ones((5, 3)), 2) == [] and most_informative(np.ones((0, 3)), 2) == []


def salt(n: int, seed: int = 0) -> list[Atoms]:
    """Molecules of two elements."""
    rng = np.random.default_rng(seed)
    molecules = [Atoms("ArNe2", positions=[[0, 0, 0], [3.5, 0, 0], [0, 3.4, 0]]) for _ in range(n)]
    for atoms in molecules:
        atoms.positions += rng.normal(scale=0.2, size=(3, 3))
    return [label(atoms) for atoms in molecules]


def test_choice_for_two_elements(tmp_path: Path) -> None:
    read = read_labelled(str(write_xyz(tmp_path / "salt.xyz", salt(30))), LabelKeys(None, None, None, None))
    samples, calls = make_samples(read.structures, 5.0), []
    arguments = ([10, 18], 5.0, 8, "poly2", samples)
    chosen = choose_functions(*arguments, seed=1, progress=lambda *done: calls.append(done))
    assert calls[-1] == (90, 90)
    assert [sum(f.center == z for f in chosen) for z in (10, 18)] == [8, 8]
    assert chosen == choose_functions(*arguments, seed=1)
    # no neon has two argon atoms for neighbors, no argon has one
    assert not any(f.neighbors in ((18, 18), (18,)) for f in chosen if f.center == 18)
    assert not any(f.neighbors.count(18) == 2 for f in chosen)


def test_atoms_that_are_all_alike_have_functions_too(tmp_path: Path) -> None:
    dimer = label(Atoms("ArNe", positions=[[0, 0, 0], [3.5, 0, 0]]))
    read = read_labelled(str(write_xyz(tmp_path / "one.xyz", [dimer])), LabelKeys(None, None, None, None))
    chosen = choose_functions([10, 18], 5.0, 8, "poly2", make_samples(read.structures, 5.0), seed=1)
    assert {(f.center, f.neighbors) for f in chosen} >= {(10, (18,)), (18, (10,))}


def test_candidates_reach_the_cutoff_and_no_further() -> None:
    pool = candidates([1, 8], 4.0)
    assert len(set(pool)) == len(pool) and {f.cutoff for f in pool} == {4.0}
    assert all(0 <= f.shift < 4.0 for f in pool)
    assert {(f.center, f.neighbors) for f in pool if KINDS[f.kind].shape == RADIAL} == {
        (z, (n,)) for z in (1, 8) for n in (1, 8)
    }


def test_scaling_is_of_the_training_set(data: Path, tmp_path: Path) -> None:
    options = config(data, tmp_path, "HDNNP")
    read = load_data(options)
    model = build_potential(options, read).model
    assert isinstance(model, HDNNP)
    graph = atoms_to_graph([s.atoms for s in read.sets["train"].structures], 4.5)
    ((_, values),) = model.symmetry_functions(graph)
    scaled = model.scaling[0](values)
    assert scaled.mean(dim=0).abs().max() < 1e-10
    assert (scaled.amax(dim=0) - scaled.amin(dim=0) - 2).abs().max() < 1e-10
    assert not model.extrapolations(graph).any()
    squeezed = argon(1)[0]
    squeezed.set_cell(0.8 * squeezed.cell, scale_atoms=True)
    assert model.extrapolations(atoms_to_graph(squeezed, 4.5)).all()


def test_ranges_of_parts_are_those_of_the_whole() -> None:
    values = np.random.default_rng(0).normal(size=(50, 3))
    ranges = Ranges(3)
    for part in np.split(values, [0, 1, 20]):
        ranges.add(part)
    np.testing.assert_allclose(ranges.mean, values.mean(axis=0), rtol=1e-12)
    assert (ranges.lowest == values.min(axis=0)).all() and (ranges.highest == values.max(axis=0)).all()


# -- symmetry functions of a file --------------------------------------------------------------------------------------

INPUT_NN = """number_of_elements 1
elements Ar
symfunction_short Ar 2 Ar 0.1 0.0 {0}
symfunction_short Ar 3 Ar Ar 0.05 -1.0 2.0 {0}  # comment
"""


def test_functions_from_a_file(data: Path, tmp_path: Path) -> None:
    """An input.nn in Bohr, the same in Å, the same in JSON: one model; with another r_max an error."""
    (tmp_path / "bohr.nn").write_text(INPUT_NN.format(8.0))
    in_bohr = read_functions(str(tmp_path / "bohr.nn"), "Bohr")
    assert in_bohr[0] == SymmetryFunction(2, 18, (18,), 8.0 * BOHR, 0.1 / BOHR**2)
    assert read_functions(str(tmp_path / "bohr.nn"), "Angstrom")[1].cutoff == 8.0
    (tmp_path / "list.json").write_text(json.dumps([f.to_json() for f in in_bohr]))
    with pytest.raises(InputError, match="--length_unit Bohr would do nothing: .*list.json is a list in JSON"):
        read_functions(str(tmp_path / "list.json"), "Bohr")
    weights = []
    for name in ("bohr.nn", "list.json"):
        options = config(
            data, tmp_path / name.replace(".", "_"), "HDNNP", num_symmetry_functions=None, max_num_epochs=1,
            symmetry_functions=str(tmp_path / name),
        )  # fmt: skip
        result = train(options)
        assert result.potential.model.hyperparameters["symmetry_functions"] == [f.to_json() for f in in_bohr]
        assert result.potential.metadata["data"]["symmetry_functions"]["file"] == name
        weights.append([p.detach() for p in result.potential.parameters()])
    assert_equal(*weights)
    (tmp_path / "list.json").write_text(json.dumps([f.to_json() for f in in_bohr[:1]]))
    with pytest.raises(InputError, match="content of --symmetry_functions"):
        train(TrainingConfig(**options.as_dict() | {"restart_latest": True}))
    (tmp_path / "bohr.nn").write_text(INPUT_NN.format(12.0))
    far = TrainingConfig(**options.as_dict() | {"symmetry_functions": str(tmp_path / "bohr.nn")})
    with pytest.raises(InputError, match=r"bohr.nn: the symmetry functions reach to 6.35013 Å, beyond --r_max 4.5"):
        build_potential(far, load_data(far))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("elements Ar\n", InputError, "no symmetry functions; expected lines symfunction_short"),
        ("[]", InputError, "no symmetry functions"),
        ("[{]", InputError, "expected a list of symmetry functions in JSON"),
        ("[3]", InputError, "expected a list of symmetry functions in JSON"),
        ('[{"kind": 2}]', InputError, "missing"),
        ("symfunction_short Ar 99 Ar", ModelFileError, "symmetry functions of kind 99 are not known"),
    ],
)
def test_refused_files_of_functions(text: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    path = tmp_path / "functions"
    path.write_text(text)
    with pytest.raises(error, match=message):
        read_functions(str(path), None)


def test_from_the_command_line_to_n2p2(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"--train_file {data} --work_dir {tmp_path} --model HDNNP --num_symmetry_functions 6 --hidden_layers 4,4"
    run = "--r_max 4.5 --max_num_epochs 2 --no_plot --device cpu --default_dtype float64"
    assert main(["train", *words.split(), *run.split()]) == 0
    assert "HDNNP, 6 symmetry functions per element, hidden layers 4, 4 (tanh)" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "mlip.safetensors"), "-o", str(tmp_path / "folder")]) == 0
    graph = atoms_to_graph(argon(2, seed=5), 4.5)
    ours, theirs = (mlip.load(tmp_path / name)(graph) for name in ("mlip.safetensors", "folder"))
    torch.testing.assert_close(theirs.forces, ours.forces, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(theirs.energy, ours.energy, rtol=1e-12, atol=0)
