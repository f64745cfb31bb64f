"""Reference models of mace-torch with random options and random weights: the model files and what mace computes.

Writes tests/fixtures/mace_references/. Runs in an environment of its own, because mace-torch pins e3nn 0.4.4:

    pip install torch==2.13.0 numpy scipy ase prettytable matscipy h5py configargparse GitPython pandas lmdb \\
        opt_einsum tqdm pyyaml orjson networkx sympy
    pip install --no-deps opt_einsum_fx e3nn==0.4.4 torch-ema torchmetrics lightning-utilities mace-torch==0.3.16 \\
        cuequivariance==0.13.0 cuequivariance-torch==0.13.0
    python tests/reference/make_mace_references.py

Each model is two files:

NAME.model.xz   what `torch.save(model)` writes, compressed. The TorchScript that e3nn embeds in it (a copy of code
                whose constants follow from the rest) is replaced by a few bytes.
NAME.npz        meta    JSON (uint8): options, elements, heads, structure names, dtype, versions
                sI/...  structure I: numbers, positions, cell, pbc, n_edges
                sI/hK/  its energy, node_energy, forces and, where periodic in 3D, stress (eV/Å³) with head K

Parameters are rounded to 12 bits, which keeps the files small and makes storage in float32 exact. Two things are not
as mace gives them: parameters and tunable buffers are moved away from their initial values (so that none can be dropped
unnoticed), and chebyshev polynomials are replaced by equal ones that torch can differentiate (mace's forces lack
their derivative with torch 2.13, because `torch.special.chebyshev_polynomial_t` has none).
"""

import argparse
import itertools
import json

import cuequivariance
import e3nn
import mace
import numpy as np
import torch
from ase import Atoms
from e3nn import o3
from mace.data import AtomicData, config_from_atoms
from mace.modules import gate_dict, interaction_classes, readout_classes, wrapper_ops
from mace.modules.models import MACE, ScaleShiftMACE
from mace.tools import AtomicNumberTable, torch_geometric
from mace.tools.cg import U_matrix_real
from mace_reference_models import OUT, calibrate, randomize, structures, write_model
from mace_reference_options import BLOCKS, OPTIONS, cases, readme


def construct(options: dict, seed: int) -> MACE:
    """mace-torch's model with these options, initialised by mace."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    channels, elements = options["channels"], options["elements"]
    layers, heads = options["num_interactions"], options["heads"]
    n_heads = len(heads or [None])
    hidden = "+".join(f"{channels}x{ir}" for ir in options["hidden_irreps"].split("+"))
    edge = "+".join(f"{max(2, channels - 1)}x{ir}" for ir in options["hidden_irreps"].split("+"))
    e0 = np.round(-2.0 - 0.05 * np.array(elements) - 5.0 * rng.random((n_heads, len(elements))), 3)
    arguments = {k: options[k] for k in OPTIONS if k not in ("class", "channels", "elements", "edge_irreps")}
    arguments |= {
        "use_reduced_cg": bool(options["use_reduced_cg"]), "use_so3": options.get("use_so3", False),
        "hidden_irreps": o3.Irreps(hidden), "MLP_irreps": o3.Irreps(options["MLP_irreps"]),
        "interaction_cls": interaction_classes[BLOCKS[options["interaction_cls"]]],
        "interaction_cls_first": interaction_classes[BLOCKS[options["interaction_cls_first"]]],
        "edge_irreps": None if options["edge_irreps"] == "none" else o3.Irreps(edge),
        "use_edge_irreps_first": options["edge_irreps"] == "same in all",
        "gate": gate_dict[options["gate"]], "readout_cls": readout_classes[options["readout_cls"]],
        "atomic_energies": e0 if heads else e0[0], "atomic_numbers": elements, "num_elements": len(elements),
        "avg_num_neighbors": round(2.0 + 8.0 * rng.random(), 3),
    }  # fmt: skip
    if options["correlation"] == "by layer":
        arguments["correlation"] = ([2, 3, 1] if seed % 2 else [3, 1, 2])[:layers]
    wrapper_ops.CUET_AVAILABLE = options["use_reduced_cg"] is True
    if options["class"] == "MACE":
        return MACE(**arguments)
    scale, shift = 0.5 + rng.random(n_heads), rng.standard_normal(n_heads)
    arguments["atomic_inter_scale"] = scale if n_heads > 1 else float(scale[0])
    arguments["atomic_inter_shift"] = shift if n_heads > 1 else float(shift[0])
    return ScaleShiftMACE(**arguments)


def to_batch(atoms: Atoms, elements: list[int], r_max: float) -> dict:
    data = AtomicData.from_config(config_from_atoms(atoms.copy()), z_table=AtomicNumberTable(elements), cutoff=r_max)
    return next(iter(torch_geometric.dataloader.DataLoader([data], batch_size=1))).to_dict()


def evaluate(model: MACE, batch: dict, head: int, stress: bool) -> dict[str, np.ndarray]:
    batch = {k: v.clone() for k, v in batch.items() if torch.is_tensor(v)} | {"head": torch.tensor([head])}
    out = model(batch, compute_force=True, compute_stress=stress)
    result = {"energy": out["energy"][0], "node_energy": out["node_energy"], "forces": out["forces"]}
    if stress:
        result["stress"] = out["stress"][0]
    return {k: v.detach().numpy() for k, v in result.items()}


def chebyshev(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    """Chebyshev polynomials of the first kind that can be differentiated; column k has n = k + 1."""
    values = [torch.ones_like(x[:, 0]), x[:, 0]]
    while len(values) <= x.shape[1]:
        values.append(2 * x[:, 0] * values[-1] - values[-2])
    return torch.stack(values[1:], dim=1)


def reduced(model: MACE) -> int:
    """How many U matrices have fewer paths than mace's other basis has; none has more."""
    fewer = 0
    for product in model.products:
        contractions = product.symmetric_contractions
        for (_, ir), contraction in zip(contractions.irreps_out, contractions.contractions, strict=True):
            for nu in range(1, contraction.correlation + 1):
                ours = contraction.U_tensors(nu)
                full = U_matrix_real(contraction.coupling_irreps, str(ir), nu, dtype=ours.dtype, use_cueq_cg=False)[-1]
                assert ours.shape[-1] <= full.shape[-1]
                fewer += ours.shape[-1] < full.shape[-1]
    return fewer


def rounding(model: MACE, options: dict, seed: int, batches: list[dict]) -> float:
    """What the float32 Clebsch-Gordan tables of a model change, relative to the largest magnitude of an output."""
    exact = construct(options, seed).eval()
    state = {k: v for k, v in model.state_dict().items() if "U_matrix" not in k and "w3j" not in k}
    exact.load_state_dict(state, strict=False)
    worst = 0.0
    for batch, head in itertools.product(batches, range(len(model.heads))):
        ours, theirs = evaluate(exact, batch, head, False), evaluate(model, batch, head, False)
        worst = max(worst, *(np.abs(ours[k] - theirs[k]).max() / max(1, np.abs(theirs[k]).max()) for k in ours))
    return worst


def write(name: str, options: dict, seed: int) -> str:
    """One model to its two files; returns a line for the log."""
    single = options["dtype"] == "float32"
    r_max, elements = options["r_max"], options["elements"]
    atoms = structures(elements, r_max, seed)
    torch.set_default_dtype(torch.float32 if single else torch.float64)
    model = construct(options, seed)
    randomize(model)
    calibrate(model, [to_batch(a, elements, r_max) for a in atoms.values()], lambda batch: model(dict(batch)))
    write_model(OUT / f"{name}.model.xz", model.eval())

    torch.set_default_dtype(torch.float64)
    model = model.double()
    batches = [to_batch(a, elements, r_max) for a in atoms.values()]
    arrays: dict[str, np.ndarray] = {}
    for i, (a, batch) in enumerate(zip(atoms.values(), batches, strict=True)):
        structure = {"numbers": a.numbers, "positions": a.positions, "cell": a.cell[:], "pbc": a.pbc}
        arrays |= {f"s{i}/{k}": v for k, v in structure.items()}
        arrays[f"s{i}/n_edges"] = np.array(batch["edge_index"].shape[1])
        for k in range(len(model.heads)):
            result = evaluate(model, batch, k, bool(a.pbc.all()))
            arrays |= {f"s{i}/h{k}/{key}": value for key, value in result.items()}
    fewer = reduced(model)
    assert fewer == 0 or options["use_reduced_cg"] is True
    meta = {
        "options": options, "seed": seed, "heads": model.heads, "structures": list(atoms), "reduced": fewer,
        "versions": {m.__name__: m.__version__ for m in (mace, e3nn, cuequivariance, torch)},
    }  # fmt: skip
    if single:
        meta["rounding"] = rounding(model, options, seed, batches)
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    assert all(np.isfinite(v).all() for v in arrays.values())
    np.savez_compressed(OUT / f"{name}.npz", **arrays)

    kilobytes = [round((OUT / f"{name}{end}").stat().st_size / 1000) for end in (".model.xz", ".npz")]
    edges = [int(arrays[f"s{i}/n_edges"]) for i in range(len(atoms))]
    forces = [float(np.abs(arrays[f"s{i}/h0/forces"]).max().round(2)) for i in range(len(atoms))]
    more = f", float32 tables change {meta['rounding']:.1e}" if single else ""
    return f"{name}: {kilobytes} kB, edges {edges}, forces {forces} eV/Å, {meta['reduced']} reduced{more}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only fixtures whose name starts with one of these")
    chosen = tuple(parser.parse_args().names)
    OUT.mkdir(parents=True, exist_ok=True)
    torch.special.chebyshev_polynomial_t = chebyshev
    models = cases()
    for seed, (name, options) in enumerate(models.items()):
        if not chosen or name.startswith(chosen):
            print(write(name, options, seed), flush=True)
    (OUT / "README.md").write_text(readme(models))


if __name__ == "__main__":
    main()
