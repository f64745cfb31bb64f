"""The tape gives the gradients of autograd, and refuses what it cannot do."""

import pytest
import torch
from ase.build import bulk

from mlip import ops
from mlip.ops.tape import RULES, Tape, by_autograd, cast_to, directly, rule_of


def network(run, x, y):
    """Two inputs, a value used twice, operators with and without a rule, one output that is not used."""
    a, b = run(lambda x, y: (x * y, x + y), x, y)
    c = run(torch.add, a, run(torch.sin, a))
    run(torch.cos, b)
    d = run(ops.matmul, run(cast_to, c, c.dtype), torch.eye(3).to(c) * 2)
    return run(torch.sum, d, 1)


def inputs():
    torch.manual_seed(0)
    return [torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]


def test_gradients_are_those_of_autograd():
    x, y = inputs()
    weights = torch.randn(5, dtype=torch.float64)
    expected = torch.autograd.grad(network(directly, x, y), [x, y], weights)
    with torch.no_grad():
        tape = Tape(x, y)
        mine = tape.gradients(network(tape, x, y), weights, [x, y])
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)


def test_only_what_is_needed():
    x, y = inputs()
    with torch.no_grad():
        tape = Tape(x)
        found = tape.gradients(network(tape, x, y), torch.ones(5, dtype=torch.float64), [x, y])
    assert found[0].isfinite().all() and found[1] is None


def test_sums_of_different_shapes():
    x, y = torch.ones(3, 1), torch.ones(3, 4)
    for other, expected in ((y, 4.0), (2.0, 1.0)):
        tape = Tape(x)
        out = tape(torch.add, x, other)
        (found,) = tape.gradients(out, torch.ones_like(out), [x])
        assert torch.equal(found, torch.full_like(x, expected))


def test_gradients_can_be_asked_for_once():
    tape = Tape(x := torch.ones(3, dtype=torch.float64))
    out = tape(torch.sin, x)
    tape.gradients(out, torch.ones_like(out), [x])
    with pytest.raises(RuntimeError, match="once"):
        tape.gradients(out, torch.ones_like(out), [x])


def test_what_depends_on_no_input_is_only_called():
    tape = Tape(torch.ones(2))
    out = tape(torch.add, torch.ones(2), torch.ones(2))
    assert tape.gradients(out, torch.ones(2), [out]) == [None]


def test_tensors_of_another_tape_are_constants():
    x = torch.ones(2, dtype=torch.float64)
    first, second = Tape(x), Tape(torch.ones(1))
    out = first(torch.sin, x)
    again = second(torch.sin, out)
    assert second.gradients(again, torch.ones(2), [out]) == [None]


def test_rules_may_be_replaced_by_autograd(monkeypatch):
    """Each rule of an operator equals what autograd makes of the operator."""

    def double(x):
        return 2 * x

    @rule_of(double)
    def rule(needed, x):
        return 2 * x, lambda g: (2 * g,)

    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    found = []
    for _ in range(2):
        tape = Tape(x)
        found += tape.gradients(tape(double, x), torch.ones_like(x), [x])
        monkeypatch.delitem(RULES, double, raising=False)
    torch.testing.assert_close(*found)
    assert by_autograd(double, [True], x)[1](torch.ones(3, dtype=torch.float64))[0].tolist() == [2, 2, 2]


def test_energies_alone_are_those_with_forces():
    """To the bit: a calculator that is asked for the energy first must not give another one with the forces."""
    from mlip.convert import atoms_to_graph
    from mlip.models.mace import MACE
    from mlip.potential import Potential

    for dtype in (torch.float32, torch.float64):
        for irreps in ("16x0e", "4x0e+4x1o"):
            torch.manual_seed(0)
            model = MACE([14], cutoff=4.0, hidden_irreps=irreps, l_max=2, correlation=2, radial_mlp=[8]).to(dtype)
            potential = Potential(model.requires_grad_(False), E0s={14: 0.0})
            graph = atoms_to_graph(bulk("Si", cubic=True), 4.0)
            alone = potential(graph, forces=False, stress=False)
            assert alone.atom_energies.equal(potential(graph).atom_energies)


def test_strain_of_a_batch_is_that_of_each():
    """The virial by pairs equals the derivative by strain, of one structure and of several."""
    from mlip.acceleration import Acceleration
    from mlip.convert import atoms_to_graph
    from mlip.models.mace import MACE
    from mlip.potential import Potential

    torch.manual_seed(0)
    model = MACE([14], cutoff=4.0, hidden_irreps="8x0e", l_max=2, correlation=2, radial_mlp=[8]).double()
    potential = Potential(model.requires_grad_(False), E0s={14: 0.0}, scale=2.0)
    reference = Potential(model, E0s={14: 0.0}, scale=2.0)
    reference.acceleration = Acceleration("reference")
    crystals = [bulk("Si", cubic=True), bulk("Si", a=5.2).repeat((2, 1, 1))]
    for atoms in crystals:
        atoms.rattle(0.1, seed=1)
    for batch in (crystals[:1], crystals):
        graph = atoms_to_graph(batch, 4.0)
        for mine, theirs in zip(potential(graph), reference(graph), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)
