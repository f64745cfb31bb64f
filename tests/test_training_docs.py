"""The options in docs/training.md are those of the configuration. Run this file to write them."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

from mlip.cli.parser import split_docstring
from mlip.training.config import TrainingConfig

PAGE = Path(__file__).parent.parent / "docs" / "training.md"
START, END = "<!-- options -->\n", "<!-- /options -->"


def table() -> str:
    texts = split_docstring(inspect.getdoc(TrainingConfig) or "")[1]
    rows = [f"| `--{f.name}` | {_default(f.default)} | {texts[f.name]} |" for f in dataclasses.fields(TrainingConfig)]
    return "\n".join(["| option | default | what it does |", "|---|---|---|", *rows, ""])


def _default(value: object) -> str:
    return "" if value in (None, "") else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_options_of_the_page():
    text = PAGE.read_text()
    assert text[text.index(START) + len(START) : text.index(END)] == table(), "run python tests/test_training_docs.py"


def test_every_option_is_described():
    texts = split_docstring(inspect.getdoc(TrainingConfig) or "")[1]
    assert texts.keys() == {f.name for f in dataclasses.fields(TrainingConfig)}


if __name__ == "__main__":
    page = PAGE.read_text()
    PAGE.write_text(page[: page.index(START) + len(START)] + table() + page[page.index(END) :])
