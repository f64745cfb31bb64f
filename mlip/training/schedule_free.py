"""Schedule-free AdamW (Defazio et al., NeurIPS 2024, arXiv:2405.15682, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class ScheduleFreeAdamW(Optimizer):
    """AdamW whose gradients are taken between the fast weights and their average; the average is the result.

        symbol   here               meaning
        y        the parameters     (1 - β1) z + β1 x, where gradients are taken
        z        state "fast"       weights after AdamW's steps
        x        state "average"    average of z with weights γ²; `swap` puts it into the parameters
        γ        group "lr"         learning rate of the step, warm-up included
        λ        "weight_decay"     decoupled decay, at y

    The published code keeps only y and z and computes x from them; here x is kept, so that going to it and back
    changes no bit.

    Args:
        params: as of every optimizer of torch.
        lr: γ.
        betas: β1 and β2.
        eps: ε.
        weight_decay: λ.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.0025,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "steps": 0, "weight_sum": 0.0}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the closure, if any, computes loss and gradients."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            group["steps"] += 1
            group["weight_sum"] += group["lr"] ** 2
            share = group["lr"] ** 2 / group["weight_sum"] if group["weight_sum"] else 0.0
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group, share)
        return loss

    def _update(self, y: Tensor, group: dict[str, Any], share: float) -> None:
        state, (beta1, beta2) = self.state[y], group["betas"]
        if not state:
            state.update(fast=y.clone(), average=y.clone(), squares=torch.zeros_like(y))
        z, x, v = state["fast"], state["average"], state["squares"]
        assert y.grad is not None
        v.mul_(beta2).addcmul_(y.grad, y.grad, value=1 - beta2)
        scale = (v / (1 - beta2 ** group["steps"])).sqrt_().add_(group["eps"])
        z.add_(y, alpha=-group["lr"] * group["weight_decay"]).addcdiv_(y.grad, scale, value=-group["lr"])
        x.lerp_(z, share)
        y.copy_(z).lerp_(x, beta1)

    def swap(self) -> None:
        """Exchange the parameters and the average; nothing is copied."""
        for parameter, state in self.state.items():
            state["average"], parameter.data = parameter.data, state["average"]

    @torch.no_grad()
    def start_again(self) -> None:
        """Go on from the average as if training began there; the squares of the gradients stay."""
        for group in self.param_groups:
            group["weight_sum"] = 0.0
        for parameter, state in self.state.items():
            parameter.copy_(state["average"])
            state["fast"].copy_(state["average"])
