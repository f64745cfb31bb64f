"""A reverse pass for operators called one after the other, at a few µs for each where autograd takes tens.

Networks call their operators through a function `run(operator, *arguments)`: `directly`, so that autograd sees them and
gives all derivatives, or a `Tape`, which gives first derivatives only. What is not called through `run` is a constant
for the tape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

#: From the gradients of an operator's outputs (None: zero) to those of its arguments (None: constant, or zero).
Pullback: TypeAlias = Callable[..., Sequence[Tensor | None]]
#: From flags, which arguments need a gradient, and the arguments themselves to outputs and pullback.
Rule: TypeAlias = Callable[..., tuple[Any, Pullback]]

RULES: dict[Callable[..., Any], Rule] = {}


class Run(Protocol):
    """Calls an operator."""

    def __call__(self, operator: Callable[..., Any], *arguments: Any) -> Any: ...


def directly(operator: Callable[..., Any], *arguments: Any) -> Any:
    """Just the call."""
    return operator(*arguments)


def rule_of(operator: Callable[..., Any]) -> Callable[[Rule], Rule]:
    """Decorator: this rule stands for `operator` on a tape. It must not change arguments or gradients in place."""

    def register(rule: Rule) -> Rule:
        RULES[operator] = rule
        return rule

    return register


class Tape:
    """The operators that were called on tensors which depend on `inputs`, in order."""

    def __init__(self, *inputs: Tensor) -> None:
        self._mark = object()
        self._count = 0
        self._steps: list[tuple[Sequence[int | None], Sequence[int], Pullback]] = []
        self._used = False
        for tensor in inputs:
            self._track(tensor)

    def _track(self, tensor: Tensor) -> int:
        place = self._count
        self._count = place + 1
        tensor.__dict__["_mlip_tape"] = (self._mark, place)
        return place

    def _place(self, argument: Any) -> int | None:
        if isinstance(argument, Tensor):
            entry = argument.__dict__.get("_mlip_tape")
            if entry is not None and entry[0] is self._mark:
                return int(entry[1])
        return None

    def __call__(self, operator: Callable[..., Any], *arguments: Any) -> Any:
        places = list(map(self._place, arguments))
        needed = [place is not None for place in places]
        if True not in needed:
            return operator(*arguments)
        rule = RULES.get(operator)
        out, pullback = rule(needed, *arguments) if rule else by_autograd(operator, needed, *arguments)
        outputs = (self._track(out),) if isinstance(out, Tensor) else tuple(map(self._track, out))
        self._steps.append((places, outputs, pullback))
        return out

    def gradients(self, output: Tensor, gradient: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        """Those of <gradient, output> by `inputs`; can be asked for once, as memory is freed on the way."""
        if self._used:
            raise RuntimeError("the gradients of a tape can be asked for once: evaluate again")
        self._used = True
        found: dict[int, Tensor] = {}
        place = self._place(output)
        if place is not None:
            found[place] = gradient
        while self._steps:
            places, outputs, pullback = self._steps.pop()
            given = [found.pop(k, None) for k in outputs]
            if all(g is None for g in given):
                continue
            for k, term in zip(places, pullback(*given), strict=False):
                if k is not None and term is not None:
                    found[k] = found[k] + term if k in found else term
        return [found.get(k) if (k := self._place(tensor)) is not None else None for tensor in inputs]


def by_autograd(operator: Callable[..., Any], needed: Sequence[bool], *arguments: Any) -> tuple[Any, Pullback]:
    """The rule of whatever autograd can differentiate."""
    with torch.enable_grad():
        seen = [a.detach().requires_grad_() if need else a for a, need in zip(arguments, needed, strict=True)]
        out = operator(*seen)
    outputs = [out] if isinstance(out, Tensor) else list(out)
    inputs = [a for a, need in zip(seen, needed, strict=True) if need]

    def pullback(*gradients: Tensor | None) -> list[Tensor | None]:
        pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None and o.requires_grad]
        if not pairs:
            return [None] * len(needed)
        of, by = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(of, inputs, by, allow_unused=True))
        return [next(found) if need else None for need in needed]

    return (out.detach() if isinstance(out, Tensor) else [o.detach() for o in outputs]), pullback


def cast_to(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in another precision, as an operator."""
    return x.to(dtype)


@rule_of(cast_to)
def _cast_to(needed: Sequence[bool], x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Pullback]:
    before = x.dtype
    # Without a change it must be another tensor: places belong to tensors.
    return (x.view_as(x) if before == dtype else x.to(dtype)), lambda g: (g.to(before),)


@rule_of(torch.add)
def _add(needed: Sequence[bool], a: Tensor, b: Tensor) -> tuple[Tensor, Pullback]:
    if not isinstance(b, Tensor) or a.shape != b.shape:
        return by_autograd(torch.add, needed, a, b)
    dtypes = a.dtype, b.dtype
    return a + b, lambda g: [g.to(dtype) for dtype in dtypes]
