"""Invariant descriptors of atoms: what a network knows of an atom's surroundings before it reads out a number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlip.errors import InputError
from mlip.graph import AtomGraph
from mlip.models.base import EnergyModel
from mlip.potential import Potential
from mlip.property_model import PropertyModel


def descriptor_widths(network: EnergyModel, num_layers: int = -1) -> tuple[int, ...]:
    """How many descriptors come from each of the first `num_layers` layers, -1: of all.

    Raises:
        InputError: a network without descriptors; more layers than it has.
    """
    widths = network.layer_widths
    if not widths:
        raise InputError(f"{type(network).__name__} has no descriptors; MACE, DimeNet, DimeNet++ and HDNNP have some")
    if num_layers != -1 and not 1 <= num_layers <= len(widths):
        of_all = f"from 1 to {len(widths)}, or -1 for all" if len(widths) > 1 else "1 or -1, as there is one layer"
        raise InputError(f"num_layers is {num_layers}; expected {of_all}")
    of_elements = network.element_widths
    if of_elements is not None:
        return (sum(of_elements),)
    return widths if num_layers == -1 else widths[:num_layers]


def descriptors(model: Potential | PropertyModel, graph: AtomGraph, num_layers: int = -1) -> Tensor:
    """Invariant descriptors (N, F) of all atoms of a batch, in the network's precision.

    - MACE: the scalar features after each layer, one layer after the other, as mace-torch's `get_descriptors` with
      `invariants_only`.
    - DimeNet, DimeNet++: what each output block has of an atom before its last linear map, one block after the other.
    - HDNNP: the scaled symmetry functions. Those of each element have columns of their own, in the order of the model's
      elements, and are zero for the atoms of others: the same column of two elements would be two different functions.

    Args:
        model: a potential or a property model.
        graph: the structures, with pairs up to the model's cutoff at least.
        num_layers: of the first layers only; -1: of all.

    Raises:
        InputError: no AtomGraph, a network without descriptors, more layers than it has.
        UnknownElementError: an element the model does not know.
    """
    if not isinstance(graph, AtomGraph):
        raise InputError(f"expected an AtomGraph, not {type(graph).__name__}; see mlip.convert.atoms_to_graph")
    network = model.model
    width = sum(descriptor_widths(network, num_layers))
    species = network.species(graph.numbers)
    with torch.inference_mode(False), torch.no_grad():
        features = model.acceleration.evaluator(network)(graph, 0).features
    if features is None:
        raise InputError(f"{type(network).__name__} gave no descriptors")
    if network.element_widths is not None:
        features = _in_columns_of_elements(features, species, network.element_widths)
    return features[:, :width].detach()


def _in_columns_of_elements(features: Tensor, species: Tensor, widths: Sequence[int]) -> Tensor:
    """From (N, most of an element) to (N, sum over the elements)."""
    spread = features.new_zeros(len(species), sum(widths))
    start = 0
    for k, width in enumerate(widths):
        own = (species == k).nonzero().squeeze(1)
        spread[own, start : start + width] = features[own, :width]
        start += width
    return spread
