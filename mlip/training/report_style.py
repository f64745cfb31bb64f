"""Building blocks of the report's page: style sheet, tables, sections. Every text is escaped here, and only here."""

from __future__ import annotations

import html
from collections.abc import Sequence

from mlip.training.error_tables import printable

#: Nothing is loaded or run, whatever the page holds: styles and pictures are in the page itself.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
:root { color-scheme: light dark; --ink: #1d232b; --soft: #5b6672; --page: #ffffff; --card: #f4f6f8; --grid: #c9d0d8;
  --best: #2d9a5b; --stage: #8a5cc2; --train: #8d99a6; --valid: #2f6db5; --test: #d9822b; --bar: #bcd3ec; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9ba7b4; --page: #14181d; --card: #1e242b;
  --grid: #46505b; --best: #54c585; --stage: #b594e6; --train: #9aa5b1; --valid: #5e9be6; --test: #eb9b4a;
  --bar: #2c4a6b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 3rem; max-width: 74rem; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; border-bottom: 1px solid var(--grid); padding-bottom: .2rem; }
h3 { font-size: .95rem; margin: 1rem 0 .3rem; }
p { margin: .3rem 0 .6rem; } .soft { color: var(--soft); font-size: .88rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.card { background: var(--card); border-radius: .5rem; padding: .6rem .8rem; }
.card b { font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.card div { white-space: nowrap; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: .8rem; }
.figures svg { width: 100%; height: auto; max-width: 34rem; display: block; }
svg text { font-family: system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif !important; fill: var(--ink); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 0 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 600; }
th, td { padding: .22rem .9rem .22rem 0; border-bottom: 1px solid var(--grid); vertical-align: top; }
.n { text-align: right; } td.n { white-space: nowrap; } th { vertical-align: bottom; } .whole td { font-weight: 600; }
.bar { display: inline-block; height: .7rem; background: var(--bar); border-radius: 2px; min-width: 1px; }
td.w { min-width: 5rem; width: 40%; } td { overflow-wrap: break-word; }
th:last-child, td:last-child { padding-right: 0; }
pre { background: var(--card); border-radius: .5rem; padding: .7rem .9rem; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: .85rem; margin: .3rem 0; }
code { font-size: .85em; overflow-wrap: anywhere; }
"""
MAX_ROWS = 400
"""Rows of a table about config_types; a file may have one per structure."""


class Markup(str):
    """Text that is HTML already."""


def escaped(text: object) -> str:
    """HTML of a text, control characters replaced; `Markup` as it is."""
    return text if isinstance(text, Markup) else html.escape(printable(str(text)))


def page(title: str, body: str) -> str:
    """A whole document."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading and what is under it; nothing if that is empty."""
    body = "\n".join(part for part in parts if part)
    return f"<h2>{escaped(title)}</h2>\n{body}\n" if body else ""


def paragraph(text: object, soft: bool = False) -> str:
    return f"<p{' class=soft' if soft else ''}>{escaped(text)}</p>"


def columns(*parts: str) -> str:
    """Parts side by side where the window is wide enough."""
    return f'<div class="columns">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>'


def figures(pictures: Sequence[str]) -> str:
    """SVG elements side by side."""
    return f'<div class="figures">{"".join(f"<div>{svg}</div>" for svg in pictures)}</div>' if pictures else ""


def cards(values: Sequence[tuple[str, str, str]]) -> str:
    """Name, value and unit of a few numbers, large."""
    boxes = (
        f'<div class="card"><span class="soft">{escaped(name)}</span>'
        f'<div><b>{escaped(value)}</b> <span class="soft">{escaped(unit)}</span></div></div>'
        for name, value, unit in values
    )
    return f'<div class="cards">{"".join(boxes)}</div>'


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], title: str = "", whole: Sequence[int] = ()) -> str:
    """A table; numbers to the right, None as "-". Rows numbered in `whole` are bold."""
    if not rows:
        return ""
    numeric = [all(_is_number(row[k]) for row in rows) for k in range(len(headings))]

    def cell(tag: str, k: int, content: str, value: object = None) -> str:
        kind = "n" if numeric[k] else "w" if isinstance(value, Bar) else ""
        return f"<{tag}{f' class={kind}' if kind else ''}>{content}</{tag}>"

    names = [escaped(heading).replace("/", "/&#8288;") for heading in headings]  # no break inside of meV/Å
    head = f"<tr>{''.join(cell('th', k, name) for k, name in enumerate(names))}</tr>" if any(headings) else ""
    lines = []
    for number, row in enumerate(rows):
        cells = "".join(cell("td", k, _content(value), value) for k, value in enumerate(row))
        lines.append(f"<tr{' class=whole' if number in whole else ''}>{cells}</tr>")
    caption = f"<h3>{escaped(title)}</h3>" if title else ""
    return f'{caption}<div class="scroll"><table>{head}{"".join(lines)}</table></div>'


class Bar(float):
    """A part between 0 and 1, drawn as a bar."""


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, Bar))


def _content(value: object) -> str:
    if isinstance(value, Bar):
        return f'<span class="bar" style="width:{100 * value:.1f}%"></span>'
    return escaped(number(value) if value is None or isinstance(value, int | float) else value)


def number(value: float | int | None) -> str:
    """Integers whole, others to four digits; None as "-"."""
    if value is None:
        return "-"
    return f"{value:,}".replace(",", "\N{NO-BREAK SPACE}") if isinstance(value, int) else f"{value:#.4g}".rstrip(".")
