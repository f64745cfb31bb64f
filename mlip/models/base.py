"""What every architecture is: a network from an AtomGraph to the atoms' energies."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from numbers import Real
from operator import index
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from mlip.errors import InputError, UnknownElementError
from mlip.graph import AtomGraph

#: Index of a head, one for all atoms or, while several heads are trained, one of each atom (N,).
Head: TypeAlias = "int | Tensor"


class AtomOutputs(NamedTuple):
    """A network's answer per atom, in its own scale."""

    energy: Tensor  # (N,), of a property model the part of the property, or the charge
    features: Tensor | None = None  # (N, F), invariant descriptors
    dipole: Tensor | None = None  # (N, 3), turning with the structure
    extrapolations: Tensor | None = None  # (N,), as `EnergyModel.extrapolations` counts them


class Evaluator(Protocol):
    """A network or what stands for it: from a graph and the index of a head to the atoms' energies."""

    def __call__(self, graph: AtomGraph, head: Head = 0) -> AtomOutputs: ...


class Derivatives(NamedTuple):
    """First derivatives of the sum of all atoms' energies, in the network's own scale."""

    energy: Tensor  # (N,)
    positions: Tensor  # (N, 3)
    strain: Tensor | None = None  # (B, 3, 3), symmetric
    extrapolations: Tensor | None = None  # (N,), as in `AtomOutputs`


class EnergyModel(nn.Module, ABC):
    """Base class of the architectures. A model knows no units, no reference energies and no forces.

    Attributes:
        elements: atomic numbers the model knows, ascending.
        cutoff: radius in Å beyond which two atoms do not interact.
        isolated_is_E0: whether an atom without neighbors has zero energy in the network's own scale.
        cutoff_smoothness: number of derivatives of the energy that are continuous across the cutoff; -1: not even the
            energy is.
        heads: names of the energies the network can give, such as levels of theory it was fitted to.
    """

    isolated_is_E0: bool
    cutoff_smoothness: int

    def __init__(self, elements: Sequence[int], cutoff: float, **hyperparameters: Any) -> None:
        super().__init__()
        self.elements = _atomic_numbers(elements)
        self.cutoff = _radius(cutoff)
        self.heads: tuple[str, ...] = tuple(hyperparameters.get("heads", ("default",)))
        if not self.heads or len(set(self.heads)) != len(self.heads) or not all(isinstance(h, str) for h in self.heads):
            raise InputError(f"heads {list(self.heads)}: expected different names, at least one")
        #: Arguments that rebuild the model, as they stand in a weights file.
        self.hyperparameters: dict[str, Any] = {
            "elements": list(self.elements),
            "cutoff": self.cutoff,
            **hyperparameters,
        }
        index = torch.full((119,), -1)
        index[list(self.elements)] = torch.arange(len(self.elements))
        self.element_index: Tensor
        self.register_buffer("element_index", index, persistent=False)

    @abstractmethod
    def forward(self, graph: AtomGraph, head: Head = 0) -> AtomOutputs:
        """Atomic energies of all atoms of the batch, those of the `head`-th of `heads`, for all atoms or each (N,)."""

    def compiled(self, radial: str, trained: bool = False) -> Evaluator | None:
        """The same network by compiled operators, with its present parameters.

        Args:
            radial: radial functions "exact" or interpolated in a "table"; in training "either", whichever costs less.
            trained: with derivatives by the parameters, and of second order.

        Returns:
            None where there are no compiled operators for this network, this dtype or this device.
        """
        return None

    @property
    def has_training_range(self) -> bool:
        """Whether the model knows the range of its descriptors in the training set."""
        return False

    def extrapolations(self, graph: AtomGraph) -> Tensor | None:
        """(N,) how many descriptors of each atom lie outside the range they had in the training set.

        None of a model without `has_training_range`; another model has it in its `AtomOutputs`, too.
        """
        return None

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """How many of the `features` each layer gives, in their order; none of a model without descriptors."""
        return ()

    @property
    def element_widths(self) -> tuple[int, ...] | None:
        """How many `features` the atoms of each element have, where a column means another thing for each element."""
        return None

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def species(self, numbers: Tensor) -> Tensor:
        """Indices (N,) into `elements` of atomic numbers (N,).

        Raises:
            UnknownElementError: an element the model was not made for.
        """
        species = self.element_index[numbers]
        if bool((species < 0).any()):
            unknown = [chemical_symbols[z] for z in numbers[species < 0].unique().tolist()]
            known = ", ".join(chemical_symbols[z] for z in self.elements)
            raise UnknownElementError(
                f"the model does not know {', '.join(unknown)}; it was trained for {known}. "
                "Choose a model whose elements cover the structure"
            )
        return species


def _radius(cutoff: Any) -> float:
    radius = float(cutoff) if isinstance(cutoff, Real) else math.nan
    if not 0 < radius < math.inf:
        raise InputError(f"cutoff {cutoff!r}: expected a positive, finite radius in Å")
    return radius


def _atomic_numbers(elements: Sequence[int]) -> tuple[int, ...]:
    """Sorted, each once.

    Raises:
        InputError: none, or what is no atomic number.
    """
    try:
        numbers = tuple(sorted({index(z) for z in elements}))
    except TypeError:
        numbers = ()
    if not numbers or not all(1 <= z <= 118 for z in numbers):
        given = elements if isinstance(elements, str) or not isinstance(elements, Iterable) else list(elements)
        raise InputError(f"elements {given!r}: expected atomic numbers from 1 to 118, at least one")
    return numbers
