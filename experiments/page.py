"""What the reports are made of: HTML in one file each, nothing fetched, fit for paper."""

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any

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


def document(title: str, body: Iterable[str]) -> str:
    """The whole file."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def number(value: float | None, digits: int = 4) -> str:
    """So many digits after the point; a word where there is no number."""
    return "undefined" if value is None or value != value else f"{value:.{digits}f}"


def facts(rows: Iterable[tuple[str, Any]], *, numbers: bool = False) -> str:
    """A table of names and what is true of each."""
    kind = ' class="number"' if numbers else ""
    cells = (
        f"<tr><th>{html.escape(str(name))}</th><td{kind}>{html.escape(_text(value))}</td></tr>"
        for name, value in rows
    )
    return f"<table>{''.join(cells)}</table>"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table under headers, its first column words and the others numbers."""
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
    """A picture within the file."""
    content = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(alternative)}" src="data:image/png;base64,{content}">'


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {own}" for name, own in value.items())
    return "-" if value is None else str(value)
