"""MACE: higher-order equivariant message passing (Batatia et al., NeurIPS 2022, arXiv:2206.07697)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from e3nn import o3
from torch import nn

from mlip.errors import InputError
from mlip.graph import AtomGraph
from mlip.models.base import AtomOutputs, EnergyModel, Evaluator, Head
from mlip.models.compiled_mace import compiled_mace
from mlip.models.mace_layer import INTERACTIONS, SCALAR, Features, Layer, LayerOptions
from mlip.nn.activation import ACTIVATIONS
from mlip.nn.cutoff import PolynomialCutoff
from mlip.nn.irreps import Irreps, parse_irreps, spherical_irreps
from mlip.nn.message import Edges
from mlip.nn.radial import RadialEmbedding
from mlip.nn.readout import Readout
from mlip.nn.zbl import ZBL

#: e3nn's spherical harmonics end here.
HIGHEST_DEGREE = 11
T = TypeVar("T")


class MACE(EnergyModel):
    """MACE. `ScaleShiftMACE` of the reference implementation is this network in a `Potential` with scale and shift.

    Args:
        elements: atomic numbers.
        cutoff: r_max in Å.
        hidden_irreps: features between layers, one number of channels for all irreps; the last layer keeps the
            scalars only. A list instead gives the features each layer ends with.
        l_max: highest degree of the spherical harmonics (`max_ell`), of all layers or of each.
        correlation: highest order ν of the symmetric contraction, of all layers or of each; the body order of one layer
            is ν + 1.
        num_interactions: number of layers.
        num_bessel: number of radial basis functions.
        num_polynomial_cutoff: p of the polynomial envelope.
        radial_mlp: hidden sizes of the radial perceptron.
        avg_num_neighbors: messages are divided by this; the mean number of neighbors in the training set.
        mlp_irreps: hidden layer of the last readout, scalars such as "16x0e"; a single layer's readout is linear.
        interaction: kind of the layers after the first, a key of `INTERACTIONS`.
        interaction_first: kind of the first layer. "agnostic" and "density" have no residual: an atom alone then has
            zero energy.
        radial_basis: "bessel", "gaussian" or "chebyshev".
        distance_transform: None, "Agnesi", "Soft" or "early Soft", of the distances the basis functions are taken at.
        apply_cutoff: multiply the basis functions by the envelope; else the messages.
        pair_repulsion: add the ZBL repulsion.
        gate: activation in the last readout: "silu", "tanh", "abs" or "None".
        readout_bias: biases and a second hidden layer in the last readout.
        edge_irreps: features sent to neighbors, in the layers after the first or, as a list, in each; None: all.
        agnostic_product: the weights of the product do not depend on the element.
        last_readout_only: no energy is read from the layers before the last.
        keep_last_irreps: the last layer keeps all of hidden_irreps (its scalars alone are read out).
        so3: all features have even parity, such as "128x0e + 128x1e": mirror images may differ in energy.
        heads: names of the energies to learn at once, such as levels of theory.
    """

    def __init__(
        self,
        elements: Sequence[int],
        cutoff: float = 5.0,
        hidden_irreps: str | Sequence[str] = "128x0e",
        l_max: int | Sequence[int] = 3,
        correlation: int | Sequence[int] = 3,
        num_interactions: int = 2,
        num_bessel: int = 8,
        num_polynomial_cutoff: int = 5,
        radial_mlp: Sequence[int] = (64, 64, 64),
        avg_num_neighbors: float = 1.0,
        mlp_irreps: str = "16x0e",
        interaction: str = "residual",
        interaction_first: str = "agnostic",
        radial_basis: str = "bessel",
        distance_transform: str | None = None,
        apply_cutoff: bool = True,
        pair_repulsion: bool = False,
        gate: str = "silu",
        readout_bias: bool = False,
        edge_irreps: str | Sequence[str] | None = None,
        agnostic_product: bool = False,
        last_readout_only: bool = False,
        keep_last_irreps: bool = False,
        so3: bool = False,
        heads: Sequence[str] = ("default",),
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        plain = {name: list(v) if isinstance(v, list | tuple) else v for name, v in given.items()}  # as JSON has it
        super().__init__(**plain)  # type: ignore[arg-type]
        _check_options(given)
        degrees = _integers("l_max", l_max, num_interactions)
        readout_width, _ = parse_irreps(mlp_irreps)
        after = _layer_features(hidden_irreps, num_interactions, keep_last_irreps)
        self.l_max = max(degrees)
        self.embedding = nn.Parameter(torch.randn(len(self.elements), after[0].channels))
        self.radial = RadialEmbedding(
            *(self.elements, cutoff, num_bessel, radial_basis, distance_transform, num_polynomial_cutoff, apply_cutoff)
        )
        self.repulsion = ZBL(self.elements, num_polynomial_cutoff) if pair_repulsion else None
        self.layers, self.readouts = nn.ModuleList(), nn.ModuleList()
        unnatural = _unnatural(after)
        before = Features((SCALAR,), after[0].channels)
        for t, orders in enumerate(_integers("correlation", correlation, num_interactions)):
            options = LayerOptions(
                interaction=interaction if t else interaction_first,
                harmonics=spherical_irreps(degrees[t], so3),
                # Parities beyond the harmonics' own arise from the second layer on.
                message_irreps=_both_parities(degrees[t]) if unnatural and t else spherical_irreps(degrees[t], so3),
                radial_sizes=[num_bessel, *radial_mlp],
                correlation=orders,
                num_elements=len(self.elements),
                avg_num_neighbors=avg_num_neighbors,
                agnostic_product=agnostic_product,
            )
            sent = before
            if edge_irreps is not None and (t or not isinstance(edge_irreps, str)):
                sent = _features(_specifications("edge_irreps", edge_irreps, num_interactions)[t])
            self.layers.append(Layer(before, sent, after[t], options))
            last = t == num_interactions - 1
            if last or not last_readout_only:
                hidden = readout_width if last and t else None
                self.readouts.append(
                    Readout(after[t].channels, hidden, len(heads), gate, readout_bias and bool(hidden))
                )
            before = after[t]
        self.scalars = [features.scalars for features in after]
        self._layer_widths = tuple(features.channels for features in after)
        biased = readout_bias and num_interactions > 1
        self.isolated_is_E0 = interaction_first in ("agnostic", "density") and not biased
        self.cutoff_smoothness = PolynomialCutoff.smoothness
        cut_off = self.repulsion is not None and self.repulsion.reach > cutoff
        if cut_off or (apply_cutoff and "residual_nonlinear" in _kinds(given)):
            self.cutoff_smoothness = -1

    @property
    def layer_widths(self) -> tuple[int, ...]:
        return self._layer_widths

    def compiled(self, radial: str, trained: bool = False) -> Evaluator | None:
        return compiled_mace(self, radial, trained)

    def forward(self, graph: AtomGraph, head: Head = 0) -> AtomOutputs:
        species = self.species(graph.numbers)
        # Y is taken of the vector from neighbor to center, as published weights expect it.
        vectors = -graph.edge_vectors().to(self.dtype)
        length = vectors.norm(dim=1)
        elements = species[graph.edge_index]
        edges = Edges(
            graph.edge_index,
            o3.spherical_harmonics(list(range(self.l_max + 1)), vectors, normalize=True, normalization="component"),
            *self.radial(length, elements),
        )
        x = (self.embedding[species] / math.sqrt(len(self.elements))).unsqueeze(0)
        energy = length.new_zeros(species.shape[0], dtype=torch.float64)
        if self.repulsion is not None:
            energy = energy + self.repulsion(length, elements, graph.edge_index[0], species.shape[0])
        features = []
        for layer, scalars in zip(self.layers, self.scalars, strict=True):
            x = layer(x, species, edges)
            features.append(x[scalars])
        for readout, invariants in zip(self.readouts, features[-len(self.readouts) :], strict=True):
            energy = energy + readout(invariants, head)
        return AtomOutputs(energy=energy, features=torch.cat(features, dim=1))


def _check_options(given: Mapping[str, Any]) -> None:
    """Refuse arguments of `MACE` that can't be.

    Raises:
        InputError: one of them, with what was expected.
    """
    least = {"l_max": 0} | dict.fromkeys(
        ("correlation", "num_interactions", "num_bessel", "num_polynomial_cutoff", "radial_mlp"), 1
    )
    for name, lowest in least.items():
        value = given[name]
        if min([value] if isinstance(value, int) else [lowest, *value]) < lowest:
            raise InputError(f"{name} = {value}: expected at least {lowest}")
    layers = given["num_interactions"]
    if max(_integers("l_max", given["l_max"], layers)) > HIGHEST_DEGREE:
        raise InputError(f"l_max = {given['l_max']}: spherical harmonics go up to {HIGHEST_DEGREE}")
    if not 0 < given["avg_num_neighbors"] < math.inf:
        raise InputError(f"avg_num_neighbors = {given['avg_num_neighbors']}: expected a positive number")
    for name in ("interaction", "interaction_first"):
        if given[name] not in INTERACTIONS:
            raise InputError(f"{name} {given[name]!r}: expected one of {', '.join(INTERACTIONS)}")
    if given["gate"] not in ACTIVATIONS:
        raise InputError(f"gate {given['gate']!r}: expected one of {', '.join(ACTIVATIONS)}")
    if given["last_readout_only"] and layers == 1:
        raise InputError("last_readout_only: a single layer has no other readout; leave it out")
    if parse_irreps(given["mlp_irreps"])[1] != (SCALAR,):
        raise InputError(f"mlp_irreps {given['mlp_irreps']!r}: expected scalars only, such as '16x0e'")
    after = _layer_features(given["hidden_irreps"], layers, given["keep_last_irreps"])
    if _unnatural(after) and "residual_nonlinear" in _kinds(given):
        raise InputError("residual_nonlinear: its gate knows no pseudoscalars; leave 0o out of hidden_irreps")


def _kinds(given: Mapping[str, Any]) -> set[str]:
    """Kinds of interaction of the layers."""
    return {given["interaction_first"], *([given["interaction"]] if given["num_interactions"] > 1 else [])}


def _unnatural(after: Sequence[Features]) -> bool:
    """Whether there are pseudoscalars, so that all irreps of both parities arise."""
    return any(o3.Irrep("0o") in features.irreps for features in after)


def _integers(name: str, value: int | Sequence[int], num_layers: int) -> list[int]:
    return _counted(name, [value] * num_layers if isinstance(value, int) else value, num_layers)


def _specifications(name: str, value: str | Sequence[str], num_layers: int) -> list[str]:
    return _counted(name, [value] * num_layers if isinstance(value, str) else value, num_layers)


def _counted(name: str, values: Sequence[T], num_layers: int) -> list[T]:
    if len(values) != num_layers:
        raise InputError(f"{name} {list(values)}: expected one value or {num_layers}, one per layer")
    return list(values)


def _features(irreps: str) -> Features:
    channels, names = parse_irreps(irreps)
    return Features(names, channels)


def _layer_features(irreps: str | Sequence[str], num_layers: int, keep_last: bool) -> list[Features]:
    """What each layer ends with; a single specification means scalars only at the end."""
    after = [_features(spec) for spec in _specifications("hidden_irreps", irreps, num_layers)]
    if isinstance(irreps, str) and (not keep_last or num_layers == 1):
        after[-1] = Features((SCALAR,), after[-1].channels)
    return after


def _both_parities(l_max: int) -> Irreps:
    return tuple(sorted(o3.Irrep(degree, parity) for degree in range(l_max + 1) for parity in (1, -1)))
