"""Derivatives of compiled operators that are linear in each of several arguments.

The derivatives of such an operator F(a, b, ...) are multilinear again: with the operator and its first derivative B
(the gradients with respect to a, b, ...), every higher order follows, since
sum_k <v_k, B_k(grad; a, b, ...)> = sum_k <grad, F(..., v_k in place of argument k, ...)>.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import local
from typing import Any

import torch
from torch import Tensor

_state = local()


@contextmanager
def only_by_positions() -> Iterator[None]:
    """Backward passes of operators in this thread leave out the gradients of what `of_parameters` marked.

    Around `torch.autograd.grad` of energies by positions: autograd computes the gradients of all arguments of an
    operator, wanted or not, and those of weights are a third of the cost.
    """
    before = getattr(_state, "only_by_positions", False)
    _state.only_by_positions = True
    try:
        yield
    finally:
        _state.only_by_positions = before


def of_parameters(tensor: Tensor) -> Tensor:
    """Mark a tensor that depends on parameters alone, not on positions."""
    tensor.__dict__["_mlip_of_parameters"] = True
    return tensor


def marked(tensors: Sequence[Any]) -> list[bool]:
    """Which of them are marked by `of_parameters`."""
    return [isinstance(t, Tensor) and "_mlip_of_parameters" in t.__dict__ for t in tensors]


def still_needed(needed: Sequence[bool], of_parameters: Sequence[bool]) -> list[bool]:
    """Which gradients a backward pass has to give."""
    leave_out = getattr(_state, "only_by_positions", False)
    return [need and not (leave_out and mark) for need, mark in zip(needed, of_parameters, strict=True)]


def register_multilinear(name: str, linear: int, outputs: int, optional: Sequence[int] = ()) -> None:
    """Register the derivatives of ``mlip::name`` and ``mlip::name_backward``, of any order.

    The operator takes `linear` tensors in which it is linear, then others without derivative (asking for one raises
    `NotImplementedError`), and gives `outputs` tensors. Its backward operator takes gradients of these, the same
    arguments, and a flag for each argument in `optional`, whose gradient is an empty tensor where the flag is false.
    """
    operator = _Multilinear(name, linear, outputs, optional)
    torch.library.register_autograd(f"mlip::{name}", operator.first, setup_context=operator.first_context)
    torch.library.register_autograd(f"mlip::{name}_backward", operator.second, setup_context=operator.second_context)


class _Multilinear:
    """What `register_multilinear` registers: backward of the operator, and of its backward operator."""

    def __init__(self, name: str, linear: int, outputs: int, optional: Sequence[int]) -> None:
        self.name, self.linear, self.outputs, self.optional = name, linear, outputs, optional
        self.forward_op = getattr(torch.ops.mlip, name)
        self.backward_op = getattr(torch.ops.mlip, f"{name}_backward")

    def first_context(self, ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        _save(ctx, inputs[: self.linear], inputs[self.linear :])
        ctx.of_parameters = marked(inputs[: self.linear])
        ctx.shapes = [tuple(out.shape) for out in ((output,) if isinstance(output, Tensor) else output)]

    def first(self, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        self._refuse(ctx.needs_input_grad[self.linear :])
        arguments, constants = _saved(ctx, self.linear)
        given = [
            arguments[0].new_zeros(shape) if grad is None else grad
            for grad, shape in zip(grads, ctx.shapes, strict=True)
        ]
        needed = still_needed(ctx.needs_input_grad[: self.linear], ctx.of_parameters)
        return (*self._gradients(given, arguments, constants, needed), *[None] * len(constants))

    def second_context(self, ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        given, flags = self.outputs + self.linear, len(inputs) - len(self.optional)
        _save(ctx, inputs[:given], inputs[given:flags])
        ctx.present = [k not in self.optional or inputs[flags + self.optional.index(k)] for k in range(self.linear)]

    def second(self, ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        outputs, linear = self.outputs, self.linear
        tensors, constants = _saved(ctx, outputs + linear)
        self._refuse(ctx.needs_input_grad[outputs + linear :])
        grads, arguments = tensors[:outputs], tensors[outputs:]
        needs = ctx.needs_input_grad[: outputs + linear]
        sums: list[Tensor | None] = [None] * (outputs + linear)
        for k, cotangent in enumerate(cotangents):
            if cotangent is None or not ctx.present[k]:
                continue
            replaced = [*arguments[:k], cotangent.contiguous(), *arguments[k + 1 :]]
            needed = [needs[outputs + j] and j != k for j in range(linear)]
            found: list[Tensor | None] = [None] * (outputs + linear)
            if any(needs[:outputs]):
                found[:outputs] = self._call([*replaced, *constants])
            if any(needed):
                found[outputs:] = self._gradients(grads, replaced, constants, needed)
            for j, (term, total) in enumerate(zip(found, sums, strict=True)):
                sums[j] = total if term is None else term if total is None else _added(total, term)
        return (*sums, *[None] * (len(constants) + len(self.optional)))

    def _call(self, arguments: Sequence[Any]) -> tuple[Tensor, ...]:
        out = self.forward_op(*arguments)
        return (out,) if isinstance(out, Tensor) else tuple(out)

    def _gradients(
        self, grads: Sequence[Tensor], arguments: Sequence[Any], constants: Sequence[Any], needed: Sequence[bool]
    ) -> list[Tensor | None]:
        flags = [needed[k] for k in self.optional]
        found = self.backward_op(*[grad.contiguous() for grad in grads], *arguments, *constants, *flags)
        return [grad if need else None for grad, need in zip(found, needed, strict=True)]

    def _refuse(self, needs: Sequence[bool]) -> None:
        if any(needs):
            raise NotImplementedError(f"{self.name}: no derivative with respect to a table: detach it")


def _added(total: Tensor, term: Tensor) -> Tensor:
    """Their sum, in the place of `total` where autograd does not watch: an operator's output is nobody else's."""
    return total + term if torch.is_grad_enabled() else total.add_(term)


def _save(ctx: Any, tensors: Sequence[Any], constants: Sequence[Any]) -> None:
    ctx.set_materialize_grads(False)
    ctx.is_tensor = [isinstance(c, Tensor) for c in constants]
    ctx.save_for_backward(*tensors, *[c for c in constants if isinstance(c, Tensor)])
    ctx.others = [None if isinstance(c, Tensor) else c for c in constants]


def _saved(ctx: Any, count: int) -> tuple[Sequence[Tensor], list[Any]]:
    tensors = iter(ctx.saved_tensors[count:])
    constants = [next(tensors) if is_tensor else c for is_tensor, c in zip(ctx.is_tensor, ctx.others, strict=True)]
    return ctx.saved_tensors[:count], constants
