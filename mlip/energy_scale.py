"""From a network's atomic energies to eV: E_i = E0(Z_i) + shift + scale · e_i, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from ase.data import chemical_symbols
from torch import Tensor

from mlip.errors import InputError
from mlip.nn.constants import KeepsPrecision


class EnergyScale(KeepsPrecision):
    """Atomic reference energies E0 (eV), scale and shift (eV); they stay float64 whatever the model's dtype is.

    A total energy of -1e5 eV has a resolution of 8 meV in float32; so references are added in float64.
    """

    def __init__(
        self, elements: Sequence[int], E0s: Mapping[int, float], scale: float = 1.0, shift: float = 0.0
    ) -> None:
        super().__init__()
        missing = [chemical_symbols[z] for z in elements if z not in E0s]
        if missing:
            raise InputError(f"no reference energy E0 for {', '.join(missing)}; expected one per element, {{Z: eV}}")
        values = torch.tensor([float(E0s[z]) for z in elements] + [scale, shift], dtype=torch.float64)
        if not bool(values.isfinite().all()) or scale == 0:
            raise InputError(f"E0s {dict(E0s)}, scale {scale}, shift {shift}: expected finite numbers, scale not zero")
        self.E0s: Tensor
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("E0s", values[:-2].clone(), persistent=False)
        self.register_buffer("scale", values[-2].clone(), persistent=False)
        self.register_buffer("shift", values[-1].clone(), persistent=False)

    def forward(self, energy: Tensor, species: Tensor) -> Tensor:
        """Atomic energies (N,) in eV, float64, from the network's `energy` (N,) and element indices (N,)."""
        return self.E0s[species] + self.shift + self.scale * energy.to(torch.float64)
