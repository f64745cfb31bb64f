"""The evaluator kept for a model is never that of another state of it, whichever way the model changed."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ase.build import bulk
from torch.autograd import forward_ad

import mlip
from mlip import ops
from mlip.acceleration import Acceleration
from mlip.convert import atoms_to_graph
from mlip.graph import AtomGraph
from mlip.models import MACE, radial_tables
from mlip.models.compiled_mace import CompiledMACE
from mlip.potential import Potential

pytestmark = pytest.mark.skipif(not mlip.compiled, reason="the extension is not built")

ELEMENTS = (6, 14)


def make(radial: str = "exact", **options: Any) -> Potential:
    torch.manual_seed(3)
    options = {"hidden_irreps": "16x0e+16x1o", "l_max": 1, "correlation": 2, "radial_mlp": (8,)} | options
    potential = Potential(MACE(ELEMENTS, 4.0, **options), dict.fromkeys(ELEMENTS, 0.0))
    potential.acceleration = Acceleration("compiled", radial)
    return potential.double().requires_grad_(False)


def graph_of(symbols: str = "SiC") -> AtomGraph:
    atoms = bulk("SiC", "zincblende", a=4.5)
    atoms.symbols = symbols
    atoms.rattle(0.1, seed=1)
    return atoms_to_graph(atoms, 4.0)


def assert_up_to_date(potential: Potential, tolerance: float = 1e-12) -> None:
    """The energy is that of plain torch, and comes from compiled operators."""
    energy = potential(graph_of()).energy
    assert isinstance(potential.acceleration.evaluator(potential.model), CompiledMACE)
    other = copy.deepcopy(potential)
    other.acceleration = Acceleration("reference")
    assert torch.allclose(energy, other(graph_of()).energy, rtol=tolerance, atol=tolerance)


def assign_weights(potential: Potential) -> None:
    state = {k: 1.5 * v if v.is_floating_point() else v for k, v in potential.state_dict().items()}
    potential.load_state_dict(state, assign=True)
    potential.requires_grad_(False)


def replace_layer(potential: Potential) -> None:
    layer = copy.deepcopy(potential.model.layers[0])  # type: ignore[index]
    for parameter in layer.parameters():
        parameter.data *= 1.5
    potential.model.layers[0] = layer  # type: ignore[index,operator]


def change_buffer(potential: Potential) -> None:
    potential.model.get_buffer("radial.basis.frequencies").mul_(1.1)


def round_weights(potential: Potential) -> None:
    potential.to(torch.float32).to(torch.float64)


def change_data_and_forget(potential: Potential) -> None:
    for parameter in potential.parameters():
        parameter.data *= 1.1
    potential.acceleration.forget()


@pytest.mark.parametrize(
    "change", [assign_weights, replace_layer, change_buffer, round_weights, change_data_and_forget]
)
def test_changes_are_noticed(change: Callable[[Potential], None]) -> None:
    potential = make()
    for parameter in potential.parameters():
        parameter.data *= 1 + 1e-9 * torch.rand_like(parameter)
    before = potential(graph_of()).energy
    change(potential)
    assert not torch.equal(potential(graph_of()).energy, before)
    assert_up_to_date(potential)


@pytest.mark.parametrize("training", [True, False])
def test_steps_of_fused_optimizers_are_noticed(training: bool) -> None:
    """They do not count their changes of the parameters."""
    potential = make()
    potential(graph_of())
    potential.requires_grad_(True)
    optimizer = torch.optim.Adam(potential.parameters(), lr=0.1, fused=True)
    if training:
        potential(graph_of(), training=True).energy.sum().backward()
    else:
        potential(graph_of())
        potential.model(graph_of()).energy.sum().backward()
    optimizer.step()
    potential.requires_grad_(False)
    assert_up_to_date(potential)


def test_first_used_under_autocast() -> None:
    """The check against plain torch, whose outcome is kept, is made in full precision."""
    for training in (False, True):
        potential = make().to(torch.float32).requires_grad_(training)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            potential(graph_of(), training=training)
        assert isinstance(potential.acceleration.evaluator(potential.model), CompiledMACE)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("radial", ["exact", "table"])
def test_autocast_changes_nothing(radial: str, training: bool) -> None:
    """The operators take one precision, and so must all that is made for them."""
    potential = make(radial).to(torch.float32).requires_grad_(training)
    expected = potential(graph_of(), training=training)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = potential(graph_of(), training=training)
    assert torch.equal(found.energy, expected.energy) and torch.equal(found.forces, expected.forces)


@pytest.mark.parametrize("radial", ["exact", "table"])
def test_first_used_in_inference_mode(radial: str) -> None:
    potential = make(radial)
    with torch.inference_mode():
        energy = potential(graph_of(), forces=False, stress=False).energy
    assert torch.allclose(potential(graph_of()).energy, energy, rtol=1e-14)
    assert_up_to_date(potential, 1e-6)


def test_made_in_inference_mode() -> None:
    """Such a model has no derivatives; its energy is that of plain torch."""
    with torch.inference_mode():
        potential = make()
        energy = potential(graph_of(), forces=False, stress=False).energy
    assert torch.allclose(energy, make()(graph_of()).energy, rtol=1e-12)
    assert potential.acceleration.evaluator(potential.model) is potential.model


def test_derivatives_in_forward_mode_are_those_of_plain_torch() -> None:
    potential, graph = make("table"), graph_of()
    direction = torch.ones_like(graph.positions).cumsum(0)

    def energy(positions: torch.Tensor) -> torch.Tensor:
        evaluate = potential.acceleration.evaluator(potential.model)
        return evaluate(graph._replace(positions=positions)).energy.sum()

    _, slope = torch.func.jvp(energy, (graph.positions,), (direction,))
    assert abs(float(slope)) > 1e-3
    assert torch.allclose(slope, -(potential(graph).forces * direction).sum(), atol=1e-6)
    with forward_ad.dual_level():
        assert torch.allclose(make("table")(graph).energy, potential(graph).energy)


def test_operators_in_forward_mode() -> None:
    vectors = torch.eye(3, dtype=torch.float64) + 0.1
    by_rows = torch.autograd.functional.jacobian(lambda v: ops.spherical_harmonics(v, 2)[0], vectors)
    by_columns = torch.func.jacfwd(lambda v: ops.spherical_harmonics(v, 2)[0])(vectors)
    assert torch.allclose(by_rows, by_columns)


def test_threads_share_a_potential(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while tables for other elements are made and forgotten."""
    monkeypatch.setattr(radial_tables, "LARGEST_KEPT", 1)
    graphs = [graph_of(symbols) for symbols in ("SiC", "Si2", "C2")]
    potential = make("table", distance_transform="Soft")
    wanted = [potential(graph).energy for graph in graphs]
    potential = make("table", distance_transform="Soft")
    got: list[bool] = []

    def work(first: int) -> None:
        for k in range(6):
            number = (first + k) % 3
            got.append(torch.equal(potential(graphs[number]).energy, wanted[number]))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [True] * 24


def test_tables_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    potential = make("table", distance_transform="Soft")
    graphs = {symbols: graph_of(symbols) for symbols in ("Si2", "C2", "SiC")}

    def kept() -> list[tuple[int, ...]]:
        evaluator = potential.acceleration.evaluator(potential.model)
        assert isinstance(evaluator, CompiledMACE) and evaluator.tables is not None
        return list(evaluator.tables._made)

    for graph in graphs.values():
        potential(graph)
    assert {(1,), (0,), (0, 1)} <= set(kept())
    monkeypatch.setattr(radial_tables, "LARGEST_KEPT", 1)
    potential.acceleration.forget()
    for graph in graphs.values():
        potential(graph)
    assert kept() == [(0, 1)]
