"""PropertyModel: a network whose atoms make up a property of the whole structure instead of its energy."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, NamedTuple

import torch
from ase.data import atomic_masses
from torch import Tensor, nn

from mlip.acceleration import Acceleration
from mlip.energy_scale import EnergyScale, Reference
from mlip.errors import InputError
from mlip.graph import AtomGraph
from mlip.models.base import AtomOutputs, EnergyModel
from mlip.nn.constants import KeepsPrecision
from mlip.ops import segment_sum
from mlip.properties import Property


class PropertyPrediction(NamedTuple):
    """What a property model says of a batch of B structures with N atoms."""

    value: Tensor  # (B, size of the property), in its unit, float64
    atoms: Tensor  # (N,), what each atom adds, in the same unit; of dipoles the charges in e


class PropertyModel(nn.Module):
    """A property of structures from an `EnergyModel`.

    With e_i the network's scalar of atom i and a, s the shift of its element and the scale:

        readout        property
        sum            P = Σ_i (a_i + s e_i)
        mean           P = Σ_i (a_i + s e_i) / N
        dipole         μ = Σ_i q_i (r_i - r_0) + s Σ_i v_i, in e·Å
        dipole_norm    |μ|

    The charges q_i = s e_i + (Q - Σ_j s e_j) / N add up to the total charge Q (Unke and Meuwly, J. Chem. Theory Comput.
    15, 3678, 2019), and the v_i are the network's vectors (Schütt et al., arXiv:2102.03150), if it has any. r_0, the
    center of mass, matters for ions only.

    Args:
        model: the network.
        learned: the property.
        shifts: a by atomic number in the property's unit, for each of the model's elements; of dipoles zero.
        scale: s in the property's unit; of dipoles in e and e·Å.
        metadata: JSON-able provenance that is saved with the weights.

    Raises:
        InputError: shifts that are missing or not finite, a scale of zero, shifts of a dipole.
    """

    def __init__(
        self,
        model: EnergyModel,
        learned: Property,
        shifts: Mapping[int, float] | None = None,
        scale: float = 1.0,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        shifts = dict.fromkeys(model.elements, 0.0) if shifts is None else shifts
        if learned.is_dipole and any(shifts.values()):
            raise InputError(f"shifts {dict(shifts)} of {learned.name}: a dipole has none")
        self.model, self.learned = model, learned
        self.atom_scale = EnergyScale(model.elements, [Reference(shifts, scale)])
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.acceleration = Acceleration()
        self.masses = _Masses()

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
        return self.atom_scale.E0s.device

    @property
    def scale(self) -> float:
        """s of the formulas above."""
        return self.atom_scale.scale.item()

    @property
    def shifts(self) -> dict[int, float]:
        """a of the formulas above, by atomic number."""
        return dict(zip(self.elements, self.atom_scale.E0s.tolist(), strict=True))

    def forward(self, graph: AtomGraph, charge: Tensor | None = None, training: bool = False) -> PropertyPrediction:
        """Evaluate a batch.

        Args:
            graph: the structures, with pairs up to the cutoff at least.
            charge: total charges (B,) in e, zero by default; they play no part but in dipoles.
            training: keep what the derivatives by the parameters need.

        Raises:
            UnknownElementError: an element the model does not know.
            InputError: not an AtomGraph; the dipole of a periodic structure, which has none.
        """
        if not isinstance(graph, AtomGraph):
            raise InputError(
                f"a property model takes an AtomGraph, not {type(graph).__name__}; make one with "
                "mlip.convert.atoms_to_graph(atoms, model.cutoff), or use mlip.PropertyCalculator"
            )
        if self.learned.is_dipole and bool(graph.pbc.any()):
            raise InputError("a periodic structure has no dipole moment of its own; expected molecules, pbc=False")
        species = self.model.species(graph.numbers)
        evaluate = (self.acceleration.trainer if training else self.acceleration.evaluator)(self.model)
        with torch.set_grad_enabled(training):
            outputs = evaluate(graph, 0)
            parts = self.atom_scale(outputs.energy, species)
            if self.learned.is_dipole:
                return self._dipole(graph, parts, outputs, charge)
            value = segment_sum(parts, graph.batch, graph.n_graphs)
            if self.learned.readout == "mean":
                value = value / graph.n_atoms
            return PropertyPrediction(value.unsqueeze(1), parts)

    def _dipole(
        self, graph: AtomGraph, parts: Tensor, outputs: AtomOutputs, charge: Tensor | None
    ) -> PropertyPrediction:
        def total(x: Tensor) -> Tensor:
            return segment_sum(x, graph.batch, graph.n_graphs)

        missing = -total(parts) if charge is None else charge - total(parts)
        charges = parts + (missing / graph.n_atoms)[graph.batch]
        masses, positions = self.masses(graph.numbers).unsqueeze(1), graph.positions.to(torch.float64)
        origin = total(masses * positions) / total(masses)
        moment = total(charges.unsqueeze(1) * (positions - origin[graph.batch]))
        if outputs.dipole is not None:
            moment = moment + self.atom_scale.scale * total(outputs.dipole.to(torch.float64))
        moment = moment / self.learned.in_eA
        if self.learned.readout == "dipole_norm":
            moment = torch.linalg.vector_norm(moment, dim=1, keepdim=True)  # its derivative at zero is zero in torch
        return PropertyPrediction(moment, charges)

    def save(self, path: str | PathLike[str]) -> None:
        """Write one safetensors file with everything needed to load it again, atomically."""
        from mlip.checkpoint import save_property_model

        save_property_model(self, path)


class _Masses(KeepsPrecision):
    """Atomic masses (N,) of atomic numbers (N,), float64."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor
        self.register_buffer("table", torch.tensor(atomic_masses, dtype=torch.float64), persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.table[numbers]
