"""HTML pages in one file, with nothing to fetch, that also print well."""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments import files

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
table { border-collapse: collapse; } th { text-align: left; font-weight: 500; }
td, th { padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; } .note { color: #555; } .warning { border-left: 4px solid #d55e00;
      padding-left: .8rem; }
@media print { body { margin: 0; max-width: none; } h2, h3 { break-after: avoid; }
               table, img { break-inside: avoid; } }
"""


def write(path: Path, title: str, body: Iterable[str]) -> None:
    """Writes the page."""
    files.write_text(
        path,
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n",
    )


def heading(text: str, level: int = 2) -> str:
    """Returns a heading."""
    return f"<h{level}>{html.escape(text)}</h{level}>"


def note(text: str) -> str:
    """Returns a paragraph in small gray letters."""
    return f'<p class="note">{html.escape(text)}</p>'


def properties(rows: Iterable[tuple[str, Any]]) -> str:
    """Returns a table of names and values."""
    cells = (
        f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(_text(value))}</td></tr>"
        for name, value in rows
    )
    return f"<table>{''.join(cells)}</table>"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table with headers. The first column is text, the others are numbers."""
    kinds = ["", *[' class="number"'] * (len(headers) - 1)]
    head = "".join(
        f"<th{kind}>{html.escape(header)}</th>" for header, kind in zip(headers, kinds, strict=True)
    )
    lines = (
        f"<tr><th>{html.escape(first)}</th>"
        + "".join(f'<td class="number">{html.escape(cell)}</td>' for cell in others)
        + "</tr>"
        for first, *others in rows
    )
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def picture(png: bytes, alternative: str) -> str:
    """Returns a picture that is part of the page."""
    content = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(alternative)}" src="data:image/png;base64,{content}">'


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)
