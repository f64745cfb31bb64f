"""Optimizers with the weight decay of MACE: on linear maps inside the layers, not on embeddings, readouts or biases."""

from __future__ import annotations

from typing import Any

import torch

from mlip.models import HDNNP, MACE, DimeNet, DimeNetPlusPlus, EnergyModel
from mlip.potential import Potential
from mlip.property_model import PropertyModel
from mlip.training.config import TrainingConfig
from mlip.training.schedule_free import ScheduleFreeAdamW
from mlip.training.soap import SOAP

#: Parts of the networks whose weights decay. Those of MACE: mixing after the message, skip connection, product basis.
DECAYED: dict[type[EnergyModel], frozenset[str]] = {
    MACE: frozenset({"mix", "skip", "contraction", "product"}),
    HDNNP: frozenset({"weights"}),
    DimeNet: frozenset({"interactions"}),
    DimeNetPlusPlus: frozenset({"interactions"}),
}


def make_optimizer(potential: Potential | PropertyModel, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer of a run, its state on the device of the weights."""
    decayed: list[torch.nn.Parameter] = []
    free: list[torch.nn.Parameter] = []
    parts = DECAYED.get(type(potential.model), frozenset())  # adapters do not decay
    for name, parameter in potential.named_parameters():
        if parameter.requires_grad:
            decays = parts & set(words := name.split(".")) and words[-1] != "bias"
            (decayed if decays else free).append(parameter)
    assert config.lr is not None and config.weight_decay is not None  # which the configuration has set
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "schedulefree":
        return ScheduleFreeAdamW(groups, lr=config.lr, betas=(config.beta1_schedulefree, config.beta2_schedulefree))
    if config.optimizer == "soap":
        betas = (config.beta1_soap, config.beta2_soap)
        return SOAP(groups, lr=config.lr, betas=betas, frequency=config.precondition_frequency)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    # Fused: one pass over the weights, ten times faster than torch's default, with the same bits on all threads. A
    # checkpoint of before brings its own setting, and goes on to the bit.
    return kind(groups, lr=config.lr, betas=(config.beta, 0.999), amsgrad=bool(config.amsgrad), fused=True)
