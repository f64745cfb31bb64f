"""``mlip models``: the models that have a name."""

from __future__ import annotations

import json as jsonlib
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mlip.cli.output import print_json
from mlip.downloads import cache_folder, cached, find_or_fetch, in_own_folder
from mlip.errors import InputError
from mlip.published import BUNDLED_DATA, PUBLISHED, PublishedModel, find
from mlip.zoo import bundled_models, model_path

POSITIONAL = ("action", "name")
COLUMNS = {
    "name": "name",
    "license": "license",
    "elements": "elements",
    "cutoff": "cutoff Å",
    "parameters": "parameters",
    "trained_on": "trained on",
    "where": "where",
}
#: Beginnings of the names of tensors in a weights file that are not trained.
FIXED = ("radial.", "repulsion.")


def command(action: Literal["list", "get", "info"] = "list", name: str | None = None, json: bool = False) -> None:
    """List the models that have a name, bundled and published; download one; show all about one.

    Args:
        action: list all models, get NAME (downloads if needed, prints the path), or info NAME
        name: name of a model, as listed
        json: print everything as JSON on stdout
    """
    if action == "list":
        if name is not None:
            raise InputError(f"list takes no name; mlip models info {name} shows one model")
        _list(json)
    elif name is None:
        raise InputError(f"{action} needs the name of a model, as in mlip models {action} mace-mp-0a-small")
    elif action == "get":
        _get(name, json)
    else:
        _info(name, json)


def _list(json: bool) -> None:
    models = [_bundled_facts(*item) for item in bundled_models().items()] + [_facts(m) for m in PUBLISHED.values()]
    if json:
        print_json({"models": models, "cache": str(cache_folder())})
        return
    rows = [tuple(COLUMNS.values()), *(tuple(_cell(model, column) for column in COLUMNS) for model in models)]
    print(_aligned(rows))
    print("ASL: academic, non-commercial use only. mlip models info NAME shows more, mlip models get NAME downloads.")


def _cell(model: dict[str, Any], column: str) -> str:
    value = model[column]
    if column == "elements":
        return str(len(value)) if len(value) > 1 else value[0]
    return f"{value:,}" if column == "parameters" and value is not None else _or_dash(value)


def _get(name: str, json: bool) -> None:
    model = find(name)
    path = find_or_fetch(model) if model else model_path(name)
    if json:
        print_json({"name": name, "path": str(path)})
    else:
        print(path)


def _info(name: str, json: bool) -> None:
    model, bundled = find(name), bundled_models()
    facts = _facts(model) if model else _bundled_facts(name, bundled[name]) if name in bundled else None
    if facts is None:
        model_path(name)  # raises, and names the nearest
        raise InputError(f"{name} has no entry in the table; mlip info {name} shows what is in the file")
    if json:
        print_json(facts)
        return
    print(_aligned([(key, " ".join(v) if key == "elements" else _or_dash(v)) for key, v in facts.items()]))


def _facts(model: PublishedModel) -> dict[str, Any]:
    where, path = _where(model)
    return {
        "name": model.name,
        "alias": model.alias,
        "license": model.license.name,
        "license_url": model.license.url,
        "license_notice": model.license.notice or None,
        "elements": _symbols(model.elements),
        "cutoff": model.cutoff,
        "parameters": model.parameters,
        "trained_on": model.trained_on,
        "citation": model.citation,
        "url": model.url,
        "size_bytes": model.size,
        "sha256": model.sha256,
        "where": where,
        "path": str(path) if path else None,
    }


def _where(model: PublishedModel) -> tuple[str, Path | None]:
    own = in_own_folder(model.name, model)
    if own is not None:
        return "MLIP_MODELS", own
    path = cached(model)
    return ("cached", path) if path else ("not here", None)


def _bundled_facts(name: str, path: Path) -> dict[str, Any]:
    """What is known of a bundled model; the header of the file is read without torch."""
    with open(path, "rb") as file:
        header = jsonlib.loads(file.read(*struct.unpack("<Q", file.read(8))))
    options = jsonlib.loads(header.pop("__metadata__")["mlip"])["hyperparameters"]
    return {
        "name": name,
        "license": "MIT",
        "elements": _symbols(options["elements"]),
        "cutoff": options["cutoff"],
        "parameters": sum(math.prod(header[tensor]["shape"]) for tensor in header if not tensor.startswith(FIXED)),
        "trained_on": BUNDLED_DATA.get(name),
        "where": "bundled",
        "path": str(path),
    }


def _symbols(numbers: Sequence[int]) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[number] for number in numbers]


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as lines, never folded: names and addresses are there to be copied."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _or_dash(value: Any) -> str:
    return "—" if value is None else str(value)
