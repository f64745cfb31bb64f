"""Options that can't be right, and options that would do nothing: both are refused, by name. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from mlip.errors import InputError
from mlip.training.fine_tuning_options import NEEDS_OF_FINE_TUNING
from mlip.training.model_options import MODELS_WITH, one_of

if TYPE_CHECKING:
    from mlip.training.config import TrainingConfig

#: What each loss is a sum of; the terms of mace-torch's losses of the same name (`rmse` is ours).
LOSS_TERMS: dict[str, tuple[str, ...]] = {
    "weighted": ("energy", "forces"),
    "forces_only": ("forces",),
    "stress": ("energy", "forces", "stress"),
    "virials": ("energy", "forces", "virials"),
    "huber": ("energy", "forces", "stress"),
    "universal": ("energy", "forces", "stress"),
    "l1l2": ("energy", "forces"),
    "rmse": ("energy", "forces", "stress"),
}
TERMS = ("energy", "forces", "stress", "virials")
#: First layers whose atoms alone have no energy, which is what `--model MACE` stands for.
WITHOUT_RESIDUAL = ("RealAgnosticInteractionBlock", "RealAgnosticDensityInteractionBlock")

Condition = Callable[["TrainingConfig"], bool]


def _loss_with(term: str, stage_two: bool = False) -> tuple[str, Condition]:
    losses = ", ".join(loss for loss, terms in LOSS_TERMS.items() if term in terms)
    if not stage_two:
        return f"a --loss with {term} ({losses})", lambda c: term in LOSS_TERMS[c.loss]
    return f"--swa and a --loss with {term} ({losses})", lambda c: c.swa and term in LOSS_TERMS[c.loss]


#: Options that do something only together with others: what they need, and whether it is there.
NEEDS: dict[str, tuple[str, Condition]] = {
    **{f"{term}_weight": _loss_with(term) for term in TERMS},
    **{f"swa_{term}_weight": _loss_with(term, stage_two=True) for term in TERMS},
    "huber_delta": ("--loss huber or universal", lambda c: c.loss in ("huber", "universal")),
    "start_swa": ("--swa", lambda c: c.swa),
    "swa_lr": ("--swa", lambda c: c.swa),
    "ema_decay": ("--ema", lambda c: bool(c.ema)),
    "beta": ("--optimizer adam or adamw", lambda c: c.optimizer in ("adam", "adamw")),
    "beta1_schedulefree": ("--optimizer schedulefree", lambda c: c.optimizer == "schedulefree"),
    "beta2_schedulefree": ("--optimizer schedulefree", lambda c: c.optimizer == "schedulefree"),
    "beta1_soap": ("--optimizer soap", lambda c: c.optimizer == "soap"),
    "beta2_soap": ("--optimizer soap", lambda c: c.optimizer == "soap"),
    "precondition_frequency": ("--optimizer soap", lambda c: c.optimizer == "soap"),
    "lr_factor": ("--scheduler plateau", lambda c: c.scheduler == "plateau"),
    "scheduler_patience": ("--scheduler plateau", lambda c: c.scheduler == "plateau"),
    "lr_scheduler_gamma": ("--scheduler exponential", lambda c: c.scheduler == "exponential"),
    "num_channels": ("no --hidden_irreps", lambda c: not c.hidden_irreps),
    "max_L": ("no --hidden_irreps", lambda c: not c.hidden_irreps),
    "interaction": ("--num_interactions 2 or more", lambda c: c.num_interactions != 1),
    "MLP_irreps": ("--num_interactions 2 or more; one layer has a linear readout", lambda c: c.num_interactions != 1),
    "gate": ("--num_interactions 2 or more; one layer has a linear readout", lambda c: c.num_interactions != 1),
    "num_symmetry_functions": ("no --symmetry_functions", lambda c: c.symmetry_functions is None),
    "length_unit": (
        "--energy_unit beside it for an input.data, or --symmetry_functions with an input.nn",
        lambda c: c.energy_unit is not None or c.symmetry_functions is not None,
    ),
    "energy_unit": ("--length_unit beside it", lambda c: c.length_unit is not None),
    "valid_seed": ("no --valid_file", lambda c: not c.valid_file),
    "valid_fraction": ("no --valid_file", lambda c: not c.valid_file),
    **NEEDS_OF_FINE_TUNING,
}

POSITIVE = (
    "r_max num_radial_basis num_cutoff_basis num_channels correlation num_interactions batch_size valid_batch_size "
    "batch_atoms batch_edges processes max_num_epochs max_time patience eval_interval lr lr_factor lr_scheduler_gamma "
    "avg_num_neighbors huber_delta swa_lr start_swa precondition_frequency num_spherical envelope_exponent "
    "num_output_layers num_bilinear int_emb_size basis_emb_size out_emb_channels num_symmetry_functions"
)
NOT_NEGATIVE = (
    "weight_decay clip_grad max_L max_ell seed valid_seed num_workers warmup_steps scheduler_patience num_before_skip "
    "num_after_skip"
)
BELOW_ONE = "beta beta1_schedulefree beta2_schedulefree beta1_soap beta2_soap"


def check_options(config: TrainingConfig) -> None:
    """Refuse a configuration that can't be right.

    Raises:
        InputError: naming the option, what was expected and what was got.
    """
    if not config.train_file:
        raise InputError("--train_file is missing; it names the structures to train on")
    if not re.fullmatch(r"\w[\w.+-]*", config.name):
        raise InputError(
            f"--name {config.name!r} can't be the start of file names; begin with a letter, a digit or _, go on with "
            "these and . + -"
        )
    _check_choices(config)
    if config.length_unit or config.energy_unit:
        from mlip.units import atomic_units

        atomic_units(config.length_unit, config.energy_unit)
    _check_ranges(config)
    _check_effects(config)
    _check_combinations(config)


def _check_choices(config: TrainingConfig) -> None:
    """The choices of `Literal` annotations, which only the command line checks by itself."""
    from typing import Literal, get_args, get_origin, get_type_hints

    for name, hint in get_type_hints(type(config)).items():
        literals = [h for h in (hint, *get_args(hint)) if get_origin(h) is Literal]
        value = getattr(config, name)
        if literals and value is not None and value not in get_args(literals[0]):
            raise InputError(f"--{name} is {value!r}; expected one of {', '.join(get_args(literals[0]))}")


def _check_ranges(config: TrainingConfig) -> None:
    for option in POSITIVE.split():
        value = getattr(config, option)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"--{option} is {value}; expected more than zero")
    weights = " ".join(f"{stage}{term}_weight" for stage in ("", "swa_") for term in TERMS)
    for option in f"{weights} {NOT_NEGATIVE}".split():
        value = getattr(config, option)
        if value is not None and not 0 <= value < math.inf:
            raise InputError(f"--{option} is {value}; expected zero or more")
    if config.seed >= 2**63:
        raise InputError(f"--seed is {config.seed}; expected less than 2^63")
    if config.valid_seed is not None and config.valid_seed >= 2**63:
        raise InputError(f"--valid_seed is {config.valid_seed}; expected less than 2^63")
    for option in BELOW_ONE.split():
        if not 0 <= getattr(config, option) < 1:
            raise InputError(f"--{option} is {getattr(config, option)}; expected from 0 to below 1")
    if not 0 < config.ema_decay < 1:
        raise InputError(f"--ema_decay is {config.ema_decay}; expected between 0 and 1")


def _check_effects(config: TrainingConfig) -> None:
    """Refuse what is given and would be ignored."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    of_models = [
        (option, (f"--model {one_of(models)}", config.model in models)) for option, models in MODELS_WITH.items()
    ]
    together = [(option, (need, is_there(config))) for option, (need, is_there) in NEEDS.items()]
    for option, (need, is_met) in of_models + together:
        value = getattr(config, option)
        if value != defaults[option] and not is_met:
            raise InputError(f"--{option} {value} would do nothing: it needs {need}. Leave it out, or change that")


def _check_combinations(config: TrainingConfig) -> None:
    if config.committee is not None:
        _check_committee(config, config.committee)
    if (config.processes or 1) > 1 and (config.committee is not None or config.dry_run):
        option = "dry_run" if config.dry_run else "committee"
        raise InputError(f"--{option} is done by one process; leave out --processes {config.processes}")
    if config.batch_atoms is not None and config.batch_edges is not None:
        raise InputError("--batch_atoms and --batch_edges are two budgets for one batch; keep one of them")
    terms = LOSS_TERMS[config.loss]
    for stage in ("", "swa_") if config.swa else ("",):
        names = [f"{stage}{term}_weight" for term in terms]
        if not any(getattr(config, name) for name in names):
            raise InputError(f"--loss {config.loss}: {', '.join(names)} are all zero: nothing to train on")
    if config.stream:
        _check_stream(config)
    if config.optimizer == "schedulefree":
        _check_schedulefree(config)
    if config.amsgrad and config.optimizer not in ("adam", "adamw"):
        raise InputError(f"--optimizer {config.optimizer} has no AMSGrad variant; leave out --amsgrad")
    if config.swa and config.loss == "forces_only":
        raise InputError("--swa: --loss forces_only has no energies to shift the weight to; use another loss")
    if config.swa and config.start_swa is not None and config.start_swa >= config.max_num_epochs:
        raise InputError(
            f"--start_swa {config.start_swa} is not before the end of the run (--max_num_epochs "
            f"{config.max_num_epochs}); choose it smaller, or leave it out for three quarters of the run"
        )
    if config.radial_type == "chebyshev" and config.distance_transform != "Agnesi":
        raise InputError(
            "--radial_type chebyshev: the polynomials grow without bound beyond a distance of 1 Å (to 10^7 within the "
            "cutoff), where mace takes them; add --distance_transform Agnesi, which brings distances to 0 ... 1"
        )
    first = config.interaction_first
    if config.model == "MACE" and first is not None and first not in WITHOUT_RESIDUAL:
        raise InputError(
            f"--model MACE has a first layer without residual ({' or '.join(WITHOUT_RESIDUAL)}), not {first}, which "
            "mace replaces silently; leave out --interaction_first or use --model ScaleShiftMACE"
        )


def _check_committee(config: TrainingConfig, n: int) -> None:
    if n < 2:
        raise InputError(f"--committee is {n}; expected at least 2 members, better 4 or more")
    if config.seed + n - 1 >= 2**63:
        raise InputError(
            f"--seed is {config.seed}; with --committee {n}, seeds up to {n - 1} more are needed below 2^63"
        )
    if config.target is not None:
        raise InputError(f"--committee is of potentials; a model of --target {config.target} has none. Leave out one")
    if config.foundation_model is not None:
        raise InputError(
            "--committee with --foundation_model: the members would begin with the same weights, and their deviations "
            "would say little. Leave out one"
        )
    if config.dry_run:
        raise InputError(
            f"--dry_run of a --committee: leave out --committee; {n} members take {n} times the time of one, one after "
            "the other"
        )


def _check_stream(config: TrainingConfig) -> None:
    """A set on disk trains potentials from random weights, in batches of so many structures."""
    if not config.valid_file:
        raise InputError(
            "--stream needs --valid_file, structures that fit into memory; mlip data split parts a file, and mlip data "
            "convert makes HDF5 of the one to train on"
        )
    for option in ("batch_atoms", "batch_edges", "foundation_model", "target"):
        if getattr(config, option) is not None:
            instead = "give --batch_size" if option.startswith("batch") else "leave out one"
            raise InputError(f"--stream with --{option} is not possible; {instead}")
    for label in TERMS:
        key = getattr(config, f"{label}_key")
        if key not in (None, f"REF_{label}") or (label == "virials" and key):
            raise InputError(
                f"--stream reads what mlip data convert writes, where the {label} can't be under {key!r} but energies, "
                f"forces and stresses are REF_energy, REF_forces, REF_stress; leave out --{label}_key"
            )


def _check_schedulefree(config: TrainingConfig) -> None:
    """Schedule-free training is instead of a schedule and of an average of the weights."""
    if config.scheduler != "constant":
        raise InputError(f"--optimizer schedulefree takes no --scheduler {config.scheduler}; leave it out")
    if config.ema:
        raise InputError("--optimizer schedulefree averages the weights itself; leave out --ema")
    if config.beta1_schedulefree == 0:
        raise InputError("--beta1_schedulefree is 0; expected more: the gradients would never see the average")


def check_reporting(config: TrainingConfig) -> None:
    """Refuse a table of errors that there is none of, and options of a log that is not asked for."""
    if config.error_table is not None:
        from mlip.training.error_tables import check_error_table

        check_error_table(config.error_table)
    for option in ("wandb_project", "wandb_entity", "wandb_name"):
        if getattr(config, option) is not None and not config.wandb:
            raise InputError(f"--{option} is given without --wandb; add --wandb, or leave it out")
