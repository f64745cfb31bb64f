"""Symmetric contraction: sparse polynomials of feature components with coefficients of the atom's element."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mlip import _extension
from mlip.ops.contraction_program import ContractionProgram
from mlip.ops.dispatch import register_no_derivative, runs_compiled
from mlip.ops.multilinear import marked, still_needed

BLOCK_BYTES = 64
#: Factors of a monomial that the CUDA kernel takes.
LARGEST_CUDA_ORDER = 4
OPS = torch.ops.mlip


def pack_coefficients(coefficients: Tensor) -> Tensor:
    """Coefficients (Z, T, C) to the kernel's layout (Z, C / block, T, block), with blocks of 64 bytes; differentiable.

    Where the channels are no whole blocks, there is one block of all of them, and the operator runs in plain torch.
    """
    n_elements, terms, channels = coefficients.shape
    block = BLOCK_BYTES // coefficients.element_size()
    if channels % block:
        block = channels
    return coefficients.view(n_elements, terms, channels // block, block).transpose(1, 2).contiguous()


def symmetric_contraction(
    features: Tensor, species: Tensor, coefficients: Tensor, program: ContractionProgram
) -> Tensor:
    """out[m, n, c] = sum over the terms t of m of coefficients[z_n, t, c] · product of features[k, n, c] over t's k.

    Compiled, it can be differentiated twice by features and coefficients (what is not exact raises), in plain torch
    any number of times. Compiled are float32 with channels in multiples of 16 and float64 in multiples of 8.

    Args:
        features: (dim_in, N, C).
        species: (N,) int64, index of each atom's element.
        coefficients: Of each term: (Z, T, C), or packed by :func:`pack_coefficients`, (Z, C / block, T, block).
        program: The terms.

    Returns:
        (dim_out, N, C).
    """
    packed = pack_coefficients(coefficients) if coefficients.dim() == 3 else coefficients
    block = BLOCK_BYTES // features.element_size()
    compiles = program.compiles and (features.is_cpu or program.order <= LARGEST_CUDA_ORDER)
    if not (compiles and packed.shape[3] == block and runs_compiled(features, packed, cuda="symmetric_contraction")):
        return symmetric_contraction_reference(features, species, packed, program)
    arguments = features.contiguous(), species.contiguous(), packed.contiguous(), program.table
    return OPS.symmetric_contraction(*arguments, program.dim_out)


def symmetric_contraction_reference(
    features: Tensor, species: Tensor, coefficients: Tensor, program: ContractionProgram
) -> Tensor:
    """:func:`symmetric_contraction` in plain torch; memory grows with terms · atoms · channels."""
    if coefficients.dim() == 4:
        coefficients = coefficients.transpose(1, 2).flatten(2)
    out = features.new_zeros(program.dim_out, *features.shape[1:])
    for indices in program.by_order:
        terms, factors, outputs = (i.to(features.device) for i in indices)
        product = coefficients.index_select(1, terms).transpose(0, 1)[:, species]
        for k in factors.T:
            product = product * features.index_select(0, k)
        out = out.index_add(0, outputs, product)
    return out


def _setup_contraction(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.of_parameters = marked(inputs[:3])


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    features, species, coefficients, table = ctx.saved_tensors
    grad = grad.contiguous()
    grad_features = grad_coefficients = None
    need_features, _, need_coefficients = still_needed(ctx.needs_input_grad[:3], ctx.of_parameters)
    if need_features:
        grad_features = OPS.symmetric_contraction_backward(grad, features, species, coefficients, table)
    if need_coefficients:
        grad_coefficients = OPS.symmetric_contraction_terms(grad, features, species, table, *_sizes(coefficients))
    return grad_features, None, grad_coefficients, None, None


def _backward_backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
    """<tangent, gradient> is the derivative of <grad, output> along the tangent, and so are its derivatives."""
    grad, features, species, coefficients, table = ctx.saved_tensors
    tangent = tangent.contiguous()
    grad_grad = grad_features = grad_coefficients = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
        grad_grad, grad_features = OPS.symmetric_contraction_second(
            tangent, grad, features, species, coefficients, table
        )
    if ctx.needs_input_grad[3]:
        grad_coefficients = OPS.symmetric_contraction_terms_second(
            tangent, grad, features, species, table, *_sizes(coefficients)
        )
    return grad_grad, grad_features, None, grad_coefficients, None


def _setup_terms(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _terms_backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
    """<direction, gradient of the coefficients> is <grad, output> with `direction` as coefficients."""
    grad, features, species, table = ctx.saved_tensors
    direction = direction.contiguous()
    grad_grad = grad_features = None
    if ctx.needs_input_grad[0]:
        grad_grad = OPS.symmetric_contraction(features, species, direction, table, grad.shape[0])
    if ctx.needs_input_grad[1]:
        grad_features = OPS.symmetric_contraction_backward(grad, features, species, direction, table)
    return grad_grad, grad_features, None, None, None, None


def _sizes(coefficients: Tensor) -> tuple[int, int]:
    """Terms and elements."""
    return coefficients.shape[2], coefficients.shape[0]


def _like_coefficients(features: Tensor, n_terms: int, n_elements: int) -> Tensor:
    block = BLOCK_BYTES // features.element_size()
    return features.new_empty((n_elements, features.shape[2] // block, n_terms, block))


if _extension.compiled:

    @torch.library.register_fake("mlip::symmetric_contraction")
    def _fake(features: Tensor, species: Tensor, coefficients: Tensor, program: Tensor, n_out: int) -> Tensor:
        return features.new_empty((n_out, *features.shape[1:]))

    @torch.library.register_fake("mlip::symmetric_contraction_backward")
    def _fake_backward(
        grad: Tensor, features: Tensor, species: Tensor, coefficients: Tensor, program: Tensor
    ) -> Tensor:
        return torch.empty_like(features)

    @torch.library.register_fake("mlip::symmetric_contraction_second")
    def _fake_second(
        tangent: Tensor, grad: Tensor, features: Tensor, species: Tensor, coefficients: Tensor, program: Tensor
    ) -> tuple[Tensor, Tensor]:
        return torch.empty_like(grad), torch.empty_like(features)

    @torch.library.register_fake("mlip::symmetric_contraction_terms")
    def _fake_terms(
        grad: Tensor, features: Tensor, species: Tensor, program: Tensor, n_terms: int, n_elements: int
    ) -> Tensor:
        return _like_coefficients(features, n_terms, n_elements)

    @torch.library.register_fake("mlip::symmetric_contraction_terms_second")
    def _fake_terms_second(
        tangent: Tensor,
        grad: Tensor,
        features: Tensor,
        species: Tensor,
        program: Tensor,
        n_terms: int,
        n_elements: int,
    ) -> Tensor:
        return _like_coefficients(features, n_terms, n_elements)

    torch.library.register_autograd("mlip::symmetric_contraction", _backward, setup_context=_setup_contraction)
    torch.library.register_autograd("mlip::symmetric_contraction_backward", _backward_backward, setup_context=_setup)
    torch.library.register_autograd("mlip::symmetric_contraction_terms", _terms_backward, setup_context=_setup_terms)
    for _name in ("second", "terms_second"):
        register_no_derivative(
            f"symmetric_contraction_{_name}",
            "the compiled symmetric contraction has no third derivative; use the reference",
        )
