"""Numbers of the reference implementation (mace-torch) for models with random weights of our own.

Writes tests/fixtures/mace_*.npz. Runs in an environment of its own, because mace-torch pins e3nn 0.4.4:

    pip install torch==2.13.0 numpy scipy ase prettytable matscipy h5py configargparse GitPython pandas lmdb \\
        opt_einsum tqdm pyyaml orjson
    pip install --no-deps opt_einsum_fx e3nn==0.4.4 torch-ema torchmetrics lightning-utilities mace-torch==0.3.16
    python tests/reference/make_mace_fixture.py

Parameters are rounded to float32 before the evaluation in float64, so float32 storage is exact. Each file holds

    meta                 JSON (uint8): class, hyperparameters, elements, structure names, versions
    E0                   (elements,) eV, in the order of meta["elements"]
    param/NAME           every parameter of the state dict, float32
    buffer/NAME          the buffers except Clebsch-Gordan tables, float64
    sI/...               structure I: numbers, positions, cell, pbc; n_edges; energy, node_energy, forces,
                         virial (dE/dstrain, eV), stress (virial / volume; only when periodic in 3D),
                         message_first (N, channels, (l_max+1)^2) leaving the first interaction block,
                         features_L (N, dim) leaving layer L, e3nn layout (per irrep: channel-major, m last)
"""

import json
from pathlib import Path

import e3nn
import mace
import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from e3nn import o3
from mace.data import AtomicData, config_from_atoms
from mace.modules import interaction_classes
from mace.modules.models import MACE, ScaleShiftMACE
from mace.tools import AtomicNumberTable, torch_geometric

OUT = Path(__file__).parent.parent / "fixtures"
REAL, RESIDUAL = "RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock"


def rattled(atoms: Atoms, seed: int, amplitude: float = 0.12) -> Atoms:
    """Displace atoms and strain the cell of `atoms` by seeded random numbers; round to keep the file short."""
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    if atoms.cell.rank == 3:
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.04 * rng.standard_normal((3, 3))), scale_atoms=True)
    atoms.positions += amplitude * rng.standard_normal(atoms.positions.shape)
    atoms.positions = np.round(atoms.positions, 6)
    atoms.cell = np.round(atoms.cell[:], 6)
    return atoms


def silica(seed: int, pbc: tuple[bool, bool, bool] = (True, True, True)) -> Atoms:
    """Two SiO2 units in a small triclinic cell (smaller than the cutoff), some atoms outside the cell."""
    scaled = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.3, 0.3, 0.0], [0.7, 0.7, 1.1], [-0.2, 0.8, 0.5], [0.8, 0.2, 0.5]]
    cell = [[4.3, 0.0, 0.0], [0.4, 4.4, 0.0], [-0.3, 0.5, 3.1]]
    return rattled(Atoms("Si2O4", scaled_positions=scaled, cell=cell, pbc=pbc), seed)


def silicon_oxygen() -> dict[str, Atoms]:
    chain = silica(5)
    chain.pbc = (True, False, False)
    slab = silica(4)
    slab.pbc = (True, True, False)
    return {
        "silicon_primitive": rattled(bulk("Si", "diamond", a=5.43), 1),
        "silica_triclinic": silica(2),
        "silica_slab": slab,
        "silica_chain": chain,
        "silicon_atom": Atoms("Si", positions=[[0.1, 0.2, 0.3]]),
    }


def organic() -> dict[str, Atoms]:
    crystal = rattled(molecule("CH3OH"), 13, 0.05)
    crystal.cell = [[4.6, 0.0, 0.0], [0.7, 4.9, 0.0], [0.0, -0.4, 5.1]]
    crystal.pbc = True
    return {
        "methanol": rattled(molecule("CH3OH"), 11, 0.05),
        "carbon_dioxide": rattled(molecule("CO2"), 12, 0.05),
        "methanol_crystal": crystal,
    }


def case(cls: str, hidden: str, structures: dict[str, Atoms], first: str = RESIDUAL, **changes: object) -> dict:
    """One model: the hyperparameters that differ from a common base, and what it is evaluated on."""
    hyper = {
        "r_max": 4.5, "num_bessel": 6, "num_polynomial_cutoff": 5, "max_ell": 3, "num_interactions": 2,
        "hidden_irreps": hidden, "MLP_irreps": "8x0e", "correlation": 3, "avg_num_neighbors": 3.25,
        "radial_MLP": [8, 8], "interaction_cls_first": first, "interaction_cls": RESIDUAL, "gate": "silu",
        "pair_repulsion": False,
    }  # fmt: skip
    if cls == "ScaleShiftMACE":
        hyper |= {"atomic_inter_scale": 0.7281, "atomic_inter_shift": 0.1234}
    return {"class": cls, "hyperparameters": hyper | changes, "structures": structures}


CASES = {
    "invariant": case("ScaleShiftMACE", "8x0e", silicon_oxygen()),
    "vector": case("ScaleShiftMACE", "4x0e + 4x1o", silicon_oxygen(), first=REAL, max_ell=2, radial_MLP=[16, 16, 16]),
    "tensor": case(
        "ScaleShiftMACE", "4x0e + 4x1o + 4x2e", organic(), correlation=2, num_interactions=3, num_polynomial_cutoff=6,
        avg_num_neighbors=2.5,
    ),
    "tensor_corr3": case("ScaleShiftMACE", "4x0e + 4x1o + 4x2e", organic(), radial_MLP=[8, 8, 8]),
    "plain": case("MACE", "6x0e", silicon_oxygen(), first=REAL, correlation=2, radial_MLP=[8, 8, 8]),
    "plain_corr1": case("MACE", "4x0e + 4x1o", organic(), first=REAL, correlation=1, max_ell=1),
    "one_layer": case("MACE", "6x0e", silicon_oxygen(), num_interactions=1, max_ell=2),
    "corr4": case("ScaleShiftMACE", "3x0e + 3x1o", organic(), correlation=4, max_ell=2),
    "zbl": case("ScaleShiftMACE", "4x0e + 4x1o", silicon_oxygen(), max_ell=1, correlation=2, pair_repulsion=True),
    "vector_l3": case("ScaleShiftMACE", "4x0e + 4x1o", silicon_oxygen()),
}  # fmt: skip


def build(spec: dict, elements: list[int], e0: np.ndarray, seed: int) -> MACE:
    """The mace-torch model with seeded random parameters rounded to float32."""
    torch.manual_seed(seed)
    hyper = dict(spec["hyperparameters"])
    for key in ("hidden_irreps", "MLP_irreps"):
        hyper[key] = o3.Irreps(hyper[key])
    for key in ("interaction_cls", "interaction_cls_first"):
        hyper[key] = interaction_classes[hyper[key]]
    hyper["gate"] = torch.nn.functional.silu
    last_radial = f"conv_tp_weights.layer{len(hyper['radial_MLP'])}.weight"
    model = {"MACE": MACE, "ScaleShiftMACE": ScaleShiftMACE}[spec["class"]](
        **hyper, num_elements=len(elements), atomic_numbers=elements, atomic_energies=e0, use_reduced_cg=False
    )
    for name, parameter in model.named_parameters():
        if ".weights" in name:  # product basis: mace divides by the number of paths, which would hide high orders
            parameter.data *= parameter.shape[1] ** 0.5
        if name.endswith(last_radial):  # messages of order one
            parameter.data *= 5.0
        parameter.data = parameter.data.float().double()
    return model.eval()


def evaluate(model: MACE, atoms: Atoms, elements: list[int], r_max: float) -> dict[str, np.ndarray]:
    """Energies, forces, virial, stress and intermediate features of one structure."""
    data = AtomicData.from_config(config_from_atoms(atoms.copy()), z_table=AtomicNumberTable(elements), cutoff=r_max)
    batch = next(iter(torch_geometric.dataloader.DataLoader([data], batch_size=1))).to_dict()
    messages = []
    hook = model.interactions[0].register_forward_hook(lambda _m, _i, out: messages.append(out[0]))
    out = model(batch, compute_force=True, compute_stress=True, compute_virials=True)
    hook.remove()
    result = {
        "numbers": atoms.numbers, "positions": atoms.positions, "cell": atoms.cell[:], "pbc": atoms.pbc,
        "n_edges": np.array(batch["edge_index"].shape[1]), "energy": out["energy"][0],
        "node_energy": out["node_energy"], "forces": out["forces"], "virial": -out["virials"][0],
        "message_first": messages[0],
    }  # fmt: skip
    if atoms.pbc.all():
        result["stress"] = out["stress"][0]
    start = 0
    for layer, product in enumerate(model.products):
        width = product.linear.irreps_out.dim
        result[f"features_{layer}"] = out["node_feats"][:, start : start + width]
        start += width
    return {k: v.detach().numpy() if isinstance(v, torch.Tensor) else v for k, v in result.items()}


def main() -> None:
    torch.set_default_dtype(torch.float64)
    OUT.mkdir(exist_ok=True)
    for seed, (name, spec) in enumerate(CASES.items()):
        elements = sorted({int(z) for atoms in spec["structures"].values() for z in atoms.numbers})
        e0 = np.array([-13.25 - 7.5 * z for z in elements])
        model = build(spec, elements, e0, seed)
        arrays: dict[str, np.ndarray] = {"E0": e0}
        arrays |= {f"param/{k}": v.detach().float().numpy() for k, v in model.named_parameters()}
        for k, v in model.named_buffers():
            if v.numel() and not any(part in k for part in ("U_matrix", "conv_tp", "skip_tp", "output_mask", "zeroed")):
                arrays[f"buffer/{k}"] = v.numpy()
        for i, atoms in enumerate(spec["structures"].values()):
            result = evaluate(model, atoms, elements, spec["hyperparameters"]["r_max"])
            arrays |= {f"s{i}/{k}": np.asarray(v) for k, v in result.items()}
        meta = {
            "class": spec["class"], "hyperparameters": spec["hyperparameters"], "elements": elements,
            "structures": list(spec["structures"]), "seed": seed,
            "versions": {"mace-torch": mace.__version__, "e3nn": e3nn.__version__, "torch": torch.__version__},
        }  # fmt: skip
        arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
        path = OUT / f"mace_{name}.npz"
        np.savez_compressed(path, **arrays)
        forces = [float(np.abs(arrays[f"s{i}/forces"]).max().round(3)) for i in range(len(spec["structures"]))]
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB, largest force {forces} eV/Å")


if __name__ == "__main__":
    main()
