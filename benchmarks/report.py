"""A Markdown table and plots of the results in a folder.

python -m benchmarks.report [DIR]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from benchmarks.stages import floor

Row = dict[str, Any]
PROGRAMS = ("mace-torch", "exact", "table")
COLORS = {"mace-torch": "tab:gray", "exact": "tab:blue", "table": "tab:orange"}


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    titles = list(titles)
    lines = [titles, ["---"] + ["---:"] * (len(titles) - 1), *map(list, rows)]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def described(found: dict[str, Any]) -> list[str]:
    """Lines about machine and versions."""
    machine = found["machine"]
    peaks = machine.get("peaks", {})
    lines = [
        f"{machine['processor']}, {machine.get('cores', '?')} cores, one thread, {machine['simd']}; load average "
        f"{machine.get('load_before', machine.get('load', 0)):.2f} before, "
        f"{machine.get('load_after', machine.get('load', 0)):.2f} after."
    ]
    if peaks:
        lines.append(
            f"Matrix products {peaks['gemm_float32']:.0f} GFLOP/s in float32 and {peaks['gemm_float64']:.0f} in "
            f"float64 (torch's {peaks['torch_gemm_float32']:.0f} and {peaks['torch_gemm_float64']:.0f}); a copy "
            f"{peaks['copy']:.1f} GB/s, read and written."
        )
    for whose, versions in found.get("versions", {}).items():
        if isinstance(versions, dict):
            lines.append(f"{whose}: " + ", ".join(f"{name} {value}" for name, value in versions.items()) + ".")
    return [*lines, ""]


def of_mace(found: dict[str, Any]) -> Iterator[str]:
    titles = "model, precision, SIMD|atoms|mace-torch|exact|table|exact ratio|table ratio|of processor time|"
    titles += "dF exact|dF table|dF mace-torch"
    rows = []
    for row in found["rows"]:
        programs, ratios = row["programs"], row.get("ratios", {})
        cells = [f"{row['model']}, {row['dtype']}, {row['simd']}", f"{row['atoms']:,}"]
        cells += [f"{programs[p]['ms_per_atom']:.4f}" if p in programs else "-" for p in PROGRAMS]
        cells += [f"{ratios[radial]:.1f}x" if radial in ratios else "-" for radial in ("exact", "table")]
        used = row.get("ratios_processor")
        cells.append(f"{used['exact']:.1f}x, {used['table']:.1f}x" if used else "-")
        for program in ("exact", "table", "mace-torch"):
            deviation = row["deviations"].get(program)
            cells.append(f"{deviation['force']:.0e}" if deviation else "-")
        rows.append(cells)
    yield from table(titles.split("|"), rows)
    yield (
        "Milliseconds per atom of one call, ratios of wall times, and of processor times (exact, table); dF is the "
        "largest deviation of a force from mace-torch in float64, eV/Å (where that was not measured, from ours)."
    )
    yield ""


def of_md(found: dict[str, Any]) -> Iterator[str]:
    rows = []
    for row in found["rows"]:
        rates, ratios = row["steps_per_second"], row.get("ratios", {})
        cells = [f"{row['model']}, {row['dtype']}", f"{row['atoms']:,}"]
        cells += [f"{rates[p]:.3g}" if p in rates else "-" for p in PROGRAMS]
        cells += [f"{ratios[r]:.1f}x" if r in ratios else "-" for r in ("exact", "table")]
        used = row.get("ratios_processor")
        rows.append([*cells, f"{used['exact']:.1f}x, {used['table']:.1f}x" if used else "-"])
    titles = "model|atoms|mace-torch steps/s|exact|table|exact ratio|table ratio|of processor time"
    yield from table(titles.split("|"), rows)


def of_phonons(found: dict[str, Any]) -> Iterator[str]:
    rows = []
    for row in found["rows"]:
        for kind, ratio in (("seconds", "ratios"), ("seconds_forces", "ratios_forces")):
            seconds, ratios = row[kind], row.get(ratio, {})
            what = "all" if kind == "seconds" else "forces"
            cells = [f"{row['crystal']}, {row['displacements']} x {row['atoms']} atoms, {row['dtype']}, {what}"]
            cells += [f"{seconds[p]:.2f}" if p in seconds else "-" for p in PROGRAMS]
            rows.append(cells + [f"{ratios[r]:.1f}x" if r in ratios else "-" for r in ("exact", "table")])
    yield from table("crystal|mace-torch, s|exact|table|exact ratio|table ratio".split("|"), rows)


def of_training(found: dict[str, Any]) -> Iterator[str]:
    titles = "batch, model, precision|atoms|pairs|mace-torch, ms|exact|table|exact ratio|table ratio|of processor time|"
    titles += "gradients exact|gradients table|gradients mace-torch"
    rows = []
    for row in found["rows"]:
        programs, ratios, used = row["programs"], row.get("ratios", {}), row.get("ratios_processor", {})
        cells = [f"{row['batch']}, {row['model']}, {row['dtype']}", f"{row['atoms']:,}", f"{row['pairs']:,}"]
        cells += [f"{programs[p]['milliseconds']:.1f}" if p in programs else "-" for p in PROGRAMS]
        cells += [f"{ratios[r]:.1f}x" if r in ratios else "-" for r in ("exact", "table")]
        cells.append(", ".join(f"{ratio:.1f}x" for ratio in used.values()) or "-")
        deviations = row.get("gradients", {})
        for program in ("exact", "table", "mace-torch"):
            cells.append(f"{deviations[program]['largest']:.0e}" if program in deviations else "-")
        rows.append(cells)
    yield from table(titles.split("|"), rows)
    yield (
        "Milliseconds of a training step; the gradients' largest deviation from those of mace-torch in float64, of all "
        "parameter tensors relative to the tensor's largest component."
    )
    yield ""


def of_memory(found: dict[str, Any]) -> Iterator[str]:
    rows = []
    for row in found["rows"]:
        what = {"call": "energy, forces, stress", "step": "training step"}[row["what"]]
        cells = [f"{what}, {row['model']}, {row['dtype']}", f"{row['atoms']:,}"]
        for program in PROGRAMS:
            used = row["programs"].get(program)
            if used:
                cells.append(f"{used['bytes_per_atom'] * 1e-3:.0f} kB ({used['peak'] * 1e-9:.2f} GB)")
            else:
                cells.append("too large" if "alloc" in row["failed"].get(program, "") else "-")
        rows.append(cells)
    yield from table("purpose, model, precision|atoms|mace-torch|exact|table".split("|"), rows)
    yield "Per atom: the peak of the resident memory above that before the call; in brackets the whole process."
    yield ""


def of_threads(found: dict[str, Any]) -> Iterator[str]:
    rows = []
    for row in found["rows"]:
        what = ", ".join(row[name] for name in ("what", "model", "dtype", "radial") if name in row)
        cells = [what, f"{row['atoms']:,}", *(f"{row['milliseconds'][count]:.2f}" for count in ("1", "2"))]
        rows.append([*cells, f"{row['speed_up']:.2f}x", "yes" if row["identical"] else "NO"])
    yield from table("operation|atoms|1 thread, ms|2 threads|speed-up|same bits".split("|"), rows)


def of_stages(found: dict[str, Any]) -> Iterator[str]:
    peaks = found["machine"]["peaks"]
    for row in found["rows"]:
        atoms = row["atoms"]
        yield (
            f"{row['model']}, {row['dtype']}, {row['radial']}, {atoms} atoms, {row['edges'] / atoms:.0f} neighbors: "
            f"{1e3 * row['milliseconds'] / atoms:.1f} µs per atom"
        )
        yield ""
        rows = []
        for name, stage in sorted(row["stages"].items(), key=lambda item: -item[1]["milliseconds"]):
            taken, least = stage["milliseconds"], floor(stage, row["dtype"], peaks)
            speed = f"{stage['gflop'] / taken * 1e3:.0f}" if stage["gflop"] else "-"
            traffic = f"{stage['megabytes'] / taken:.1f}" if stage["megabytes"] else "-"
            cells = [name, f"{1e3 * taken / atoms:.2f}", f"{100 * taken / row['milliseconds']:.0f} %", speed, traffic]
            cells += [f"{1e3 * least / atoms:.2f}", f"{taken / least:.1f}" if least else "-"]
            rows.append(cells)
        yield from table("stage|µs/atom|share|GFLOP/s|GB/s|floor, µs/atom|times the floor".split("|"), rows)


def of_neighbor_list(found: dict[str, Any]) -> Iterator[str]:
    others = [name for name in found["versions"] if name in ("vesin", "matscipy")]
    rows = []
    for row in found["rows"]:
        cells = [row["case"], f"{row['pairs']:,}", f"{row['milliseconds']['mlip']:.2f}"]
        cells += [f"{row['times_faster_than'][o]:.1f}x" if o in row["times_faster_than"] else "-" for o in others]
        rows.append(cells)
    yield from table(["case", "pairs", "mlip, ms", *others], rows)


SECTIONS = {
    "neighbor_list": ("Neighbor list", of_neighbor_list),
    "mace": ("MACE: energy, forces and stress", of_mace),
    "md": ("Molecular dynamics", of_md),
    "phonons": ("Phonons", of_phonons),
    "training": ("Training step", of_training),
    "memory": ("Peak memory", of_memory),
    "threads": ("Threads", of_threads),
    "stages": ("Stages of one call", of_stages),
}


def report(folder: Path) -> None:
    """Write report.md and the plots of all results that there are."""
    lines = ["# Results", ""]
    for path in sorted(folder.glob("*.json"), key=lambda p: [p.stem.startswith(c) for c in SECTIONS], reverse=True):
        case = next((case for case in SECTIONS if path.stem.startswith(case)), None)
        found = json.loads(path.read_text())
        if case is None or "rows" not in found:  # the race of training has a plot of its own
            continue
        title, section = SECTIONS[case]
        lines += [f"## {title} (`{path.name}`)", "", *described(found), *section(found)]
        if case in PLOTS:
            PLOTS[case](found, folder / f"{path.stem}.png")
    (folder / "report.md").write_text("\n".join(lines).rstrip() + "\n")


def plot_times(found: dict[str, Any], path: Path) -> None:
    """Time per atom against the number of atoms, a panel for each model."""
    models = list(dict.fromkeys(row["model"] for row in found["rows"]))
    figure, axes = plt.subplots(1, len(models), figsize=(5 * len(models), 4.2), sharey=True, squeeze=False)
    for axis, model in zip(axes[0], models, strict=True):
        for dtype, line in (("float32", "-"), ("float64", "--")):
            for program, color in COLORS.items():
                rows = [
                    r for r in found["rows"] if (r["model"], r["dtype"]) == (model, dtype) and program in r["programs"]
                ]
                points = sorted((r["atoms"], r["programs"][program]["ms_per_atom"]) for r in rows)
                if points:
                    name = program if program == "mace-torch" else f"mlip, {program}"
                    axis.loglog(
                        *zip(*points, strict=True), line, marker="o", ms=4, color=color, label=f"{name}, {dtype}"
                    )
        axis.set(title=model, xlabel="atoms")
        axis.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("ms per atom (energy, forces, stress)")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_roofline(found: dict[str, Any], path: Path) -> None:
    """Speed of the stages against operations per byte, below the roof of both precisions."""
    peaks = found["machine"]["peaks"]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for axis, dtype in zip(axes, ("float32", "float64"), strict=True):
        peak, copy = peaks[f"gemm_{dtype}"], peaks["copy"]
        axis.loglog([0.1, peak / copy, 1000], [0.1 * copy, peak, peak], "k-", lw=1)
        largest = max(row["atoms"] for row in found["rows"])
        for row in found["rows"]:
            if row["dtype"] != dtype or row["atoms"] != largest:
                continue
            points = [
                (s["gflop"] / s["megabytes"] * 1e3, s["gflop"] / s["milliseconds"] * 1e3, name)
                for name, s in row["stages"].items()
                if s["gflop"] and s["megabytes"]
            ]
            marker = {"exact": "o", "table": "s"}[row["radial"]]
            axis.loglog(
                [p[0] for p in points], [p[1] for p in points], marker, label=f"{row['model']}, {row['radial']}"
            )
            for x, y, name in points:
                axis.annotate(
                    name.replace(", forward", " f").replace(", backward", " b"), (x, y), fontsize=5, rotation=20
                )
        axis.set(title=f"{dtype}, {largest} atoms", xlabel="operations per byte of memory traffic needed")
        axis.grid(alpha=0.3, which="both")
        axis.set_xlim(0.5, 500)
        axis.set_ylim(bottom=2)
        axis.legend(*axis.get_legend_handles_labels(), fontsize=7)
    axes[0].set_ylabel("GFLOP/s")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_training(found: dict[str, Any], path: Path) -> None:
    """Time per atom of a training step: bars by batch, a panel for each precision."""
    dtypes = sorted({row["dtype"] for row in found["rows"]})
    figure, axes = plt.subplots(1, len(dtypes), figsize=(5.5 * len(dtypes), 4.2), sharey=True, squeeze=False)
    for axis, dtype in zip(axes[0], dtypes, strict=True):
        rows = [row for row in found["rows"] if row["dtype"] == dtype]
        for k, program in enumerate(PROGRAMS):
            bars = [(i, r["programs"][program]["ms_per_atom"]) for i, r in enumerate(rows) if program in r["programs"]]
            name = program if program == "mace-torch" else f"mlip, {program}"
            if bars:
                axis.bar(
                    [i + 0.27 * (k - 1) for i, _ in bars], [y for _, y in bars], 0.25, color=COLORS[program], label=name
                )
        axis.set(title=dtype, yscale="log", xticks=range(len(rows)))
        axis.set_xticklabels([f"{row['batch']}\n{row['model']}" for row in rows], fontsize=7)
        axis.grid(alpha=0.3, which="both", axis="y")
    axes[0][0].set_ylabel("ms per atom (training step)")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_memory(found: dict[str, Any], path: Path) -> None:
    """Peak memory per atom against the number of atoms, a panel for each purpose."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    titles = {"call": "energy, forces, stress", "step": "training step"}
    for axis, (what, title) in zip(axes, titles.items(), strict=True):
        for dtype, line in (("float32", "-"), ("float64", "--")):
            for program, color in COLORS.items():
                rows = [
                    r for r in found["rows"] if (r["what"], r["dtype"]) == (what, dtype) and program in r["programs"]
                ]
                points = sorted((r["atoms"], r["programs"][program]["bytes_per_atom"] * 1e-3) for r in rows)
                if points:
                    name = program if program == "mace-torch" else f"mlip, {program}"
                    axis.loglog(
                        *zip(*points, strict=True), line, marker="o", ms=4, color=color, label=f"{name}, {dtype}"
                    )
        axis.set(title=title, xlabel="atoms")
        axis.grid(alpha=0.3, which="both")
        axis.legend(*axis.get_legend_handles_labels(), fontsize=7)
    axes[0].set_ylabel("kB per atom at the peak")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


PLOTS = {"mace": plot_times, "stages": plot_roofline, "training": plot_training, "memory": plot_memory}


if __name__ == "__main__":
    report(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("results"))
