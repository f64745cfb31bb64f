"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """Average of a module's trainable weights, decay min(decay, (1 + n) / (10 + n)) at step n as in torch_ema.

    With `decay` None the average is the weights themselves and costs nothing.
    """

    def __init__(self, module: nn.Module, decay: float | None) -> None:
        self.decay = decay
        self.parameters: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.parameters] if decay else []
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after a step into the average."""
        if self.decay is None:
            return
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.average, self.parameters, 1 - decay)

    def swap(self) -> None:
        """Exchange the weights and their average; nothing is copied."""
        for index, average in enumerate(self.average):
            weight = self.parameters[index]
            weight.data, self.average[index] = average, weight.data

    def to(self, device: torch.device) -> None:
        self.average = [a.to(device) for a in self.average]

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "average": [a.cpu() for a in self.average]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = int(state["steps"])
        for own, saved in zip(self.average, state["average"], strict=True):
            own.copy_(saved)


def cpu_copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, independent of the originals."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
