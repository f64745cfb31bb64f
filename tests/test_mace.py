"""MACE and the bundled potential pass every physics check; the parity with mace-torch is in test_mace_references.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mlip
from mlip.models import MACE
from mlip.potential import Potential
from mlip.testing.physics import PotentialPhysics
from mlip.zoo import bundled_models

ROOT = Path(__file__).parents[1]
ACETYLACETONE = ROOT / "examples" / "acac" / "acac.safetensors"


def random_potential(elements: tuple[int, ...], scale: float = 1.0, shift: float = 0.0, **options: Any) -> Potential:
    torch.manual_seed(5)
    model = MACE(elements, 4.5, radial_mlp=(16,), avg_num_neighbors=12.0, **options)
    return Potential(model.double(), {z: -1000.0 * z for z in elements}, scale, shift)


class TestScalars(PotentialPhysics):
    """Invariant features, order 3, two elements, as MACE-MP small."""

    @pytest.fixture
    def potential(self) -> Potential:
        return random_potential((8, 14), hidden_irreps="4x0e", l_max=3, correlation=3, interaction_first="residual")


class TestVectors(PotentialPhysics):
    """Vectors between layers, scale and shift."""

    @pytest.fixture
    def potential(self) -> Potential:
        return random_potential((14,), 0.8, -0.3, hidden_irreps="4x0e+4x1o", l_max=2, correlation=2)


class TestTensors(PotentialPhysics):
    """Degree 2 between three layers, one of them of the unnatural parity."""

    @pytest.fixture
    def potential(self) -> Potential:
        irreps = "2x0e+2x1o+2x1e+2x2e"
        return random_potential((6,), hidden_irreps=irreps, l_max=2, correlation=3, num_interactions=3)


@pytest.mark.parametrize("name", sorted(bundled_models()))
def test_bundled_models_are_complete(name: str) -> None:
    """Weights that ship say how they were made and what they are worth."""
    potential = mlip.load(name)
    assert bundled_models()[name].stat().st_size < 3e6
    assert {"command", "config", "data", "errors"} <= set(potential.metadata)


class TestSilicon(PotentialPhysics):
    """The potential that ships."""

    @pytest.fixture
    def potential(self) -> Potential:
        return mlip.load("silicon").to(torch.float64)


class TestAcetylacetone(PotentialPhysics):
    """The example with a molecule."""

    @pytest.fixture
    def potential(self) -> Potential:
        return mlip.load(ACETYLACETONE).to(torch.float64)


def test_accuracy_page_quotes_the_errors_of_the_files() -> None:
    """Those that each run measured on its test set at the end, which no training has seen."""
    page = (ROOT / "docs" / "accuracy.md").read_text()
    molecule, crystal = (mlip.load(model).metadata["errors"]["test"] for model in (ACETYLACETONE, "silicon"))
    per_molecule = f"{molecule['energy_rmse_meV']:.2f}** | **{molecule['forces_rmse_meV_per_A']:.2f}"
    assert f"one core | **{per_molecule}** |" in page
    per_atom = f"{crystal['energy_mae_meV_per_atom']:.2f}** | **{crystal['forces_mae_meV_per_A']:.0f}"
    assert f"| **{per_atom}** |" in page
