"""High-dimensional neural network potentials.

Behler and Parrinello, PRL 98, 146401 (2007); Behler, IJQC 115, 1032 (2015).

In the words of message passing: the messages of an atom's neighbors, and of the pairs of them, are symmetry functions;
they are summed, G_i = Σ_j m(r_ij) + Σ_{j<k} m(r_ij, r_ik, r_jk); the update is the network of the atom's element,
E_i = f_Z(G_i); the readout is the sum E = Σ_i E_i.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from mlip.errors import InputError
from mlip.graph import AtomGraph
from mlip.models.base import AtomOutputs, EnergyModel, Head
from mlip.models.compiled_hdnnp import CompiledHDNNP
from mlip.nn.constants import KeepsPrecision
from mlip.nn.symmetry_functions import CutoffFunction, SymmetryFunction, smoothness
from mlip.nn.symmetry_groups import CenterEdges, ElementFunctions
from mlip.nn.symmetry_tables import symmetry_tables
from mlip.ops import SymmetryTables, runs_compiled
from mlip.ops.dispatch import full_precision

#: Activation functions by n2p2's letters and names.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "logistic": torch.sigmoid,
    "softplus": nn.functional.softplus,
    "relu": torch.relu,
    "gaussian": lambda x: torch.exp(-0.5 * x * x),
    "cos": torch.cos,
    "revlogistic": lambda x: 1 - torch.sigmoid(x),
    "exp": lambda x: torch.exp(-x),
    "harmonic": lambda x: x * x,
}


#: Part of a symmetry function that may be rounding: a sum over neighbors in another order, or by other code.
ROUNDING = 1e-9


class AtomicNetwork(nn.Module):
    """The perceptron of one element.

    Args:
        sizes: of the input, the hidden layers and the output, which is 1.
        activations: of the hidden layers and the output, keys of `ACTIVATIONS`.
        normalized: sums are divided by the number of their terms (n2p2's `normalize_nodes`).
    """

    def __init__(self, sizes: Sequence[int], activations: Sequence[str], normalized: bool = False) -> None:
        super().__init__()
        if len(activations) != len(sizes) - 1:
            raise InputError(f"{len(activations)} activation functions for {len(sizes) - 1} layers of a network")
        unknown = [name for name in activations if name not in ACTIVATIONS]
        if unknown:
            raise InputError(f"activation {unknown[0]!r}: expected one of {', '.join(ACTIVATIONS)}")
        self.activations, self.normalized = tuple(activations), normalized
        shapes = list(zip(sizes[:-1], sizes[1:], strict=True))
        self.weights = nn.ParameterList(torch.randn(fan_in, out) / max(fan_in, 1) ** 0.5 for fan_in, out in shapes)
        self.biases = nn.ParameterList(torch.zeros(out) for _, out in shapes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, sizes[0]) to (N, sizes[-1])."""
        for weight, bias, name in zip(self.weights, self.biases, self.activations, strict=True):
            x = x @ weight + bias
            if self.normalized:
                x = x / len(weight)
            x = ACTIVATIONS[name](x)
        return x


class Scaling(KeepsPrecision):
    """What the symmetry functions (K,) of one element are scaled with: (G - offset) · factor + base.

    In float64 always: a function that hardly reaches any neighbor has a range of 1e-135.

    Attributes:
        lowest, highest: (K,), the range of G in the training set; all zero if it is not known.
    """

    NAMES = ("offset", "factor", "base", "lowest", "highest")

    def __init__(self, count: int) -> None:
        super().__init__()
        for name in self.NAMES:
            self.register_buffer(name, torch.full((count,), float(name == "factor"), dtype=torch.float64))

    def forward(self, values: Tensor) -> Tensor:
        """(N, K) to (N, K)."""
        return (values - self.get_buffer("offset")) * self.get_buffer("factor") + self.get_buffer("base")

    @property
    def has_range(self) -> bool:
        """Whether the range in the training set is known."""
        return bool((self.get_buffer("lowest") != 0).any() or (self.get_buffer("highest") != 0).any())

    def outside(self, values: Tensor) -> Tensor:
        """(N,) how many of (N, K) are outside the range, by more than rounding."""
        lowest, highest = self.get_buffer("lowest"), self.get_buffer("highest")
        margin = ROUNDING * torch.maximum(lowest.abs(), highest.abs())
        return ((values < lowest - margin) | (values > highest + margin)).sum(dim=1)


class HDNNP(EnergyModel):
    """HDNNP of the second generation, as n2p2 and RuNNer have it.

    Args:
        elements: atomic numbers.
        cutoff: in Å, of the neighbor list: at least that of every symmetry function.
        symmetry_functions: of all elements, as `SymmetryFunction` or what its `to_json` gives; those of an element in
            the order of its network's input.
        hidden: sizes of the hidden layers, of all elements or by chemical symbol.
        activations: of the hidden layers and the output, keys of `ACTIVATIONS`, likewise.
        cutoff_function: a key of `mlip.nn.symmetry_functions.CUTOFFS`.
        inner_cutoff: up to this part of the cutoff it is 1.
        normalized: sums in the networks are divided by the number of their terms.

    Raises:
        InputError: an element without symmetry functions, a cutoff beyond that of the list, names that are not known.
    """

    isolated_is_E0 = False

    def __init__(
        self,
        elements: Sequence[int],
        cutoff: float,
        symmetry_functions: Sequence[SymmetryFunction | Mapping[str, Any]],
        hidden: Sequence[int] | Mapping[str, Sequence[int]] = (20, 20),
        activations: Sequence[str] | Mapping[str, Sequence[str]] = ("tanh", "tanh", "identity"),
        cutoff_function: str = "cos",
        inner_cutoff: float = 0.0,
        normalized: bool = False,
    ) -> None:
        functions = [SymmetryFunction.of(given) for given in symmetry_functions]
        super().__init__(
            elements,
            cutoff,
            symmetry_functions=[function.to_json() for function in functions],
            hidden=_plain(hidden),
            activations=_plain(activations),
            cutoff_function=cutoff_function,
            inner_cutoff=inner_cutoff,
            normalized=normalized,
        )
        window = CutoffFunction(cutoff_function, inner_cutoff)
        by_element = {z: [f for f in functions if f.center == z] for z in self.elements}
        self._check(functions, by_element)
        self._widths = tuple(len(own) for own in by_element.values())
        self.functions, self.scaling, self.networks = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for z, own in by_element.items():
            symbol = chemical_symbols[z]
            sizes = [len(own), *_of_element(hidden, symbol), 1]
            self.functions.append(ElementFunctions(own, window))
            self.networks.append(AtomicNetwork(sizes, _of_element(activations, symbol), normalized))
            self.scaling.append(Scaling(len(own)))
        self.cutoff_smoothness = smoothness(functions, window)
        #: The symmetry functions as the compiled operator takes them: on the CPU, wherever the network is.
        self.tables: SymmetryTables = symmetry_tables(by_element, window)

    def compiled(self, radial: str, trained: bool = False) -> CompiledHDNNP | None:
        return CompiledHDNNP(self) if runs_compiled(next(self.parameters()), cuda="symmetry_functions") else None

    def _check(
        self, functions: Sequence[SymmetryFunction], by_element: Mapping[int, Sequence[SymmetryFunction]]
    ) -> None:
        for z, own in by_element.items():
            if not own:
                raise InputError(f"no symmetry function for {chemical_symbols[z]}; expected some for each element")
        for function in functions:
            foreign = {function.center, *function.neighbors} - set(self.elements)
            if foreign:
                names = ", ".join(chemical_symbols[z] for z in sorted(foreign))
                raise InputError(f"a symmetry function of {names}, which is none of the model's elements")
            if function.cutoff > self.cutoff:
                raise InputError(
                    f"a symmetry function reaches to {function.cutoff} Å, beyond the cutoff {self.cutoff} Å"
                )

    def of_element(self, name: str, k: int) -> Tensor:
        """What the k-th element's symmetry functions are scaled with: one of `Scaling.NAMES`, (K,)."""
        return self.scaling[k].get_buffer(name)

    def network(self, k: int) -> AtomicNetwork:
        """That of the k-th element."""
        return cast("AtomicNetwork", self.networks[k])

    def symmetry_functions(self, graph: AtomGraph) -> list[tuple[Tensor, Tensor]]:
        """For each element its atoms (N_Z,) and their symmetry functions (N_Z, K), not scaled, in float64."""
        compiled = self.compiled("exact")
        return compiled.symmetry_functions(graph) if compiled else self.plain_symmetry_functions(graph)

    def plain_symmetry_functions(self, graph: AtomGraph) -> list[tuple[Tensor, Tensor]]:
        """The same in plain torch, with derivatives of any order."""
        species = self.species(graph.numbers)
        vectors = graph.edge_vectors()
        length = vectors.norm(dim=1)
        center, neighbor = graph.edge_index
        row, found = torch.zeros_like(species), []
        for k, functions in enumerate(self.functions):
            atoms = (species == k).nonzero().squeeze(1)
            row[atoms] = torch.arange(len(atoms), device=atoms.device)
            own = (species[center] == k).nonzero().squeeze(1)
            edges = CenterEdges(vectors[own], length[own], graph.numbers[neighbor[own]], row[center[own]], len(atoms))
            found.append((atoms, functions(edges)))
        return found

    def forward(self, graph: AtomGraph, head: Head = 0) -> AtomOutputs:
        with full_precision(graph.positions):
            return self.outputs(self.plain_symmetry_functions(graph), graph)

    def by_element(self, values: Tensor, species: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each element its atoms and their own columns of values (N, K) that all atoms have."""
        atoms = [(species == k).nonzero().squeeze(1) for k in range(len(self.elements))]
        return [(own, values[own, : len(self.of_element("base", k))]) for k, own in enumerate(atoms)]

    def outputs(self, found: Sequence[tuple[Tensor, Tensor]], graph: AtomGraph) -> AtomOutputs:
        """The networks' energies and features from what `symmetry_functions` gives."""
        extrapolations = self._extrapolations(graph, found)
        width = max(values.shape[1] for _, values in found)
        energy = graph.positions.new_zeros(len(graph.numbers), dtype=torch.float64)
        features = graph.positions.new_zeros(len(graph.numbers), width, dtype=self.dtype)
        for k, (atoms, values) in enumerate(found):
            scaled = self.scaling[k](values).to(self.dtype)
            energy = energy.index_add(0, atoms, self.network(k)(scaled).squeeze(1).to(torch.float64))
            features = features.index_add(0, atoms, nn.functional.pad(scaled, (0, width - scaled.shape[1])))
        return AtomOutputs(energy, features, extrapolations=extrapolations)

    @property
    def layer_widths(self) -> tuple[int, ...]:
        return (max(self._widths),)

    @property
    def element_widths(self) -> tuple[int, ...]:
        return self._widths

    @property
    def has_training_range(self) -> bool:
        return any(cast("Scaling", scaling).has_range for scaling in self.scaling)

    def extrapolations(self, graph: AtomGraph) -> Tensor | None:
        """(N,) how many symmetry functions of each atom lie outside the range they had in the training set.

        Those of an element without range count as inside. None if no element has one, as before training.
        """
        with torch.no_grad(), full_precision(graph.positions):
            return self._extrapolations(graph, self.symmetry_functions(graph)) if self.has_training_range else None

    def _extrapolations(self, graph: AtomGraph, found: Sequence[tuple[Tensor, Tensor]]) -> Tensor | None:
        """The same, of symmetry functions that are known."""
        ranges = [cast("Scaling", scaling) for scaling in self.scaling]
        known = [k for k, scaling in enumerate(ranges) if scaling.has_range]
        if not known:
            return None
        count = torch.zeros_like(graph.numbers)
        for k in known:
            atoms, values = found[k]
            count[atoms] = ranges[k].outside(values.detach())
        return count


def _of_element(option: Any, symbol: str) -> list[Any]:
    if not isinstance(option, Mapping):
        return list(option)
    if symbol not in option:
        raise InputError(f"nothing given for {symbol}; expected an entry for each element")
    return list(option[symbol])


def _plain(option: Any) -> Any:
    """As JSON has it."""
    return {key: list(v) for key, v in option.items()} if isinstance(option, Mapping) else list(option)
