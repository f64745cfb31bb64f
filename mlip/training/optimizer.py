"""Optimizers with the weight decay of MACE: on the linear maps inside the layers, not on embeddings and readouts."""

from __future__ import annotations

import torch
from torch import nn

from mlip.training.config import TrainingConfig
from mlip.training.schedule_free import ScheduleFreeAdamW
from mlip.training.soap import SOAP

#: Parts of the networks whose weights decay, those of MACE: mixing after the message, skip connection, product basis.
DECAYED = frozenset({"mix", "skip", "contraction", "product"})


def make_optimizer(potential: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer of a run, its state on the device of the weights."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in potential.named_parameters():
        if parameter.requires_grad:
            (decayed if DECAYED & set(name.split(".")) else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
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
