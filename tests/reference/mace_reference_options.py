"""Which options of mace-torch the reference models of make_mace_references.py have."""

import itertools
import json
import random
from collections import Counter

SEED = 20240611
BLOCKS = {
    "plain": "RealAgnosticInteractionBlock",
    "residual": "RealAgnosticResidualInteractionBlock",
    "density": "RealAgnosticDensityInteractionBlock",
    "density_residual": "RealAgnosticDensityResidualInteractionBlock",
    "nonlinear": "RealAgnosticResidualNonLinearInteractionBlock",
}
ELEMENTS = [[14], [1, 6, 8], [11, 17], [8, 22, 38], [13, 31, 33, 79], [1, 92], [55, 82, 53, 7], [26]]
OPTIONS = {
    "class": ["ScaleShiftMACE", "MACE"],
    "interaction_cls_first": list(BLOCKS),
    "interaction_cls": list(BLOCKS),
    "radial_type": ["bessel", "gaussian", "chebyshev"],
    "distance_transform": ["None", "Agnesi", "Soft"],
    "apply_cutoff": [True, False],
    "hidden_irreps": ["0e", "0e+1o", "0e+1o+2e"],
    "max_ell": [1, 2, 3],
    "correlation": [1, 2, 3, 4, "by layer"],
    "num_interactions": [1, 2, 3],
    "channels": [2, 3, 4, 6],
    "pair_repulsion": [False, True],
    "heads": [None, ["pbe"], ["low", "Default"], ["a", "b", "c"]],
    "use_agnostic_product": [False, True],
    "use_reduced_cg": [False, True, "not installed"],  # true, but mace does not find cuequivariance
    "use_last_readout_only": [False, True],
    "keep_last_layer_irreps": [False, True],
    "edge_irreps": ["none", "same in all", "not in first"],
    "gate": ["silu", "tanh", "abs", "None"],
    "readout_cls": ["NonLinearReadoutBlock", "NonLinearBiasReadoutBlock"],
    "num_polynomial_cutoff": [5, 6, 4],
    "radial_MLP": [[8, 8], [6], [5, 7, 6]],
    "num_bessel": [3, 5, 8],
    "r_max": [3.7, 4.5, 5.0],
    "MLP_irreps": ["4x0e", "7x0e"],
    "elements": ELEMENTS,
}
IMPORTANT = ["interaction_cls_first", "interaction_cls", "radial_type", "distance_transform", "apply_cutoff"]
IMPORTANT += ["hidden_irreps", "correlation", "max_ell", "use_reduced_cg", "class"]


def allowed(options: dict) -> bool:
    """Whether the options make sense together and the U matrices stay small."""
    scalar, layers = options["hidden_irreps"] == "0e", options["num_interactions"]
    order = 3 if options["correlation"] == "by layer" else options["correlation"]
    if layers == 1 and (options["use_last_readout_only"] or options["keep_last_layer_irreps"]):
        return False  # no readout at all; no difference
    if layers == 1 and (options["edge_irreps"] == "not in first" or options["correlation"] == "by layer"):
        return False
    if scalar and options["keep_last_layer_irreps"]:
        return False
    if "2e" in options["hidden_irreps"] and (options["max_ell"] == 1 or order * options["max_ell"] > 8):
        return False
    if order == 4:
        return options["max_ell"] == 1 or (options["max_ell"] == 2 and scalar)
    return True


def pairs(options: dict) -> set[tuple]:
    """Every pair of (option, value) of a model."""
    return set(itertools.combinations([(name, json.dumps(value)) for name, value in options.items()], 2))


def draw(count: int, seed: int) -> list[dict]:
    """`count` sets of options; each is the one of many random ones that adds most pairs of values not yet seen."""
    rng, seen, models = random.Random(seed), Counter(), []

    def gain(options: dict) -> float:
        weights = {2: 6.0, 1: 1.5, 0: 1.0}
        new = (p for p in pairs(options) if not seen[p])
        return sum(weights[(a[0] in IMPORTANT) + (b[0] in IMPORTANT)] for a, b in new)

    for _ in range(count):
        candidates = []
        while len(candidates) < 600:
            options = {name: rng.choice(values) for name, values in OPTIONS.items()}
            if allowed(options):
                candidates.append(options)
        models.append(max(candidates, key=gain))
        seen.update(pairs(models[-1]))
    return models


def cases() -> dict[str, dict]:
    """Options by the name of the fixture."""
    found = {}
    for k, options in enumerate(draw(48, SEED)):
        name = f"{k:02d}_{options['interaction_cls']}_{options['radial_type']}"
        found[name] = options | {"dtype": "float64"}
    for k, options in enumerate(draw(3, SEED + 1)):
        found[f"float32_{k}"] = options | {"use_reduced_cg": k == 2, "dtype": "float32"}
    for k, options in enumerate(draw(6, SEED + 2)):  # irreps of both parities (mace's nonlinear block has none)
        blocks = {o: v if v != "nonlinear" else "residual" for o, v in options.items() if o.startswith("interaction")}
        few = {"max_ell": 1 + k % 2, "correlation": 2 + k % 2, "channels": 2, "num_interactions": 2 + k % 2}
        few |= {"hidden_irreps": "0e+0o+1o+1e", "edge_irreps": "none", "use_last_readout_only": False}
        found[f"parity_{k}"] = options | blocks | few | {"dtype": "float64"}
    for k, irreps in enumerate(["0e", "0e+1e", "0e+1e+2e"]):  # all irreps even: only rotations are a symmetry
        options = next(o for o in draw(9, SEED + 3 + k) if o["num_interactions"] > 1)
        few = {"max_ell": 2, "correlation": 2 + k % 2, "hidden_irreps": irreps, "use_so3": True, "channels": 2}
        found[f"so3_{k}"] = options | few | {"dtype": "float64", "keep_last_layer_irreps": False}
    common = {"use_reduced_cg": False, "interaction_cls": "residual", "edge_irreps": "none", "num_interactions": 2}
    common |= {"channels": 2, "dtype": "float64", "use_last_readout_only": False, "keep_last_layer_irreps": False}
    for k, (irreps, max_ell, order) in enumerate(
        [("0e+1o", 3, 3), ("0e+1o+2e", 3, 3), ("0e+1o", 2, 4)]
    ):  # large tables
        few = {"hidden_irreps": irreps, "max_ell": max_ell, "correlation": order}
        found[f"large_{k}"] = draw(1, SEED + 10 + k)[0] | common | few
    return found


def readme(models: dict[str, dict]) -> str:
    """How many fixtures have each value of each option."""
    lines = ["Written by tests/reference/make_mace_references.py, which says what the files hold.", ""]
    lines += [f"Fixtures with each value of each of mace's options ({len(models)} in all):", ""]
    lines += ["| option | values (number of fixtures) |", "|---|---|"]
    for name in [*OPTIONS, "dtype", "use_so3"]:
        count = Counter(json.dumps(options.get(name, False)) for options in models.values())
        values = ", ".join(f"{value} ({n})" for value, n in sorted(count.items()))
        lines.append(f"| {name} | {values} |")
    first = {k: v for k, v in models.items() if k[0].isdigit()}
    seen = set().union(*(pairs({k: v for k, v in o.items() if k in IMPORTANT}) for o in first.values()))
    lines += ["", f"Of {', '.join(IMPORTANT)} every pair of values that is possible occurs: {len(seen)} pairs."]
    lines += ["", "old_*: formats of old versions, written by tests/reference/make_mace_old_references.py."]
    return "\n".join(lines) + "\n"
