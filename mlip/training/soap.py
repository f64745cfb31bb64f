"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al., ICLR 2025, arXiv:2409.11321, algorithm 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

#: Longest side of a matrix with an eigenbasis of its own; a longer side keeps its axes.
LONGEST_SIDE = 256


class SOAP(Optimizer):
    """Adam whose averages of squares are kept in a rotated frame, the one in which the gradients are uncorrelated.

    A parameter is a stack of matrices W (..., m, n): the weights of irreps, elements or heads.

        symbol   here               meaning
        G        parameter.grad     gradient
        L, R     state "left", ...  averages of G Gᵀ (m, m) and Gᵀ G (n, n); of a side up to `LONGEST_SIDE`
        Q        "left_basis", ...  their eigenvectors, improved every `frequency` steps by one power iteration and QR
        M        state "mean"       average of G, in the frame of W
        V        state "squares"    average of (Q_Lᵀ G Q_R)², in the rotated frame
        λ        "weight_decay"     decoupled decay

    The step is Q_L (Q_Lᵀ M Q_R / √V) Q_Rᵀ. Vectors and numbers take Adam's. The first gradient only sets the bases up.

    Args:
        params: as of every optimizer of torch.
        lr: learning rate.
        betas: decay of M, and of V, L and R.
        eps: added to √V.
        weight_decay: λ.
        frequency: steps between improvements of the bases.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.003,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        frequency: int = 10,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "frequency": frequency}
        super().__init__(params, {**defaults, "steps": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the closure, if any, computes loss and gradients."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # else the bits of products and of QR depend on the number of threads
        try:
            for group in self.param_groups:
                self._step_of(group)
        finally:
            torch.set_num_threads(threads)
        return loss

    def _step_of(self, group: dict[str, Any]) -> None:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            if self.state[parameter]:
                self._update(parameter, parameter.grad, group)
            else:
                self._begin(parameter, parameter.grad)
        group["steps"] += 1

    def _begin(self, parameter: Tensor, grad: Tensor) -> None:
        state = self.state[parameter]
        state.update(mean=torch.zeros_like(parameter), squares=torch.zeros_like(parameter))
        for side, correlation in _correlations(grad):
            state[side] = correlation
            state[f"{side}_basis"] = torch.linalg.eigh(correlation).eigenvectors.flip(-1).contiguous()

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2), steps = self.state[parameter], group["betas"], group["steps"]
        left, right = state.get("left_basis"), state.get("right_basis")
        mean, squares = state["mean"].lerp_(grad, 1 - beta1), state["squares"]
        rotated = _rotate(grad, left, right)
        squares.mul_(beta2).addcmul_(rotated, rotated, value=1 - beta2)
        scale = (squares / (1 - beta2**steps)).sqrt_().add_(group["eps"])
        step = _rotate(_rotate(mean, left, right).div_(scale), _transposed(left), _transposed(right))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(step, alpha=-group["lr"] / (1 - beta1**steps))
        is_due = steps % group["frequency"] == 0
        for side, correlation in _correlations(grad):
            state[side].lerp_(correlation, 1 - beta2)
            if is_due:
                state[f"{side}_basis"], order = _improved(state[side], state[f"{side}_basis"])
                dim, index = (-2, order.unsqueeze(-1)) if side == "left" else (-1, order.unsqueeze(-2))
                state["squares"] = state["squares"].gather(dim, index.expand_as(parameter))


def _correlations(grad: Tensor) -> list[tuple[str, Tensor]]:
    """G Gᵀ and Gᵀ G, those of sides that are neither one nor too long."""
    if grad.ndim < 2:
        return []
    sides = (("left", grad), ("right", grad.mT))
    return [(name, g @ g.mT) for name, g in sides if 1 < g.shape[-2] <= LONGEST_SIDE]


def _transposed(basis: Tensor | None) -> Tensor | None:
    return None if basis is None else basis.mT


def _rotate(x: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """Q_Lᵀ X Q_R, a new tensor; a basis that is None is the identity."""
    x = x.clone() if left is None else left.mT @ x
    return x if right is None else x @ right


def _improved(correlation: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """A basis (..., m, m) nearer the eigenvectors, largest eigenvalue first, and where its vectors were before."""
    image = correlation @ basis
    order = (basis * image).sum(-2).argsort(dim=-1, descending=True)
    image = image.gather(-1, order.unsqueeze(-2).expand_as(image))
    return torch.linalg.qr(image).Q, order
