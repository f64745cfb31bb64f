"""Potential: an energy model with reference energies, and its forces and stresses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from os import PathLike
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mlip.acceleration import Acceleration
from mlip.derivatives import derivatives, differentiable, volumes
from mlip.energy_scale import EnergyScale, Reference
from mlip.errors import InputError
from mlip.graph import AtomGraph
from mlip.models.base import Derivatives, EnergyModel
from mlip.ops import segment_sum


class Prediction(NamedTuple):
    """What a potential says of a batch of B structures with N atoms."""

    energy: Tensor  # (B,) eV, float64
    atom_energies: Tensor  # (N,) eV, float64, E0 included: they sum to `energy`
    forces: Tensor | None = None  # (N, 3) eV/Å
    stress: Tensor | None = None  # (B, 3, 3) eV/Å³, positive under tension
    extrapolations: Tensor | None = None  # (N,), as `Potential.extrapolations` counts them


def usable_device(device: str | torch.device) -> torch.device:
    """The device of that name.

    Raises:
        InputError: torch does not know it or can't use it on this machine.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # which one depends on the device
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device {str(device)!r} can't be used ({reason}); expected cpu, or cuda where torch finds a GPU"
        ) from error


def head_index(heads: Sequence[str], name: str | None) -> int:
    """Where `name` is in `heads`; None takes the only one, or the one called "default" in any case.

    Raises:
        InputError: no such head, or several and none chosen.
    """
    listed = ", ".join(map(repr, heads))
    if name is not None:
        if name not in heads:
            raise InputError(f"the model has no head {name!r}; expected one of {listed}")
        return list(heads).index(name)
    default = [k for k, head in enumerate(heads) if len(heads) == 1 or head.lower() == "default"]
    if len(default) != 1:
        raise InputError(f"the model has several heads and none is chosen; choose one of {listed} by its name")
    return default[0]


class Potential(nn.Module):
    """Energies, forces and stresses from an `EnergyModel`.

    A model of several heads (one network fitted to several levels of theory) gives the energies of one of them, chosen
    here or with `with_head`.

    Args:
        model: the network.
        E0s: energy of an isolated atom in eV by atomic number, for each of the model's elements.
        scale: the network's energies are multiplied by this (eV).
        shift: and this is added per atom (eV).
        metadata: JSON-able provenance that is saved with the weights (training command, data, errors).
        references: instead of E0s, scale and shift, those of each head of the model, in its order.
        head: name of the head to use; None takes the only one, or the one called "default".

    Raises:
        InputError: reference energies that are missing or not finite; no such head, or several and none chosen.
    """

    def __init__(
        self,
        model: EnergyModel,
        E0s: Mapping[int, float] | None = None,
        scale: float = 1.0,
        shift: float = 0.0,
        metadata: Mapping[str, Any] | None = None,
        references: Sequence[Reference] | None = None,
        head: str | None = None,
    ) -> None:
        super().__init__()
        if references is None:
            references = [Reference(E0s or {}, scale, shift)] * len(model.heads)
        if len(references) != len(model.heads):
            raise InputError(f"{len(references)} references for {len(model.heads)} heads ({', '.join(model.heads)})")
        self.model = model
        self.energy_scale = EnergyScale(model.elements, references)
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.acceleration = Acceleration()
        self._choose(head)

    def _choose(self, head: str | None) -> None:
        self.energy_scale.head = head_index(self.heads, head)

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the levels of theory the network can answer for."""
        return self.model.heads

    @property
    def head(self) -> str:
        """The one it answers for."""
        return self.heads[self.energy_scale.head]

    def with_head(self, name: str) -> Potential:
        """A copy that answers for another head.

        Raises:
            InputError: the model has no head of that name.
        """
        other = deepcopy(self)
        other._choose(name)
        return other

    @property
    def cutoff(self) -> float:
        return self.model.cutoff

    @property
    def elements(self) -> tuple[int, ...]:
        return self.model.elements

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        return self.energy_scale.E0s.device

    @property
    def E0s(self) -> dict[int, float]:
        """Reference energies of the head in use, eV by atomic number."""
        return dict(zip(self.elements, self.energy_scale.E0s.tolist(), strict=True))

    @property
    def has_training_range(self) -> bool:
        """Whether the model knows the range of its descriptors in the training set, as one of n2p2 does."""
        return self.model.has_training_range

    def extrapolations(self, graph: AtomGraph) -> Tensor | None:
        """(N,) how many descriptors of each atom lie outside the range they had in the training set.

        None of a model that has no such range. A `Prediction` has it too, without computing anything twice.
        """
        return self.model.extrapolations(graph)

    @property
    def isolated_is_E0(self) -> bool:
        """Whether an atom alone has exactly its reference energy."""
        return self.model.isolated_is_E0 and self.energy_scale.shift.item() == 0

    def forward(
        self,
        graph: AtomGraph,
        forces: bool = True,
        stress: bool = True,
        training: bool = False,
        heads: Tensor | None = None,
    ) -> Prediction:
        """Evaluate a batch.

        Args:
            graph: positions and cell in float64 (recommended whatever the model's dtype is) or in the model's dtype.
            forces: also the forces.
            stress: also the stress; every structure needs a three-dimensional cell.
            training: keep the graph of the derivatives, for a loss on forces.
            heads: while several heads are trained at once, the index (B,) of each structure's, in place of that in use.

        Raises:
            UnknownElementError: an element the model does not know.
            InputError: not an AtomGraph; stress of a structure without a three-dimensional cell; positions that require
                gradients, without `training`.
        """
        if not isinstance(graph, AtomGraph):
            raise InputError(
                f"a potential takes an AtomGraph, not {type(graph).__name__}; make one with "
                "mlip.convert.atoms_to_graph(atoms, potential.cutoff), or use mlip.MLIPCalculator"
            )
        wanted = graph.positions.requires_grad or graph.cell.requires_grad
        if wanted and not training and torch.is_grad_enabled():
            raise InputError(
                "positions or cell require gradients, but the answers of a plain evaluation have none: pass "
                "training=True to differentiate through them, or detach positions and cell"
            )
        if torch.is_inference_mode_enabled():
            # Inside that mode derivatives would all be zero, and what is kept for later could not be used outside.
            with torch.inference_mode(False), torch.no_grad():
                return self.forward(AtomGraph(*(t.clone() for t in graph)), forces, stress, training, heads)
        species = self.model.species(graph.numbers)
        evaluate = (self.acceleration.trainer if training else self.acceleration.evaluator)(self.model)
        head = None if heads is None else heads[graph.batch]
        if (forces or stress) and not training and head is None and hasattr(evaluate, "first_derivatives"):
            found = evaluate.first_derivatives(graph, self.energy_scale.head, strain=stress)
            return self._prediction(found, graph, species, forces)
        with torch.set_grad_enabled(forces or stress or torch.is_grad_enabled()):
            graph_in, inputs = differentiable(graph, forces, stress)
            outputs = evaluate(graph_in, self.energy_scale.head if head is None else head)
            atom_energies = self.energy_scale(outputs.energy, species, head)
            energy = segment_sum(atom_energies, graph.batch, graph.n_graphs)
            force, virial = derivatives(energy, inputs, graph, forces, stress, create_graph=training)
        if not training:
            energy, atom_energies = energy.detach(), atom_energies.detach()
        return Prediction(energy, atom_energies, force, virial, outputs.extrapolations)

    def hessian(
        self,
        graph: AtomGraph,
        indices: Sequence[int] | None = None,
        progress: Callable[[int, int, str], object] | None = None,
    ) -> Tensor:
        """Second derivatives ∂²E/∂x_ia ∂x_jb of the energy of one structure, exact, by derivatives of the forces.

        `.view(3 * N, 3 * N)` is the matrix; the four indices are those of `torch.func.hessian` and of
        `ase.vibrations.VibrationsData`. `.transpose(1, 2)` has phonopy's order of force constants (N, N, 3, 3).

        It is symmetric up to rounding, and the sum over the atoms j is zero. The radial functions are exact, whatever
        an evaluation takes. A model in float32 gives it to about 1e-6 of the largest element.

        Args:
            graph: one structure.
            indices: atoms i whose rows are wanted, all by default.
            progress: called with (done, total, "") as rows are done.

        Returns:
            (n, 3, N, 3) in eV/Å², float64, n = N or the number of `indices`.

        Raises:
            UnknownElementError: an element the model does not know.
            InputError: a batch of several structures, an index that is no atom's.
        """
        from mlip.hessian import hessian

        return hessian(self, graph, indices, progress)

    def _prediction(self, found: Derivatives, graph: AtomGraph, species: Tensor, forces: bool) -> Prediction:
        """From the network's scale to eV, without derivatives."""
        with torch.no_grad():
            atom_energies = self.energy_scale(found.energy, species)
            scale = self.energy_scale.scale
            return Prediction(
                energy=segment_sum(atom_energies, graph.batch, graph.n_graphs),
                atom_energies=atom_energies,
                forces=-scale * found.positions if forces else None,
                stress=None if found.strain is None else scale * found.strain / volumes(graph).view(-1, 1, 1),
                extrapolations=found.extrapolations,
            )

    def isolated_energy(self, number: int) -> float:
        """Energy in eV of one atom of atomic number `number` without neighbors: E0 + shift + scale · network."""
        if number not in self.elements:
            raise InputError(f"atomic number {number}: expected one of {list(self.elements)}")
        return self.isolated_energies()[number]

    def isolated_energies(self) -> dict[int, float]:
        """That of all elements, by atomic number."""
        device, count = self.device, len(self.elements)
        none = torch.zeros(0, dtype=torch.int64, device=device)
        atoms = AtomGraph(
            numbers=torch.tensor(self.elements, device=device),
            positions=torch.zeros(count, 3, dtype=torch.float64, device=device),
            cell=torch.zeros(count, 3, 3, dtype=torch.float64, device=device),
            pbc=torch.zeros(count, 3, dtype=torch.bool, device=device),
            edge_index=none.view(2, 0),
            edge_shift=none.view(0, 3).int(),
            batch=torch.arange(count, device=device),
            n_atoms=torch.ones(count, dtype=torch.int64, device=device),
        )
        energies = self(atoms, forces=False, stress=False).energy.tolist()
        return dict(zip(self.elements, energies, strict=True))

    def save(self, path: str | PathLike[str]) -> None:
        """Write one safetensors file with everything needed to load it again, atomically."""
        from mlip.checkpoint import save_potential

        save_potential(self, path)
