"""Low-rank adapters, other heads and fewer elements: the network between a foundation model and what is trained."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from ase.build import bulk

from mlip.acceleration import gradient_disagreement, probes
from mlip.convert import atoms_to_graph
from mlip.energy_scale import Reference
from mlip.errors import InputError, UnknownElementError
from mlip.models import MACE
from mlip.models.reshaped_mace import parts, reshaped
from mlip.potential import Potential
from mlip.testing.physics.mixin import PotentialPhysics
from mlip.training.lora import LowRank, adapted_weights, as_users_get_it

OPTIONS = {"l_max": 2, "correlation": 2, "radial_mlp": (8,), "avg_num_neighbors": 10.0}
KINDS = {
    "plain": {"hidden_irreps": "4x0e + 4x1o"},
    "density": {
        **{"hidden_irreps": "4x0e", "interaction": "density_residual", "interaction_first": "density"},
        **{"distance_transform": "Agnesi", "pair_repulsion": True, "heads": ("a", "b")},
    },
    "nonlinear": {
        **{"hidden_irreps": "4x0e + 4x1o", "interaction": "residual_nonlinear", "apply_cutoff": False},
        **{"interaction_first": "residual_nonlinear", "readout_bias": True, "heads": ("a", "b")},
        "agnostic_product": True,
    },
}


def network(kind: str) -> MACE:
    torch.manual_seed(0)
    return MACE((8, 14, 29), 4.0, **{**OPTIONS, **KINDS[kind]}).double()


def graph(*numbers: int):
    atoms = bulk("Si", cubic=True)
    atoms.numbers[: len(numbers)] = numbers
    atoms.rattle(0.1, seed=1)
    return atoms_to_graph(atoms, 4.0)


def stirred(model: LowRank, scale: float = 0.3) -> LowRank:
    """With adapters that do something."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in (*model.a, *model.b):
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_elements_and_other_heads_give_the_same_energies(kind: str) -> None:
    model = network(kind)
    own = [Reference({8: -1.0 - k, 14: -5.0, 29: -3.0}, 1.2, 0.3) for k in range(len(model.heads))]
    last = len(model.heads) - 1
    expected = Potential(model, references=own, head=model.heads[last])(graph(8, 8))
    new = reshaped(model, (14, 8), ("pt_head", "default"), last)
    for head in new.heads:
        found = Potential(new, references=[own[last]] * 2, head=head)(graph(8, 8))
        torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-12)
    with pytest.raises(UnknownElementError, match="does not know Fe; it knows O, Si, Cu"):
        reshaped(model, (8, 26), ("default",))


def test_parts_are_all_parameters_once() -> None:
    model = network("nonlinear")
    found = [id(p) for part in parts(model).values() for p in part]
    assert sorted(found) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_begin_as_nothing_and_only_they_train(kind: str) -> None:
    model = network(kind)
    before = model(graph(8)).energy
    adapted = LowRank(model, rank=2, alpha=1.0, seed=3)
    assert torch.equal(adapted(graph(8)).energy, before)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith(("a.", "b.")) for name in trained)
    assert {p.shape[-1] for p in adapted.a} == {2} == {p.shape[-2] for p in adapted.b}
    assert not set(adapted.names) & {name for name in adapted.names if "contraction" in name}
    again = LowRank(network(kind), rank=2, alpha=1.0, seed=3)
    assert all(torch.equal(x, y) for x, y in zip(adapted.a, again.a, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_energies_and_gradients_are_those_of_the_weights_by_plain_torch(kind: str) -> None:
    """W0 + alpha/rank c A B, put into an ordinary network by hand; the chain rule by hand, too."""
    rank, alpha = 3, 2.0
    adapted = stirred(LowRank(network(kind), rank, alpha))
    plain, weights = network(kind), adapted_weights(adapted.base, rank)
    terms = dict(zip(adapted.names, zip(adapted.a, adapted.b, strict=True), strict=True))
    with torch.no_grad():
        for name, factor in weights.items():
            a, b = terms[name]
            plain.get_parameter(name).add_(alpha / rank * factor * torch.matmul(a, b))
    assert set(weights.values()) == {1.0, 1 / math.sqrt(rank)}
    energy, expected = adapted(graph(8, 29)).energy, plain(graph(8, 29)).energy
    torch.testing.assert_close(energy, expected, rtol=0, atol=1e-12)
    energy.square().sum().backward()
    expected.square().sum().backward()
    for name, factor in weights.items():
        a, b = terms[name]
        of_weight = plain.get_parameter(name).grad
        if of_weight is None:
            continue
        by_hand = alpha / rank * factor * (of_weight @ b.detach().mT)
        torch.testing.assert_close(a.grad, by_hand, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(b.grad, alpha / rank * factor * (a.detach().mT @ of_weight), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_training_gives_the_gradients_of_plain_torch(kind: str) -> None:
    """Of a loss of energies and forces, by the adapters and by positions."""
    model = stirred(LowRank(network(kind), 2, 2.0))
    assert model.compiled("exact", trained=True) is not None
    for atoms in probes(model):
        for head in range(len(model.heads)):
            assert gradient_disagreement(model, "exact", atoms, head) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_merged_model_is_an_ordinary_one_with_the_same_answers(kind: str) -> None:
    model = stirred(LowRank(network(kind), 2, 2.0), 0.1)
    references = [Reference({8: -1.0, 14: -5.0, 29: -3.0}, 1.2, 0.3)] * len(model.heads)
    potential = Potential(model, references=references, head=model.heads[-1])
    merged = as_users_get_it(potential)
    assert isinstance(merged, Potential) and type(merged.model) is MACE and merged.head == potential.head
    assert merged.model.hyperparameters == model.base.hyperparameters
    assert as_users_get_it(merged) is merged
    for evaluate in (potential, merged):
        found = evaluate(graph(29))
        merged.acceleration.backend = "reference"
        expected = merged(graph(29))
        merged.acceleration.backend = None
        torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=1e-10)
        torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-10)
        torch.testing.assert_close(found.stress, expected.stress, rtol=0, atol=1e-10)


def test_ranks_that_can_not_be() -> None:
    for rank, alpha in ((0, 1.0), (2, 0.0), (2, float("nan"))):
        with pytest.raises(InputError, match=f"rank {rank}, alpha {alpha}"):
            LowRank(network("plain"), rank, alpha)


class TestPhysicsOfAMergedModel(PotentialPhysics):
    """The laws that every potential keeps."""

    @pytest.fixture
    def potential(self) -> Potential:
        return merged_potential()


@lru_cache
def merged_potential() -> Potential:
    """With adapters added to its weights."""
    model = stirred(LowRank(network("plain"), 2, 2.0), 0.1)
    merged = as_users_get_it(Potential(model, {8: -1.0, 14: -5.0, 29: -3.0}, 1.2))
    assert isinstance(merged, Potential)
    return merged.requires_grad_(False)


@pytest.mark.parametrize("kind", ["density", "nonlinear"])
@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_a_batch_of_several_heads_is_each_structure_with_its_own(kind: str, backend: str) -> None:
    model = network(kind)
    references = [Reference({8: -1.0, 14: -5.0 - k, 29: -3.0}, 1.2 + k, 0.3 * k) for k in range(len(model.heads))]
    potential = Potential(model, references=references, head="a")
    potential.acceleration.backend = backend
    atoms = [bulk("Si", cubic=True), bulk("Cu", cubic=True)]
    for k, one in enumerate(atoms):
        one.rattle(0.1, seed=k)
    heads = torch.tensor([1, 0])
    both = potential(atoms_to_graph(atoms, 4.0), training=True, heads=heads)
    (both.energy.sum() + both.forces.square().sum()).backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for k, one in enumerate(atoms):
        alone = potential.with_head(model.heads[int(heads[k])])
        found = alone(atoms_to_graph(one, 4.0), training=True)
        torch.testing.assert_close(both.energy[k], found.energy[0], rtol=0, atol=1e-11)
        torch.testing.assert_close(both.stress[k], found.stress[0], rtol=0, atol=1e-11)
        (found.energy.sum() + found.forces.square().sum()).backward()
        for name, p in alone.model.named_parameters():
            if p.grad is not None:
                together[name] = together[name] - p.grad
    assert max(float(difference.abs().max()) for difference in together.values()) < 1e-8
