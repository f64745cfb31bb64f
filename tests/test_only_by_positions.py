"""Backward passes that leave out what belongs to parameters alone."""

import torch

from mlip import ops
from mlip.ops.multilinear import of_parameters, only_by_positions


def inputs(mark):
    torch.manual_seed(0)
    x, weight = (torch.randn(60, 8, dtype=torch.float64), torch.randn(8, 8, dtype=torch.float64))
    x.requires_grad_(), weight.requires_grad_()
    copy = weight * 1
    return x, weight, of_parameters(copy) if mark else copy


def test_marked_tensors_get_no_gradient_inside_and_one_outside():
    x, weight, copy = inputs(mark=True)
    energy = ops.matmul(x, copy).square().sum()
    with only_by_positions():
        left_out = torch.autograd.grad(energy, [x, weight], retain_graph=True, allow_unused=True)
    by_x, by_weight = torch.autograd.grad(energy, [x, weight])
    assert left_out[1] is None and by_weight is not None
    assert left_out[0].equal(by_x)


def test_others_are_not_touched():
    """A matrix that depends on positions must keep its gradient, or forces would be wrong."""
    x, weight, copy = inputs(mark=False)
    energy = ops.matmul(x, copy).square().sum()
    with only_by_positions():
        assert torch.autograd.grad(energy, [x, weight], allow_unused=True)[1] is not None


def test_gradients_of_gradients_know_the_parameters():
    found = []
    for inside in (False, True):
        x, weight, copy = inputs(mark=True)
        energy = ops.matmul(x, copy).pow(3).sum()
        if inside:
            with only_by_positions():
                (force,) = torch.autograd.grad(energy, x, create_graph=True)
        else:
            (force,) = torch.autograd.grad(energy, x, create_graph=True)
        found.append(torch.autograd.grad(force.square().sum(), weight)[0])
    torch.testing.assert_close(*found)
