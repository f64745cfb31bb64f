"""Edges in evaluators that take derivatives by their vectors: from the graph, and back to the atoms."""

from __future__ import annotations

from torch import Tensor

from mlip import ops
from mlip.graph import AtomGraph
from mlip.models.base import Derivatives


def edge_vectors(graph: AtomGraph) -> Tensor:
    """Vectors (E, 3) in Å from centers to neighbors."""
    return ops.edge_vectors(
        graph.positions, graph.cell, graph.edge_index.contiguous(), graph.edge_shift.contiguous(), graph.batch
    )


def first_derivatives(energy: Tensor, gradient: Tensor, vectors: Tensor, graph: AtomGraph, strain: bool) -> Derivatives:
    """Those by positions and, if wanted, strain, from the gradient (E, 3) by the vectors; without derivative."""
    edges = (graph.edge_index, graph.edge_shift, graph.batch)
    by_positions, _ = ops.edge_vectors_transposed(gradient, *edges, graph.n_graphs)
    return Derivatives(energy, by_positions, _by_strain(gradient, vectors, graph) if strain else None)


def _by_strain(gradient: Tensor, vectors: Tensor, graph: AtomGraph) -> Tensor:
    """∂E/∂ε (B, 3, 3) for vectors (E, 3) -> vectors (1 + ε), from the gradient by vectors."""
    if graph.n_graphs == 1:
        virial = ops.transposed_product(vectors, gradient).unsqueeze(0)
    else:
        products = (vectors.unsqueeze(2) * gradient.unsqueeze(1)).flatten(1)
        virial = ops.segment_sum(products, graph.batch[graph.edge_index[0]], graph.n_graphs).view(-1, 3, 3)
    return (virial + virial.transpose(1, 2)) / 2
