"""Losses and sums, by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from lj_data import argon
from torch.nn.functional import huber_loss

from mlip.data.batches import LabelledBatch, collate_samples, make_samples
from mlip.data.labels import LabelKeys, label_structures
from mlip.potential import Prediction
from mlip.training.config import TrainingConfig
from mlip.training.loss import Loss, make_loss, trained_properties
from mlip.training.option_checks import LOSS_TERMS
from mlip.training.sums import clip_norm, total
from mlip.training.validation import ValidationSums

WEIGHTS = {"energy": 2.0, "forces": 30.0, "stress": 400.0, "virials": 5.0}


def make(loss: str, stage_two: bool = False, **options) -> Loss:
    weights = {f"{term}_weight": WEIGHTS[term] for term in LOSS_TERMS[loss]}
    return make_loss(TrainingConfig(train_file="a.xyz", loss=loss, **{**weights, **options}), stage_two)


def batch_and_prediction(errors=(0.4, 0.5, 0.01)):
    """Two structures of four atoms, predictions off by constants: total energy, each force, each stress component."""
    batch = collate_samples(make_samples(label_structures(argon(2), LabelKeys()).structures, 4.0))
    energy, forces, stress = errors
    labels = batch.labels
    return batch, Prediction(labels.energy + energy, torch.zeros(8), labels.forces + forces, labels.stress + stress)


def expected_terms(loss: str) -> dict[str, float]:
    """Of errors of 0.4 eV in energies of four atoms, 0.5 eV/Å in each force component, 0.01 eV/Å³ in each stress."""
    volume = [abs(float(torch.linalg.det(torch.tensor(a.cell.array)))) for a in argon(2)]
    delta = 0.1

    def huber(error: float) -> float:
        return 0.5 * error**2 if error < delta else delta * (error - delta / 2)

    squares = {"energy": 0.1**2, "forces": 0.5**2, "stress": 0.01**2}
    squares["virials"] = sum((v * 0.01 / 4) ** 2 for v in volume) / 2
    hubers = {"energy": huber(0.1), "forces": huber(0.5), "stress": huber(0.01)}
    return {
        "l1l2": {"energy": 0.1, "forces": math.sqrt(3) * 0.5},
        "rmse": {"energy": 0.1, "forces": 0.5, "stress": 0.01},
        "huber": hubers,
        "universal": hubers,
    }.get(loss, squares)


@pytest.mark.parametrize("loss", LOSS_TERMS)
def test_losses_by_hand(loss: str) -> None:
    batch, prediction = batch_and_prediction()
    options = {"huber_delta": 0.1} if loss in ("huber", "universal") else {}
    value = make(loss, **options)(batch, prediction)
    expected = {term: value for term, value in expected_terms(loss).items() if term in LOSS_TERMS[loss]}
    assert value.item() == pytest.approx(sum(WEIGHTS[term] * mean for term, mean in expected.items()))
    assert value.dtype == torch.float64


MACE = json.loads((Path(__file__).parent / "fixtures" / "training_losses.json").read_text())


def of_mace(weighted: bool) -> tuple[LabelledBatch, Prediction]:
    """The labels and predictions of tests/reference/make_training_losses.py, all weights one or not."""
    given = {name: torch.tensor(value, dtype=torch.float64) for name, value in MACE.items() if isinstance(value, list)}
    n_atoms = torch.tensor(MACE["n_atoms"])
    batch = collate_samples(make_samples(label_structures(argon(3), LabelKeys()).structures, 4.0))
    graph = batch.graph._replace(
        cell=given["cell"], n_atoms=n_atoms, batch=torch.repeat_interleave(torch.arange(3), n_atoms)
    )
    weights = {name: given[name] * given["weight"] for name in given if name.endswith("_weight")}
    weights = {name: weight if weighted else torch.ones(3) for name, weight in weights.items()}
    labels = batch.labels._replace(**{name: given[name] for name in ("energy", "forces", "stress")}, **weights)
    energy, forces, stress = (given[f"predicted_{name}"] for name in ("energy", "forces", "stress"))
    return LabelledBatch(graph, labels), Prediction(energy, torch.zeros(12), forces, stress)


@pytest.mark.parametrize(
    ("loss", "weighted"),
    [
        *((loss, False) for loss in MACE["losses"]["ones"]),
        *((loss, True) for loss in ("weighted", "forces_only", "stress", "virials")),
    ],
)
def test_losses_are_those_of_mace(loss: str, weighted: bool) -> None:
    """mace-torch 0.3.16. Its other losses ignore weights of structures or put them inside Huber's function."""
    options = {f"{term}_weight": MACE["loss_weights"][term] for term in LOSS_TERMS[loss]}
    options |= {"huber_delta": MACE["delta"]} if loss in ("huber", "universal") else {}
    value = make(loss, **options)(*of_mace(weighted))
    assert value.item() == pytest.approx(MACE["losses"]["weights" if weighted else "ones"][loss], rel=1e-12)


def test_universal_turns_linear_earlier_for_large_forces() -> None:
    batch, prediction = batch_and_prediction((0.0, 0.05, 0.0))
    lengths = torch.tensor([0.0, 99.0, 100.0, 199.0, 200.0, 299.0, 300.0, 1e4], dtype=torch.float64)
    forces = torch.zeros(8, 3, dtype=torch.float64)
    forces[:, 1] = lengths
    batch = batch._replace(labels=batch.labels._replace(forces=forces))
    prediction = prediction._replace(forces=forces + 0.05)
    deltas = 0.04 * torch.tensor([1, 1, 0.7, 0.7, 0.4, 0.4, 0.1, 0.1], dtype=torch.float64)
    error, zero = torch.tensor(0.05, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    expected = sum(float(huber_loss(error, zero, delta=float(delta))) for delta in deltas) / 8
    loss = make("universal", forces_weight=1.0, huber_delta=0.04)
    assert loss(batch, prediction).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", LOSS_TERMS)
def test_perfect_predictions_have_no_gradient(loss: str) -> None:
    batch, prediction = batch_and_prediction((0.0, 0.0, 0.0))
    for tensor in (prediction.energy, prediction.forces, prediction.stress):
        tensor.requires_grad_(True)
    make(loss)(batch, prediction).backward()
    found = [t.grad for t in (prediction.energy, prediction.forces, prediction.stress) if t.grad is not None]
    assert found and all(not gradient.any() for gradient in found)


def test_weights_of_the_second_stage() -> None:
    batch, prediction = batch_and_prediction()
    loss = make("stress", stage_two=True, swa=True, swa_energy_weight=7.0, swa_forces_weight=0.0, swa_stress_weight=3.0)
    assert loss(batch, prediction).item() == pytest.approx(7 * 0.1**2 + 3 * 0.01**2)


def test_what_losses_need() -> None:
    def needed(**options) -> set[str]:
        return set(trained_properties(TrainingConfig(train_file="a.xyz", **options)))

    assert needed() == {"energy", "forces"}
    assert needed(loss="virials") == needed(loss="universal") == {"energy", "forces", "stress"}
    assert needed(loss="forces_only") == {"forces"}
    assert needed(energy_weight=0.0) == {"forces"}
    assert needed(energy_weight=0.0, swa=True) == {"energy", "forces"}


def test_missing_labels_take_no_part():
    batch, prediction = batch_and_prediction()
    only_energy = torch.tensor([1.0, 0.0], dtype=torch.float64)
    nothing = torch.zeros(2, dtype=torch.float64)
    labels = batch.labels._replace(energy_weight=only_energy, forces_weight=nothing, stress_weight=nothing)
    prediction.forces.requires_grad_(True)
    loss = make("stress")(batch._replace(labels=labels), prediction)
    assert loss.item() == pytest.approx(2 * 0.1**2 / 2)
    loss.backward()
    assert not prediction.forces.grad.any()


def test_validation_errors_count_only_what_is_labelled():
    """Over two batches of different sizes: every structure counts alike in the loss, every label in the errors."""
    sums = ValidationSums()
    pair, off = batch_and_prediction((0.4, 0.5, 0.01))
    half = torch.tensor([1.0, 0.0], dtype=torch.float64)
    pair = pair._replace(labels=pair.labels._replace(energy_weight=half, forces_weight=half, stress_weight=half))
    for tensor in (off.energy[1:], off.forces[4:], off.stress[1:]):
        tensor += 1e3  # of the structure without labels
    sums.add(pair, torch.tensor(2.0, dtype=torch.float64), off)
    single = collate_samples(make_samples(label_structures(argon(1), LabelKeys()).structures, 4.0))
    far = Prediction(
        single.labels.energy + 0.8, torch.zeros(4), single.labels.forces + 0.2, single.labels.stress + 0.03
    )
    sums.add(single, torch.tensor(5.0, dtype=torch.float64), far)
    assert sums.result() == pytest.approx(
        {
            "valid_loss": (2 * 2.0 + 1 * 5.0) / 3,
            "valid_energy_rmse": math.sqrt((0.1**2 + 0.2**2) / 2),
            "valid_forces_rmse": math.sqrt((0.5**2 + 0.2**2) / 2),
            "valid_stress_rmse": math.sqrt((0.01**2 + 0.03**2) / 2),
        }
    )


@pytest.mark.parametrize("n", [0, 1, 1000, 1024, 1025, 100_001, 2_100_000])
def test_total_is_the_sum_for_any_number_of_threads(n: int) -> None:
    torch.manual_seed(n)
    x = torch.randn(n)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(total(x))
    finally:
        torch.set_num_threads(before)
    assert found[0].item() == pytest.approx(math.fsum(x.tolist()), abs=1e-9)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_total_is_differentiable() -> None:
    x = torch.randn(3000, dtype=torch.float64, requires_grad=True)
    total(x.square()).backward()
    assert torch.allclose(x.grad, 2 * x)


def test_clipping_is_that_of_torch() -> None:
    torch.manual_seed(0)
    for largest in (0.5, 1e6):
        ours = [torch.nn.Parameter(torch.zeros(shape)) for shape in (3, 5000)]
        theirs = [torch.nn.Parameter(torch.zeros(shape)) for shape in (3, 5000)]
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        clip_norm([*(p.grad for p in ours), None], largest)
        torch.nn.utils.clip_grad_norm_(theirs, largest)
        assert all(torch.allclose(p.grad, q.grad, rtol=1e-5) for p, q in zip(ours, theirs, strict=True))
    clip_norm([None], 1.0)
