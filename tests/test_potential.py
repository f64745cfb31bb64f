"""Potential: scale, shift, reference energies; derivatives in every grad mode."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk, molecule

from mlip.convert import atoms_to_graph
from mlip.errors import InputError
from mlip.models import HDNNP, MACE, DimeNet, DimeNetPlusPlus
from mlip.nn.symmetry_functions import SymmetryFunction
from mlip.potential import Potential


def make(first: str = "agnostic", scale: float = 1.3, shift: float = 0.2) -> Potential:
    torch.manual_seed(0)
    model = MACE([14], 4.0, "4x0e+4x1o", l_max=2, correlation=2, radial_mlp=(8,), interaction_first=first)
    return Potential(model.double(), {14: -100.0}, scale, shift)


def test_scale_shift_and_reference() -> None:
    graph = atoms_to_graph(bulk("Si"), 4.0)
    potential = make()
    bare = potential.model(graph).energy.detach()
    prediction = potential(graph)
    torch.testing.assert_close(prediction.atom_energies, -100 + 0.2 + 1.3 * bare)
    torch.testing.assert_close(prediction.energy, prediction.atom_energies.sum().view(1))


@pytest.mark.parametrize("first", ["agnostic", "residual"])
def test_isolated_atom(first: str) -> None:
    potential = make(first)
    energy = potential.isolated_energy(14)
    assert potential.model.isolated_is_E0 is (first == "agnostic")
    assert not potential.isolated_is_E0  # the shift is not zero
    assert (energy == pytest.approx(-99.8, abs=1e-12)) is (first == "agnostic")
    assert make(shift=0.0).isolated_is_E0
    assert make(shift=0.0).isolated_energy(14) == -100.0
    with pytest.raises(InputError, match="atomic number 6"):
        potential.isolated_energy(6)


def test_only_what_is_asked() -> None:
    graph = atoms_to_graph(bulk("Si"), 4.0)
    potential = make()
    full = potential(graph)
    for forces in (False, True):
        for stress in (False, True):
            prediction = potential(graph, forces=forces, stress=stress)
            torch.testing.assert_close(prediction.energy, full.energy)
            assert (prediction.forces is not None) is forces
            assert (prediction.stress is not None) is stress
            assert not prediction.energy.requires_grad
    torch.testing.assert_close(potential(graph, forces=False).stress, full.stress)


def test_the_callers_grad_mode_changes_nothing() -> None:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    graph = atoms_to_graph(atoms, 4.0)
    potential = make()
    expected = potential(graph)
    assert expected.forces.abs().max() > 1e-3
    potential.requires_grad_(False)
    with torch.no_grad():
        inside = potential(graph)
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(inside.forces, expected.forces, rtol=0, atol=1e-13)
    torch.testing.assert_close(inside.stress, expected.stress, rtol=0, atol=1e-14)


def test_inference_mode_gives_forces_not_zeros() -> None:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    potential = make()
    expected = potential(atoms_to_graph(atoms, 4.0))
    with torch.inference_mode():
        inside = potential(atoms_to_graph(atoms, 4.0))
    torch.testing.assert_close(inside.forces, expected.forces, rtol=0, atol=1e-13)
    torch.testing.assert_close(inside.stress, expected.stress, rtol=0, atol=1e-14)


def test_training_keeps_the_graph() -> None:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    graph = atoms_to_graph(atoms, 4.0)
    potential = make()
    prediction = potential(graph, training=True)
    loss = prediction.forces.square().sum() + prediction.stress.square().sum()
    gradients = torch.autograd.grad(loss, list(potential.parameters()), allow_unused=True)
    # Only the last readout of the first, purely additive kind could be left out; every weight sees a force loss here.
    assert all(g is not None and g.abs().max() > 0 for g in gradients)


def test_stress_needs_a_volume() -> None:
    torch.manual_seed(0)
    potential = Potential(MACE([1, 8], 4.0, "4x0e", l_max=1, correlation=1, radial_mlp=(8,)), {1: 0.0, 8: 0.0})
    graph = atoms_to_graph(molecule("H2O"), 4.0)
    with pytest.raises(InputError, match="three-dimensional cell"):
        potential(graph)
    assert potential(graph, stress=False).forces.abs().max() > 0


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match="takes an AtomGraph, not Atoms"):
        make()(bulk("Si"))
    model = MACE([14, 6], 4.0, "4x0e", l_max=1, correlation=1, radial_mlp=(8,))
    with pytest.raises(InputError, match="no reference energy E0 for C"):
        Potential(model, {14: 0.0})
    with pytest.raises(InputError, match="scale"):
        Potential(model, {14: 0.0, 6: 0.0}, scale=0.0)
    with pytest.raises(InputError, match="finite"):
        Potential(model, {14: float("nan"), 6: 0.0})


def test_hessian_is_right_or_refused() -> None:
    """Without `training` the answers are constants, and their derivatives would be silently zero."""
    potential = make()
    potential.requires_grad_(False)
    atoms = bulk("Si")
    atoms.rattle(0.05, seed=0)
    graph = atoms_to_graph(atoms, 4.0)

    def energy(positions: torch.Tensor, training: bool) -> torch.Tensor:
        moved = graph._replace(positions=positions.view(-1, 3))
        return potential(moved, forces=False, stress=False, training=training).energy.sum()

    flat = graph.positions.flatten()
    with pytest.raises(InputError, match="pass training=True to differentiate through them"):
        torch.autograd.functional.hessian(lambda x: energy(x, False), flat)
    hessian = torch.autograd.functional.hessian(lambda x: energy(x, True), flat)
    step = 1e-4 * torch.eye(len(flat), dtype=torch.float64)
    forces = [potential(graph._replace(positions=(flat + s * d).view(-1, 3))).forces for d in step for s in (1, -1)]
    numerical = torch.stack([(b - a).flatten() / 2e-4 for a, b in zip(forces[::2], forces[1::2], strict=True)])
    torch.testing.assert_close(hessian, numerical, rtol=1e-5, atol=1e-5 * float(hessian.abs().max()))


FUNCTION = SymmetryFunction(2, 6, (6,), 4.0, eta=0.1)
MODELS = {
    "MACE": lambda elements, cutoff: MACE(elements, cutoff, "4x0e", l_max=1, correlation=1, radial_mlp=(4,)),
    "HDNNP": lambda elements, cutoff: HDNNP(elements, cutoff, [FUNCTION]),
    "DimeNet": lambda elements, cutoff: DimeNet(elements, cutoff, 4, 1),
    "DimeNetPlusPlus": lambda elements, cutoff: DimeNetPlusPlus(elements, cutoff, 4, 1),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("elements", "cutoff", "message"),
    [
        ([6], "x", "cutoff 'x': expected a positive, finite radius"),
        ([6], None, "cutoff None: expected"),
        ([6], float("nan"), "cutoff nan: expected"),
        ("C", 5.0, "elements 'C': expected atomic numbers"),
        (6, 5.0, "elements 6: expected atomic numbers"),
        (["C"], 5.0, r"elements \['C'\]: expected atomic numbers"),
        ([], 5.0, r"elements \[\]: expected atomic numbers"),
    ],
)
def test_impossible_elements_and_cutoffs(model, elements, cutoff, message):
    with pytest.raises(InputError, match=message):
        MODELS[model](elements, cutoff)
