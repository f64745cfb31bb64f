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
    forward_op = getattr(torch.ops.mlip, name)
    backward_op = getattr(torch.ops.mlip, f"{name}_backward")

    def call_forward(arguments: Sequence[Any]) -> tuple[Tensor, ...]:
        out = forward_op(*arguments)
        return (out,) if isinstance(out, Tensor) else tuple(out)

    def gradients(
        grads: Sequence[Tensor], arguments: Sequence[Any], constants: Sequence[Any], needed: Sequence[bool]
    ) -> list[Tensor | None]:
        flags = [needed[k] for k in optional]
        found = backward_op(*[grad.contiguous() for grad in grads], *arguments, *constants, *flags)
        return [grad if need else None for grad, need in zip(found, needed, strict=True)]

    def save(ctx: Any, tensors: Sequence[Any], constants: Sequence[Any]) -> None:
        ctx.set_materialize_grads(False)
        ctx.is_tensor = [isinstance(c, Tensor) for c in constants]
        ctx.save_for_backward(*tensors, *[c for c in constants if isinstance(c, Tensor)])
        ctx.others = [None if isinstance(c, Tensor) else c for c in constants]

    def saved(ctx: Any, count: int) -> tuple[Sequence[Tensor], list[Any]]:
        tensors = iter(ctx.saved_tensors[count:])
        constants = [next(tensors) if is_tensor else c for is_tensor, c in zip(ctx.is_tensor, ctx.others, strict=True)]
        return ctx.saved_tensors[:count], constants

    def refuse(needs: Sequence[bool]) -> None:
        if any(needs):
            raise NotImplementedError(f"{name}: no derivative with respect to a table: detach it")

    def first_context(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        save(ctx, inputs[:linear], inputs[linear:])
        ctx.of_parameters = marked(inputs[:linear])
        ctx.shapes = [tuple(out.shape) for out in ((output,) if isinstance(output, Tensor) else output)]

    def first(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse(ctx.needs_input_grad[linear:])
        arguments, constants = saved(ctx, linear)
        given = [
            arguments[0].new_zeros(shape) if grad is None else grad
            for grad, shape in zip(grads, ctx.shapes, strict=True)
        ]
        found = gradients(given, arguments, constants, still_needed(ctx.needs_input_grad[:linear], ctx.of_parameters))
        return (*found, *[None] * len(constants))

    def second_context(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        save(ctx, inputs[: outputs + linear], inputs[outputs + linear : len(inputs) - len(optional)])
        ctx.present = [
            k not in optional or inputs[len(inputs) - len(optional) + optional.index(k)] for k in range(linear)
        ]

    def second(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors, constants = saved(ctx, outputs + linear)
        refuse(ctx.needs_input_grad[outputs + linear :])
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
                found[:outputs] = call_forward([*replaced, *constants])
            if any(needed):
                found[outputs:] = gradients(grads, replaced, constants, needed)
            for j, (term, total) in enumerate(zip(found, sums, strict=True)):
                sums[j] = total if term is None else term if total is None else total + term
        return (*sums, *[None] * (len(constants) + len(optional)))

    torch.library.register_autograd(f"mlip::{name}", first, setup_context=first_context)
    torch.library.register_autograd(f"mlip::{name}_backward", second, setup_context=second_context)
