"""Matrices of the atom's element: grouped rows against the loop."""

from __future__ import annotations

import pytest
import torch

from mlip.ops.element_linear import element_linear, element_linear_reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("n_atoms", "n_elements", "present"), [(9, 1, 1), (9, 4, 1), (50, 89, 30), (0, 5, 1), (3, 5, 5)]
)
def test_equals_the_loop(n_atoms: int, n_elements: int, present: int, dtype: torch.dtype) -> None:
    features = torch.randn(4, n_atoms, 16, dtype=dtype, requires_grad=True)
    weight = torch.randn(n_elements, 16, 24, dtype=dtype, requires_grad=True)
    species = torch.randint(present, (n_atoms,))
    mine, expected = (f(features, species, weight) for f in (element_linear, element_linear_reference))
    torch.testing.assert_close(mine, expected)
    if not n_atoms:
        return  # the loop has no derivative then
    grad = torch.randn_like(expected)
    for a, b in zip(*(torch.autograd.grad(o, (features, weight), grad) for o in (mine, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_derivatives() -> None:
    features = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    species = torch.tensor([2, 0, 2, 3, 0, 0, 2])
    assert torch.autograd.gradcheck(lambda x, w: element_linear(x, species, w), (features, weight))
    assert torch.autograd.gradgradcheck(lambda x, w: element_linear(x, species, w), (features, weight))
