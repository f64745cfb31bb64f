"""Our MACE gives the numbers of mace-torch 0.3.16 on random weights; tests/reference/make_mace_fixture.py made them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from mlip.convert import atoms_to_graph
from mlip.models import MACE
from mlip.nn.irreps import parse_irreps
from mlip.potential import Potential

FIXTURES = Path(__file__).parent / "fixtures"
CASES = ["invariant", "vector", "tensor", "tensor_corr3", "plain", "plain_corr1", "one_layer", "corr4", "vector_l3"]


def build(stored: dict[str, np.ndarray]) -> Potential:
    """A fixture's model with its weights mapped to ours, one to one."""
    meta = json.loads(bytes(stored["meta"]))
    h = meta["hyperparameters"]
    elements = meta["elements"]
    model = MACE(
        elements,
        cutoff=h["r_max"],
        hidden_irreps=h["hidden_irreps"],
        l_max=h["max_ell"],
        correlation=h["correlation"],
        num_interactions=h["num_interactions"],
        num_bessel=h["num_bessel"],
        num_polynomial_cutoff=h["num_polynomial_cutoff"],
        radial_mlp=h["radial_MLP"],
        avg_num_neighbors=h["avg_num_neighbors"],
        mlp_irreps=h["MLP_irreps"],
        residual_first="Residual" in h["interaction_cls_first"],
    ).double()
    given = {
        k.removeprefix("param/"): torch.from_numpy(v).double() for k, v in stored.items() if k.startswith("param/")
    }
    z, (channels, hidden) = len(elements), parse_irreps(h["hidden_irreps"])
    state: dict[str, torch.Tensor] = {"embedding": given.pop("node_embedding.linear.weight").view(z, channels)}
    own = model.state_dict()

    def split(flat: torch.Tensor, prefix: str, skip: bool = False) -> None:
        """One flat weight of e3nn to our matrices, irrep by irrep."""
        for name in (n for n in own if n.startswith(prefix)):
            shape = own[name].shape
            block, flat = flat[: own[name].numel()], flat[own[name].numel() :]
            state[name] = block.view(shape[1], shape[0], shape[2]).transpose(0, 1) if skip else block.view(shape)
        assert not flat.numel()

    for t in range(h["num_interactions"]):
        theirs, ours = f"interactions.{t}", f"layers.{t}"
        split(given.pop(f"{theirs}.linear_up.weight"), f"{ours}.up.")
        split(given.pop(f"{theirs}.linear.weight"), f"{ours}.message.mix.")
        split(given.pop(f"{theirs}.skip_tp.weight"), f"{ours}.skip.", skip=True)
        split(given.pop(f"products.{t}.linear.weight"), f"{ours}.product.")
        for k in range(len(h["radial_MLP"]) + 1):
            state[f"{ours}.message.radial.weights.{k}"] = given.pop(f"{theirs}.conv_tp_weights.layer{k}.weight")
        last = t == h["num_interactions"] - 1
        for c, ir in enumerate(hidden[:1] if last else hidden):
            contraction = f"products.{t}.symmetric_contractions.contractions.{c}"
            for order in range(1, h["correlation"] + 1):
                key = "weights_max" if order == h["correlation"] else f"weights.{h['correlation'] - 1 - order}"
                state[f"{ours}.contraction.weights.{ir}_{order}"] = given.pop(f"{contraction}.{key}")
        if last and t > 0:
            split(given.pop(f"readouts.{t}.linear_1.weight"), f"readouts.{t}.weights.0")
            split(given.pop(f"readouts.{t}.linear_2.weight"), f"readouts.{t}.weights.1")
        else:
            split(given.pop(f"readouts.{t}.linear.weight"), f"readouts.{t}.")
    state["bessel.frequencies"] = torch.from_numpy(stored["buffer/radial_embedding.bessel_fn.bessel_weights"])
    for derived in ("scale_shift.scale", "scale_shift.shift", "atomic_energies_fn.atomic_energies"):
        given.pop(derived, None)
    assert not [name for name in given if not name.endswith("_zeroed")], list(given)
    model.load_state_dict(state)
    E0s = dict(zip(elements, stored["E0"].ravel().tolist(), strict=True))
    return Potential(model, E0s, scale=h.get("atomic_inter_scale", 1.0), shift=h.get("atomic_inter_shift", 0.0))


@pytest.mark.parametrize("case", CASES)
def test_equal_to_mace_torch(case: str) -> None:
    stored = dict(np.load(FIXTURES / f"mace_{case}.npz"))
    potential = build(stored)
    names = json.loads(bytes(stored["meta"]))["structures"]
    assert len(names) >= 3
    for k in range(len(names)):
        s = {key.split("/")[1]: v for key, v in stored.items() if key.startswith(f"s{k}/")}
        atoms = Atoms(numbers=s["numbers"], positions=s["positions"], cell=s["cell"], pbc=s["pbc"])
        graph = atoms_to_graph(atoms, potential.cutoff)
        assert graph.edge_index.shape[1] == s["n_edges"]
        prediction = potential(graph, forces=True, stress="stress" in s)
        largest = max(1, np.abs(s["forces"]).max())
        np.testing.assert_allclose(prediction.energy.item(), s["energy"], rtol=1e-12, atol=1e-11, err_msg=names[k])
        np.testing.assert_allclose(prediction.atom_energies, s["node_energy"], rtol=1e-11, atol=1e-11, err_msg=names[k])
        np.testing.assert_allclose(prediction.forces, s["forces"], atol=1e-11 * largest, err_msg=names[k])
        if "stress" in s:
            np.testing.assert_allclose(
                prediction.stress[0], s["stress"], atol=1e-12 * max(1, np.abs(s["stress"]).max())
            )
