"""Messages behind which all weights are negligible are left out: the same results to the bit, with less work."""

from __future__ import annotations

import math

import pytest
import torch
from ase.build import bulk

import mlip
from mlip.convert import atoms_to_graph
from mlip.models import MACE, compiled_mace
from mlip.potential import Potential

pytestmark = pytest.mark.skipif(not mlip.compiled, reason="the compiled operators are not installed")


def worn_potential(factor: float, above: int, **options: object) -> Potential:
    """One whose last layer has weights behind messages of l > `above` multiplied by `factor`."""
    torch.manual_seed(0)
    named = {"hidden_irreps": "16x0e", "l_max": 3, "interaction_first": "residual", **options}
    model = MACE(elements=(6, 14), cutoff=4.5, correlation=3, radial_mlp=(16,), **named)
    message = model.layers[-1].interaction.message
    with torch.no_grad():
        for ir, mix in zip([ir for ir in message.irreps_out if ir is not None], message.mix, strict=True):
            mix *= factor if ir.l > above else 1.0
    return Potential(model, E0s={6: -1.0, 14: -2.0}).requires_grad_(False).to(torch.float64)


def layers_made(potential: Potential, radial: str) -> list[int]:
    evaluator = potential.model.compiled(radial)
    return [layer.program.dim_in for layer in evaluator.layers(None)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("radial", ["exact", "table"])
@pytest.mark.parametrize(("above", "components"), [(0, 4), (1, 4), (2, 9)])
def test_same_bits_without_negligible_messages(
    monkeypatch: pytest.MonkeyPatch, above: int, components: int, radial: str, dtype: torch.dtype
) -> None:
    potential = worn_potential(1e-35, above).to(dtype)
    crystal = bulk("SiC", "zincblende", a=4.4) * (2, 2, 1)
    crystal.rattle(0.1, seed=0)
    graph = atoms_to_graph([crystal], potential.cutoff)
    potential.acceleration.radial = radial
    assert layers_made(potential, radial) == [16, components]
    narrow = potential(graph, forces=True, stress=True)
    monkeypatch.setattr(compiled_mace, "narrow", lambda layer: None)
    potential.acceleration.forget()
    assert layers_made(potential, radial) == [16, 16]
    wide = potential(graph, forces=True, stress=True)
    tolerance = 0 if components == 4 and dtype == torch.float64 else 1e-15 if dtype == torch.float64 else 1e-6
    for a, b in ((narrow.energy, wide.energy), (narrow.forces, wide.forces), (narrow.stress, wide.stress)):
        assert float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize(
    ("factor", "options"),
    [
        (1e-25, {}),  # small, but not nothing
        (math.nan, {}),
        (1e-35, {"hidden_irreps": "16x0e+16x1o"}),  # vectors are sent too
        (1e-35, {"interaction": "agnostic"}),  # a map by element follows the message
        (1e-35, {"interaction": "residual_nonlinear"}),
    ],
)
def test_other_layers_stay_as_they_are(factor: float, options: dict[str, object]) -> None:
    assert layers_made(worn_potential(factor, 0, **options), "exact") == [16, 16]


def test_training_leaves_nothing_out() -> None:
    """The weights may come back."""
    potential = worn_potential(1e-35, 0).requires_grad_(True)
    evaluator = potential.model.compiled("exact", trained=True)
    assert [layer.program.dim_in for layer in evaluator.layers(None)] == [16, 16]


def test_weights_that_come_back_are_noticed() -> None:
    potential = worn_potential(1e-35, 0)
    graph = atoms_to_graph([bulk("Si")], potential.cutoff)
    before = potential(graph, forces=False).energy
    with torch.no_grad():
        for mix in potential.model.layers[-1].interaction.message.mix[1:]:
            mix *= 1e35
    after = potential(graph, forces=False).energy
    assert float((after - before).abs().max()) > 1e-6
    potential.acceleration.backend = "reference"
    assert torch.allclose(after, potential(graph, forces=False).energy, rtol=0, atol=1e-12)
