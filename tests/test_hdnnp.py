"""HDNNP: physics, symmetry functions against their formulas, derivatives; n2p2's numbers are in test_n2p2.py."""

from __future__ import annotations

import math
from copy import deepcopy
from itertools import combinations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from mlip.convert import atoms_to_graph
from mlip.errors import InputError
from mlip.models import HDNNP
from mlip.nn import symmetry_groups
from mlip.nn.symmetry_functions import CUTOFFS, KINDS, CutoffFunction, SymmetryFunction
from mlip.nn.triplets import pairs_of_neighbors
from mlip.potential import Potential
from mlip.testing.physics import PotentialPhysics
from mlip.testing.physics.structures import check_structures

CUTOFF = 4.2


def functions(
    elements: tuple[int, ...], kinds: tuple[int, ...] = tuple(KINDS), core: str = "p3"
) -> list[SymmetryFunction]:
    """Some of each kind for all elements and pairs of elements."""
    made = []
    for center in elements:
        for number in kinds:
            kind = KINDS[number]
            numbers = [()] if kind.weighted else [(z,) for z in elements]
            if kind.n_neighbors == 2:
                numbers = [(a, b) for a in elements for b in elements if a <= b]
            for k, neighbors in enumerate(numbers):
                options = (
                    {"lowest": -CUTOFF, "core": core} if kind.compact else {"eta": 0.1 + 0.1 * k, "shift": 0.3 * k}
                )
                if kind.shape != "radial":
                    options |= {"angles": (20.0, 170.0)} if kind.compact else {"lam": (-1.0) ** k, "zeta": 2.0 + k}
                made.append(SymmetryFunction(number, center, neighbors, CUTOFF, **options))
    return made


def make(
    elements: tuple[int, ...], made: list[SymmetryFunction] | None = None, scale: float = 1.0, **options: object
) -> Potential:
    torch.manual_seed(4)
    made = functions(elements) if made is None else made
    model = HDNNP(elements, CUTOFF, made, hidden=(6, 5), **options).double()
    graph = atoms_to_graph(list(check_structures(elements, CUTOFF).values()), CUTOFF)
    for k, (_, values) in enumerate(model.symmetry_functions(graph)):  # or the networks would be saturated
        model.of_element("offset", k).copy_(values.mean(dim=0))
        model.of_element("factor", k).copy_(1 / (values.std(dim=0) + 0.1))
        model.of_element("base", k).fill_(0.1)
    for network in model.networks:
        for bias in network.biases:
            torch.nn.init.normal_(bias, std=0.3)
    return Potential(model, {z: -50.0 * z for z in elements}, scale, 0.1)


class TestTwoElements(PotentialPhysics):
    """Radial and angular, weighted and not, with Gaussians and bumps, of two elements."""

    @pytest.fixture
    def potential(self) -> Potential:
        return make((6, 14), functions((6, 14), (2, 3, 12, 22, 24)), 0.7, cutoff_function="poly2")


class TestGaussians(PotentialPhysics):
    """The classical ones with the cosine, whose second derivative jumps at the cutoff."""

    @pytest.fixture
    def potential(self) -> Potential:
        return make((14,), functions((14,), (2, 3, 9)))


class TestBumps(PotentialPhysics):
    """Asymmetric ones, with networks whose sums are divided by their terms."""

    @pytest.fixture
    def potential(self) -> Potential:
        return make(
            (14,), functions((14,), (20, 21, 22), "p1a"), activations=["softplus"] * 2 + ["identity"], normalized=True
        )


def by_formula(function: SymmetryFunction, atoms: Atoms, i: int, window: CutoffFunction) -> float:
    """A symmetry function of one atom of a molecule, written out."""
    kind, total = KINDS[function.kind], 0.0
    others = [j for j in range(len(atoms)) if j != i]

    def weight(*members: int) -> float:
        numbers = sorted(int(atoms.numbers[j]) for j in members)
        if kind.weighted:
            return float(np.prod(numbers))
        return 1.0 if tuple(numbers) == function.neighbors else 0.0

    def radial(r: float) -> float:
        if kind.compact:
            middle, half = (function.lowest + function.cutoff) / 2, (function.cutoff - function.lowest) / 2
            x = abs(r - middle) / half
            return 0.0 if x >= 1 else (x * (x * (20 * x - 70) + 84) - 35) * x**4 + 1
        value = float(window(torch.tensor(r, dtype=torch.float64), torch.tensor(function.cutoff, dtype=torch.float64)))
        return math.exp(-function.eta * (r - function.shift) ** 2) * value

    for members in combinations(others, kind.n_neighbors or (1 if kind.shape == "radial" else 2)):
        vectors = [atoms.positions[j] - atoms.positions[i] for j in members]
        value = weight(*members) * math.prod(radial(float(np.linalg.norm(v))) for v in vectors)
        if kind.shape == "narrow":
            value *= radial(float(np.linalg.norm(vectors[0] - vectors[1])))
        if kind.shape != "radial":
            cosine = vectors[0] @ vectors[1] / np.prod([np.linalg.norm(v) for v in vectors])
            if kind.compact:
                left, right = function.angles
                x = abs(math.degrees(math.acos(cosine)) - (left + right) / 2) / ((right - left) / 2)
                value *= 0.0 if x >= 1 else (x * (x * (20 * x - 70) + 84) - 35) * x**4 + 1
            else:
                value *= 2 ** (1 - function.zeta) * (1 + function.lam * cosine) ** function.zeta
        total += value
    return total


def cluster() -> Atoms:
    rng = np.random.default_rng(2)
    return Atoms("C3Si3", positions=np.array(list(np.ndindex(2, 3, 1))) * 2.0 + 0.4 * rng.random((6, 3)))


@pytest.mark.parametrize("kind", KINDS)
def test_formulas(kind: int) -> None:
    atoms, window = cluster(), CutoffFunction("cos", 0.2)
    made = functions((6, 14), (kind,))
    model = HDNNP((6, 14), CUTOFF, made, inner_cutoff=0.2).double()
    for k, (members, values) in enumerate(model.symmetry_functions(atoms_to_graph(atoms, CUTOFF))):
        own = [function for function in made if function.center == model.elements[k]]
        expected = [[by_formula(function, atoms, i, window) for function in own] for i in members.tolist()]
        np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-14)
        assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("name", CUTOFFS)
def test_cutoff_functions_fall_from_one_to_zero(name: str) -> None:
    r, cutoff = torch.linspace(0, 5, 101, dtype=torch.float64), torch.tensor(4.0, dtype=torch.float64)
    values = CutoffFunction(name)(r, cutoff)
    assert values[0] == pytest.approx(math.tanh(1.0) ** 3 if name == "tanhu" else 1.0)
    assert bool((values[r >= 4] == 0).all()) and bool((values.diff()[r[1:] < 4] <= 0).all())
    if name not in ("hard", "tanhu", "tanh"):
        assert bool((CutoffFunction(name, 0.5)(r, cutoff)[r <= 2] == 1).all())


def test_second_derivatives_where_three_atoms_are_in_line() -> None:
    """In a perfect crystal angles are exactly 180 degrees: forces vanish, the Hessian is finite and right."""
    atoms = bulk("Si", "sc", a=2.3)
    made = functions((14,))
    made += [SymmetryFunction(22, 14, (14, 14), CUTOFF, lowest=-CUTOFF, angles=(60.0, 300.0), core="p2")]
    for lam, zeta in ((1.0, 0.5), (-1.0, 0.5), (1.0, 1.5), (-1.0, 1.5)):
        made.append(SymmetryFunction(3, 14, (14, 14), CUTOFF, eta=0.1, lam=lam, zeta=zeta))
    potential = make((14,), made)
    graph = atoms_to_graph(atoms * (2, 1, 1), potential.cutoff)
    assert float(potential(graph).forces.abs().max()) < 1e-10

    def energy(positions: torch.Tensor) -> torch.Tensor:
        return potential.model(graph._replace(positions=positions)).energy.sum()

    positions = graph.positions.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(energy, (positions,), atol=1e-6)
    assert torch.autograd.gradgradcheck(energy, (positions,), atol=1e-4)


def test_triplets_in_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What derivatives need is then computed again: energies, forces, gradients of a force loss."""
    potential = make((6, 14))
    graph = atoms_to_graph(cluster(), potential.cutoff)
    results = []
    for at_once in (2**22, 10):
        monkeypatch.setattr(symmetry_groups, "AT_ONCE", at_once)
        found = potential(graph, stress=False, training=True)
        parameters = [p for p in potential.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(found.forces.square().sum(), parameters, allow_unused=True)
        results.append([found.energy, found.forces, *(g for g in gradients if g is not None)])
    assert len(results[0]) > 6
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_float32_keeps_functions_that_hardly_reach_a_neighbor() -> None:
    """Their factors are beyond float32; in a file, too."""
    made = [*functions((14,), (2, 3)), SymmetryFunction(2, 14, (14,), CUTOFF, eta=60.0, shift=0.2)]
    potential = make((14,), made)
    potential.model.of_element("factor", 0)[-1] = 1e90
    graph = atoms_to_graph(bulk("Si"), potential.cutoff)
    expected, single = potential(graph), deepcopy(potential).to(torch.float32)
    found = single(graph)
    assert bool(found.energy.isfinite().all()) and single.dtype == torch.float32
    torch.testing.assert_close(found.energy, expected.energy, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.forces, expected.forces, rtol=1e-4, atol=1e-5)


def test_pairs_of_neighbors() -> None:
    center = torch.tensor([0, 0, 0, 2, 2, 3])
    first, second = pairs_of_neighbors(center, 5)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2), (3, 4)]
    assert all(len(part) == 0 for part in pairs_of_neighbors(center[:0], 3))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": 7, "center": 14, "neighbors": (), "cutoff": 4.0}, "kind 7"),
        ({"kind": 2, "center": 14, "neighbors": (), "cutoff": 4.0}, "expected 1"),
        ({"kind": 2, "center": 14, "neighbors": (14,), "cutoff": 4.0, "eta": -1.0}, "not negative"),
        ({"kind": 2, "center": 14, "neighbors": (14,), "cutoff": 4.0, "eta": math.nan}, "finite"),
        ({"kind": 2, "center": 14, "neighbors": (14,), "cutoff": 4.0, "ETA": 1.0}, "ETA"),
        ({"kind": 2, "center": 14, "neighbors": (14,), "cutoff": 5.0}, "beyond the cutoff"),
        ({"kind": 2, "center": 14, "neighbors": (6,), "cutoff": 4.0}, "none of the model's elements"),
        ({"kind": 20, "center": 14, "neighbors": (14,), "cutoff": 4.0, "core": "p5"}, "core function 'p5'"),
        ({"kind": 20, "center": 14, "neighbors": (14,), "cutoff": 4.0, "lowest": 4.5}, "beyond its end"),
        (
            {"kind": 22, "center": 14, "neighbors": (14, 14), "cutoff": 4.0, "angles": (-10.0, 90.0)},
            "middle at 0 or 180",
        ),
        ({"kind": 2, "center": 6, "neighbors": (14,), "cutoff": 4.0}, "none of the model's elements"),
    ],
)
def test_wrong_symmetry_functions(wrong: dict[str, object], message: str) -> None:
    right = {"kind": 2, "center": 14, "neighbors": (14,), "cutoff": 4.0, "eta": 0.5}
    with pytest.raises(InputError, match=message):
        HDNNP((14,), 4.2, [right, wrong])


def test_wrong_options() -> None:
    made = functions((14,), (2,))
    with pytest.raises(InputError, match="no symmetry function for C"):
        HDNNP((6, 14), CUTOFF, made)
    with pytest.raises(InputError, match="cutoff function 'sine'"):
        HDNNP((14,), CUTOFF, made, cutoff_function="sine")
    with pytest.raises(InputError, match="no inner cutoff"):
        HDNNP((14,), CUTOFF, made, cutoff_function="tanh", inner_cutoff=0.5)
    with pytest.raises(InputError, match="activation 'silu'"):
        HDNNP((14,), CUTOFF, made, activations=["silu", "silu", "identity"])
    with pytest.raises(InputError, match="3 activation functions for 2 layers"):
        HDNNP((14,), CUTOFF, made, hidden=[4])
    with pytest.raises(InputError, match="nothing given for Si"):
        HDNNP((14,), CUTOFF, made, hidden={"C": [4]}, activations=["tanh", "identity"])
