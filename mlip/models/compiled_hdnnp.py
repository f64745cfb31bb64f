"""HDNNP with symmetry functions by the compiled operator. In exact arithmetic the numbers are those of `HDNNP`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mlip import ops
from mlip.graph import AtomGraph
from mlip.models.base import AtomOutputs, Derivatives, Head
from mlip.models.compiled_edges import edge_vectors, first_derivatives
from mlip.ops.dispatch import full_precision

if TYPE_CHECKING:
    from mlip.models.hdnnp import HDNNP


class CompiledHDNNP:
    """The network with its present parameters.

    Args:
        model: the network; derivatives by its parameters go to it.
    """

    def __init__(self, model: HDNNP) -> None:
        self.model = model

    def edges(self, graph: AtomGraph) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets of the centers, elements of the neighbors, elements of the atoms."""
        species = self.model.species(graph.numbers)
        center, neighbor = graph.edge_index
        return ops.row_offsets(center.contiguous(), len(species)), species[neighbor], species

    def symmetry_functions(self, graph: AtomGraph) -> list[tuple[Tensor, Tensor]]:
        """As `HDNNP.symmetry_functions`."""
        edges = self.edges(graph)
        found = ops.symmetry_functions(edge_vectors(graph), *edges, self.model.tables)
        return self.model.by_element(found, edges[-1])

    def __call__(self, graph: AtomGraph, head: Head = 0) -> AtomOutputs:
        with full_precision(graph.positions):
            return self.model.outputs(self.symmetry_functions(graph), graph)

    def first_derivatives(self, graph: AtomGraph, head: Head = 0, strain: bool = True) -> Derivatives:
        """Energies and their first derivatives; autograd sees the networks alone.

        Args:
            graph: the atoms; nothing that leads to them is differentiated.
            head: index of the head.
            strain: also the derivative by a symmetric strain of positions and cell.
        """
        model = self.model
        with torch.no_grad(), full_precision(graph.positions):
            vectors = edge_vectors(graph).to(torch.float64)
            edges, tables = self.edges(graph), model.tables
            values = ops.symmetry_functions(vectors, *edges, tables)
            with torch.enable_grad():
                values.requires_grad_(True)
                outputs = model.outputs(model.by_element(values, edges[-1]), graph)
                (grad,) = torch.autograd.grad(outputs.energy.sum(), values)
            gradient = ops.symmetry_functions_gradient(grad, vectors, *edges, tables)
            found = first_derivatives(outputs.energy.detach(), gradient, vectors, graph, strain)
            return found._replace(extrapolations=outputs.extrapolations)
