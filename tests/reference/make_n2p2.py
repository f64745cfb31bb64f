"""Energies and forces of n2p2's own `nnp-predict` for potentials with random weights, in n2p2's units.

    python tests/reference/make_n2p2.py NNP_PREDICT

NNP_PREDICT is the program, built from github.com/CompPhysVienna/n2p2 (commit 61daa0d was used). Every kind of symmetry
function, cutoff function, core function, activation function and way of scaling occurs. Writes
tests/fixtures/n2p2.json.xz: the potentials' files as text, the structures, energies, forces, and how many
symmetry functions of each atom the program warns of as outside their range.
"""

import json
import lzma
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

OUT = Path(__file__).parent.parent / "fixtures" / "n2p2.json.xz"
ELEMENTS = ("H", "C")
NUMBERS = {"H": 1, "C": 6}
CUTOFF = 7.0
SCALINGS = (
    [],
    ["scale_symmetry_functions"],
    ["center_symmetry_functions"],
    ["scale_symmetry_functions", "center_symmetry_functions", "scale_min_short -1.0", "scale_max_short 2.0"],
    ["scale_symmetry_functions_sigma", "scale_min_short 0.0", "scale_max_short 1.5"],
)


def gaussian_functions(rng: np.random.Generator) -> list[str]:
    lines = []
    for center in ELEMENTS:
        for k, neighbor in enumerate(ELEMENTS):
            lines.append(f"{center} 2 {neighbor} {0.02 + 0.05 * k} {k * 1.5} {CUTOFF}")
        for pair in ("H H", "C H", "C C"):
            lines.append(f"{center} 3 {pair} 0.02 1 {rng.choice([1.0, 2.0, 4.0])} {CUTOFF}")
            lines.append(f"{center} 3 {pair} 0.03 -1 1.5 {CUTOFF - 0.5} 0.4")
            lines.append(f"{center} 9 {pair} 0.01 {rng.choice([-1, 1])} {rng.choice([1.0, 3.0])} {CUTOFF}")
        lines.append(f"{center} 12 0.05 1.0 {CUTOFF}")
        lines.append(f"{center} 13 0.02 0.5 1 2.0 {CUTOFF}")
    return lines


def bumps(core: str) -> list[str]:
    lines = []
    for center in ELEMENTS:
        lines += [f"{center} 20 {n} {low} {CUTOFF} {core}" for n, low in (("H", -CUTOFF), ("C", 1.0))]
        for pair in ("H H", "H C", "C C"):
            lines.append(f"{center} 21 {pair} {-CUTOFF} {CUTOFF} 20.0 160.0 {core}")
            lines.append(f"{center} 22 {pair} 0.5 {CUTOFF - 0.5} -90.0 90.0 {core}")
        lines.append(f"{center} 22 H C {-CUTOFF} {CUTOFF} 60.0 300.0 {core}")
        lines.append(f"{center} 23 {-CUTOFF} {CUTOFF} {core}")
        lines.append(f"{center} 24 0.0 {CUTOFF} 10.0 100.0 {core}")
        lines.append(f"{center} 25 {-CUTOFF} {CUTOFF} 0.0 180.0 {core}")
    return lines


def potential(rng: np.random.Generator, number: int, functions: list[str], cutoff: str, letters: str) -> dict[str, str]:
    """Texts of the files by name."""
    sizes = {"H": [4, 3], "C": [5, 3]}
    lines = ["number_of_elements 2", f"elements C H  # {number}", f"cutoff_type {cutoff}", *SCALINGS[number % 5]]
    lines += ["global_hidden_layers_short 2", "global_nodes_short 4 3", f"global_activation_short {' '.join(letters)}"]
    lines += ["element_nodes_short C 5 3"]
    if number % 3 == 0:
        lines += [f"element_activation_short C t {letters[1]} l", "normalize_nodes"]
    if number % 2:
        lines += ["mean_energy -0.3", "conv_energy 17.0", "conv_length 3.1"]
    else:
        lines += ["atom_energy H -0.45", "atom_energy C -37.7"]
    shuffled = rng.permutation(functions)
    files = {"input.nn": "\n".join([*lines, *(f"symfunction_short {f}" for f in shuffled)]) + "\n"}
    rows = []
    for k, element in enumerate(ELEMENTS):
        count = sum(f.startswith(element) for f in functions)
        for place in range(count):
            low, width = 0.3 * rng.random(), 1.0 + 2.0 * rng.random()
            numbers = (low, low + width, low + width * rng.random(), 0.2 + rng.random())
            rows.append(f"{k + 1} {place + 1} " + " ".join(f"{n:.16e}" for n in numbers))
        layers = [count, *sizes[element], 1]
        text, index = [], 0
        for layer, (begin, end) in enumerate(zip(layers[:-1], layers[1:], strict=True)):
            for i in range(begin):
                for j in range(end):
                    index += 1
                    value = rng.normal() / np.sqrt(begin)
                    text.append(f"{value:.16e} a {index} {layer} {i + 1} {layer + 1} {j + 1}")
            for j in range(end):
                index += 1
                text.append(f"{0.3 * rng.normal():.16e} b {index} {layer + 1} {j + 1}")
        files[f"weights.{NUMBERS[element]:03d}.data"] = "\n".join(text) + "\n"
    return files | {"scaling.data": "\n".join(rows) + "\n"}


def structures(rng: np.random.Generator) -> list[dict]:
    """A cluster and a triclinic crystal, whose cell is longer than the cutoff: of an atom and its own image within the
    cutoff, n2p2's forces are not the derivatives of its energies."""
    found = []
    for cell in (None, np.array([[9.0, 0.3, -0.4], [1.5, 8.5, 0.2], [-1.0, 0.7, 9.5]])):
        positions: list[np.ndarray] = []
        while len(positions) < (6 if cell is None else 9):
            trial = 6.0 * rng.random(3) if cell is None else rng.random(3) @ cell
            shifts = [(0, 0, 0)] if cell is None else np.ndindex(3, 3, 3)
            images = [np.zeros(3) if cell is None else (np.array(s) - 1) @ cell for s in shifts]
            if all(np.linalg.norm(trial - p + image) > 1.9 for p in positions for image in images):
                positions.append(np.round(trial, 6))
        symbols = [str(s) for s in rng.permutation(["H", "C"] * 5)[: len(positions)]]
        found.append(
            {
                "symbols": symbols,
                "positions": np.array(positions).tolist(),
                "cell": None if cell is None else cell.tolist(),
            }
        )
    return found


def predict(program: str, files: dict[str, str], structure: dict) -> dict:
    lines = ["begin"] + [f"lattice {a} {b} {c}" for a, b, c in structure["cell"] or []]
    for symbol, (x, y, z) in zip(structure["symbols"], structure["positions"], strict=True):
        lines.append(f"atom {x} {y} {z} {symbol} 0 0 0 0 0")
    lines += ["energy 0", "charge 0", "end"]
    with tempfile.TemporaryDirectory() as name:
        for file, text in (files | {"input.data": "\n".join(lines) + "\n"}).items():
            Path(name, file).write_text(text)
        ran = subprocess.run([program, "0"], cwd=name, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        warned = [int(atom) for atom in re.findall(r"EXTRAPOLATION WARNING .* ATOM: +(\d+)", ran.stderr.decode())]
        energy = np.loadtxt(Path(name, "energy.out"), ndmin=2)
        forces = np.loadtxt(Path(name, "nnforces.out"), ndmin=2)
    outside = np.bincount(warned, minlength=len(forces)).tolist()
    return structure | {"energy": energy[0, 3], "forces": forces[:, -3:].tolist(), "outside": outside}


def main() -> None:
    rng = np.random.default_rng(0)
    cases = []
    # exp on an output or deep inside grows beyond all bounds; relu has kinks that rounding may fall on either side of.
    letters = ["ttl", "ssl", "ppl", "tpl", "gcl", "hSl", "ctl", "Sel"]
    for kind in range(1, 9):
        inner = f" {0.1 * (kind % 3)}" if kind not in (2, 3) else ""
        cases.append((f"cutoff_type {kind}", gaussian_functions(rng), f"{kind}{inner}", letters[kind - 1]))
    for k, core in enumerate(("p1", "p2", "p3", "p4", "p1a", "p2a", "p3a", "p4a", "e")):
        cases.append((f"core {core}", bumps(core), "6 0.0", letters[k % 4]))
    cases.append(("hard cutoff", [f for f in gaussian_functions(rng) if f.split()[1] in ("2", "9", "12")], "0", "ttl"))
    found = []
    for number, (name, functions, cutoff, activations) in enumerate(cases):
        files = potential(rng, number, functions, cutoff, activations)
        predicted = [predict(sys.argv[1], files, structure) for structure in structures(rng)]
        found.append({"name": name, "files": files, "structures": predicted})
        print(name, [round(s["energy"], 6) for s in predicted])
    OUT.write_bytes(lzma.compress(json.dumps(found).encode()))
    print(OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
