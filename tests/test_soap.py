"""SOAP, the optimizer: against its algorithm written out in numpy, and what it promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lj_data import argon, isolated, write_xyz
from small_runs import config
from torch import nn

from mlip.training.soap import LONGEST_SIDE, SOAP
from mlip.training.train import train

OPTIONS = {"lr": 0.05, "betas": (0.9, 0.95), "weight_decay": 0.01, "frequency": 3}


def gradients(steps: int, *shape: int) -> torch.Tensor:
    """Gradients (steps, *shape) with sides of very different size, float64."""
    torch.manual_seed(1)
    noise = torch.randn(steps, *shape, dtype=torch.float64)
    return noise * 3.0 ** torch.arange(shape[-1], dtype=torch.float64) @ torch.randn(shape[-1], shape[-1]).double()


def after(start: torch.Tensor, given: torch.Tensor, **options: object) -> torch.Tensor:
    """The parameter after one step of SOAP for each of the gradients."""
    parameter = nn.Parameter(start.clone())
    optimizer = SOAP([parameter], **{**OPTIONS, **options})
    for grad in given:
        parameter.grad = grad.clone()
        optimizer.step()
    return parameter.detach()


def published(start: np.ndarray, given: np.ndarray) -> np.ndarray:
    """One matrix by algorithm 3 of arXiv:2409.11321: sorted bases, from the first gradient; V turns with them."""
    w, (b1, b2), lr = start.copy(), OPTIONS["betas"], OPTIONS["lr"]
    m, v = np.zeros_like(w), np.zeros_like(w)
    left, right = given[0] @ given[0].T, given[0].T @ given[0]
    ql, qr = np.linalg.eigh(left)[1][:, ::-1], np.linalg.eigh(right)[1][:, ::-1]
    for t, g in enumerate(given[1:], start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * (ql.T @ g @ qr) ** 2
        n = ql.T @ (m / (1 - b1**t)) @ qr / (np.sqrt(v / (1 - b2**t)) + 1e-8)
        w = w - lr * OPTIONS["weight_decay"] * w - lr * ql @ n @ qr.T
        left, right = b2 * left + (1 - b2) * g @ g.T, b2 * right + (1 - b2) * g.T @ g
        if t % OPTIONS["frequency"] == 0:
            first, second = (np.argsort(-np.diag(q.T @ s @ q)) for s, q in ((left, ql), (right, qr)))
            old_l, old_r = ql, qr
            ql, qr = np.linalg.qr(left @ ql[:, first])[0], np.linalg.qr(right @ qr[:, second])[0]
            v = (ql.T @ old_l) ** 2 @ v @ ((qr.T @ old_r) ** 2).T
    return w


def test_the_published_algorithm() -> None:
    start, given = torch.randn(4, 3, dtype=torch.float64), gradients(20, 4, 3)
    expected = published(start.numpy(), given.numpy())
    assert after(start, given).numpy() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_stack_of_matrices_is_one_after_the_other() -> None:
    start, given = torch.randn(5, 4, 3, dtype=torch.float64), gradients(20, 5, 4, 3)
    each = [after(w, g) for w, g in zip(start, given.unbind(1), strict=True)]
    torch.testing.assert_close(after(start, given), torch.stack(each), rtol=1e-12, atol=1e-12)


def test_rotated_weights_take_rotated_steps() -> None:
    """Of Adam this is not true: its steps depend on the axes that the weights are written in."""
    start, given = torch.randn(4, 3, dtype=torch.float64), gradients(20, 4, 3)
    left, right = (torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q for n in (4, 3))
    rotated = after(left @ start @ right, left @ given @ right)
    torch.testing.assert_close(rotated, left @ after(start, given) @ right, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", [(7,), (), (1, 1)])
def test_vectors_and_numbers_take_the_steps_of_adam(shape: tuple[int, ...]) -> None:
    start, given = torch.randn(shape, dtype=torch.float64), torch.randn(20, *shape, dtype=torch.float64)
    parameter = nn.Parameter(start.clone())
    adamw = torch.optim.AdamW([parameter], **{k: v for k, v in OPTIONS.items() if k != "frequency"})
    for grad in given[1:]:  # SOAP takes no step on the first
        parameter.grad = grad.clone()
        adamw.step()
    torch.testing.assert_close(after(start, given), parameter.detach(), rtol=1e-12, atol=1e-12)


def test_a_side_too_long_keeps_its_axes() -> None:
    parameter = nn.Parameter(torch.randn(2, LONGEST_SIDE + 1))
    optimizer = SOAP([parameter])
    parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    assert {"left", "left_basis"} <= optimizer.state[parameter].keys()
    assert "right" not in optimizer.state[parameter]


def test_elements_without_gradients_stay() -> None:
    """Weights of an element that is not in the batches have gradients of zero: nothing divides by them."""
    start, given = torch.randn(2, 4, 3, dtype=torch.float64), gradients(20, 2, 4, 3)
    given[:, 1] = 0
    assert torch.equal(after(start, given, weight_decay=0.0)[1], start[1])


def test_rare_elements_take_no_large_steps() -> None:
    """While an element is not in the batches, the frame turns, and what its gradients once said turns with it."""
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.zeros(16, 16, dtype=torch.float64))
    optimizer = SOAP([parameter], lr=1.0, betas=(0.95, 0.99))
    largest = 0.0
    for step in range(300):
        parameter.grad = 0.01 * torch.randn(16, 16).double() * (step % 10 == 0)
        before = parameter.detach().clone()
        optimizer.step()
        largest = max(largest, (parameter.detach() - before).abs().max().item())
    assert 0.1 < largest < 5


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, 1e300])
def test_gradients_that_are_not_finite_make_weights_that_are_not(wrong: float) -> None:
    """Which training notices, and says what to do; no error of linear algebra comes before."""
    given = gradients(3, 4, 3)
    given[:, 1, 1] = wrong
    assert after(torch.zeros(4, 3, dtype=torch.float64), given).isnan().all()


def test_empty_weights() -> None:
    assert after(torch.zeros(0, 3), torch.zeros(3, 0, 3)).shape == (0, 3)


def test_its_state_survives_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(4, 3))
    optimizer = SOAP([parameter], **OPTIONS)
    for grad in gradients(8, 4, 3).float():
        parameter.grad = grad
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    again = nn.Parameter(parameter.detach().clone())
    other = SOAP([again], **OPTIONS)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.state[again]["step"].dtype == torch.float32
    for grad in gradients(8, 4, 3).float():
        for optimizer_, p in ((optimizer, parameter), (other, again)):
            p.grad = grad.clone()
            optimizer_.step()
    assert torch.equal(parameter, again)


def ill_conditioned_loss(optimizer_of) -> float:
    """What 300 steps of falling rate leave of |A W B - A W* B|², A and B of condition 100 along no axis."""
    torch.manual_seed(0)
    q = [torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q for _ in range(4)]
    scales = torch.logspace(0, -2, 8, dtype=torch.float64)
    a, b, target = (q[0] * scales) @ q[1], (q[2] * scales) @ q[3], torch.randn(8, 8, dtype=torch.float64)
    w = nn.Parameter(torch.zeros(8, 8, dtype=torch.float64))
    optimizer = optimizer_of([w])
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        optimizer.zero_grad()
        loss = (a @ (w - target) @ b).square().sum()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_ill_conditioned_problems_are_solved_sooner_than_by_adam() -> None:
    assert ill_conditioned_loss(SOAP) < 0.01 * ill_conditioned_loss(torch.optim.Adam)


def test_training_learns(tmp_path: Path) -> None:
    data = write_xyz(tmp_path / "train.xyz", [*argon(24), isolated()])
    result = train(config(data, optimizer="soap", lr=0.02, max_num_epochs=25, num_channels=8))
    assert result.history[-1]["valid_loss"] < 0.1 * result.history[0]["valid_loss"]
