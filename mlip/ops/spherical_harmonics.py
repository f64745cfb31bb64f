"""Real spherical harmonics of the directions of vectors, and their lengths, with two exact derivatives."""

from __future__ import annotations

from typing import Any

import torch
from e3nn import o3
from torch import Tensor

from mlip import _extension
from mlip.ops.dispatch import register_no_derivative, runs_compiled

#: Highest degree that is compiled.
COMPILED_DEGREE = 6


def spherical_harmonics(vectors: Tensor, l_max: int) -> tuple[Tensor, Tensor]:
    """Y (E, (l_max + 1)²) of the directions of `vectors` (E, 3) and their lengths (E,).

    Order and signs are e3nn's: l ascending, within it m = -l..l, so that l = 1 is (x, y, z); normalised to
    Σ_m Y_lm² = 2l + 1 ("component"). Of a zero vector, all but Y_00 are zero, and so is the gradient. Compiled, it can
    be differentiated twice (a third derivative raises), in plain torch any number of times.
    """
    if l_max > COMPILED_DEGREE or not runs_compiled(vectors, cuda="spherical_harmonics"):
        return spherical_harmonics_reference(vectors, l_max)
    harmonics, length = torch.ops.mlip.spherical_harmonics(vectors.contiguous(), l_max)
    return harmonics, length


def spherical_harmonics_reference(vectors: Tensor, l_max: int) -> tuple[Tensor, Tensor]:
    """:func:`spherical_harmonics` by e3nn."""
    harmonics = o3.spherical_harmonics(list(range(l_max + 1)), vectors, normalize=True, normalization="component")
    return harmonics, torch.linalg.vector_norm(vectors, dim=1)


def _setup(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    vectors, ctx.l_max = inputs
    ctx.save_for_backward(vectors)


def _backward(ctx: Any, harmonics: Tensor, length: Tensor) -> tuple[Tensor, None]:
    (vectors,) = ctx.saved_tensors
    gradients = harmonics.contiguous(), length.contiguous()
    return torch.ops.mlip.spherical_harmonics_backward(*gradients, vectors, ctx.l_max), None


def _setup_backward(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: Tensor) -> None:
    *tensors, ctx.l_max = inputs
    ctx.save_for_backward(*tensors)


def _backward_backward(ctx: Any, tangent: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    """The Hessian is symmetric: all derivatives of the gradient are derivatives along `tangent`."""
    return *torch.ops.mlip.spherical_harmonics_second(tangent.contiguous(), *ctx.saved_tensors, ctx.l_max), None


if _extension.compiled:

    @torch.library.register_fake("mlip::spherical_harmonics")
    def _fake(vectors: Tensor, l_max: int) -> tuple[Tensor, Tensor]:
        count = vectors.shape[0]
        return vectors.new_empty((count, (l_max + 1) ** 2)), vectors.new_empty((count,))

    @torch.library.register_fake("mlip::spherical_harmonics_backward")
    def _fake_backward(grad_harmonics: Tensor, grad_length: Tensor, vectors: Tensor, l_max: int) -> Tensor:
        return torch.empty_like(vectors)

    @torch.library.register_fake("mlip::spherical_harmonics_second")
    def _fake_second(
        tangent: Tensor, grad_harmonics: Tensor, grad_length: Tensor, vectors: Tensor, l_max: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        return torch.empty_like(grad_harmonics), torch.empty_like(grad_length), torch.empty_like(vectors)

    torch.library.register_autograd("mlip::spherical_harmonics", _backward, setup_context=_setup)
    torch.library.register_autograd(
        "mlip::spherical_harmonics_backward", _backward_backward, setup_context=_setup_backward
    )
    register_no_derivative(
        "spherical_harmonics_second", "the compiled spherical harmonics have no third derivative; use the reference"
    )
