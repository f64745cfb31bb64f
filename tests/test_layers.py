"""The architecture as a test: imports point down, names follow docs, files stay small, importing stays cheap."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mlip"

LAYERS: dict[str, int] = {
    "units": 0,
    "errors": 0,
    "_extension": 1,
    "graph": 1,
    "convert": 1,
    "neighbors": 1,
    "ops": 1,
    "nn": 2,
    "models": 3,
    "potential": 4,
    "properties": 4,
    "property_model": 4,
    "energy_scale": 4,
    "upgrades": 4,
    "acceleration": 4,
    "derivatives": 4,
    "hessian": 4,
    "descriptors": 4,
    "committee": 4,
    "committee_file": 4,
    "checkpoint": 4,
    "pretrained": 4,
    "data": 5,
    "training": 5,
    "importers": 5,
    "published": 5,
    "transfer": 5,
    "downloads": 5,
    "zoo": 5,
    "calculators": 6,
    "workflows": 7,
    "cli": 8,
    "testing": 8,
    "__main__": 9,
}

#: Words for the ends of a pair that are not `center` and `neighbor`. A source or target may be something else (of a
#: figure, of a fit), so these two are banned only where pairs are handled.
BANNED = re.compile(r"(^|_)(senders?|receivers?)(_|$)", re.IGNORECASE)
BANNED_WITH_PAIRS = re.compile(r"(^|_)(sources?|targets?|senders?|receivers?)(_|$)", re.IGNORECASE)
PAIRS = re.compile(r"edge_index|neighbor_list|edge_vectors")
BRITISH = re.compile(r"neighbour", re.IGNORECASE)
#: matscipy's module and function have British names; a URL or a title is quoted as it is.
BRITISH_NAMES = re.compile(r"matscipy\.neighbours|neighbour_list|https?://\S+")
MAX_LINES = 400
SKIPPED_FOLDERS = {".git", ".venv", "build", "dist", "demo", "__pycache__"}


def python_files() -> list[Path]:
    """All modules of the package; `mlip/calculators` is a link to `calculators/`."""
    return sorted([*PACKAGE.rglob("*.py"), *(ROOT / "calculators").rglob("*.py")])


def module_name(path: Path) -> str:
    """Dotted name, with `calculators/x.py` as `mlip.calculators.x`."""
    relative = path.relative_to(ROOT)
    parts = list(relative.with_suffix("").parts)
    if parts[0] == "calculators":
        parts.insert(0, "mlip")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> int:
    """Layer of a module by the part of the package it lies in."""
    parts = module.split(".")
    assert parts[1] in LAYERS, f"{module}: mlip.{parts[1]} has no layer; add it to the table of tests/test_layers.py"
    return LAYERS[parts[1]]


class Imports(ast.NodeVisitor):
    """Collects the mlip modules that a module imports, at the top or within functions, but for TYPE_CHECKING."""

    def __init__(self, module: str, is_package: bool) -> None:
        self.package = module if is_package else module.rpartition(".")[0]
        self.found: list[tuple[int, str]] = []

    def visit_If(self, node: ast.If) -> None:
        if not any(getattr(n, "id", getattr(n, "attr", "")) == "TYPE_CHECKING" for n in ast.walk(node.test)):
            self.generic_visit(node)
            return
        for statement in node.orelse:
            self.visit(statement)

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [(node.lineno, alias.name) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parent = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
            base = ".".join([*parent, *([node.module] if node.module else [])])
        if base == "mlip":
            self.found += [(node.lineno, f"mlip.{alias.name}") for alias in node.names]
        else:
            self.found.append((node.lineno, base))

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
            self.found.append((node.lineno, str(node.args[0].value)))
        self.generic_visit(node)


def upward_imports(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return a line for each import of a higher layer."""
    visitor = Imports(module, is_package)
    visitor.visit(ast.parse(source))
    own, wrong = layer_of(module), []
    for line, imported in visitor.found:
        known = imported.startswith("mlip.") and imported.split(".")[1] in LAYERS
        if known and layer_of(imported) > own:
            wrong.append(f"{module}:{line} (layer {own}) imports {imported} (layer {layer_of(imported)})")
    return wrong


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names that the code gives: variables, attributes it assigns, arguments, functions, classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def banned_names(source: str) -> list[str]:
    """Return ``line: name`` for each name with a banned word."""
    banned = BANNED_WITH_PAIRS if PAIRS.search(source) else BANNED
    return [f"{line}: {name}" for line, name in identifiers(ast.parse(source)) if banned.search(name)]


def british_spelling(text: str) -> list[str]:
    """Return ``line: text`` for each line with the British spelling of neighbor."""
    lines = enumerate(text.splitlines(), 1)
    return [f"{number}: {line.strip()}" for number, line in lines if BRITISH.search(BRITISH_NAMES.sub("", line))]


def texts() -> list[Path]:
    """Code and documents whose spelling is checked."""
    kinds = {".py", ".md", ".toml", ".cpp", ".hpp", ".cu", ".cuh", ".h", ".txt"}
    files = [p for p in ROOT.rglob("*") if p.suffix in kinds and not SKIPPED_FOLDERS & set(p.relative_to(ROOT).parts)]
    return sorted(p for p in files if p != Path(__file__).resolve() and "shared" not in p.relative_to(ROOT).parts)


@pytest.mark.parametrize("path", python_files(), ids=module_name)
def test_imports_point_down(path: Path) -> None:
    module = module_name(path)
    if module == "mlip":
        pytest.skip("the top level names everything, lazily")
    assert not upward_imports(path.read_text(), module, path.name == "__init__.py")


@pytest.mark.parametrize("path", python_files(), ids=module_name)
def test_ends_of_a_pair_are_center_and_neighbor(path: Path) -> None:
    assert not banned_names(path.read_text())


def test_american_spelling() -> None:
    wrong = [f"{path.relative_to(ROOT)}:{line}" for path in texts() for line in british_spelling(path.read_text())]
    assert not wrong, "\n".join(wrong)


def test_files_are_short() -> None:
    long = {str(p.relative_to(ROOT)): n for p in python_files() if (n := len(p.read_text().splitlines())) > MAX_LINES}
    assert not long, f"over {MAX_LINES} lines, split them by idea: {long}"


def test_the_rules_can_fail() -> None:
    assert upward_imports("from mlip.cli import output", "mlip.graph")
    assert upward_imports("def f():\n    import mlip.potential", "mlip.nn.radial")
    assert upward_imports("from mlip import zoo", "mlip.models.mace")
    assert upward_imports("from ..training import loop", "mlip.ops.scatter")
    assert upward_imports("importlib.import_module('mlip.workflows')", "mlip.calculators.verlet")
    assert not upward_imports("if TYPE_CHECKING:\n    from mlip.potential import Potential", "mlip.graph")
    assert not upward_imports("from mlip.units import x\nimport numpy", "mlip.cli.info")
    assert banned_names("source, target = edge_index") and banned_names("def f(senders): ...")
    assert not banned_names("source = 'Zuo et al. 2020'") and not banned_names("resource = edge_index")
    assert british_spelling("the neighbour list") and not british_spelling("from matscipy.neighbours import x")


PROBE = (
    "import sys; {action}; loaded = [m for m in ('torch', 'e3nn', 'ase', 'numpy') if m in sys.modules]; print(*loaded)"
)


def _loaded_after(action: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROBE.format(action=action)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "action",
    [
        "import mlip",
        "from mlip.cli import main; main(['--help'])",
        "from mlip.cli import main; main(['check', '--help'])",
    ],
)
def test_nothing_heavy_is_imported(action: str) -> None:
    assert "torch" not in _loaded_after(action).split()
