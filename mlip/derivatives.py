"""Forces and stress from one autograd call on positions and a symmetric strain.

With x -> x (1 + ε) for positions and lattice vectors alike: F = -∂E/∂x, σ = (1/V) ∂E/∂ε, positive under tension
(Knuth et al., Comput. Phys. Commun. 190, 33 (2015)).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mlip.errors import InputError
from mlip.graph import AtomGraph
from mlip.ops import only_by_positions


def differentiable(graph: AtomGraph, forces: bool, stress: bool) -> tuple[AtomGraph, list[Tensor]]:
    """The graph as a function of the tensors to differentiate by: positions (N, 3) and strain (B, 3, 3), as asked."""
    inputs: list[Tensor] = []
    positions, cell = graph.positions, graph.cell
    if forces:
        if not positions.requires_grad:
            positions = positions.detach().requires_grad_(True)
        inputs.append(positions)
    if stress:
        strain = torch.zeros_like(cell).requires_grad_(True)
        symmetric = (strain + strain.transpose(1, 2)) / 2
        positions = positions + (positions.unsqueeze(1) @ symmetric[graph.batch]).squeeze(1)
        cell = cell + cell @ symmetric
        inputs.append(strain)
    return graph._replace(positions=positions, cell=cell), inputs


def volumes(graph: AtomGraph) -> Tensor:
    """Cell volumes (B,) in Å³.

    Raises:
        InputError: a structure without a three-dimensional cell; its stress is not defined.
    """
    a, b, c = graph.cell.unbind(1)
    volume = (torch.linalg.cross(a, b) * c).sum(1).abs()  # LAPACK's determinant takes ten times as long
    flat = (volume < 1e-6).nonzero().squeeze(1).tolist()
    if flat:
        raise InputError(
            f"stress asked of a structure without a three-dimensional cell (number {flat[0]} of {graph.n_graphs}); "
            "a molecule has none. Give it a cell or ask for energy and forces only"
        )
    return volume


def derivatives(
    energy: Tensor, inputs: list[Tensor], graph: AtomGraph, forces: bool, stress: bool, create_graph: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Forces (N, 3) in eV/Å and stress (B, 3, 3) in eV/Å³ of energies (B,), None where not asked."""
    if not inputs:
        return None, None
    volume = volumes(graph) if stress else None
    if energy.requires_grad:
        with only_by_positions():
            grads = list(torch.autograd.grad(energy.sum(), inputs, create_graph=create_graph, materialize_grads=True))
    else:  # no pair, no parameter that needs a gradient: the energy depends on nothing
        grads = [torch.zeros_like(t) for t in inputs]
    force = -grads.pop(0) if forces else None
    if volume is None:
        return force, None
    return force, grads.pop(0) / volume.view(-1, 1, 1)
