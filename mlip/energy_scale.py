"""From a network's atomic energies to eV: E_i = E0(Z_i) + shift + scale · e_i, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from ase.data import chemical_symbols
from torch import Tensor

from mlip.errors import InputError
from mlip.nn.constants import KeepsPrecision


class Reference(NamedTuple):
    """Energies that one head's network energies are relative to, in eV."""

    E0s: Mapping[int, float]  # isolated atoms, by atomic number
    scale: float = 1.0
    shift: float = 0.0


class EnergyScale(KeepsPrecision):
    """Atomic reference energies E0, scale and shift of each head; they stay float64 whatever the model's dtype is.

    A total energy of -1e5 eV has a resolution of 8 meV in float32; so references are added in float64.

    Attributes:
        head: which of the references is in use.
    """

    def __init__(self, elements: Sequence[int], references: Sequence[Reference]) -> None:
        super().__init__()
        for E0s, scale, shift in references:
            missing = [chemical_symbols[z] for z in elements if z not in E0s]
            if missing:
                raise InputError(f"no reference energy E0 for {', '.join(missing)}; expected {{Z: eV}} for each")
            values = torch.tensor([float(E0s[z]) for z in elements] + [scale, shift], dtype=torch.float64)
            if not bool(values.isfinite().all()) or scale == 0:
                raise InputError(
                    f"E0s {dict(E0s)}, scale {scale}, shift {shift}: expected finite numbers, scale not zero"
                )
        self.head = 0
        self.elements = tuple(elements)
        self.all_E0s: Tensor
        self.all_scales: Tensor
        self.all_shifts: Tensor
        for name, rows in [
            ("all_E0s", [[float(E0s[z]) for z in elements] for E0s, _, _ in references]),
            ("all_scales", [scale for _, scale, _ in references]),
            ("all_shifts", [shift for _, _, shift in references]),
        ]:
            self.register_buffer(name, torch.tensor(rows, dtype=torch.float64), persistent=False)

    @property
    def E0s(self) -> Tensor:
        """(Z,) in the order of the elements."""
        return self.all_E0s[self.head]

    @property
    def scale(self) -> Tensor:
        return self.all_scales[self.head]

    @property
    def shift(self) -> Tensor:
        return self.all_shifts[self.head]

    def references(self) -> list[Reference]:
        """Those of all heads, as numbers."""
        rows = zip(self.all_E0s.tolist(), self.all_scales.tolist(), self.all_shifts.tolist(), strict=True)
        return [Reference(dict(zip(self.elements, E0s, strict=True)), *rest) for E0s, *rest in rows]

    def forward(self, energy: Tensor, species: Tensor, head: Tensor | None = None) -> Tensor:
        """Atomic energies (N,) in eV, float64, from the network's `energy` (N,) and element indices (N,).

        With the references of the head in use, or of each atom's `head` (N,).
        """
        if head is not None:
            return self.all_E0s[head, species] + self.all_shifts[head] + self.all_scales[head] * energy.double()
        return self.E0s[species] + self.shift + self.scale * energy.to(torch.float64)
