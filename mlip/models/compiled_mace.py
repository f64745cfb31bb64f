"""MACE by the compiled operators.

In exact arithmetic the numbers are those of `MACE.forward`.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from mlip import ops
from mlip.graph import AtomGraph
from mlip.models.base import AtomOutputs, Evaluator
from mlip.models.compiled_layer import CompiledLayer
from mlip.models.compiled_message import Interpolation, Pairs
from mlip.models.mace_layer import Layer
from mlip.models.radial_tables import RadialTables
from mlip.nn.message import Edges

if TYPE_CHECKING:
    from mlip.models.mace import MACE


def compiled_mace(model: MACE, radial: str, trained: bool) -> Evaluator | None:
    """`model` by compiled operators, None where they do not cover its precision or device."""
    return (
        CompiledMACE(model, radial, trained)
        if ops.runs_compiled(model.embedding, cuda="message_interpolated")
        else None
    )


def layers_of(model: MACE) -> list[Layer]:
    return cast("list[Layer]", list(model.layers))


class CompiledMACE:
    """The network, with its parameters as they are when this is made.

    Args:
        model: the network.
        radial: "exact" or "table".
        trained: derivatives by the parameters go to those of `model` (then `radial` is "exact").
    """

    def __init__(self, model: MACE, radial: str, trained: bool) -> None:
        self.model = model
        # Products of parameters are made in float64 where that costs nothing at each evaluation.
        double = model if trained else deepcopy(model).double().requires_grad_(False)
        elements = (double.embedding / math.sqrt(len(model.elements))).unsqueeze(0)
        self.layers = [
            CompiledLayer(layer, None if t else elements, model.dtype) for t, layer in enumerate(layers_of(double))
        ]
        # Radial functions of the gated kind depend on embeddings of both elements.
        tabulated = radial == "table" and not any(layer.nonlinear for layer in layers_of(double))
        self.tables = RadialTables(double, layers_of(double), model.dtype) if tabulated else None
        self.radial_functions = "table" if tabulated else "exact"

    def __call__(self, graph: AtomGraph, head: int = 0) -> AtomOutputs:
        model, dtype = self.model, self.model.dtype
        if graph.edge_index.shape[1] == 0:  # only lone atoms, or none
            return model(graph, head)
        graph = graph._replace(edge_index=graph.edge_index.contiguous())
        species = model.species(graph.numbers)
        center, neighbor = graph.edge_index
        vectors = ops.edge_vectors(graph.positions, graph.cell, graph.edge_index, graph.edge_shift, graph.batch)
        harmonics, distance = ops.spherical_harmonics(vectors, model.l_max)
        harmonics = harmonics.to(dtype)
        pairs = Pairs(neighbor, ops.row_offsets(center, len(species)), harmonics, species, species.unique())
        of_pair = species[graph.edge_index]
        energy = torch.zeros(len(species), dtype=torch.float64, device=species.device)
        if model.repulsion is not None:
            energy = energy + model.repulsion(distance, of_pair, center, len(species))
        # In float64: a distance rounded to float32 may be a thousandth of an interval off.
        place = None if self.tables is None else self.tables.place(distance, of_pair, pairs.present)
        edges = None
        if place is None or any(layer.needs_edges for layer in self.layers):
            edges = Edges(graph.edge_index, harmonics, *model.radial(distance.to(dtype), of_pair))
        x: Tensor | None = None
        features = []
        for t, layer in enumerate(self.layers):
            x = layer(x, pairs, place and Interpolation(place.weights, place.knot, place.tables[t]), edges)
            features.append(x[model.scalars[t], :, : layer.channels])
        for readout, invariants in zip(model.readouts, features[-len(model.readouts) :], strict=True):
            energy = energy + readout(invariants, head)
        return AtomOutputs(energy=energy, features=torch.cat(features, dim=1))
