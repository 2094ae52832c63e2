"""HTML pages in one file, with nothing to fetch, that also print well."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from experiments import files

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; } th { text-align: left; font-weight: 500; }
td, th { padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
.numbers td, .numbers th + th { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; } .note { color: #555; } .warning { border-left: 4px solid #d55e00;
      padding-left: .8rem; }
@media print { body { margin: 0; max-width: none; } h2 { break-after: avoid; }
               table, img { break-inside: avoid; } }
"""


def write(path: Path, title: str, body: Iterable[str]) -> None:
    """Writes the page."""
    files.write_text(
        path,
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n",
    )


def table(rows: Iterable[Sequence[str]], headers: Sequence[str] = ()) -> str:
    """Returns a table. With headers, all columns but the first are numbers."""
    lines = [
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in others)}</tr>"
        for first, *others in rows
    ]
    if not headers:
        return f"<table>{''.join(lines)}</table>"
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    return f'<table class="numbers"><tr>{head}</tr>{"".join(lines)}</table>'


def picture(png: bytes, alternative: str) -> str:
    """Returns a picture that is part of the page."""
    content = base64.b64encode(png).decode()
    return f'<img alt="{escape(alternative)}" src="data:image/png;base64,{content}">'
