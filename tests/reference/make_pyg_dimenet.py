"""Energies and gradients of PyTorch Geometric's DimeNet and DimeNet++ with random weights, for tests/test_dimenet.py.

Writes tests/fixtures/pyg_dimenet/NAME.npz. Runs in an environment of its own:

    pip install torch==2.13.0 torch_geometric==2.8.1 numpy scipy sympy
    python tests/reference/make_pyg_dimenet.py

Each file holds

meta                          JSON (uint8): class, arguments of the constructor, versions
state/...                     the state dict, float32
numbers, positions, batch     of a few molecules without collinear atoms, where PyG has no derivatives
energy64, gradient64          per molecule and per atom, the float32 weights evaluated in float64
energy32, gradient32          and in float32

PyG takes its list of neighbors and its triplets from torch_cluster and torch_sparse, which have to be compiled; plain
loops stand for them here. All neighbors count (PyG's option max_num_neighbors leaves some out).
"""

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_geometric
from torch_geometric.nn.models import dimenet

OUT = Path(__file__).parent.parent / "fixtures" / "pyg_dimenet"
COMMON = {
    "hidden_channels": 6,
    "out_channels": 1,
    "num_blocks": 2,
    "num_spherical": 7,
    "num_radial": 6,
    "cutoff": 4.0,
    "envelope_exponent": 4,
    "num_before_skip": 2,
    "num_after_skip": 1,
    "num_output_layers": 2,
}
MODELS: dict[str, tuple[type[torch.nn.Module], dict[str, Any]]] = {
    "dimenet": (dimenet.DimeNet, COMMON | {"num_bilinear": 3}),
    "dimenet_plus_plus": (
        dimenet.DimeNetPlusPlus,
        COMMON | {"int_emb_size": 5, "basis_emb_size": 3, "out_emb_channels": 7},
    ),
}


def neighbors(pos: torch.Tensor, r: float, batch: torch.Tensor, **_: Any) -> torch.Tensor:
    """What `torch_cluster.radius_graph` gives: pairs within r of the same molecule."""
    n = len(pos)
    pairs = [
        (j, i)
        for i in range(n)
        for j in range(n)
        if i != j and batch[i] == batch[j] and float((pos[i] - pos[j]).detach().norm()) < r
    ]
    return torch.tensor(pairs).T


def triplets(edge_index: torch.Tensor, num_nodes: int) -> tuple[torch.Tensor, ...]:
    """What PyG's function of this name gives: i, j of all edges, and i, j, k and both edges of all triplets."""
    edges = edge_index.T.tolist()
    rows = [
        (i, j, k, second, first)
        for first, (j, i) in enumerate(edges)
        for second, (k, middle) in enumerate(edges)
        if middle == j and k != i
    ]
    return edge_index[1], edge_index[0], *torch.tensor(rows).T


def molecules(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random clusters of H, C and O, their atoms at least 0.9 Å apart, and a lone atom."""
    positions, batch = [], []
    for molecule, size in enumerate((2, 5, 1, 7)):
        placed: list[np.ndarray] = []
        while len(placed) < size:
            trial = rng.uniform(0, 1.0 + 0.5 * size, 3)
            if all(np.linalg.norm(trial - other) > 0.9 for other in placed):
                placed.append(trial)
        positions += placed
        batch += [molecule] * size
    numbers = rng.choice([1, 6, 8], len(batch))
    return torch.tensor(numbers), torch.tensor(np.array(positions)), torch.tensor(batch)


def main() -> None:
    dimenet.radius_graph, dimenet.triplets = neighbors, triplets
    OUT.mkdir(exist_ok=True)
    for seed, (name, (kind, arguments)) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        numbers, positions, batch = molecules(np.random.default_rng(seed))
        model = kind(**arguments)
        with torch.no_grad():
            for parameter in model.parameters():  # biases and last layers are zero at first
                parameter.add_(0.1 * torch.randn_like(parameter))
        stored = {f"state/{key}": value.numpy().copy() for key, value in model.state_dict().items()}
        for bits, dtype in ((64, torch.float64), (32, torch.float32)):
            pos = positions.clone().to(dtype).requires_grad_()
            energy = model.to(dtype)(numbers, pos, batch)
            (gradient,) = torch.autograd.grad(energy.sum(), pos)
            stored |= {f"energy{bits}": energy.detach().flatten().numpy(), f"gradient{bits}": gradient.numpy()}
            model.to(torch.float32)
        versions = {"torch_geometric": torch_geometric.__version__, "torch": torch.__version__}
        meta = {"class": kind.__name__, "kwargs": arguments, "versions": versions | {"numpy": np.__version__}}
        meta["versions"]["python"] = platform.python_version()
        stored |= {"numbers": numbers.numpy(), "positions": positions.numpy(), "batch": batch.numpy()}
        stored["meta"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
        np.savez_compressed(OUT / f"{name}.npz", **stored)


if __name__ == "__main__":
    main()
