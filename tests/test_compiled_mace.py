"""MACE by compiled operators equals plain torch: energies, forces, stress; and what happens when it does not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from toy_potentials import Toy

import mlip
from mlip import ops
from mlip.acceleration import Acceleration, probes
from mlip.calculators import MLIPCalculator
from mlip.convert import atoms_to_graph
from mlip.energy_scale import Reference
from mlip.errors import InputError
from mlip.models import MACE, compiled_mace, compiled_radial
from mlip.models.base import AtomOutputs
from mlip.models.mace_layer import NonLinearInteraction
from mlip.potential import Potential
from mlip.testing.physics import PotentialPhysics

pytestmark = pytest.mark.skipif(not mlip.compiled, reason="the extension is not built")

MODELS: dict[str, dict[str, Any]] = {
    "scalars": {"hidden_irreps": "16x0e", "interaction_first": "residual"},
    "vectors": {"hidden_irreps": "16x0e+16x1o", "num_interactions": 3},
    "tensors": {"hidden_irreps": "16x0e+16x1o+16x2e", "correlation": 2},
    "l_max 1": {"hidden_irreps": "16x0e+16x1o", "l_max": 1},
    "by layer": {"hidden_irreps": ["32x0e+32x1o", "16x0e"], "l_max": [3, 2], "correlation": [2, 3]},
    "density": {
        "hidden_irreps": "16x0e+16x1o",
        "interaction_first": "density",
        "interaction": "density_residual",
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
        "agnostic_product": True,
    },
    "envelope outside": {"hidden_irreps": "16x0e", "apply_cutoff": False, "distance_transform": "Soft"},
    "one layer, no residual later": {"hidden_irreps": "32x0e", "num_interactions": 1, "l_max": 2},
    "fewer channels sent": {"hidden_irreps": "32x0e+32x1o", "edge_irreps": "16x0e+16x1o", "interaction": "agnostic"},
    "kept irreps": {"hidden_irreps": "16x0e+16x1o", "keep_last_irreps": True, "last_readout_only": True},
    "l = 3": {"hidden_irreps": "16x0e+16x1o+16x2e+16x3o", "correlation": 2},
    "both parities": {"hidden_irreps": "8x0e+8x0o+8x1o+8x1e", "l_max": 2, "correlation": 2, "num_interactions": 3},
    "irreps with a gap": {"hidden_irreps": "16x0e+16x2e", "edge_irreps": ["16x0e+16x1o", "16x0e+16x2e"]},
    "odd channels": {"hidden_irreps": "10x0e+10x1o", "num_interactions": 3, "correlation": 2},
    "odd channels sent": {"hidden_irreps": "10x0e", "edge_irreps": "7x0e", "interaction_first": "density"},
    "l_max 0": {"hidden_irreps": "16x0e", "l_max": 0},
    "l_max 5": {"hidden_irreps": "16x0e+16x1o", "l_max": [4, 5], "correlation": 2},
    "l_max 7": {"hidden_irreps": "8x0e", "l_max": 7, "correlation": 1},
    "rotations only": {"hidden_irreps": "16x0e+16x1e+16x2e", "so3": True, "correlation": 2, "l_max": 2},
    "gated": {
        "hidden_irreps": "16x0e+16x1o",
        "interaction_first": "residual_nonlinear",
        "interaction": "residual_nonlinear",
        "l_max": 2,
        "readout_bias": True,
    },
    "gated later": {
        "hidden_irreps": "10x0e+10x1o",
        "edge_irreps": "12x0e+12x1o",
        "interaction": "residual_nonlinear",
        "apply_cutoff": False,
        "l_max": 1,
        "num_interactions": 3,
    },
    "gated scalars": {"hidden_irreps": "16x0e", "interaction": "residual_nonlinear", "l_max": 0},
    "two heads": {"hidden_irreps": "16x0e", "heads": ["a", "default"], "readout_bias": True},
}


def make(elements: tuple[int, ...] = (6, 8, 14), dtype: torch.dtype = torch.float64, **options: Any) -> Potential:
    torch.manual_seed(2)
    options = {"l_max": 3, "correlation": 3, "radial_mlp": (16, 16), "avg_num_neighbors": 9.0} | options
    model = MACE(elements, 4.5, **options)
    for interaction in model.modules():
        if isinstance(interaction, NonLinearInteraction):  # begins without its density, and nearly so without elements
            torch.nn.init.constant_(interaction.beta, 0.7)
            torch.nn.init.normal_(interaction.pair.center)
            torch.nn.init.normal_(interaction.pair.neighbor)
    potential = Potential(model, {z: -10.0 * z for z in elements}, scale=0.8, shift=0.1)
    return potential.requires_grad_(False).to(dtype)


def structures() -> dict[str, Atoms]:
    rng = np.random.default_rng(4)
    crystal = bulk("SiC", "zincblende", a=4.4) * (2, 1, 1)
    slab = bulk("SiC", "zincblende", a=4.4, cubic=True)
    slab.pbc = (True, True, False)
    gas = molecule("CO2")
    apart = Atoms("SiOC", positions=[[0, 0, 0], [0, 0, 1.7], [20, 0, 0]])
    for atoms in (crystal, slab, gas):
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
    return {"crystal": crystal, "slab": slab, "molecule": gas, "with a lone atom": apart}


def with_backend(potential: Potential, backend: str, radial: str | None = None) -> Potential:
    potential.acceleration = Acceleration(backend, radial)
    return potential


def largest_difference(potential: Potential, batch: list[Atoms], radial: str) -> float:
    """Of energies, forces and stress between the backends, relative to the largest force or 1."""
    graph = atoms_to_graph(batch, potential.cutoff)
    stress = all(atoms.cell.rank == 3 for atoms in batch)
    reference = with_backend(potential, "reference")(graph, stress=stress)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        compiled = with_backend(potential, "compiled", radial)
        assert compiled.acceleration.evaluator(compiled.model) is not compiled.model
        fast = compiled(graph, stress=stress)
    scale = max(1.0, float(reference.forces.abs().max()))
    pairs = [(a, b) for a, b in zip(fast, reference, strict=True) if b is not None]
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs) / scale


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("radial", "tolerance"), [("exact", 1e-11), ("table", 1e-6)])
def test_equals_plain_torch(name: str, radial: str, tolerance: float) -> None:
    potential = make(**MODELS[name])
    for atoms in structures().values():
        assert largest_difference(potential, [atoms], radial) < tolerance
    assert largest_difference(potential, list(structures().values()), radial) < tolerance


@pytest.mark.parametrize("name", ["scalars", "vectors", "density", "both parities", "odd channels", "gated"])
@pytest.mark.parametrize("radial", ["exact", "table"])
def test_single_precision(name: str, radial: str) -> None:
    potential = make(dtype=torch.float32, **MODELS[name])
    assert largest_difference(potential, list(structures().values()), radial) < 2e-5


def test_derivatives_of_radial_functions_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large systems do not keep them: the same to the bit."""
    graph = atoms_to_graph([bulk("Si", cubic=True)], 5.0)
    potential = with_backend(make(**MODELS["vectors"]), "compiled", "exact")
    kept = potential(graph, forces=True, stress=True)
    monkeypatch.setattr(compiled_radial, "MOST_KEPT_BYTES", 0)
    again = potential(graph, forces=True, stress=True)
    assert torch.equal(kept.forces, again.forces) and torch.equal(kept.stress, again.stress)


def test_many_elements_in_one_structure() -> None:
    elements = (1, 6, 7, 8, 14, 16, 17)
    atoms = Atoms(
        elements, positions=1.6 * np.random.default_rng(0).permutation(np.mgrid[:2, :2, :2].reshape(3, 8).T)[:7]
    )
    potential = make(elements, **MODELS["scalars"])
    assert largest_difference(potential, [atoms], "exact") < 1e-11
    assert largest_difference(potential, [atoms], "table") < 1e-6


class TestCompiled(PotentialPhysics):
    """Every physics check with the compiled operators and exact radial functions."""

    @pytest.fixture
    def potential(self) -> Potential:
        return with_backend(make((6, 14), **MODELS["vectors"]), "compiled", "exact")


class TestTable(PotentialPhysics):
    """And with tabulated radial functions: forces are the exact derivatives of the interpolated energy."""

    excused = {"save-and-load": "which radial functions are used is no property of the file"}  # noqa: RUF012

    @pytest.fixture
    def potential(self) -> Potential:
        return with_backend(make((6, 14), **MODELS["density"]), "compiled", "table")


def test_what_has_no_operators_is_evaluated_by_plain_torch() -> None:
    for model in (make(**MODELS["scalars"], dtype=torch.bfloat16).model, Toy().requires_grad_(False)):
        acceleration = Acceleration("compiled")
        assert acceleration.evaluator(model) is model
        assert acceleration.radial_functions(model) == "exact"


def test_gated_messages_have_no_table() -> None:
    """Their radial functions depend on embeddings of both elements."""
    acceleration = Acceleration("compiled", "table")
    model = make(**MODELS["gated"]).model
    assert acceleration.evaluator(model) is not model
    assert acceleration.radial_functions(model) == "exact"


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({"backend": "fast"}, {"radial": "spline"}):
        with pytest.raises(InputError, match="expected one of"):
            Acceleration(**options)
        with pytest.raises(InputError, match="expected one of"):
            MLIPCalculator(make(**MODELS["scalars"]), **options)
    potential = make(**MODELS["scalars"])
    assert potential.acceleration.evaluator(potential.model) is not potential.model
    monkeypatch.setenv("MLIP_BACKEND", "reference")
    assert potential.acceleration.evaluator(potential.model) is potential.model
    monkeypatch.setenv("MLIP_BACKEND", "quick")
    with pytest.raises(InputError, match="backend 'quick'"):
        potential.acceleration.evaluator(potential.model)


def test_calculator_names_the_radial_functions_in_use() -> None:
    potential = make(**MODELS["scalars"])
    radials = {
        "float64": MLIPCalculator(potential).parameters["radial"],
        "float32": MLIPCalculator(potential, dtype="float32").parameters["radial"],
        "asked": MLIPCalculator(potential, radial="table").parameters["radial"],
        "reference": MLIPCalculator(potential, dtype="float32", backend="reference").parameters["radial"],
    }
    assert radials == {"float64": "exact", "float32": "table", "asked": "table", "reference": "exact"}


def test_changed_weights_are_noticed() -> None:
    potential = make(**MODELS["vectors"])
    graph = atoms_to_graph(structures()["crystal"], potential.cutoff)
    before = potential(graph).energy
    with torch.no_grad():
        potential.model.readouts[0].weights[0].mul_(1.5)
    after = potential(graph).energy
    assert abs(float(after - before)) > 1e-3
    assert torch.allclose(after, with_backend(potential, "reference")(graph).energy, rtol=1e-13)


def test_pairs_may_lie_in_any_order_in_memory() -> None:
    potential = make(**MODELS["vectors"])
    graph = atoms_to_graph(structures()["crystal"], potential.cutoff)
    other = graph._replace(edge_index=graph.edge_index.t().contiguous().t())
    assert torch.equal(potential(other).forces, potential(graph).forces)


def test_heads_have_their_own_energies() -> None:
    potential = make(**MODELS["two heads"])
    graph = atoms_to_graph(structures()["crystal"], potential.cutoff)
    for head in potential.heads:
        other = potential.with_head(head)
        assert torch.allclose(other(graph).energy, with_backend(other, "reference")(graph).energy, rtol=1e-13)
    assert not torch.allclose(potential.with_head("a")(graph).energy, potential(graph).energy)


def test_potentials_may_share_a_network() -> None:
    network = make(**MODELS["two heads"]).model
    references = [Reference({6: -1.0, 8: -2.0, 14: -3.0})] * 2
    both = {head: Potential(network, references=references, head=head) for head in network.heads}
    graph = atoms_to_graph(structures()["crystal"], network.cutoff)
    for head, potential in both.items():
        assert potential.head == head
        assert torch.equal(potential(graph).energy, Potential(network, references=references, head=head)(graph).energy)
    assert not torch.allclose(both["a"](graph).energy, both["default"](graph).energy)


@pytest.mark.parametrize(
    ("elements", "shared"),
    [((6, 8, 14), True), ((6, 8, 14), False), ((6, 14), True)],
    ids=["shared", "apart", "all elements"],
)
@pytest.mark.parametrize("name", MODELS)
def test_trains_as_plain_torch(
    name: str, elements: tuple[int, ...], shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients of a loss on energies, forces and stress by all parameters; so second derivatives are right too.

    Radial functions are computed once for both directions of a pair, or, beyond a memory limit, edge by edge. The
    weights are those of the elements in the batch.
    """
    if not shared:
        monkeypatch.setattr(compiled_mace, "MOST_SHARED_BYTES", 0)
    potential = make(elements, **MODELS[name]).requires_grad_(True)
    graph = atoms_to_graph([structures()["crystal"], structures()["slab"]], potential.cutoff)
    gradients = []
    for backend in ("reference", "compiled"):
        prediction = with_backend(potential, backend)(graph, training=True)
        assert (potential.acceleration.trainer(potential.model) is potential.model) == (backend == "reference")
        loss = (prediction.forces**2).sum() + prediction.energy.square().sum() + (prediction.stress**2).sum()
        parameters = dict(potential.model.named_parameters())
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        gradients.append(dict(zip(parameters, found, strict=True)))
    scale = max(float(g.abs().max()) for g in gradients[0].values() if g is not None)
    for parameter, expected in gradients[0].items():
        got = gradients[1][parameter]
        assert (got is None) == (expected is None), parameter
        if got is not None:
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-13 * scale, msg=parameter)


def test_validation_of_a_trained_model() -> None:
    potential = make(**MODELS["vectors"]).requires_grad_(True)
    graph = atoms_to_graph(structures()["crystal"], potential.cutoff)
    before = potential(graph)
    with torch.no_grad():
        potential.model.embedding.mul_(1.1)
    after, reference = potential(graph), with_backend(potential, "reference")(graph)
    assert torch.allclose(after.forces, reference.forces, rtol=1e-9, atol=1e-11)
    assert (after.forces - before.forces).abs().max() > 1e-6 and not after.forces.requires_grad


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_model_to_train_is_first_evaluated_without_gradients(context: Callable[[], Any]) -> None:
    """The check of the operators takes the gradients it needs, else it would find them all to be zero."""
    potential = make(**MODELS["scalars"]).requires_grad_(True)
    graph = atoms_to_graph(structures()["crystal"], potential.cutoff)
    with warnings.catch_warnings(), context():
        warnings.simplefilter("error")
        potential(graph)
    assert potential.acceleration.trainer(potential.model) is not potential.model


def test_a_wrong_second_derivative_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.symmetric_contraction

    def wrong(*arguments: Any) -> torch.Tensor:
        out = right(*arguments)
        out.register_hook(lambda grad: grad * (1 + 1e-6))
        return out

    monkeypatch.setattr("mlip.ops.symmetric_contraction", wrong)
    potential = make(**MODELS["scalars"]).requires_grad_(True)
    with pytest.warns(RuntimeWarning, match="largest gradient of a force loss.*plain torch is used"):
        assert potential.acceleration.trainer(potential.model) is potential.model


def test_a_wrong_operator_is_noticed_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.symmetric_contraction

    def wrong(*arguments: Any) -> torch.Tensor:
        return right(*arguments) * (1 + 1e-6)

    monkeypatch.setattr("mlip.ops.symmetric_contraction", wrong)
    potential = make(**MODELS["scalars"])
    graph = atoms_to_graph(structures()["crystal"], potential.cutoff)
    with pytest.warns(RuntimeWarning, match="disagree with plain torch.*plain torch is used"):
        energy = potential(graph).energy
    assert torch.equal(energy, with_backend(potential, "reference")(graph).energy)


def test_a_deviation_of_nan_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(self: MACE, radial: str) -> Callable[..., AtomOutputs]:
        def evaluate(graph: mlip.AtomGraph, head: int = 0) -> AtomOutputs:
            outputs = self(graph, head)
            return outputs._replace(energy=outputs.energy * float("nan"))

        return evaluate

    monkeypatch.setattr(MACE, "compiled", nothing)
    potential = make(**MODELS["scalars"])
    with pytest.warns(RuntimeWarning, match="nan of the largest force"):
        assert potential.acceleration.evaluator(potential.model) is potential.model


def test_probes_show_pairs_of_all_kinds() -> None:
    model = make().model
    for atoms in probes(model):
        graph = atoms_to_graph(atoms, model.cutoff)
        assert graph.edge_index.shape[1] > 8
        assert set(atoms.numbers) <= set(model.elements)
