"""Options of fine-tuning a foundation model: what they need, and what contradicts them. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlip.errors import InputError
from mlip.training.model_options import MACE, MODELS_WITH

if TYPE_CHECKING:
    from mlip.training.config import TrainingConfig

#: Options that a foundation model decides.
OF_ARCHITECTURE = (
    "model",
    "r_max",
    "scaling",
    *(name for name, models in MODELS_WITH.items() if set(MACE) <= {*models}),
)
#: Values of --E0s that ask a foundation model.
OF_FOUNDATION = ("foundation", "estimated")
#: mace's parts of a network in the order of --freeze: 1 to 4 are the embedding and parts without weights.
LAST_PART = 7

_FOUNDATION = ("--foundation_model", lambda c: c.foundation_model is not None)
_REPLAY = ("--multiheads_finetuning", lambda c: c.multiheads_finetuning)
#: What options need, and whether it is there, as in `option_checks.NEEDS`.
NEEDS_OF_FINE_TUNING: dict[str, tuple[str, Callable[[TrainingConfig], bool]]] = {
    **dict.fromkeys(
        ("foundation_head", "foundation_model_elements", "freeze", "lora", "multiheads_finetuning", "forgetting_file"),
        _FOUNDATION,
    ),
    **dict.fromkeys(
        ("pt_train_file", "num_samples_pt", "weight_pt_head", "real_pt_data_ratio_threshold", "pseudolabel_replay"),
        _REPLAY,
    ),
    **dict.fromkeys(("lora_rank", "lora_alpha"), ("--lora", lambda c: c.lora)),
}


def default_rates(config: TrainingConfig) -> dict[str, Any]:
    """Learning rate and weight decay of a run that names none.

    Weights of a foundation model are to stay near where they are: they do not decay, and rates are small.
    """
    if config.foundation_model is None:
        return {"lr": 0.01, "weight_decay": 5e-7}
    if config.lora:
        return {"lr": 5e-3, "weight_decay": 0.0}
    return {"lr": 1e-4 if config.multiheads_finetuning else 1e-3, "weight_decay": 0.0}


def rates(config: TrainingConfig) -> dict[str, Any]:
    """Learning rate and weight decay that were not given."""
    return {name: value for name, value in default_rates(config).items() if getattr(config, name) is None}


def check_fine_tuning(config: TrainingConfig) -> None:
    """Refuse combinations that can't be.

    Raises:
        InputError: naming the options.
    """
    if config.foundation_model is None:
        if config.E0s in OF_FOUNDATION:
            raise InputError(f"--E0s {config.E0s} asks a foundation model; name one with --foundation_model")
        return
    if not config.foundation_model.strip():
        raise InputError("--foundation_model is empty; it names a model or a file")
    if config.target is not None:
        raise InputError("--foundation_model: a foundation model has energies and forces; leave out --target")
    if config.model not in MACE:
        raise InputError(f"--foundation_model: fine-tuning is of MACE models; leave out --model {config.model}")
    if config.scaling != "rms_forces_scaling":
        raise InputError(
            f"--scaling {config.scaling}: scale and shift are those of the foundation model, whose weights go with "
            "them; leave it out"
        )
    _check_lora(config)
    _check_freeze(config)
    _check_replay(config)
    if config.weight_decay and config.optimizer == "adam":
        raise InputError(
            f"--weight_decay {config.weight_decay:g} with --optimizer adam: its steps do not depend on the size of "
            "gradients, so that weights of elements that are not in the data would decay at the whole learning rate; "
            "leave it out, or take --optimizer adamw, where they decay slowly"
        )


def _check_lora(config: TrainingConfig) -> None:
    if not config.lora:
        return
    if config.lora_rank < 1 or not 0 < config.lora_alpha < math.inf:
        raise InputError(
            f"--lora_rank {config.lora_rank} --lora_alpha {config.lora_alpha:g}: expected 1 or more, and above zero"
        )
    if config.weight_decay:
        raise InputError(f"--weight_decay {config.weight_decay:g} with --lora would do nothing: adapters do not decay")
    if config.freeze:
        raise InputError(
            f"--freeze {config.freeze} with --lora, which freezes all weights and trains adapters; keep one of them"
        )


def _check_freeze(config: TrainingConfig) -> None:
    if config.freeze is None or 0 <= config.freeze < LAST_PART:
        return
    why = "nothing would be left to train" if config.freeze >= LAST_PART else "mace, too, freezes nothing then"
    raise InputError(
        f"--freeze {config.freeze}: {why}. Expected 0 (nothing), 1 to 4 (the embedding), 5 (the interactions, too) or "
        "6 (the products, too; the readouts are trained)"
    )


def _check_replay(config: TrainingConfig) -> None:
    if not config.multiheads_finetuning:
        return
    if config.pt_train_file is None:
        raise InputError(
            "--multiheads_finetuning needs --pt_train_file: structures of what the foundation model was trained on, "
            "or any others with --pseudolabel_replay"
        )
    if config.num_samples_pt < 1 or not 0 < config.weight_pt_head < math.inf:
        raise InputError(
            f"--num_samples_pt {config.num_samples_pt} --weight_pt_head {config.weight_pt_head:g}: expected 1 or more, "
            "and above zero"
        )
    if not 0 <= config.real_pt_data_ratio_threshold < math.inf:
        raise InputError(f"--real_pt_data_ratio_threshold {config.real_pt_data_ratio_threshold}: expected zero or more")
    if config.E0s == "average":
        raise InputError(
            "--E0s average with --multiheads_finetuning: these would hold most of the binding energy, which both heads "
            "are to share; take estimated, foundation, isolated atoms or a mapping"
        )
