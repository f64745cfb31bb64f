"""MACE by the compiled operators.

In exact arithmetic the numbers are those of `MACE.forward`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from mlip import ops
from mlip.graph import AtomGraph
from mlip.models.base import AtomOutputs, Derivatives, Evaluator, Head
from mlip.models.compiled_edges import edge_vectors, first_derivatives
from mlip.models.compiled_layer import CompiledLayer
from mlip.models.compiled_maps import of_present
from mlip.models.compiled_message import Interpolation, Pairs
from mlip.models.compiled_radial import RadialInputs
from mlip.models.compiled_readout import CompiledReadout
from mlip.models.mace_layer import Layer
from mlip.models.narrowed import narrow
from mlip.models.radial_tables import RadialTables
from mlip.nn.readout import Readout
from mlip.ops.dispatch import full_precision
from mlip.ops.tape import Pullback, Run, Tape, cast_to, directly, rule_of

if TYPE_CHECKING:
    from mlip.models.mace import MACE

#: Radial functions of all edges, in one layer, up to which pairs share them: nearly twice as fast, for a quarter more
#: memory; beyond, those of a few atoms at a time are made.
MOST_SHARED_BYTES = 500_000_000


def compiled_mace(model: MACE, radial: str, trained: bool) -> Evaluator | None:
    """`model` by compiled operators, None where they do not cover its precision or device."""
    return CompiledMACE(model, radial, trained) if is_covered(model) else None


def is_covered(model: MACE) -> bool:
    """Whether there are compiled operators for its precision on its device."""
    return bool(ops.runs_compiled(model.embedding, cuda="message_interpolated"))


def layers_of(model: MACE) -> list[Layer]:
    return cast("list[Layer]", list(model.layers))


class CompiledMACE:
    """The network, with its parameters as they are when this is made.

    Args:
        model: the network.
        radial: "exact", "table", or "either": in training, a table where there are many more pairs than knots.
        trained: derivatives by the parameters go to those of `model`.
    """

    def __init__(self, model: MACE, radial: str, trained: bool) -> None:
        self.model, self.trained = model, trained
        # Products of parameters are made in float64 where that costs nothing at each evaluation.
        double = model if trained else deepcopy(model).double().requires_grad_(False)
        for layer in [] if trained else layers_of(double):
            narrow(layer)
        self._double = double
        self._constant: list[CompiledLayer] | None = None
        if not trained:
            self._constant = self.layers(None)
        self.readouts = [
            CompiledReadout(readout, model.dtype, trained) for readout in cast("list[Readout]", list(double.readouts))
        ]
        # Radial functions of the gated kind depend on embeddings of both elements.
        tabulated = radial != "exact" and not any(layer.nonlinear for layer in layers_of(double))
        self.tables = RadialTables(double, layers_of(double), model.dtype, trained) if tabulated else None
        self.either = radial == "either"
        self.radial_functions = "table" if tabulated else "exact"

    def layers(self, present: Tensor | None) -> list[CompiledLayer]:
        """Those of constant parameters or, while they are trained, with weights of the elements `present` (S,)."""
        if self._constant is not None:
            return self._constant
        model, trained = self._double, self.trained
        elements = (of_present(model.embedding, present) / math.sqrt(len(model.elements))).unsqueeze(0)
        return [
            CompiledLayer(layer, None if t else elements, self.model.dtype, trained, present)
            for t, layer in enumerate(layers_of(model))
        ]

    def __call__(self, graph: AtomGraph, head: Head = 0) -> AtomOutputs:
        if graph.edge_index.shape[1] == 0:  # only lone atoms, or none
            return self.model(graph, head)
        wanted = self.trained or graph.positions.requires_grad or graph.cell.requires_grad
        with torch.set_grad_enabled(torch.is_grad_enabled() and wanted), full_precision(graph.positions):
            graph = graph._replace(edge_index=graph.edge_index.contiguous())
            return AtomOutputs(*self._evaluate(directly, edge_vectors(graph), graph, head))

    def first_derivatives(self, graph: AtomGraph, head: Head = 0, strain: bool = True) -> Derivatives:
        """Energies and their first derivatives by a reverse pass of its own, several times faster for few atoms.

        Args:
            graph: the atoms; nothing that leads to them is differentiated.
            head: index of the head.
            strain: also the derivative by a symmetric strain of positions and cell.
        """
        with torch.no_grad(), full_precision(graph.positions):
            if graph.edge_index.shape[1] == 0:
                none = torch.zeros_like(graph.cell) if strain else None
                return Derivatives(self.model(graph, head).energy, torch.zeros_like(graph.positions), none)
            graph = graph._replace(edge_index=graph.edge_index.contiguous())
            vectors = edge_vectors(graph)
            tape = Tape(vectors)
            energy, _ = self._evaluate(tape, vectors, graph, head)
            (gradient,) = tape.gradients(energy, torch.ones_like(energy), [vectors])
            assert gradient is not None
            return first_derivatives(energy, gradient, vectors, graph, strain)

    def _undirected(self, graph: AtomGraph, layers: list[CompiledLayer]) -> tuple[Tensor, Tensor] | None:
        """The pairs of atoms without direction, whose radial functions are computed once; None: each edge its own.

        Where autograd does not watch, `RadialInputs` shares what has equal distances instead.
        """
        # Gates and densities are made of the edges' own.
        shares = all(layer.gate is None and layer.density is None for layer in layers)
        if not shares or not torch.is_grad_enabled() or not graph.positions.is_cpu:
            return None
        num_edges = graph.edge_index.shape[1]
        if max(layer.message.bytes_of_radial(num_edges) for layer in layers) > MOST_SHARED_BYTES:
            return None
        return ops.undirected(graph.edge_index, graph.edge_shift, len(graph.numbers))

    def _evaluate(self, run: Run, vectors: Tensor, graph: AtomGraph, head: Head) -> tuple[Tensor, Tensor]:
        """Energies (N,) and features (N, F)."""
        model, dtype = self.model, self.model.dtype
        elements = model.species(graph.numbers)
        present, of_pair = elements.unique(), elements[graph.edge_index]
        species, kinds = elements, present
        if not self.trained or len(present) == len(model.elements):
            layers = self.layers(None)
        else:
            layers, species = self.layers(present), torch.searchsorted(present, elements)
            kinds = torch.arange(len(present), device=present.device)
        center, neighbor = graph.edge_index
        harmonics, distance = run(ops.spherical_harmonics, vectors, model.l_max)
        harmonics = run(cast_to, harmonics, dtype)
        couplings: dict[ops.MessageProgram, Tensor] = {}
        for layer in layers:
            if layer.message.program not in couplings:
                couplings[layer.message.program] = layer.message.couple(run, harmonics)
        offsets = ops.row_offsets(center, len(species))
        energy: Tensor | None = None
        if model.repulsion is not None:
            energy = run(model.repulsion, distance, of_pair, center, len(species))
        # In float64: a distance rounded to float32 may be a thousandth of an interval off.
        place = None
        if self.tables and (not self.either or self.tables.worthwhile(len(distance), present)):
            place = self.tables.place(run, distance, of_pair, present)
        undirected = self._undirected(graph, layers) if place is None else None
        shared = None
        if undirected is not None:
            first, shared = undirected
            distance, of_pair = run(torch.index_select, distance, 0, first), of_pair[:, first]
        inputs = RadialInputs(run, model.radial, distance, of_pair, dtype)
        pairs = Pairs(graph.edge_index, neighbor, offsets, harmonics, elements, species, kinds, couplings, shared)
        x: Tensor | None = None
        features = []
        for t, layer in enumerate(layers):
            x = layer(run, x, pairs, place and Interpolation(place.weights, place.knot, place.tables[t]), inputs)
            features.append(run(invariants_of, x, model.scalars[t], layer.channels))
        for readout, invariants in zip(self.readouts, features[-len(self.readouts) :], strict=True):
            term = run(cast_to, readout(run, invariants, head), torch.float64)
            energy = term if energy is None else run(torch.add, energy, term)
        assert energy is not None
        return energy, torch.cat(features, dim=1)


def invariants_of(x: Tensor, component: int, channels: int) -> Tensor:
    """Scalars (N, C) among features (D, N, padded C)."""
    return x[component, :, :channels]


@rule_of(invariants_of)
def _invariants_of(needed: Sequence[bool], x: Tensor, component: int, channels: int) -> tuple[Tensor, Pullback]:
    shape = x.shape

    def pullback(g: Tensor) -> Sequence[Tensor]:
        if shape == (1, *g.shape):
            return (g.unsqueeze(0),)
        whole = g.new_zeros(shape)
        whole[component, :, :channels] = g
        return (whole,)

    return invariants_of(x, component, channels), pullback
