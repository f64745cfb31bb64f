"""Forces and stress are derivatives of the energy, and can be differentiated again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mlip.convert import atoms_to_graph
from mlip.potential import Potential
from mlip.testing.physics.answers import FORCE_FLOOR, STRESS_FLOOR, evaluator, potential_energies, without_references
from mlip.testing.physics.result import CheckResult, result
from mlip.testing.physics.stencils import OFFSETS, WEIGHTS, probe_directions, slopes, strain_slopes
from mlip.testing.physics.symmetry import Structures, structures_for, worst
from mlip.units import full_3x3_to_voigt_6

STEP = 1e-3
"""Å. Truncation of the five-point stencil and rounding are both below 1e-8 of the force here."""

STRAIN_STEP = 2e-4
WEIGHT_STEP = 1e-4


def check_forces_are_gradient(
    potential: Potential, structures: Structures | None = None, tolerance: float = 1e-6
) -> CheckResult:
    """Forces are minus the gradient of the energy.

    Finite differences along random directions. The value is the largest error relative to the root-mean-square
    slope; NaN if all forces vanish.
    """
    evaluate, energies, rng = evaluator(potential), potential_energies(potential), np.random.default_rng(7)
    errors = {}
    for kind, atoms in structures_for(potential, structures).items():
        forces = evaluate([atoms]).forces
        directions = probe_directions(forces, rng)
        analytic = -np.einsum("kni,ni->k", directions, forces)
        scale = np.sqrt(np.mean(analytic**2))
        wrong = np.abs(slopes(energies, atoms, directions, STEP) - analytic).max()
        errors[kind] = float(wrong / scale) if scale > FORCE_FLOOR * 1e-3 else float("nan")
    return worst(check_forces_are_gradient, errors, tolerance)


def check_stress_is_derivative(
    potential: Potential, structures: Structures | None = None, tolerance: float = 1e-6
) -> CheckResult:
    """Stress is the energy's derivative by strain, over volume.

    It is positive under tension and symmetric. All six symmetric strains by finite differences; the value is
    relative to the largest component.
    """
    evaluate, energies = evaluator(potential), potential_energies(potential)
    errors = {}
    for kind, atoms in structures_for(potential, structures).items():
        if not atoms.cell.rank == 3:
            continue
        stress = evaluate([atoms]).stress
        assert stress is not None
        numeric = strain_slopes(energies, atoms, STRAIN_STEP)
        wrong = np.abs(full_3x3_to_voigt_6(stress[0]) - numeric).max()
        wrong = np.max([wrong, np.abs(stress - stress.transpose(0, 2, 1)).max()])
        errors[kind] = float(wrong / max(np.abs(numeric).max(), STRESS_FLOOR))
    return worst(check_stress_is_derivative, errors, tolerance)


def check_second_derivatives(potential: Potential, structures: Structures | None = None) -> CheckResult:
    """Second derivatives of the energy are right.

    By positions and strain: force losses and phonons rest on them. `torch.autograd.gradgradcheck` on the small
    crystal and the molecule; the value counts the failures.
    """
    cases = structures_for(potential, structures)
    failures = [f"{kind}: {reason}" for kind in ("small", "molecule") if (reason := _gradgrad(potential, cases[kind]))]
    detail = "; ".join(failures) or "small, molecule"
    return result(check_second_derivatives, len(failures), 0.0, detail)


def check_training_gradient(
    potential: Potential, structures: Structures | None = None, tolerance: float = 1e-6
) -> CheckResult:
    """A loss on forces and stress trains the weights rightly.

    A random linear loss on the bulk crystal, its slope along a random direction of all weights against finite
    differences. The value is relative to the slopes of the single weight arrays (root of the sum of squares).
    """
    trainable = without_references(potential).requires_grad_(True)
    weights = [w for w in trainable.parameters() if w.is_floating_point()]
    atoms = structures_for(potential, structures)["bulk"]
    graph = atoms_to_graph(atoms, potential.cutoff, device=potential.device)
    generator = torch.Generator().manual_seed(8)

    def random_like(t: Tensor) -> Tensor:
        return torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t)

    direction = [random_like(w) * w.detach().abs().mean() for w in weights]
    loss_weights = (random_like(graph.positions), random_like(graph.cell))

    def loss() -> Tensor:
        prediction = trainable(graph, training=True)
        assert prediction.forces is not None and prediction.stress is not None
        volume = torch.linalg.det(graph.cell).abs().sum()
        forces, stress = (loss_weights[0] * prediction.forces).sum(), (loss_weights[1] * prediction.stress).sum()
        return forces + volume * stress + prediction.energy.sum()

    gradients = torch.autograd.grad(loss(), weights, materialize_grads=True, allow_unused=True)
    analytic = np.array([float((g * d).sum()) for g, d in zip(gradients, direction, strict=True)])
    wrong = abs(analytic.sum() - _slope_in_weights(loss, weights, direction, WEIGHT_STEP))
    return result(check_training_gradient, wrong / max(float(np.linalg.norm(analytic)), 1e-9), tolerance, "bulk")


def _slope_in_weights(
    loss: Callable[[], Tensor], weights: Sequence[Tensor], direction: Sequence[Tensor], step: float
) -> float:
    """Return the derivative of the loss when the weights move along the direction, by the five-point stencil."""
    original = [w.detach().clone() for w in weights]
    total = 0.0
    for offset, factor in zip(OFFSETS, WEIGHTS, strict=True):
        with torch.no_grad():
            for w, start, d in zip(weights, original, direction, strict=True):
                w.copy_(start + offset * step * d)
        total += factor * float(loss().detach())
    return total / step


def _gradgrad(potential: Potential, atoms: Atoms) -> str:
    """Return why the second derivatives are wrong, or an empty string."""
    graph = atoms_to_graph(atoms, potential.cutoff, device=potential.device)

    def energy(positions: Tensor, strain: Tensor) -> Tensor:
        deformation = torch.eye(3, dtype=strain.dtype, device=strain.device) + (strain + strain.T) / 2
        moved = graph._replace(positions=positions @ deformation, cell=graph.cell @ deformation)
        return potential(moved, forces=False, stress=False, training=True).energy

    positions = graph.positions.clone().requires_grad_()
    strain = torch.zeros(3, 3, dtype=torch.float64, device=graph.positions.device, requires_grad=True)
    try:
        torch.autograd.gradgradcheck(energy, (positions, strain), eps=1e-5, atol=1e-5, rtol=1e-5, fast_mode=True)
    except RuntimeError as error:
        return " ".join(str(error).split())[:200]
    return ""
