"""Ziegler-Biersack-Littmark repulsion of nuclei at short distance, as MACE adds it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ase.data import covalent_radii
from torch import Tensor

from mlip.nn.constants import KeepsPrecision, double
from mlip.nn.cutoff import polynomial_envelope
from mlip.ops import segment_sum

#: e² / (4π ε0) in eV Å, the Bohr radius in Å and the decay constants, with the digits MACE uses.
COULOMB = 14.3996
BOHR = 0.529
DECAYS = (3.2, 0.9423, 0.4028, 0.2016)


class ZBL(KeepsPrecision):
    """Screened Coulomb repulsion in float64, half of each pair's energy on each atom.

    V(r) = Z_i Z_j e²/(4π ε0 r) φ(r/a) f(r), a = 0.4543 · 0.529 Å / (Z_i^0.3 + Z_j^0.3), φ a sum of four exponentials
    (Ziegler, Biersack & Littmark, The Stopping and Range of Ions in Solids, 1985), and f the polynomial envelope of
    order `p` that ends at the sum of the two covalent radii.
    """

    def __init__(self, elements: Sequence[int], p: int) -> None:
        super().__init__()
        self.p = p
        self.coefficients: Tensor
        self.a_exp: Tensor
        self.a_prefactor: Tensor
        self.covalent_radii: Tensor
        self.numbers: Tensor
        self.register_buffer("coefficients", double([0.1818, 0.5099, 0.2802, 0.02817]))
        self.register_buffer("a_exp", double(0.3))
        self.register_buffer("a_prefactor", double(0.4543))
        self.register_buffer("covalent_radii", double(covalent_radii[list(elements)]))
        self.register_buffer("numbers", double(elements), persistent=False)

    @property
    def reach(self) -> float:
        """Distance in Å at which the repulsion of the largest two atoms ends."""
        return 2 * self.covalent_radii.max().item()

    def forward(self, length: Tensor, species: Tensor, center: Tensor, num_atoms: int) -> Tensor:
        """Energies (N,) in eV of distances (E,) in Å between elements `species` (2, E), summed onto `center` (E,)."""
        length, z = length.to(torch.float64), self.numbers[species]
        x = length * (z**self.a_exp).sum(dim=0) / (self.a_prefactor * BOHR)
        screening = (self.coefficients * torch.exp(-double(DECAYS).to(x.device) * x.unsqueeze(1))).sum(dim=1)
        envelope = polynomial_envelope(length, self.covalent_radii[species].sum(dim=0), self.p)
        return segment_sum(0.5 * COULOMB * z.prod(dim=0) / length * screening * envelope, center, num_atoms)
