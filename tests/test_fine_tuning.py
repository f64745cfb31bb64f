"""Fine-tuning of a foundation model: what trains and what stays, reference energies, replay, forgetting, restarts."""

from __future__ import annotations

import json
import shlex
import signal
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from lj_data import E0, argon, isolated, write_xyz
from small_runs import arguments, assert_equal, checkpoint, run_state, start, wait_for_epochs

import mlip
from mlip.cli import main
from mlip.cli import train as train_command
from mlip.cli.parser import make_parser, parse
from mlip.convert import atoms_to_graph
from mlip.data.batches import make_samples
from mlip.data.labels import read_labelled
from mlip.energy_scale import Reference
from mlip.errors import DataError, InputError
from mlip.models import MACE, DimeNet
from mlip.models.reshaped_mace import reshaped
from mlip.potential import Potential
from mlip.training.config import TrainingConfig
from mlip.training.data import load_data
from mlip.training.foundation import Foundation, energies_of, load_foundation, start_of_fine_tuning
from mlip.training.lora import LowRank
from mlip.training.replay import repeats
from mlip.training.train import train

FAST = {"batch_size": 4, "scheduler": "constant", "plot": False, "device": "cpu", "max_num_epochs": 2}


@lru_cache
def network() -> MACE:
    torch.manual_seed(2)
    options = {"l_max": 1, "correlation": 2, "radial_mlp": (4,), "avg_num_neighbors": 10.0}
    return MACE((10, 14, 18), 4.5, "2x0e + 2x1o", heads=("PBE", "r2SCAN"), **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A foundation model of two heads, data, replay data with another element, and crystals without labels."""
    path = tmp_path_factory.mktemp("fine")
    own = [Reference({10: -1.0, 14: -5.0, 18: -1.2}, 0.5, 0.01), Reference({10: -2.0, 14: -6.0, 18: -2.2}, 0.6, 0.02)]
    Potential(network(), references=own, head="PBE").save(path / "two.safetensors")
    one = reshaped(network(), (10, 14, 18), ("default",), 0)
    Potential(one, references=own[:1]).save(path / "one.safetensors")
    write_xyz(path / "train.xyz", [*argon(8), isolated()])
    write_xyz(path / "replay.xyz", argon(5, seed=3))
    crystals = [bulk("Si", cubic=True), bulk("Ne", "fcc", a=4.4, cubic=True)]
    for atoms in crystals:
        atoms.rattle(0.1, seed=1)
    write(path / "crystals.xyz", crystals, format="extxyz")
    return path


def config(folder: Path, **options: Any) -> TrainingConfig:
    given = {"train_file": folder / "train.xyz", "foundation_model": folder / "one.safetensors"} | options
    given = {k: str(v) if isinstance(v, Path) else v for k, v in given.items()}
    return TrainingConfig(**{**FAST, "work_dir": str(folder / "run"), "overwrite": True, **given})


def begin(folder: Path, **options: Any) -> tuple[Foundation, Potential]:
    """The foundation model and the potential before training."""
    asked = config(folder, **options)
    foundation = load_foundation(asked)
    assert foundation is not None
    return foundation, start_of_fine_tuning(asked, foundation, load_data(asked, foundation).reference.E0s)


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"foundation_model": None, "lora": True}, "--lora True would do nothing: it needs --foundation_model"),
        ({"foundation_model": None, "freeze": 5}, "--freeze 5 .* needs --foundation_model"),
        ({"foundation_model": None, "foundation_head": "a"}, "--foundation_head a .* needs --foundation_model"),
        ({"foundation_model": None, "E0s": "estimated"}, "--E0s estimated asks a foundation model"),
        ({"foundation_model": None, "E0s": "foundation"}, "--E0s foundation asks a foundation model"),
        ({"foundation_model": None, "forgetting_file": "a"}, "--forgetting_file a .* needs --foundation_model"),
        ({"foundation_model": " "}, "--foundation_model is empty"),
        ({"lora_rank": 8}, "--lora_rank 8 would do nothing: it needs --lora"),
        ({"lora_alpha": 8.0}, "--lora_alpha 8.0 .* needs --lora"),
        ({"lora": True, "lora_rank": 0}, "--lora_rank 0 --lora_alpha 1: expected 1 or more"),
        ({"lora": True, "freeze": 5}, "--freeze 5 with --lora, which freezes all weights"),
        ({"lora": True, "weight_decay": 0.1}, "--weight_decay 0.1 with --lora would do nothing"),
        ({"weight_decay": 0.1}, "--weight_decay 0.1 with --optimizer adam: .* take --optimizer adamw"),
        ({"freeze": 7}, "--freeze 7: nothing would be left to train"),
        ({"freeze": -1}, "--freeze -1: mace, too, freezes nothing then"),
        ({"pt_train_file": "a"}, "--pt_train_file a would do nothing: it needs --multiheads_finetuning"),
        ({"num_samples_pt": 5}, "--num_samples_pt 5 .* needs --multiheads_finetuning"),
        ({"weight_pt_head": 5.0}, "--weight_pt_head 5.0 .* needs --multiheads_finetuning"),
        ({"multiheads_finetuning": True}, "--multiheads_finetuning needs --pt_train_file"),
        ({"multiheads_finetuning": True, "pt_train_file": "a", "E0s": "average"}, "--E0s average with --multiheads"),
        ({"multiheads_finetuning": True, "pt_train_file": "a", "num_samples_pt": 0}, "--num_samples_pt 0"),
        ({"multiheads_finetuning": True, "pt_train_file": "a", "real_pt_data_ratio_threshold": -1.0}, "--real_pt_data"),
        ({"scaling": "no_scaling"}, "--scaling no_scaling: scale and shift are those of the foundation model"),
        ({"model": "HDNNP"}, "fine-tuning is of MACE models; leave out --model HDNNP"),
        ({"target": "mu"}, "leave out --target"),
    ],
)
def test_combinations_that_can_not_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingConfig(**{"train_file": "a.xyz", "foundation_model": "b", **options})


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"foundation_model": None}, (0.01, 5e-7)),
        ({}, (1e-3, 0.0)),
        ({"lora": True}, (5e-3, 0.0)),
        ({"multiheads_finetuning": True, "pt_train_file": "c"}, (1e-4, 0.0)),
        ({"lr": 0.5, "weight_decay": 0.25, "optimizer": "adamw"}, (0.5, 0.25)),
    ],
)
def test_rates_that_were_not_given(options: dict[str, Any], rates: tuple[float, float]) -> None:
    found = TrainingConfig(**{"train_file": "a.xyz", "foundation_model": "b", **options})
    assert (found.lr, found.weight_decay) == rates


@pytest.mark.parametrize("rates", [*({"lr": lr} for lr in (0.01, 0.001, 0.005, 1e-4)), {"weight_decay": 5e-7}])
@pytest.mark.parametrize("way", [{}, {"lora": True}, {"multiheads_finetuning": True, "pt_train_file": "c"}])
def test_stored_command_gives_the_same_rates(way: dict[str, Any], rates: dict[str, float]) -> None:
    if "weight_decay" in rates and "lora" in way:
        pytest.skip("adapters do not decay")
    asked = TrainingConfig(train_file="a.xyz", foundation_model="b", optimizer="adamw", **way, **rates)
    for portable in (True, False):
        options = parse(make_parser("train", train_command), shlex.split(asked.command(portable))[2:])
        fields = TrainingConfig.__dataclass_fields__
        assert TrainingConfig(**{name: value for name, value in options.items() if name in fields}) == asked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r_max": 6.0}, "--r_max 6.0: the foundation model has 4.5"),
        ({"num_channels": 8}, "--num_channels 8: the foundation model has 2"),
        ({"max_L": 2}, "--max_L 2: the foundation model has 1"),
        ({"hidden_irreps": "2x0e"}, "--hidden_irreps '2x0e': the foundation model has 2x0e \\+ 2x1o"),
        ({"correlation": 1}, "--correlation 1: the foundation model has 2"),
        ({"radial_MLP": "[8]"}, r"--radial_MLP \[8\]: the foundation model has \[4\]"),
        ({"interaction_first": "RealAgnosticDensityInteractionBlock"}, "--interaction_first RealAgnosticDensity"),
        ({"foundation_model": "two.safetensors", "foundation_head": "HSE"}, "no head 'HSE'; expected one of 'PBE', 'r"),
    ],
)
def test_what_contradicts_the_model(folder: Path, options: dict[str, Any], message: str) -> None:
    options = {k: folder / v if k == "foundation_model" else v for k, v in options.items()}
    with pytest.raises(InputError, match=message):
        load_foundation(config(folder, **options))


def test_what_agrees_with_the_model_is_taken(folder: Path) -> None:
    agreeing = {"r_max": 4.5, "num_channels": 2, "max_L": 1, "max_ell": 1, "correlation": 2, "radial_MLP": "[4]"}
    asked = config(folder, **agreeing, avg_num_neighbors=10.0)
    assert load_foundation(asked) is not None
    assert not set(agreeing) & set(asked.portable()) and "r_max" not in asked.command()


def test_other_models_are_no_foundation(folder: Path, tmp_path: Path) -> None:
    other = DimeNet((18,), 4.0, hidden_channels=4, num_blocks=1, num_spherical=2, num_radial=3)
    Potential(other, {18: -1.0}).save(tmp_path / "dimenet.safetensors")
    with pytest.raises(InputError, match="a DimeNet; expected a MACE"):
        load_foundation(config(folder, foundation_model=tmp_path / "dimenet.safetensors"))


def test_several_heads_and_none_chosen(folder: Path, tmp_path: Path) -> None:
    """A file of ours remembers its head; a model of mace's may have several and no default."""
    foundation = load_foundation(config(folder, foundation_model=folder / "two.safetensors"))
    assert foundation is not None and foundation.potential.head == "PBE"
    chosen = load_foundation(config(folder, foundation_model=folder / "two.safetensors", foundation_head="r2SCAN"))
    assert chosen is not None and chosen.reference.E0s[18] == -2.2 and chosen.provenance()["head"] == "r2SCAN"


def test_elements_the_model_does_not_know(folder: Path, tmp_path: Path) -> None:
    krypton = argon(4)
    for atoms in krypton:
        atoms.numbers[:] = 36
    other = write_xyz(tmp_path / "kr.xyz", krypton)
    for options in (
        {"train_file": other},
        {"test_file": other},
        {"multiheads_finetuning": True, "pt_train_file": other},
        {"forgetting_file": other},
    ):
        asked = config(folder, **options)
        with pytest.raises(InputError, match=r"structure \d of .*kr.xyz holds Kr, which the foundation model one"):
            load_data(asked, load_foundation(asked))
    asked = config(folder, forgetting_file=folder / "crystals.xyz")
    with pytest.raises(InputError, match="holds Si, which the result will not know: .* --foundation_model_elements"):
        load_data(asked, load_foundation(asked))


def test_command_says_it_in_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"train_file": folder / "train.xyz", "foundation_model": folder / "one.safetensors", "num_channels": 64}
    assert main(["train", *arguments({**FAST, **options, "work_dir": folder / "no"})]) == 1
    error = capsys.readouterr().err
    assert "--num_channels 64: the foundation model has 2" in error and error.count("\n") == 1
    assert not (folder / "no").exists() or not any((folder / "no").glob("*.safetensors"))


# -- where training begins ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"lora": True}, {"foundation_model_elements": True}, {"default_dtype": "float64"}]
)
def test_training_begins_with_the_foundation_model(folder: Path, options: dict[str, Any]) -> None:
    foundation, potential = begin(folder, E0s="foundation", **options)
    assert potential.elements == ((10, 14, 18) if "foundation_model_elements" in options else (18,))
    assert potential.heads == ("default",) and potential.energy_scale.scale.item() == 0.5
    assert potential.energy_scale.shift.item() == 0.01
    graph = atoms_to_graph(argon(2), potential.cutoff)
    for a, b in zip(potential(graph), foundation.potential(graph), strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6, check_dtype=False)
    if "lora" in options:
        assert isinstance(potential.model, LowRank) and potential.model.rank == 4


def test_training_begins_with_a_chosen_head(folder: Path) -> None:
    foundation, potential = begin(
        folder, foundation_model=folder / "two.safetensors", foundation_head="r2SCAN", E0s="foundation"
    )
    assert potential.E0s == {18: -2.2} and potential.energy_scale.scale.item() == 0.6
    graph = atoms_to_graph(argon(2), potential.cutoff)
    torch.testing.assert_close(potential(graph).forces, foundation.potential(graph).forces, rtol=2e-6, atol=2e-6)


def test_reference_energies(folder: Path) -> None:
    def found(**options: Any) -> dict[int, float]:
        return begin(folder, **options)[1].E0s

    assert found(E0s="isolated") == {18: E0}
    assert found(E0s="foundation") == {18: -1.2}
    assert found(E0s="{18: -3.5}") == {18: -3.5}
    kept = {10: -1.0, 14: -5.0}
    assert found(E0s="foundation", foundation_model_elements=True) == kept | {18: -1.2}
    assert found(E0s="{18: -3.5, 14: -8.0}", foundation_model_elements=True) == {10: -1.0, 14: -8.0, 18: -3.5}


def test_estimated_reference_energies_are_those_of_mace(folder: Path, tmp_path: Path) -> None:
    """The least squares of what the foundation model's energies miss, solved here by the normal equations."""
    rng = np.random.default_rng(0)
    structures = argon(6)
    for k, atoms in enumerate(structures):
        atoms.numbers[: k % 4] = 10
        atoms.info["REF_energy"] += rng.normal()
    path = write_xyz(tmp_path / "mixed.xyz", structures)
    asked = config(folder, train_file=path, E0s="estimated", foundation_model_elements=True)
    foundation = load_foundation(asked)
    assert foundation is not None
    data = load_data(asked, foundation)
    read_ones = read_labelled(path).structures
    counts = np.array([[np.sum(s.atoms.numbers == z) for z in (10, 18)] for s in read_ones], dtype=float)
    missed = np.array([s.energy for s in read_ones]) - energies_of(foundation.potential, read_ones)
    shift = np.linalg.solve(counts.T @ counts, counts.T @ missed)
    expected = {10: -1.0 + shift[0], 14: -5.0, 18: -1.2 + shift[1]}
    assert data.reference.E0s == pytest.approx(expected, abs=1e-10)
    assert "shifted by least squares over 6 energies; of 1 others those of one" in data.reference.origin
    for atoms in structures:
        del atoms.info["REF_energy"]
    asked = config(folder, train_file=write_xyz(tmp_path / "none.xyz", structures), E0s="estimated")
    with pytest.raises(DataError, match="--E0s estimated: no training structure has an energy"):
        load_data(asked, load_foundation(asked))


# -- what trains and what stays ----------------------------------------------------------------------------------------


def moved(folder: Path, **options: Any) -> set[str]:
    """Names of the weights that a run has changed."""
    asked = config(folder, E0s="foundation", ema=False, lr=0.01, **options)
    _, before = begin(folder, E0s="foundation", ema=False, lr=0.01, **options)
    after = train(asked).potential.model
    old = before.model.base if isinstance(before.model, LowRank) else before.model
    return {name for name, p in after.named_parameters() if not torch.equal(p, old.get_parameter(name))}


@pytest.mark.parametrize(
    ("freeze", "stay"),
    [
        (0, ()),
        (1, ("embedding",)),
        (4, ("embedding",)),
        (5, ("embedding", "interaction", "skip")),
        (6, ("embedding", "interaction", "skip", "contraction", "product")),
    ],
)
def test_frozen_parts_stay(folder: Path, freeze: int, stay: tuple[str, ...]) -> None:
    changed = moved(folder, freeze=freeze)
    words = {word for name in changed for word in name.split(".")}
    assert not words & set(stay) and {"readouts"} <= words
    for part in {"embedding", "interaction", "contraction", "product"} - set(stay):
        assert part in words


def test_weights_of_other_elements_do_not_move(folder: Path) -> None:
    for options in ({}, {"optimizer": "soap"}, {"optimizer": "adamw"}, {"optimizer": "schedulefree", "ema": None}):
        asked = config(folder, E0s="foundation", foundation_model_elements=True, lr=0.01, **options)
        after = train(asked).potential.model
        before = begin(folder, E0s="foundation", foundation_model_elements=True)[1].model
        for name in ("embedding", "layers.0.skip.weights.0", "layers.0.contraction.weights.0e_2"):
            old, new = before.get_parameter(name), after.get_parameter(name)
            assert torch.equal(old[:2], new[:2]) and not torch.equal(old[2], new[2])


def test_adapters_leave_an_ordinary_model(folder: Path) -> None:
    changed = moved(folder, lora=True, lora_rank=2, lora_alpha=4.0)
    assert changed and not any("contraction" in name or "skip" in name for name in changed)
    path = folder / "run" / "mlip.safetensors"
    loaded = mlip.load(path)
    assert type(loaded.model) is MACE and loaded.metadata["config"]["lora_rank"] == 2
    assert loaded.metadata["foundation"]["name"] == "one.safetensors"
    difference = loaded.model.get_parameter("layers.0.interaction.up.weights.0") - begin(folder, E0s="foundation")[
        1
    ].model.get_parameter("layers.0.interaction.up.weights.0")
    assert torch.linalg.matrix_rank(difference.double(), rtol=1e-3) <= 2


# -- replay ------------------------------------------------------------------------------------------------------------

REPLAY = {"multiheads_finetuning": True, "E0s": "isolated"}


def test_replay_makes_a_model_of_two_heads(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {**FAST, **REPLAY, "overwrite": True, "lr": 0.01, "work_dir": folder / "heads", "num_samples_pt": 4}
    options |= {"train_file": folder / "train.xyz", "foundation_model": folder / "one.safetensors"}
    assert main(["train", *arguments({**options, "pt_train_file": folder / "replay.xyz"}), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["errors"]) == {"train", "valid", "replay"} and result["errors"]["replay"]["n"] == 4
    forgetting = result["forgetting"]
    assert forgetting["file"] == "replay.xyz (replayed)" and forgetting["relative_to"] == "labels"
    assert set(forgetting["after"]) == {"pt_head", "default"}
    assert forgetting["after"]["pt_head"] == result["errors"]["replay"]
    loaded = mlip.load(folder / "heads" / "mlip.safetensors")
    assert loaded.heads == ("pt_head", "default") and loaded.head == "default" and loaded.E0s == {18: E0}
    assert loaded.with_head("pt_head").E0s == {18: -1.2}
    calculators = [mlip.MLIPCalculator(folder / "heads" / "mlip.safetensors", head=h) for h in loaded.heads]
    forces = [calculator.get_forces(argon(1)[0]) for calculator in calculators]
    assert abs(forces[0] - forces[1]).max() > 1e-7
    page = (folder / "heads" / "mlip_report.html").read_text()
    assert "Forgetting" in page and "after, pt_head" in page and loaded.metadata["forgetting"] == forgetting


def test_both_heads_learn_from_their_own_data(folder: Path) -> None:
    asked = config(folder, **REPLAY, pt_train_file=folder / "replay.xyz", lr=0.01, ema=False)
    foundation = load_foundation(asked)
    assert foundation is not None
    data = load_data(asked, foundation)
    heads = data.trained.batch(range(len(data.trained))).labels.head.tolist()
    assert heads == [1] * len(data.sets["train"].samples) + [0] * 5
    mixed = [set(batch) for batch in data.plan.batches(1, 0)]
    n_new = len(data.sets["train"].samples)
    assert any(min(batch) < n_new <= max(batch) for batch in mixed)
    before = start_of_fine_tuning(asked, foundation, data.reference.E0s).model.get_parameter("readouts.0.weights.0")
    after = train(asked).potential.model.get_parameter("readouts.0.weights.0")
    assert before.shape[0] == 2 and all(not torch.equal(after[k], before[k]) for k in range(2))
    assert not torch.equal(after[0] - before[0], after[1] - before[1])


def test_weights_numbers_and_labels_of_replay_data(folder: Path) -> None:
    def samples(**options: Any) -> Any:
        asked = config(folder, **REPLAY, pt_train_file=folder / "replay.xyz", **options)
        return load_data(asked, load_foundation(asked)).sets["replay"]

    whole = samples()
    assert len(whole.structures) == 5 and whole.samples[0].labels.energy_weight == 1
    assert samples(weight_pt_head=3.0).samples[0].labels.forces_weight == 3
    drawn = {tuple(s.index for s in samples(num_samples_pt=2, seed=seed).structures) for seed in range(6)}
    assert len(drawn) > 2 and all(len(set(d)) == 2 for d in drawn)
    said = samples(pseudolabel_replay=True)
    foundation = load_foundation(config(folder))
    assert foundation is not None
    own = foundation.potential(make_samples(said.structures[:1], 4.5)[0].graph)
    np.testing.assert_allclose(said.structures[0].forces, own.forces, atol=1e-6)
    assert said.structures[0].energy == pytest.approx(own.energy.item(), abs=1e-6)


@pytest.mark.parametrize("zeros_in", ["train", "replay"])
def test_zeros_are_refused_in_either_part(folder: Path, tmp_path: Path, zeros_in: str) -> None:
    structures = argon(5)
    for atoms in structures:
        atoms.info["REF_energy"] = 0.0
    zeros = write_xyz(tmp_path / "zeros.xyz", [*structures, isolated()])
    files = {"train_file": folder / "train.xyz", "pt_train_file": folder / "replay.xyz"}
    files["train_file" if zeros_in == "train" else "pt_train_file"] = zeros
    asked = config(folder, **REPLAY, **files)
    what = "training structures" if zeros_in == "train" else "replay structures of --pt_train_file .*zeros.xyz"
    with pytest.raises(DataError, match=f"the energy of all . {what} is exactly zero"):
        load_data(asked, load_foundation(asked))


def test_replay_data_that_train_nothing_are_refused(folder: Path, tmp_path: Path) -> None:
    structures = argon(5)
    for atoms in structures:
        atoms.info["config_weight"] = 0.0
    silent = write_xyz(tmp_path / "silent.xyz", structures)
    asked = config(folder, **REPLAY, pt_train_file=silent)
    with pytest.raises(DataError, match="--pt_train_file .*silent.xyz: no structure has a label that trains"):
        load_data(asked, load_foundation(asked))


def test_few_new_structures_are_repeated_as_in_mace(folder: Path) -> None:
    assert [repeats(n, 100, 0.1) for n in (100, 10, 9, 5, 1)] == [1, 1, 2, 3, 11]
    asked = config(folder, **REPLAY, pt_train_file=folder / "replay.xyz", real_pt_data_ratio_threshold=3.5)
    data = load_data(asked, load_foundation(asked))
    n_new = len(data.sets["train"].samples)
    assert len(data.trained) == repeats(n_new, 5, 3.5) * n_new + 5 and repeats(n_new, 5, 3.5) > 1


# -- forgetting --------------------------------------------------------------------------------------------------------


def test_forgetting_is_measured_on_both_models(folder: Path) -> None:
    """On structures without labels what the foundation model says is the truth; else the labels are."""
    options = {"foundation_model_elements": True, "E0s": "foundation", "lr": 0.01}
    crystals = train(config(folder, forgetting_file=folder / "crystals.xyz", **options))
    assert crystals.forgetting is not None and crystals.forgetting.relative_to == "foundation model"
    before, after = crystals.forgetting.before, crystals.forgetting.after["default"]
    assert before["n"] == 2 and before["forces_rmse_meV_per_A"] == 0 == before["energy_rmse_meV"]
    atoms = read(folder / "crystals.xyz", ":")
    models = [mlip.load(folder / "one.safetensors"), crystals.potential]
    forces = [np.concatenate([mlip.MLIPCalculator(m).get_forces(a) for a in atoms]) for m in models]
    found = 1e3 * np.sqrt(np.mean((forces[1] - forces[0]) ** 2))
    assert after["forces_rmse_meV_per_A"] == pytest.approx(found, rel=1e-3) and found > 1e-3
    labelled = train(config(folder, forgetting_file=folder / "replay.xyz", **options)).forgetting
    assert labelled is not None and labelled.relative_to == "labels"
    structures: list[Atoms] = argon(5, seed=3)
    forces = [np.concatenate([mlip.MLIPCalculator(models[0]).get_forces(a) for a in structures])]
    error = forces[0] - np.concatenate([a.arrays["REF_forces"] for a in structures])
    assert labelled.before["forces_rmse_meV_per_A"] == pytest.approx(1e3 * np.sqrt(np.mean(error**2)), rel=1e-3)


# -- going on after a kill ---------------------------------------------------------------------------------------------

RUNS = {
    "lora": {"lora": True, "lora_rank": 2, "E0s": "estimated"},
    "replay": {**REPLAY, "pt_train_file": "replay.xyz", "real_pt_data_ratio_threshold": 3.0},
}


@pytest.mark.parametrize("kind", RUNS)
def test_restart_of_fine_tuning_continues_bit_for_bit(folder: Path, tmp_path: Path, kind: str) -> None:
    options = {k: folder / v if k == "pt_train_file" else v for k, v in RUNS[kind].items()}
    whole, parts = (str(tmp_path / name) for name in ("whole", "parts"))
    train(config(folder, work_dir=whole, **options, max_num_epochs=4))
    train(config(folder, work_dir=parts, **options, max_num_epochs=2))
    train(config(folder, work_dir=parts, **options, max_num_epochs=4, restart_latest=True))
    assert_equal(run_state(tmp_path / "whole"), run_state(tmp_path / "parts"))
    assert_equal(*(dict(mlip.load(f"{run}/mlip.safetensors").state_dict()) for run in (whole, parts)))
    other = tmp_path / "other.safetensors"
    mlip.load(folder / "two.safetensors").save(other)
    with pytest.raises(InputError, match="content of --foundation_model"):
        train(config(folder, work_dir=parts, **options, foundation_model=other, restart_latest=True))


def test_a_killed_run_of_adapters_continues_exactly(folder: Path, tmp_path: Path) -> None:
    options = {**FAST, **RUNS["lora"], "train_file": folder / "train.xyz", "max_num_epochs": 10000}
    options |= {"foundation_model": folder / "one.safetensors", "work_dir": tmp_path / "killed"}
    process = start(options)
    try:
        wait_for_epochs(tmp_path / "killed", 2, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = checkpoint(tmp_path / "killed")["epoch"]
    for name, restart in (("killed", True), ("whole", False)):
        run = {**RUNS["lora"], "max_num_epochs": done + 1, "restart_latest": restart}
        train(config(folder, work_dir=str(tmp_path / name), **run))
    killed, whole = (run_state(tmp_path / name) for name in ("killed", "whole"))
    assert killed["history"] == whole["history"]
    assert_equal(killed, whole)
