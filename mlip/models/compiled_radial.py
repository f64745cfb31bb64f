"""The radial network before its last layer, by the compiled operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mlip import ops
from mlip.models.compiled_maps import in_precision
from mlip.nn.activation import SILU_GAIN
from mlip.nn.radial import BesselBasis, NormalizedMLP, RadialEmbedding, RadialMLP
from mlip.ops.tape import Pullback, Run, rule_of

#: Of derivatives by the distance, which are computed again where they take more: in systems whose memory is scarce.
MOST_KEPT_BYTES = 200_000_000


class Dual(NamedTuple):
    """Functions of the U different distances and their derivatives."""

    basis: Tensor  # (U, n)
    tangent: Tensor  # (U, n)
    envelope: tuple[Tensor, Tensor] | None  # (U,) both, where the basis does not contain it
    place: Tensor  # (E,), which of the different distances each edge has


class RadialInputs:
    """What the exact radial functions of all layers are made of, each computed when it is asked for.

    Args:
        run: calls the operators.
        embedding: the model's.
        distance: (E,) Å, float64, of the edges or, as all that is made of them, of pairs without direction.
        elements: element indices (2, E).
        dtype: of the evaluation.
    """

    def __init__(
        self, run: Run, embedding: RadialEmbedding, distance: Tensor, elements: Tensor, dtype: torch.dtype
    ) -> None:
        self.run, self.embedding, self.distance, self.elements, self.dtype = run, embedding, distance, elements, dtype
        self._basis: tuple[Tensor, Tensor | None] | None = None
        self._dual: Dual | None = None

    def basis(self) -> tuple[Tensor, Tensor | None]:
        """Basis functions (E, n) and, where they do not contain it, the envelope (E, 1)."""
        if self._basis is None:
            values, *envelope = self.run(self._embed, self.distance)
            self._basis = values, (envelope[0] if envelope else None)
        return self._basis

    def dual(self) -> Dual | None:
        """Basis functions with their derivatives, where no others are wanted and there is an operator for the basis."""
        basis, envelope = self.embedding.basis, self.embedding.envelope
        if torch.is_grad_enabled() or not isinstance(basis, BesselBasis):
            return None
        if self._dual is None:
            first, place = ops.distinct(self.distance.detach(), self._kinds())
            distance = self.distance.index_select(0, first)
            found = ops.bessel_basis(
                *(distance, basis.frequencies, basis.prefactor.item(), envelope.cutoff, envelope.p),
                apply_cutoff=self.embedding.apply_cutoff,
                dtype=self.dtype,
                transformed=self._transformed(distance, first),
            )
            apart = None if found[2] is None or found[3] is None else (found[2], found[3])
            self._dual = Dual(found[0], found[1], apart, place)
        return self._dual

    def _kinds(self) -> Tensor | None:
        """A number for each pair of elements whose distances are transformed alike."""
        if self.embedding.transform is None:
            return None
        low, high = self.elements.aminmax(dim=0)
        return (low * 128 + high).double()

    def _transformed(self, distance: Tensor, first: Tensor) -> tuple[Tensor, Tensor] | None:
        """Transformed distances (U,) and their derivatives."""
        if self.embedding.transform is None:
            return None
        with torch.enable_grad():
            distance = distance.detach().requires_grad_()
            transformed = self.embedding.transform(distance, self.elements[:, first])
            (slope,) = torch.autograd.grad(transformed.sum(), distance)
        return transformed.detach(), slope

    def _embed(self, distance: Tensor) -> list[Tensor]:
        return [t for t in self.embedding(distance.to(self.dtype), self.elements) if t is not None]


class Hidden:
    """The radial network without its last layer."""

    def __init__(self, network: RadialMLP | NormalizedMLP, dtype: torch.dtype) -> None:
        self.network, self.weights = None, []
        if isinstance(network, NormalizedMLP):
            self.network = in_precision(network, dtype)
        else:
            scaled = [w / math.sqrt(len(w)) for w in network.weights]
            gains = [1.0] + [SILU_GAIN] * (len(scaled) - 1)
            self.weights = [ops.of_parameters((w * gain).to(dtype)) for w, gain in zip(scaled, gains, strict=True)][:-1]
        few = 1 <= len(self.weights) <= ops.MOST_LAYERS
        self.packed = torch.cat([weight.flatten() for weight in self.weights]) if few else None

    def __call__(self, inputs: RadialInputs, features: Tensor | None = None) -> Tensor:
        """Activations (E, h), times the envelope.

        Args:
            inputs: basis functions and envelope.
            features: (E, n) into the network instead of the basis functions.
        """
        dual = inputs.dual() if features is None and self.packed is not None else None
        if dual is not None:
            widths = [weight.shape[1] for weight in self.weights]
            activations: Tensor = inputs.run(activations_of, inputs.distance, dual, self.packed, widths)
            return activations
        basis, envelope = inputs.basis()
        out: Tensor = inputs.run(self._perceptron, basis if features is None else features, envelope)
        return out

    def _perceptron(self, x: Tensor, envelope: Tensor | None) -> Tensor:
        if self.network is not None:
            x = self.network.hidden(x)
            x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)  # the last layer has a bias
        for weight in self.weights:
            x = ops.silu(ops.matmul(x, weight))  # its gain is in the next matrix
        return x if envelope is None else x * envelope


def activations_of(distance: Tensor, dual: Dual, weights: Tensor, widths: Sequence[int]) -> Tensor:
    """Activations (E, h) of a perceptron of basis functions of `distance` (E,)."""
    basis, tangent, envelope, place = dual
    return ops.take_rows(ops.radial_activations(basis, tangent, weights, widths, envelope)[0], place)


@rule_of(activations_of)
def _activations_of(
    needed: Sequence[bool], distance: Tensor, dual: Dual, weights: Tensor, widths: Sequence[int]
) -> tuple[Tensor, Pullback]:
    dtype = distance.dtype
    basis, tangent, envelope, place = dual
    activations, slopes = ops.radial_activations(basis, tangent, weights, widths, envelope)
    rows = ops.take_rows(activations, place)
    kept = slopes if slopes.numel() * slopes.element_size() <= MOST_KEPT_BYTES else None

    def pullback(g: Tensor) -> Sequence[Tensor]:
        again = kept if kept is not None else ops.radial_activations(basis, tangent, weights, widths, envelope)[1]
        return (ops.rowwise_dot(g, again, place).to(dtype),)

    return rows, pullback


def last_matrix(network: RadialMLP | NormalizedMLP) -> Tensor:
    """Matrix (h, n) of the last layer of a radial network, for the activations of `Hidden`."""
    if isinstance(network, NormalizedMLP):
        return torch.cat([network.last.weight.T, network.last.bias.unsqueeze(0)])
    weights = list(network.weights)
    gain = SILU_GAIN if len(weights) > 1 else 1.0
    return weights[-1] * (gain / math.sqrt(len(weights[-1])))
