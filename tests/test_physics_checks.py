"""Each physics check passes on a right potential and fails on one that is broken in just that way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlip.graph import AtomGraph
from mlip.models.base import AtomOutputs, EnergyModel
from mlip.models.mace import MACE
from mlip.potential import Potential, Prediction
from mlip.testing import physics
from mlip.testing.physics import PotentialPhysics, check_potential, check_structures
from mlip.testing.physics.result import Check, run_checks

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

    def forward(self, graph: AtomGraph) -> AtomOutputs:
        return AtomOutputs(self.energies(graph))


def toy_potential(model: EnergyModel | None = None, kind: type[Potential] = Potential) -> Potential:
    return kind(model or Toy(), E0s={6: -1020.0, 14: -7870.0})


def small_mace(**options: Any) -> Potential:
    model = MACE([6, 14], cutoff=CUTOFF, hidden_irreps="4x0e+4x1o", l_max=2, correlation=2, radial_mlp=[8], **options)
    return toy_potential(model.double())


class TestToy(PotentialPhysics):
    """The toy obeys every law; it has no file format, so saving is tested on MACE."""

    excused = {"save-and-load": "the toy is no registered architecture"}

    @pytest.fixture
    def potential(self) -> Potential:
        return toy_potential()


class TestSmallMACE(PotentialPhysics):
    """MACE as the reference implementation has it, with and without its residual first layer, one to three orders."""

    @pytest.fixture(
        params=[
            {},
            {"residual_first": True, "num_interactions": 1},
            {"hidden_irreps": "4x0e+4x1o+4x2e", "correlation": 3},
        ],
        ids=["plain", "residual", "hidden l=2, order 3"],
    )
    def potential(self, request: pytest.FixtureRequest) -> Potential:
        torch.manual_seed(0)
        options = {"hidden_irreps": "4x0e+4x1o", "l_max": 2, "correlation": 2, "radial_mlp": [8]} | request.param
        return toy_potential(MACE([6, 14], cutoff=CUTOFF, avg_num_neighbors=8.0, **options).double())


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


BROKEN: dict[str, tuple[Check, Callable[[], Potential]]] = {
    "forces 1% off": (physics.check_forces_are_gradient, lambda: toy_potential(kind=broken(scaled_forces))),
    "forces 3e-6 off": (physics.check_forces_are_gradient, lambda: toy_potential(kind=broken(barely_scaled_forces))),
    "stress of wrong sign": (
        physics.check_stress_is_derivative,
        lambda: toy_potential(kind=broken(flipped_stress)),
    ),
    "shear swapped": (physics.check_stress_is_derivative, lambda: toy_potential(kind=broken(swapped_shear))),
    "no second derivative": (physics.check_second_derivatives, lambda: toy_potential(OnceDifferentiable())),
    "no training gradient": (physics.check_training_gradient, lambda: toy_potential(OnceDifferentiable())),
    "anisotropic": (physics.check_rotation, lambda: toy_potential(Anisotropic())),
    "handed": (physics.check_inversion, lambda: toy_potential(Handed())),
    "external field": (physics.check_translation, lambda: toy_potential(Positioned())),
    "float32 positions": (physics.check_translation, lambda: toy_potential(SinglePrecisionPositions())),
    "unwrapped atoms lost": (physics.check_wrapping, lambda: toy_potential(Unwrapped())),
    "atoms ordered": (physics.check_permutation, lambda: toy_potential(Ordered())),
    "volume signed": (physics.check_left_handed_cell, lambda: toy_potential(kind=broken(signed_volume))),
    "intensive": (physics.check_supercell, lambda: toy_potential(Intensive())),
    "own images dropped": (physics.check_one_atom_cell, lambda: toy_potential(BlindToItsImages())),
    "batch leaks": (physics.check_batch, lambda: toy_potential(Leaky())),
    "energy counts atoms": (physics.check_fragments, lambda: toy_potential(Counting())),
    "lone atom not E0": (physics.check_isolated_atom, lambda: toy_potential(Offset())),
    "lone energy misdeclared": (physics.check_isolated_atom, lambda: toy_potential(kind=WrongIsolatedEnergy)),
    "NaN without neighbors": (physics.check_no_neighbors, lambda: toy_potential(NaNAlone())),
    "NaN by symmetry": (physics.check_high_symmetry, lambda: toy_potential(NaNInPerfectCrystals())),
    "parts do not sum": (physics.check_energy_parts, lambda: toy_potential(kind=broken(lossy_parts))),
    "stress changes forces": (physics.check_energy_parts, lambda: toy_potential(kind=broken(forces_depend_on_stress))),
    "list decides the range": (physics.check_larger_list, lambda: toy_potential(Reaching())),
    "force beyond the cutoff": (physics.check_no_force_beyond_cutoff, lambda: toy_potential(Farther())),
    "cutoff too small": (physics.check_cutoff_smoothness, lambda: toy_potential(Farther())),
    "cutoff too large": (physics.check_cutoff_smoothness, lambda: toy_potential(Nearer())),
    "kink at the cutoff": (physics.check_cutoff_smoothness, lambda: toy_potential(Cosine(smoothness=2))),
    "jump at the cutoff": (physics.check_cutoff_smoothness, lambda: toy_potential(Jumping(smoothness=0))),
    "mixed pbc ignored": (physics.check_open_boundaries, lambda: toy_potential(kind=PartialPeriodicityIgnored)),
    "input moved": (physics.check_inputs_unchanged, lambda: toy_potential(kind=broken(moves_the_input))),
    "model remembers": (physics.check_inputs_unchanged, lambda: toy_potential(kind=Remembering)),
    "float32 cancels": (physics.check_float32, lambda: toy_potential(Rounding())),
    "empty structure": (physics.check_empty_structure, lambda: toy_potential(Fragile())),
    "file loses bits": (physics.check_save_and_load, lambda: LossyFile(small_mace().model, {6: 0.0, 14: 0.0})),
}


@pytest.mark.parametrize("case", BROKEN)
def test_check_fails_on_a_broken_potential(case: str) -> None:
    check, make = BROKEN[case]
    (outcome,) = run_checks([check], make())
    assert not outcome.passed, str(outcome)


def test_every_check_is_shown_to_fail() -> None:
    assert {check for check, _ in BROKEN.values()} == set(physics.POTENTIAL_CHECKS)


def test_declared_smoothness_is_what_is_tested() -> None:
    assert physics.check_cutoff_smoothness(toy_potential(Cosine(smoothness=1))).passed
    assert physics.check_cutoff_smoothness(toy_potential(Toy(smoothness=1))).passed
    assert not physics.check_cutoff_smoothness(toy_potential(Toy(smoothness=3))).passed


def test_structures_are_seeded_and_sensible() -> None:
    first, again, other = (check_structures([1, 8, 79], 5.0, seed) for seed in (0, 0, 1))
    for kind, atoms in first.items():
        assert (atoms.positions == again[kind].positions).all() and not (atoms.positions == other[kind].positions).all()
        distances = atoms.get_all_distances(mic=True)[~torch.eye(len(atoms), dtype=torch.bool).numpy()]
        assert distances.min() > 0.6  # H2 has 0.74
    assert first["bulk"].pbc.all() and first["slab"].pbc.tolist() == [True, True, False]
    assert not first["molecule"].pbc.any() and first["molecule"].cell.rank == 0
    assert set(first["bulk"].numbers) == {1, 8, 79}


def test_check_potential_reports_progress_and_wants_float64() -> None:
    seen: list[tuple[int, int, str]] = []
    results = check_potential(small_mace(), progress=lambda *call: seen.append(call))
    assert all(r.passed for r in results), [str(r) for r in results if not r.passed]
    assert seen[0][0] == 0 and seen[-1][0] == seen[-1][1] == len(results)
    with pytest.raises(ValueError, match="float64"):
        check_potential(small_mace().to(torch.float32))


def test_results_read_well() -> None:
    outcome = physics.check_forces_are_gradient(toy_potential(kind=broken(scaled_forces)))
    assert outcome.name == "forces-are-gradient" and outcome.law == "Forces are minus the gradient of the energy"
    assert "FAILED" in str(outcome) and outcome.as_dict()["passed"] is False


def test_command_on_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlip.cli import main

    path = tmp_path / "model.safetensors"
    small_mace().save(path)
    assert main(["check", str(path)]) == 0
    assert "all passed" in capsys.readouterr().out
