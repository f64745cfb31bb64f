"""The promises of the interface: files, precision, inputs left alone, empty structures."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from mlip.convert import atoms_to_graph
from mlip.errors import InputError
from mlip.potential import Potential
from mlip.testing.physics.answers import deviation, evaluator, predict
from mlip.testing.physics.result import CheckResult, result
from mlip.testing.physics.symmetry import Structures, structures_for, worst


def check_save_and_load(potential: Potential, structures: Structures | None = None) -> CheckResult:
    """A saved and loaded potential gives the same bits.

    The value counts the structures that differ; cutoff, elements and dtype must be the same as well.
    """
    from mlip.zoo import load_potential

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        potential.save(path)
        loaded = load_potential(path, device=str(potential.device))
    names = ("cutoff", "elements", "dtype")
    # as a loaded one is: autograd's order of summation depends on what requires a gradient
    frozen = copy.deepcopy(potential).requires_grad_(False)
    different = [name for name in names if getattr(loaded, name) != getattr(potential, name)]
    for kind, atoms in structures_for(potential, structures).items():
        before, after = predict(frozen, [atoms]), predict(loaded, [atoms])
        equal = all(
            (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
            for a, b in zip(before, after, strict=True)
        )
        if not equal:
            different.append(kind)
    detail = f"different: {', '.join(different)}" if different else ""
    return result(check_save_and_load, len(different), 0.0, detail)


def check_float32(potential: Potential, structures: Structures | None = None, tolerance: float = 1e-4) -> CheckResult:
    """In float32 the answers stay close to float64."""
    single = copy.deepcopy(potential).to(torch.float32)
    reference, rounded = evaluator(potential), evaluator(single)
    errors = {k: deviation(rounded([a]), reference([a])) for k, a in structures_for(potential, structures).items()}
    return worst(check_float32, errors, tolerance)


def check_inputs_unchanged(potential: Potential, structures: Structures | None = None) -> CheckResult:
    """An evaluation changes neither structure nor model.

    And a second one gives the same forces. The value counts what changed.
    """
    changed = []
    for kind, atoms in structures_for(potential, structures).items():
        graph = atoms_to_graph(atoms, potential.cutoff, device=potential.device)
        kept = [t.clone() for t in graph]
        state = {name: t.clone() for name, t in potential.state_dict().items()}
        first = potential(graph, forces=True, stress=atoms.cell.rank == 3)
        second = potential(graph, forces=True, stress=atoms.cell.rank == 3)
        fields = zip(graph._fields, graph, kept, strict=True)
        changed += [f"{kind}: {n}" for n, now, old in fields if not torch.equal(now, old) or now.requires_grad]
        changed += [f"model: {n}" for n, t in potential.state_dict().items() if not torch.equal(t, state[n])]
        changed += [f"gradient of {n}" for n, p in potential.named_parameters() if p.grad is not None]
        if not torch.allclose(first.forces, second.forces, rtol=0, atol=1e-12):
            changed.append(f"{kind}: forces of a second evaluation")
    detail = f"changed: {', '.join(dict.fromkeys(changed))}" if changed else ""
    return result(check_inputs_unchanged, len(changed), 0.0, detail)


def check_empty_structure(potential: Potential, tolerance: float = 1e-12) -> CheckResult:
    """No atoms: no energy, or a clear refusal."""
    try:
        prediction = predict(potential, [Atoms()])
    except InputError as error:
        return result(check_empty_structure, 0.0, tolerance, f"refused: {error}")
    shapes_right = prediction.energy.shape == (1,) and prediction.atom_energies.shape == (0,)
    value = abs(float(prediction.energy.sum())) if shapes_right else np.inf
    return result(check_empty_structure, value, tolerance, f"energy {prediction.energy.tolist()}")
