"""Each physics check passes on a right potential and fails on one that is broken in just that way."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_potentials as toys

from mlip.models import DimeNet
from mlip.models.base import EnergyModel
from mlip.models.mace import MACE
from mlip.potential import Potential
from mlip.testing import physics
from mlip.testing.physics import PotentialPhysics, check_potential, check_structures
from mlip.testing.physics.result import Check, run_checks


def toy_potential(model: EnergyModel | None = None, kind: type[Potential] = Potential) -> Potential:
    return kind(model or toys.Toy(), E0s={6: -1020.0, 14: -7870.0})


def small_mace(**options: Any) -> Potential:
    model = MACE(
        [6, 14], cutoff=toys.CUTOFF, hidden_irreps="4x0e+4x1o", l_max=2, correlation=2, radial_mlp=[8], **options
    )
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
            {"interaction_first": "residual", "num_interactions": 1},
            {"hidden_irreps": "4x0e+4x1o+4x2e", "correlation": 3},
            {
                "interaction_first": "density",
                "interaction": "density_residual",
                "distance_transform": "Agnesi",
                "pair_repulsion": True,
            },
            {
                "interaction_first": "residual_nonlinear",
                "interaction": "residual_nonlinear",
                "apply_cutoff": False,
                "readout_bias": True,
                "edge_irreps": "3x0e+3x1o",
            },
            {"radial_basis": "gaussian", "distance_transform": "Soft", "agnostic_product": True},
            {
                "radial_basis": "chebyshev",
                "distance_transform": "Agnesi",
                "apply_cutoff": False,
                "l_max": [1, 2],
                "hidden_irreps": ["4x0e+4x1o", "3x0e"],
                "last_readout_only": True,
            },
        ],
        ids=["plain", "residual", "hidden l=2, order 3", "density", "non-linear", "gaussian", "by layer"],
    )
    def potential(self, request: pytest.FixtureRequest) -> Potential:
        torch.manual_seed(0)
        options = {"hidden_irreps": "4x0e+4x1o", "l_max": 2, "correlation": 2, "radial_mlp": [8]} | request.param
        return toy_potential(MACE([6, 14], cutoff=toys.CUTOFF, avg_num_neighbors=8.0, **options).double())


BROKEN: dict[str, tuple[Check, Callable[[], Potential]]] = {
    "forces 1% off": (physics.check_forces_are_gradient, lambda: toy_potential(kind=toys.broken(toys.scaled_forces))),
    "forces 3e-6 off": (
        physics.check_forces_are_gradient,
        lambda: toy_potential(kind=toys.broken(toys.barely_scaled_forces)),
    ),
    "stress of wrong sign": (
        physics.check_stress_is_derivative,
        lambda: toy_potential(kind=toys.broken(toys.flipped_stress)),
    ),
    "shear swapped": (physics.check_stress_is_derivative, lambda: toy_potential(kind=toys.broken(toys.swapped_shear))),
    "no second derivative": (physics.check_second_derivatives, lambda: toy_potential(toys.OnceDifferentiable())),
    "no training gradient": (physics.check_training_gradient, lambda: toy_potential(toys.OnceDifferentiable())),
    "anisotropic": (physics.check_rotation, lambda: toy_potential(toys.Anisotropic())),
    "handed": (physics.check_inversion, lambda: toy_potential(toys.Handed())),
    "external field": (physics.check_translation, lambda: toy_potential(toys.Positioned())),
    "float32 positions": (physics.check_translation, lambda: toy_potential(toys.SinglePrecisionPositions())),
    "unwrapped atoms lost": (physics.check_wrapping, lambda: toy_potential(toys.Unwrapped())),
    "atoms ordered": (physics.check_permutation, lambda: toy_potential(toys.Ordered())),
    "volume signed": (physics.check_left_handed_cell, lambda: toy_potential(kind=toys.broken(toys.signed_volume))),
    "intensive": (physics.check_supercell, lambda: toy_potential(toys.Intensive())),
    "own images dropped": (physics.check_one_atom_cell, lambda: toy_potential(toys.BlindToItsImages())),
    "batch leaks": (physics.check_batch, lambda: toy_potential(toys.Leaky())),
    "energy counts atoms": (physics.check_fragments, lambda: toy_potential(toys.Counting())),
    "lone atom not E0": (physics.check_isolated_atom, lambda: toy_potential(toys.Offset())),
    "lone energy misdeclared": (physics.check_isolated_atom, lambda: toy_potential(kind=toys.WrongIsolatedEnergy)),
    "NaN without neighbors": (physics.check_no_neighbors, lambda: toy_potential(toys.NaNAlone())),
    "NaN by symmetry": (physics.check_high_symmetry, lambda: toy_potential(toys.NaNInPerfectCrystals())),
    "parts do not sum": (physics.check_energy_parts, lambda: toy_potential(kind=toys.broken(toys.lossy_parts))),
    "stress changes forces": (
        physics.check_energy_parts,
        lambda: toy_potential(kind=toys.broken(toys.forces_depend_on_stress)),
    ),
    "list decides the range": (physics.check_larger_list, lambda: toy_potential(toys.Reaching())),
    "force beyond the cutoff": (physics.check_no_force_beyond_cutoff, lambda: toy_potential(toys.Farther())),
    "cutoff too small": (physics.check_cutoff_smoothness, lambda: toy_potential(toys.Farther())),
    "cutoff too large": (physics.check_cutoff_smoothness, lambda: toy_potential(toys.Nearer())),
    "kink at the cutoff": (physics.check_cutoff_smoothness, lambda: toy_potential(toys.Cosine(smoothness=2))),
    "jump at the cutoff": (physics.check_cutoff_smoothness, lambda: toy_potential(toys.Jumping(smoothness=0))),
    "mixed pbc ignored": (physics.check_open_boundaries, lambda: toy_potential(kind=toys.PartialPeriodicityIgnored)),
    "input moved": (physics.check_inputs_unchanged, lambda: toy_potential(kind=toys.broken(toys.moves_the_input))),
    "model remembers": (physics.check_inputs_unchanged, lambda: toy_potential(kind=toys.Remembering)),
    "float32 cancels": (physics.check_float32, lambda: toy_potential(toys.Rounding())),
    "empty structure": (physics.check_empty_structure, lambda: toy_potential(toys.Fragile())),
    "file loses bits": (physics.check_save_and_load, lambda: toys.LossyFile(small_mace().model, {6: 0.0, 14: 0.0})),
}


@pytest.mark.parametrize("case", BROKEN)
def test_check_fails_on_a_broken_potential(case: str) -> None:
    check, make = BROKEN[case]
    (outcome,) = run_checks([check], make())
    assert not outcome.passed, str(outcome)


def test_every_check_is_shown_to_fail() -> None:
    assert {check for check, _ in BROKEN.values()} == set(physics.POTENTIAL_CHECKS)


def test_declared_smoothness_is_what_is_tested() -> None:
    assert physics.check_cutoff_smoothness(toy_potential(toys.Cosine(smoothness=1))).passed
    assert physics.check_cutoff_smoothness(toy_potential(toys.Toy(smoothness=1))).passed
    assert not physics.check_cutoff_smoothness(toy_potential(toys.Toy(smoothness=3))).passed


@pytest.mark.parametrize("leading", [0.3, 0.01, -0.0007, -0.002, -0.05])
def test_a_small_leading_term_is_neither_a_kink_nor_overlooked(leading: float) -> None:
    """Where the next term cancels it near the cutoff, the local exponent of the force can be anything."""
    assert physics.check_cutoff_smoothness(toy_potential(toys.SmallTerm(leading, smoothness=2))).passed
    assert not physics.check_cutoff_smoothness(toy_potential(toys.SmallTerm(leading, smoothness=3))).passed


@pytest.mark.parametrize(("order", "passed"), [(2, True), (3, False)])
def test_dimenet_near_the_roots(order: int, passed: bool) -> None:
    """With frequencies near nπ its second derivative at the cutoff is small, and must still be found."""
    torch.manual_seed(4)
    sizes = {"hidden_channels": 6, "num_blocks": 1, "num_spherical": 3, "num_radial": 3, "num_output_layers": 1}
    model = DimeNet((6, 8), 4.0, num_bilinear=3, **sizes).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.radial.frequencies.copy_(math.pi * torch.arange(1, 4) + 0.003 * torch.rand(3))
    model.cutoff_smoothness = order
    assert physics.check_cutoff_smoothness(Potential(model, {6: 0.0, 8: 0.0})).passed == passed


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
    outcome = physics.check_forces_are_gradient(toy_potential(kind=toys.broken(toys.scaled_forces)))
    assert outcome.name == "forces-are-gradient" and outcome.law == "Forces are minus the gradient of the energy"
    assert "FAILED" in str(outcome) and outcome.as_dict()["passed"] is False


def test_command_on_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlip.cli import main

    path = tmp_path / "model.safetensors"
    small_mace().save(path)
    assert main(["check", str(path)]) == 0
    assert "all passed" in capsys.readouterr().out
