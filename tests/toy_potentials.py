"""A small potential that obeys every law, and variants that are broken in one way each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mlip.graph import AtomGraph
from mlip.models.base import AtomOutputs, EnergyModel
from mlip.potential import Potential, Prediction

CUTOFF = 4.0
ELEMENTS = (6, 14)


class Toy(EnergyModel):
    """Pairs, a squared density and a squared dipole per atom, all with the envelope (1 - x)^3: smooth to order 2."""

    cutoff_smoothness = 2
    isolated_is_E0 = True

    def __init__(self, smoothness: int | None = None) -> None:
        super().__init__(ELEMENTS, CUTOFF)
        self.strength = nn.Parameter(torch.tensor([[1.0, 0.7], [0.7, 1.3]], dtype=torch.float64))
        if smoothness is not None:
            self.cutoff_smoothness = smoothness

    def envelope(self, x: Tensor) -> Tensor:
        return (1 - x).clamp(min=0) ** 3

    def pairs(self, graph: AtomGraph) -> tuple[Tensor, Tensor]:
        """Indices (2, E) and vectors (E, 3) of the pairs."""
        return graph.edge_index, graph.edge_vectors()

    def moments(self, graph: AtomGraph) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Density (N,), dipole (N, 3), pair energies (N,) and pair weights (E,)."""
        (center, neighbor), vectors = self.pairs(graph)
        vectors = vectors.to(self.dtype)
        species = self.species(graph.numbers)
        r = vectors.norm(dim=1)
        weight = self.strength[species[center], species[neighbor]] * self.envelope(r / self.cutoff)
        empty = vectors.new_zeros(len(species))
        density = empty.index_add(0, center, weight * torch.exp(-r))
        dipole = vectors.new_zeros(len(species), 3).index_add(0, center, weight.unsqueeze(1) * vectors)
        return density, dipole, empty.index_add(0, center, weight * (2 * torch.exp(-r / 2) - 1)), weight

    def energies(self, graph: AtomGraph) -> Tensor:
        density, dipole, pair, _ = self.moments(graph)
        return pair + 3 * density**2 + 0.3 * (dipole**2).sum(1)

    def forward(self, graph: AtomGraph, head: int = 0) -> AtomOutputs:
        return AtomOutputs(self.energies(graph))


class SmallTerm(Toy):
    """Of order 2 by a term that is small beside the next one: the envelope is d^3 (leading + d)."""

    def __init__(self, leading: float, smoothness: int) -> None:
        super().__init__(smoothness)
        self.leading = leading

    def envelope(self, x: Tensor) -> Tensor:
        d = (1 - x).clamp(min=0)
        return d**3 * (self.leading + d)


# --- models broken in one way each


class Handed(Toy):
    """Adds a triple product of three differently weighted dipoles: turns like a scalar, but a mirror flips it."""

    def energies(self, graph: AtomGraph) -> Tensor:
        (center, _), vectors = self.pairs(graph)
        r = vectors.norm(dim=1, keepdim=True)
        zero = vectors.new_zeros(len(graph.numbers), 3)
        a, b, c = (zero.index_add(0, center, self.envelope(r / self.cutoff) * vectors * r**n) for n in (0, 1, 2))
        return super().energies(graph) + 0.01 * (a * torch.linalg.cross(b, c)).sum(1)


class Anisotropic(Toy):
    """Counts the dipole's z component a little more."""

    def energies(self, graph: AtomGraph) -> Tensor:
        return super().energies(graph) + 1e-4 * self.moments(graph)[1][:, 2] ** 2


class Positioned(Toy):
    """Feels where it is, in an external field."""

    def energies(self, graph: AtomGraph) -> Tensor:
        return super().energies(graph) + 1e-3 * torch.sin(graph.positions[:, 0])


class SinglePrecisionPositions(Toy):
    """Takes differences of rounded positions, which fails far from the origin."""

    def pairs(self, graph: AtomGraph) -> tuple[Tensor, Tensor]:
        rounded = graph._replace(positions=graph.positions.float().double())
        return graph.edge_index, rounded.edge_vectors()


class Unwrapped(Toy):
    """Mistakes pairs of atoms far apart in space for far neighbors, whatever their images do."""

    def pairs(self, graph: AtomGraph) -> tuple[Tensor, Tensor]:
        center, neighbor = graph.edge_index
        near = (graph.positions[center] - graph.positions[neighbor]).norm(dim=1) < 3 * self.cutoff
        return graph.edge_index[:, near], graph.edge_vectors()[near]


class Ordered(Toy):
    """Weighs atoms by their index."""

    def energies(self, graph: AtomGraph) -> Tensor:
        energies = super().energies(graph)
        return energies * torch.linspace(1, 1.001, len(energies), dtype=energies.dtype)


class Intensive(Toy):
    """Divides by the number of atoms of the structure."""

    def energies(self, graph: AtomGraph) -> Tensor:
        return super().energies(graph) / graph.n_atoms[graph.batch]


class BlindToItsImages(Toy):
    """Drops the pairs of an atom with its own images."""

    def pairs(self, graph: AtomGraph) -> tuple[Tensor, Tensor]:
        other = graph.edge_index[0] != graph.edge_index[1]
        return graph.edge_index[:, other], graph.edge_vectors()[other]


class Leaky(Toy):
    """Normalises by the mean density of the whole batch."""

    def energies(self, graph: AtomGraph) -> Tensor:
        return super().energies(graph) * (1 + 1e-3 * self.moments(graph)[0].detach().mean())


class Counting(Toy):
    """An energy that goes with the square of the number of atoms."""

    def energies(self, graph: AtomGraph) -> Tensor:
        return super().energies(graph) + 1e-4 * (graph.n_atoms[graph.batch] - 1)


class Offset(Toy):
    """Gives a lone atom an energy although it declares none."""

    def energies(self, graph: AtomGraph) -> Tensor:
        return super().energies(graph) + 0.1


class NaNAlone(Toy):
    """Takes the mean over the neighbors, of which there may be none."""

    def energies(self, graph: AtomGraph) -> Tensor:
        density = self.moments(graph)[0]
        count = torch.bincount(graph.edge_index[0], minlength=len(density))
        return super().energies(graph) + 0.1 * density / count


class NaNInPerfectCrystals(Toy):
    """Takes the length of the dipole, which has no derivative where it vanishes."""

    def energies(self, graph: AtomGraph) -> Tensor:
        return super().energies(graph) + 0.1 * (self.moments(graph)[1] ** 2).sum(1).sqrt()


class Reaching(Toy):
    """Forgets that the envelope ends at the cutoff."""

    def envelope(self, x: Tensor) -> Tensor:
        return (1 - x) ** 3


class Farther(Toy):
    """Its envelope ends 2% beyond the declared cutoff."""

    def envelope(self, x: Tensor) -> Tensor:
        return super().envelope(x / 1.02)


class Nearer(Toy):
    """Its envelope ends 5% inside the declared cutoff."""

    def envelope(self, x: Tensor) -> Tensor:
        return super().envelope(x / 0.95)


class Cosine(Toy):
    """A cosine cutoff: smooth to order 1."""

    def envelope(self, x: Tensor) -> Tensor:
        return (0.5 + 0.5 * torch.cos(torch.pi * x)) * (x < 1)


class Jumping(Toy):
    """No envelope at all."""

    def envelope(self, x: Tensor) -> Tensor:
        return (x < 1).to(x.dtype)


class Rounding(Toy):
    """Adds and takes away a large number, which costs float32 all its digits."""

    def energies(self, graph: AtomGraph) -> Tensor:
        return (super().energies(graph) + 1e6) - 1e6


class Fragile(Toy):
    """Can't take an empty structure."""

    def energies(self, graph: AtomGraph) -> Tensor:
        assert len(graph.numbers), "stray squeeze"
        return super().energies(graph)


class DetachedSquare(torch.autograd.Function):
    """x², whose derivative is right but can't be differentiated again (as torch_scatter's segment operators)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2 * ctx.saved_tensors[0].detach()


class OnceDifferentiable(Toy):
    """Right forces, wrong force constants."""

    def energies(self, graph: AtomGraph) -> Tensor:
        density, dipole, pair, _ = self.moments(graph)
        return pair + 3 * DetachedSquare.apply(density) + 0.3 * (dipole**2).sum(1)


# --- potentials broken in one way each


def broken(change: Callable[[Prediction, AtomGraph], Prediction]) -> type[Potential]:
    """Potential whose predictions are changed."""

    class Broken(Potential):
        def forward(
            self, graph: AtomGraph, forces: bool = True, stress: bool = True, training: bool = False
        ) -> Prediction:
            return change(super().forward(graph, forces, stress, training), graph)

    return Broken


def scaled_forces(p: Prediction, _: AtomGraph) -> Prediction:
    return p if p.forces is None else p._replace(forces=p.forces * 1.01)


def barely_scaled_forces(p: Prediction, _: AtomGraph) -> Prediction:
    return p if p.forces is None else p._replace(forces=p.forces * (1 + 3e-6))


def flipped_stress(p: Prediction, _: AtomGraph) -> Prediction:
    return p if p.stress is None else p._replace(stress=-p.stress)


def swapped_shear(p: Prediction, _: AtomGraph) -> Prediction:
    return p if p.stress is None else p._replace(stress=p.stress[:, [1, 0, 2]][:, :, [1, 0, 2]])


def signed_volume(p: Prediction, graph: AtomGraph) -> Prediction:
    if p.stress is None:
        return p
    return p._replace(stress=p.stress * torch.linalg.det(graph.cell).sign().view(-1, 1, 1))


def lossy_parts(p: Prediction, _: AtomGraph) -> Prediction:
    return p._replace(atom_energies=p.atom_energies * (1 + 1e-6))


def forces_depend_on_stress(p: Prediction, _: AtomGraph) -> Prediction:
    return p if p.forces is None or p.stress is None else p._replace(forces=p.forces + 1e-3)


def moves_the_input(p: Prediction, graph: AtomGraph) -> Prediction:
    graph.positions.data.add_(1e-7)
    return p


class PartialPeriodicityIgnored(Potential):
    """Takes a structure that is not periodic along all axes for a molecule."""

    def forward(self, graph: AtomGraph, *args: Any, **kwargs: Any) -> Prediction:
        keep = graph.pbc.all(dim=1)[graph.batch[graph.edge_index[0]]] | (graph.edge_shift == 0).all(dim=1)
        kept = graph._replace(edge_index=graph.edge_index[:, keep], edge_shift=graph.edge_shift[keep])
        return super().forward(kept, *args, **kwargs)


class WrongIsolatedEnergy(Potential):
    """Declares another energy for a lone atom than it gives."""

    def isolated_energy(self, number: int) -> float:
        return super().isolated_energy(number) + 1e-4


class LossyFile(Potential):
    """Loses the last bits of its weights in the file."""

    def save(self, path: Any) -> None:
        rounded = copy.deepcopy(self)
        for weight in rounded.parameters():
            weight.data.mul_(1 + 1e-12)
        Potential.save(rounded, path)


class Remembering(Potential):
    """Counts its evaluations in a buffer."""

    def forward(self, *args: Any, **kwargs: Any) -> Prediction:
        if not hasattr(self, "calls"):
            self.register_buffer("calls", torch.zeros(()))
        self.calls += 1
        return super().forward(*args, **kwargs)
