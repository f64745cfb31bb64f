"""Options of `mlip train`: how they are given, which are refused, and that each one changes what it says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms
from lj_data import argon, isolated, write_xyz

from mlip.cli import main
from mlip.cli import train as train_command
from mlip.cli.mace_options import ALIASES, FOREIGN
from mlip.cli.parser import make_parser, parse
from mlip.convert import atoms_to_graph
from mlip.errors import DataError, InputError
from mlip.training.config import TrainingConfig
from mlip.training.data import load_data
from mlip.training.setup import build_potential
from mlip.training.train import train

FIELDS = {field.name for field in dataclasses.fields(TrainingConfig)}
MACE = Path(__file__).parent / "fixtures" / "mace_run_train_options.txt"


def parsed(*words: object) -> TrainingConfig:
    """The configuration that a command line gives."""
    options = parse(make_parser("train", train_command), [str(word) for word in words])
    return TrainingConfig(**{name: value for name, value in options.items() if name in FIELDS})


# -- how options are given ---------------------------------------------------------------------------------------------


def test_a_command_line_of_mace() -> None:
    """That of mace's documentation, word by word."""
    words = """--name=MACE_model --train_file=train.xyz --valid_fraction=0.05 --test_file=test.xyz --model=MACE
        --config_type_weights={"Default":1.0} --E0s={1:-13.66,6:-1029.28} --hidden_irreps=128x0e+128x1o --r_max=5.0
        --batch_size=10 --max_num_epochs=1500 --stage_two --start_stage_two=1200 --stage_two_lr 0.0005
        --stage_two_energy_weight=100 --scheduler ReduceLROnPlateau --loss=l1l2energyforces --l_max 2 --ema
        --ema_decay=0.99 --amsgrad --restart_latest --device=cpu --plot False --clip_grad None --seed 3"""
    config = parsed(*words.split())
    assert config.E0s == {1: -13.66, 6: -1029.28} and config.hidden_irreps == "128x0e+128x1o"
    assert (config.swa, config.start_swa, config.swa_lr, config.swa_energy_weight) == (True, 1200, 0.0005, 100.0)
    assert (config.scheduler, config.loss, config.max_ell, config.ema, config.amsgrad) == (
        "plateau",
        "l1l2",
        2,
        True,
        True,
    )
    assert (config.restart_latest, config.plot, config.clip_grad, config.seed) == (True, False, 0.0, 3)


def test_every_option_of_mace_is_taken_or_refused_with_a_reason() -> None:
    names = {line for line in MACE.read_text().splitlines() if line.startswith("--")} - {"--config"}
    ours = {f"--{name}" for name in FIELDS} | set(ALIASES)
    assert len(names) > 150 and names - ours == set(FOREIGN) & names
    assert not set(FOREIGN) & ours and set(FOREIGN) <= names
    assert set(ALIASES.values()) <= {f"--{name}" for name in FIELDS}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--trian_file a", "no option --trian_file, did you mean --train_file?"),
        ("--train_file a --stage_to", "no option --stage_to, did you mean --stage_two?"),
        ("--train_file a --compute_stress=True", "no option --compute_stress: energies, and the forces"),
        ("--train_file a --lbfgs", "no option --lbfgs: the optimizers are"),
        ("--train_file a --loss dipole", "invalid choice: 'dipole'"),
        ("--train_file a --plot=maybe", "--plot: expected True or False, got 'maybe'"),
        ("--config none.yaml", "none.yaml: No such file"),
    ],
)
def test_refused_words(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_file_of_options_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "train_file: a.xyz\nl_max: 2\nema: false\nradial_MLP: [8, 8]\nE0s: {14: -0.8}\nstage-two: true\nlr: 1e-3\n"
        "scheduler: ExponentialLR\nmax_time: null\nplot: true\n"
    )
    config = parsed("--lr", 0.5, "--config", file, "--ema", "--no_plot")
    assert (config.lr, config.ema, config.plot) == (0.5, True, False)
    assert (config.max_ell, config.radial_MLP, config.E0s, config.swa) == (2, [8, 8], {14: -0.8}, True)
    assert (config.scheduler, config.max_time) == ("exponential", None)
    assert parsed(f"--config={file}").lr == 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian_file: a.xyz", "no option --trian_file, did you mean --train_file?"),
        ("lbfgs: true", "no option --lbfgs: the optimizers are"),
        ("beta: null", "--beta: expected a value, got null"),
        ("- lr", "expected lines 'option: value', got list"),
        ("lr: [", "is not YAML"),
    ],
)
def test_refused_files(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert main(["train", "--config", str(file)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_command_of_a_run_gives_its_configuration() -> None:
    import shlex

    of_others = ({"model": "HDNNP", "hidden_layers": "8 8"}, {"model": "DimeNet++", "num_interactions": 2})
    of_steps = ({"optimizer": "schedulefree"}, {"ema": False, "swa": True, "swa_lr": 1e-4}, {"plot": False})
    for options in of_steps + of_others:
        config = TrainingConfig(train_file="a.xyz", **options)
        again = parsed(*shlex.split(config.command())[2:])
        assert again.portable() == config.portable()


# -- options that would do nothing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stress_weight": 5.0}, r"--stress_weight 5.0 would do nothing: it needs a --loss with stress \(stress, "),
        ({"energy_weight": 5.0, "loss": "forces_only"}, "--energy_weight 5.0 would do nothing"),
        ({"virials_weight": 5.0, "loss": "stress"}, "--virials_weight"),
        ({"huber_delta": 0.1}, "--huber_delta .* --loss huber or universal"),
        ({"swa_lr": 0.1}, "--swa_lr .* needs --swa"),
        ({"start_swa": 3}, "--start_swa"),
        ({"swa": True, "swa_stress_weight": 0.1}, "--swa_stress_weight .* needs --swa and a --loss with stress"),
        ({"ema": False, "ema_decay": 0.9}, "--ema_decay .* needs --ema"),
        ({"scheduler": "constant", "lr_factor": 0.1}, "--lr_factor .* plateau"),
        ({"scheduler": "cosine", "scheduler_patience": 1}, "--scheduler_patience"),
        ({"lr_scheduler_gamma": 0.5}, "--lr_scheduler_gamma .* exponential"),
        ({"optimizer": "schedulefree", "beta": 0.5}, "--beta "),
        ({"beta1_schedulefree": 0.5}, "--beta1_schedulefree"),
        ({"optimizer": "soap", "beta": 0.5}, "--beta "),
        ({"beta1_soap": 0.5}, "--beta1_soap"),
        ({"precondition_frequency": 3}, "--precondition_frequency .* needs --optimizer soap"),
        ({"optimizer": "soap", "amsgrad": True}, "soap has no AMSGrad variant; leave out --amsgrad"),
        ({"optimizer": "schedulefree", "ema": True}, "leave out --ema"),
        ({"optimizer": "schedulefree", "amsgrad": True}, "leave out --amsgrad"),
        ({"optimizer": "schedulefree", "scheduler": "cosine"}, "takes no --scheduler cosine"),
        ({"hidden_irreps": "8x0e", "max_L": 2}, "--max_L 2 would do nothing: it needs no --hidden_irreps"),
        ({"num_interactions": 1, "gate": "tanh"}, "--gate tanh .* linear readout"),
        ({"valid_file": "b.xyz", "valid_fraction": 0.2}, "--valid_fraction"),
        ({"swa": True, "loss": "forces_only"}, "--swa: --loss forces_only has no energies"),
        ({"swa": True, "start_swa": 9, "max_num_epochs": 9}, "--start_swa 9 is not before the end"),
        ({"interaction_first": "RealAgnosticResidualInteractionBlock"}, "which mace replaces silently"),
        ({"loss": "stress", "forces_weight": 0.0, "energy_weight": 0.0, "stress_weight": 0.0}, "nothing to train on"),
        ({"loss": "nonsense"}, "--loss is 'nonsense'; expected one of weighted, "),
        ({"num_workers": -1}, "--num_workers is -1"),
        ({"beta": 1.0}, "--beta is 1.0"),
        ({"radial_type": "chebyshev"}, "--radial_type chebyshev: .* add --distance_transform Agnesi"),
    ],
)
def test_options_that_would_do_nothing_or_can_not_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingConfig(train_file="a.xyz", **options)


# -- effects: of the model ---------------------------------------------------------------------------------------------

TINY = {"num_channels": 2, "max_L": 1, "max_ell": 1, "correlation": 2, "radial_MLP": "[4]", "r_max": 4.0}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_xyz(tmp_path_factory.mktemp("data") / "train.xyz", [*argon(12), isolated()]))


def energies(file: str, **options: object) -> torch.Tensor:
    """Of the untrained potential, for structures of the training file; with its scale, E0s and precision."""
    config = TrainingConfig(train_file=file, **{**TINY, **options})
    potential = build_potential(config, load_data(config))
    close = Atoms("Ar2", positions=[[0, 0, 0], [1.8, 0, 0]], cell=[9, 9, 9], pbc=True)
    predicted = potential(atoms_to_graph([*argon(2), close], config.r_max)).energy
    assert predicted.isfinite().all()
    return torch.cat([predicted, torch.tensor([float(potential.dtype == torch.float32)])])


#: Options of the model: other values than the default, and what else they need.
MODEL: list[tuple[str, object, dict[str, object]]] = [
    ("seed", 7, {}),
    ("E0s", "{18: -3.0}", {}),
    ("model", "ScaleShiftMACE", {}),
    ("r_max", 4.5, {}),
    ("radial_type", "gaussian", {}),
    ("radial_type", "chebyshev", {"distance_transform": "Agnesi"}),
    ("num_radial_basis", 5, {}),
    ("num_cutoff_basis", 6, {}),
    ("distance_transform", "Agnesi", {}),
    ("distance_transform", "Soft", {}),
    ("pair_repulsion", True, {}),
    ("hidden_irreps", "3x0e", {"num_channels": None, "max_L": None}),
    ("num_channels", 3, {}),
    ("max_L", 0, {}),
    ("max_ell", 2, {}),
    ("correlation", 3, {}),
    ("num_interactions", 3, {}),
    ("interaction", "RealAgnosticDensityResidualInteractionBlock", {}),
    ("interaction", "RealAgnosticResidualNonLinearInteractionBlock", {}),
    ("interaction_first", "RealAgnosticDensityInteractionBlock", {}),
    ("interaction_first", "RealAgnosticDensityResidualInteractionBlock", {"model": "ScaleShiftMACE"}),
    ("MLP_irreps", "3x0e", {}),
    ("gate", "tanh", {}),
    ("gate", "abs", {}),
    ("gate", "None", {}),
    ("radial_MLP", "[4, 4]", {}),
    ("avg_num_neighbors", 3.0, {}),
    ("scaling", "std_scaling", {}),
    ("scaling", "no_scaling", {}),
    ("default_dtype", "float64", {}),
]


#: The same of other models, beside `SMALL`.
SMALL: dict[str, dict[str, object]] = {
    "HDNNP": {"num_symmetry_functions": 4, "hidden_layers": "[3]"},
    "DimeNet": {"num_channels": 4, "num_interactions": 1, "num_spherical": 2, "num_radial_basis": 3},
    "DimeNet++": {"num_channels": 4, "num_interactions": 1, "num_spherical": 2, "num_radial_basis": 3},
}
OF_OTHERS: list[tuple[str, object, str]] = [
    ("r_max", 4.5, "HDNNP"),
    ("seed", 7, "HDNNP"),
    ("hidden_layers", "[3, 3]", "HDNNP"),
    ("activation", "softplus", "HDNNP"),
    ("cutoff_function", "cos", "HDNNP"),
    ("num_symmetry_functions", 5, "HDNNP"),
    ("r_max", 4.5, "DimeNet"),
    ("seed", 7, "DimeNet"),
    ("num_channels", 6, "DimeNet"),
    ("num_interactions", 2, "DimeNet"),
    ("num_radial_basis", 4, "DimeNet"),
    ("num_spherical", 3, "DimeNet"),
    ("envelope_exponent", 6, "DimeNet"),
    ("num_before_skip", 2, "DimeNet"),
    ("num_after_skip", 1, "DimeNet"),
    ("num_output_layers", 2, "DimeNet"),
    ("num_bilinear", 4, "DimeNet"),
    ("num_channels", 6, "DimeNet++"),
    ("int_emb_size", 4, "DimeNet++"),
    ("basis_emb_size", 4, "DimeNet++"),
    ("out_emb_channels", 8, "DimeNet++"),
    ("default_dtype", "float64", "DimeNet++"),
]


@pytest.mark.parametrize(("option", "value", "model"), OF_OTHERS)
def test_options_of_other_models(option: str, value: object, model: str, file: str) -> None:
    """By the descriptors and energies of the untrained network; DimeNet's energies are zero."""

    def outputs(**options: object) -> torch.Tensor:
        config = TrainingConfig(**{"train_file": file, "model": model, "r_max": 4.0, **SMALL[model], **options})
        potential = build_potential(config, load_data(config))
        found = potential.model(atoms_to_graph(argon(2), config.r_max))
        assert found.features is not None
        return torch.cat([found.energy.flatten(), found.features.double().flatten()])

    assert not torch.equal(outputs(), outputs(**{option: value}))


@pytest.mark.parametrize(("option", "value", "context"), MODEL)
def test_options_of_the_model(option: str, value: object, context: dict[str, object], file: str) -> None:
    assert not torch.equal(energies(file, **context), energies(file, **{**context, option: value}))


# -- effects: of the steps ---------------------------------------------------------------------------------------------

FAST = TINY | {"max_L": 0, "num_interactions": 1, "max_num_epochs": 2, "batch_size": 4, "plot": False, "device": "cpu"}
STAGES = {"swa": True, "start_swa": 1, "max_num_epochs": 3}

#: Options of the steps: other values than the default, and what else they need.
STEPS: list[tuple[str, object, dict[str, object]]] = [
    *(("loss", loss, {}) for loss in ("forces_only", "virials", "stress", "huber", "universal", "l1l2", "rmse")),
    ("energy_weight", 50.0, {}),
    ("forces_weight", 1.0, {}),
    ("stress_weight", 1e4, {"loss": "stress"}),
    ("virials_weight", 50.0, {"loss": "virials"}),
    ("huber_delta", 1.0, {"loss": "huber"}),
    ("config_type_weights", '{"Default": 0.5}', {}),
    ("batch_size", 7, {}),
    ("lr", 0.003, {}),
    ("optimizer", "adamw", {"weight_decay": 0.1}),
    ("optimizer", "schedulefree", {}),
    ("optimizer", "soap", {}),
    ("weight_decay", 0.1, {}),
    ("amsgrad", False, {"max_num_epochs": 6, "lr": 0.1}),
    ("beta", 0.5, {}),
    ("beta1_schedulefree", 0.5, {"optimizer": "schedulefree"}),
    ("beta2_schedulefree", 0.5, {"optimizer": "schedulefree"}),
    ("beta1_soap", 0.5, {"optimizer": "soap"}),
    ("beta2_soap", 0.5, {"optimizer": "soap"}),
    ("precondition_frequency", 1, {"optimizer": "soap"}),
    ("ema", False, {}),
    ("ema_decay", 0.05, {}),
    ("scheduler", "cosine", {}),
    ("scheduler", "linear", {}),
    ("scheduler", "exponential", {"lr_scheduler_gamma": 0.9993}),
    ("lr_scheduler_gamma", 0.5, {"scheduler": "exponential"}),
    ("warmup_steps", 3, {}),
    ("clip_grad", 1e-3, {}),
    ("swa", True, {}),
    ("start_swa", 2, STAGES),
    ("swa_lr", 0.02, STAGES),
    ("swa_energy_weight", 1.0, STAGES),
    ("swa_forces_weight", 1.0, STAGES),
    ("swa_stress_weight", 1e4, {**STAGES, "loss": "stress"}),
    ("swa_virials_weight", 1e4, {**STAGES, "loss": "virials"}),
]


@pytest.mark.parametrize(("option", "value", "context"), STEPS)
def test_options_of_the_steps(
    option: str, value: object, context: dict[str, object], file: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def run(**options: object) -> torch.Tensor:
        return trained(file, str(tmp_path_factory.mktemp("run")), tuple(sorted(options.items())))

    assert not torch.equal(run(**context), run(**{**context, option: value}))


_RUNS: dict[tuple[tuple[str, object], ...], torch.Tensor] = {}


def trained(file: str, folder: str, options: tuple[tuple[str, object], ...]) -> torch.Tensor:
    """Weights after a short run, kept for other tests."""
    if options not in _RUNS:
        result = train(TrainingConfig(**{"train_file": file, "work_dir": folder, **FAST, **dict(options)}))
        _RUNS[options] = torch.cat([p.detach().flatten() for p in result.potential.parameters()])
    return _RUNS[options]


def test_losses_that_need_stresses_say_so(tmp_path: Path) -> None:
    structures = argon(4)
    for atoms in structures:
        del atoms.info["REF_stress"]
    path = str(write_xyz(tmp_path / "none.xyz", structures))
    for loss in ("stress", "virials"):
        with pytest.raises(DataError, match=f"--loss {loss}, but no structure of the training set has a stress"):
            load_data(TrainingConfig(train_file=path, E0s="average", loss=loss, r_max=4.0))
    assert load_data(TrainingConfig(train_file=path, E0s="average", loss="universal", r_max=4.0)).properties == {
        "energy",
        "forces",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [({"name": name}, "can't be the start of file names") for name in ("", ".", "..", "-a", "a b", "a/b")]
    + [({"seed": 2**63}, "less than 2\\^63"), ({"seed": -1}, "zero or more")],
)
def test_names_and_seeds_that_can_not_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingConfig(train_file="-", **options)


# -- effects: of the others, each in the test named here ---------------------------------------------------------------

OTHERS = {
    "train_file": "test_command_learns_and_writes_everything",
    "valid_file": "test_missing_labels_train_nothing",
    "test_file": "test_command_learns_and_writes_everything",
    "stream": "test_the_same_batches_train_the_same_weights",
    "valid_fraction": "test_molecules_beside_crystals",
    "name": "test_command_learns_and_writes_everything",
    "work_dir": "test_command_learns_and_writes_everything",
    "energy_key": "test_cli_refuses_and_explains",
    "forces_key": "test_keys_of_labels",
    "stress_key": "test_keys_of_labels",
    "virials_key": "test_keys_of_labels",
    "target": "test_learns_a_property",
    "readout": "test_learns_a_property",
    "target_unit": "test_names_and_units",
    "symmetry_functions": "test_functions_from_a_file",
    "length_unit": "test_functions_from_a_file",
    "energy_unit": "test_training_data",
    "batch_atoms": "test_batches_by_budget",
    "batch_edges": "test_batches_by_budget",
    "error_table": "test_table_chosen_and_refused",
    "tensorboard": "test_tensorboard_of_a_continued_run",
    "wandb": "test_wandb_of_a_continued_run",
    "wandb_project": "test_wandb_of_a_continued_run",
    "wandb_entity": "test_wandb_of_a_continued_run",
    "wandb_name": "test_wandb_of_a_continued_run",
    "lr_factor": "test_plateau_reduces_and_remembers",
    "scheduler_patience": "test_plateau_reduces_and_remembers",
    "max_num_epochs": "test_command_learns_and_writes_everything",
    "max_time": "test_max_time_ends_with_a_potential_and_zero_rate",
    "patience": "test_patience_ends_the_run",
    "eval_interval": "test_eval_interval",
    "device": "test_device",
    "valid_batch_size": "test_structures_at_once_in_validation",
    "deterministic": "test_deterministic_algorithms_inside_a_run_only",
    "processes": "test_launched_by_the_command_line",
    "num_workers": "test_workers_put_batches_together",
    "restart_latest": "test_restart_continues_bit_for_bit",
    "overwrite": "test_an_earlier_run_is_not_overwritten",
    "keep_checkpoints": "test_checkpoints_that_are_kept",
    "save_all_checkpoints": "test_checkpoints_that_are_kept",
    "dry_run": "test_dry_run_measures_and_writes_nothing",
    "valid_seed": "test_members_share_the_validation_set",
    "committee": "test_committee_is_trained_and_calibrated",
    "plot": "test_command_learns_and_writes_everything",
    "foundation_model": "test_training_begins_with_the_foundation_model",
    "foundation_head": "test_training_begins_with_a_chosen_head",
    "foundation_model_elements": "test_training_begins_with_the_foundation_model",
    "multiheads_finetuning": "test_replay_makes_a_model_of_two_heads",
    "pt_train_file": "test_replay_makes_a_model_of_two_heads",
    "num_samples_pt": "test_weights_numbers_and_labels_of_replay_data",
    "weight_pt_head": "test_weights_numbers_and_labels_of_replay_data",
    "real_pt_data_ratio_threshold": "test_few_new_structures_are_repeated_as_in_mace",
    "pseudolabel_replay": "test_weights_numbers_and_labels_of_replay_data",
    "freeze": "test_frozen_parts_stay",
    "lora": "test_adapters_leave_an_ordinary_model",
    "lora_rank": "test_adapters_leave_an_ordinary_model",
    "lora_alpha": "test_energies_and_gradients_are_those_of_the_weights_by_plain_torch",
    "forgetting_file": "test_forgetting_is_measured_on_both_models",
}


def test_every_option_has_a_test_of_its_effect() -> None:
    tested = {option for option, *_ in [*MODEL, *OF_OTHERS, *STEPS]} | set(OTHERS)
    assert not FIELDS - tested and not tested - FIELDS
    texts = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for option, function in OTHERS.items():
        assert f"def {function}(" in texts, f"{function}, which tests --{option}, is not there"
