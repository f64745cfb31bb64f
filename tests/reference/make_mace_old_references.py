"""Reference models in the file formats of versions of mace-torch from before and after its first releases.

Writes tests/fixtures/mace_references/old_*. Runs in the environment of make_mace_references.py, with the package `mace`
of one commit of https://github.com/ACEsuit/mace in place of the installed one; for each key of MODELS:

    git archive COMMIT mace | tar -x -C FOLDER
    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 PYTHONPATH=FOLDER python tests/reference/make_mace_old_references.py COMMIT

The files are those of make_mace_references.py; the oldest versions compute no energies of atoms and no stress.
"""

import argparse
import inspect
import json

import e3nn
import numpy as np
import torch
from ase import Atoms
from e3nn import o3
from mace.data import AtomicData
from mace.data.utils import config_from_atoms
from mace.modules import interaction_classes
from mace.modules.models import MACE, ScaleShiftMACE
from mace.tools import AtomicNumberTable, torch_geometric
from mace_reference_models import OUT, calibrate, randomize, structures, write_model

PLAIN, RESIDUAL = "RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock"
DENSITY = "RealAgnosticDensityResidualInteractionBlock"
COMMON = {
    "class": "ScaleShiftMACE", "dtype": "float64", "elements": [8, 14], "r_max": 4.5, "num_bessel": 5, "max_ell": 2,
    "num_polynomial_cutoff": 5, "interaction_cls_first": PLAIN, "interaction_cls": RESIDUAL, "num_interactions": 2,
    "hidden_irreps": "3x0e+3x1o", "MLP_irreps": "5x0e", "correlation": 3, "avg_num_neighbors": 6.25, "heads": None,
}  # fmt: skip
SMALL = {"radial_MLP": [8, 8]}
MODELS = {
    # paths in another order, dictionaries of contractions and weights, tables and cutoff not in buffers (June 2022)
    "60c16d01": {"": {}},
    # the same with tables in buffers (October 2022)
    "15cc26a1": {"": {"class": "MACE", "hidden_irreps": "2x0e+2x1o+2x2e", "interaction_cls_first": RESIDUAL}},
    # lists of contractions; the cutoff is a float64 also in a float32 model (February 2023)
    "v0.2.0": {"": {}, "_float32": {"dtype": "float32"}},
    # the first transforms and ZBL; the soft transform is another function than today's (January 2024)
    "v0.3.5": {
        "_soft": {"distance_transform": "Soft", "pair_repulsion": True} | SMALL,
        "_agnesi": {"distance_transform": "Agnesi", "pair_repulsion": True, "radial_type": "gaussian"} | SMALL,
    },
    # heads, density, a correlation for each layer; vectors leave an only layer too (November 2024)
    "v0.3.8": {
        "": {"heads": ["a", "default"], "interaction_cls": DENSITY, "correlation": [3, 2]} | SMALL,
        "_one_layer": {"num_interactions": 1, "interaction_cls_first": DENSITY} | SMALL,
    },
}


def construct(options: dict, seed: int) -> MACE:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    elements, n_heads = options["elements"], len(options["heads"] or [None])
    e0 = np.round(-2.0 - 5.0 * rng.random((n_heads, len(elements))), 3)
    arguments = {name: value for name, value in options.items() if name not in ("class", "dtype", "elements")}
    arguments |= {name: o3.Irreps(options[name]) for name in ("hidden_irreps", "MLP_irreps")}
    arguments |= {name: interaction_classes[options[name]] for name in ("interaction_cls", "interaction_cls_first")}
    arguments |= {"atomic_energies": e0 if options["heads"] else e0[0], "atomic_numbers": elements}
    arguments |= {"num_elements": len(elements), "gate": torch.nn.functional.silu}
    if "heads" not in inspect.signature(MACE.__init__).parameters:
        arguments.pop("heads")
    if options["class"] == "MACE":
        return MACE(**arguments)
    scale, shift = np.round(0.5 + rng.random(n_heads), 3), np.round(rng.standard_normal(n_heads), 3)
    single = n_heads == 1
    arguments["atomic_inter_scale"] = float(scale[0]) if single else scale
    arguments["atomic_inter_shift"] = float(shift[0]) if single else shift
    return ScaleShiftMACE(**arguments)


def to_batch(atoms: Atoms, elements: list[int], r_max: float) -> torch_geometric.batch.Batch:
    data = AtomicData.from_config(config_from_atoms(atoms.copy()), z_table=AtomicNumberTable(elements), cutoff=r_max)
    return next(iter(torch_geometric.dataloader.DataLoader([data], batch_size=1, shuffle=False, drop_last=False)))


def run(model: MACE, batch: torch_geometric.batch.Batch, stress: bool = False, head: int = 0) -> dict:
    """Outputs of a version that takes a batch or a dictionary, and perhaps knows stress."""
    options = inspect.signature(type(model).forward).parameters
    takes_dictionary = "Dict" in str(options["data"].annotation)
    batch = batch.clone()
    if takes_dictionary:
        batch = batch.to_dict() | {"head": torch.tensor([head])}
    return model(batch, compute_stress=stress) if "compute_stress" in options else model(batch)


def write(name: str, options: dict, seed: int, commit: str) -> str:
    single = options["dtype"] == "float32"
    r_max, elements = options["r_max"], options["elements"]
    atoms = structures(elements, r_max, seed)  # old versions find wrong neighbors in tilted cells of slabs and chains
    atoms = {kind: a for kind, a in atoms.items() if a.pbc.all() or not a.pbc.any()}
    atoms["other crystal"] = structures(elements, r_max, seed + 50)["crystal"]
    torch.set_default_dtype(torch.float32 if single else torch.float64)
    model = construct(options, seed)
    randomize(model)
    calibrate(model, [to_batch(a, elements, r_max) for a in atoms.values()], lambda batch: run(model, batch))
    write_model(OUT / f"{name}.model.xz", model.eval())
    torch.set_default_dtype(torch.float64)
    model = model.double()
    arrays: dict[str, np.ndarray] = {}
    heads = options["heads"] or ["default"]
    for i, a in enumerate(atoms.values()):
        batch = to_batch(a, elements, r_max)
        structure = {"numbers": a.numbers, "positions": a.positions, "cell": a.cell[:], "pbc": a.pbc}
        arrays |= {f"s{i}/{k}": v for k, v in structure.items()}
        arrays[f"s{i}/n_edges"] = np.array(batch.edge_index.shape[1])
        for k in range(len(heads)):
            out = run(model, batch, bool(a.pbc.all()), k)
            found = {"energy": out["energy"][0], "forces": out["forces"], "node_energy": out.get("node_energy")}
            if a.pbc.all() and out.get("stress") is not None:
                found["stress"] = out["stress"].view(3, 3)
            arrays |= {f"s{i}/h{k}/{key}": v.detach().numpy() for key, v in found.items() if v is not None}
    versions = {"mace": commit, "e3nn": e3nn.__version__, "torch": torch.__version__}
    meta = {"options": options, "seed": seed, "heads": heads, "structures": list(atoms), "versions": versions}
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    assert all(np.isfinite(v).all() for v in arrays.values())
    np.savez_compressed(OUT / f"{name}.npz", **arrays)
    kilobytes = [round((OUT / f"{name}{end}").stat().st_size / 1000) for end in (".model.xz", ".npz")]
    forces = [float(np.abs(arrays[f"s{i}/h0/forces"]).max().round(2)) for i in range(len(atoms))]
    return f"{name}: {kilobytes} kB, forces {forces} eV/Å, {sorted(k for k in arrays if k.startswith('s0/h0'))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", choices=list(MODELS))
    commit = parser.parse_args().commit
    for seed, (suffix, options) in enumerate(MODELS[commit].items(), start=100 + 2 * list(MODELS).index(commit)):
        print(write(f"old_{commit}{suffix}", COMMON | options, seed, commit), flush=True)


if __name__ == "__main__":
    main()
