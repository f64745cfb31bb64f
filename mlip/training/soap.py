"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al., ICLR 2025, arXiv:2409.11321, algorithm 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adam import adam

#: Longest side of a matrix with an eigenbasis of its own; a longer side keeps its axes.
LONGEST_SIDE = 256


class SOAP(Optimizer):
    """Adam in a rotated frame, the one in which the gradients of a matrix's rows, and of its columns, are uncorrelated.

    A parameter is a stack of matrices W (..., m, n): the weights of irreps, elements or heads.

        symbol   here                 meaning
        G        parameter.grad       gradient
        L, R     state "left", ...    averages of G Gᵀ (m, m) and Gᵀ G (n, n); of a side up to `LONGEST_SIDE`
        Q        "left_basis", ...    their eigenvectors, improved every `frequency` steps by one power iteration and QR
        M, V     "mean", "squares"    averages of Q_Lᵀ G Q_R and of its squares
        λ        "weight_decay"       decoupled decay

    The step is Q_L (M / √V) Q_Rᵀ. The first gradient only sets the bases up. Vectors and numbers take Adam's steps.
    With the bases V turns like variances of uncorrelated numbers, where the authors only sort it: in directions that
    were not there before, M would be divided by nothing.

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
        super().__init__(params, {**defaults, "fused": True})  # which tells torch where a loaded state's "step" belongs

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
        moved = []
        for parameter in group["params"]:
            if parameter.grad is not None:
                if self.state[parameter]:
                    moved.append(parameter)
                else:
                    self._begin(parameter)
        states = [self.state[parameter] for parameter in moved]
        matrices = [_matrices(parameter) for parameter in moved]
        grads = [_matrices(parameter.grad.contiguous()) for parameter in moved]
        rotated = [_to_frame(grad, state) for grad, state in zip(grads, states, strict=True)]
        steps = [torch.zeros_like(grad) for grad in rotated]
        means, squares, counts = ([state[name] for state in states] for name in ("mean", "squares", "step"))
        (beta1, beta2), lr = group["betas"], group["lr"]
        adam(
            steps,
            rotated,
            means,
            squares,
            [],
            counts,
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=lr,
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )
        for matrix, state, step, grad in zip(matrices, states, steps, grads, strict=True):
            if group["weight_decay"]:
                matrix.mul_(1 - lr * group["weight_decay"])
            _add_from_frame(matrix, step, state)
            for side, x in (("left", grad), ("right", grad.mT)):
                if side in state:
                    state[side].baddbmm_(x, x.mT, beta=beta2, alpha=1 - beta2)
            if state["step"].item() % group["frequency"] == 0:
                _improve(state)

    def _begin(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        state, grad = self.state[parameter], _matrices(parameter.grad.contiguous())
        state.update(mean=torch.zeros_like(grad), squares=torch.zeros_like(grad))
        state["step"] = torch.zeros((), dtype=torch.float32, device=grad.device)
        for side, x in (("left", grad), ("right", grad.mT)):
            if parameter.ndim > 1 and 1 < x.shape[-2] <= LONGEST_SIDE:
                state[side] = x @ x.mT
                if not state[side].isfinite().all():  # the step of Adam would not be finite either
                    parameter.fill_(torch.nan)
                    return state.clear()
                state[f"{side}_basis"] = torch.linalg.eigh(state[side]).eigenvectors.flip(-1).contiguous()
        return None


def _matrices(x: Tensor) -> Tensor:
    """A view as a stack of matrices (K, m, n); of vectors and numbers (1, 1, n)."""
    return x.view(x.shape[:-2].numel(), *x.shape[-2:]) if x.ndim > 1 else x.view(1, 1, x.numel())


def _to_frame(x: Tensor, state: dict[str, Any]) -> Tensor:
    """Q_Lᵀ X Q_R; a basis that is not there is the identity."""
    x = state["left_basis"].mT @ x if "left_basis" in state else x
    return x @ state["right_basis"] if "right_basis" in state else x


def _add_from_frame(to: Tensor, x: Tensor, state: dict[str, Any]) -> None:
    """Add Q_L X Q_Rᵀ."""
    left, right = state.get("left_basis"), state.get("right_basis")
    if right is not None:
        to.baddbmm_(x if left is None else left @ x, right.mT)
    elif left is not None:
        to.baddbmm_(left, x)
    else:
        to.add_(x)


def _improve(state: dict[str, Any]) -> None:
    """Bring the bases nearer the eigenvectors, sorted by eigenvalue, and the averages into the new frame."""
    for side in ("left", "right"):
        if side not in state:
            continue
        old = state[f"{side}_basis"]
        image = state[side] @ old
        order = (old * image).sum(-2).argsort(dim=-1, descending=True)
        new = torch.linalg.qr(image.gather(-1, order.unsqueeze(-2).expand_as(image))).Q
        turn = new.mT @ old
        for name, matrix in (("mean", turn), ("squares", turn.square())):
            state[name] = matrix @ state[name] if side == "left" else state[name] @ matrix.mT
        state[f"{side}_basis"] = new
