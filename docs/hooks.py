"""Adds the pages that are not files in docs/: READMEs, and a command line made from ``--help``.

Links are written as they work in the repository. Here they become links of the site.
"""

import contextlib
import importlib
import io
import os
import posixpath
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
SOURCES = {
    "results.md": "experiments/README.md",
    "results_files.md": "experiments/results/README.md",
    "benchmarks.md": "benchmarks/README.md",
    "benchmarks_results.md": "benchmarks/RESULTS.md",
    "benchmarks_notes.md": "benchmarks/NOTES.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
"""Pages of the site, and their files in the repository."""

COMMANDS = "reference/commands.md"
COLUMNS = 88
"""Width of the help texts."""

HIDDEN = ("name", "phantoms")
"""Options that ``--help`` does not show."""

LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds pages; MkDocs calls it when it has listed docs/."""
    for uri, source in SOURCES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, COMMANDS, content=commands()))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Rewrites the links of a page; MkDocs calls it before it converts the page."""
    return with_links(markdown, page.file.src_uri)


def with_links(markdown: str, uri: str) -> str:
    """Returns the page with links into the site; files that are not in it become code."""
    source = SOURCES.get(uri, f"docs/{uri}")
    pages = {file: page for page, file in SOURCES.items()}

    def rewrite(link: re.Match[str]) -> str:
        text, path, anchor = link.groups(default="")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if "://" in path or not (ROOT / target).is_file():
            return link[0]
        if target not in pages and not target.startswith("docs/"):
            return f"`{target}`"
        to = pages.get(target, target.removeprefix("docs/"))
        return f"[{text}]({posixpath.relpath(to, posixpath.dirname(uri) or '.')}{anchor})"

    return LINK.sub(rewrite, markdown)


def commands() -> str:
    """Returns the page of all commands with their options."""
    sys.path.insert(0, str(ROOT))
    from experiments.__main__ import COMMANDS as DESCRIPTIONS
    from experiments.configs import CONFIGURATIONS

    page = [
        "# Command line",
        "The options of every command, as `python -m experiments.COMMAND --help` prints them. "
        "[Exit status](exit_status.md) and [files](files.md) have their own pages.",
    ]
    for name, description in DESCRIPTIONS.items():
        text = help_of(name)
        page += [
            f"## {name}",
            f"{description[0].upper()}{description[1:]}.",
            f"```text\n{text}\n```",
        ]
        if name == "train":
            page += [
                "### Configurations",
                "`python -m experiments.train NAME` has the defaults of the configuration NAME; "
                "those above are of `phantom`. These options differ:",
                differences(CONFIGURATIONS),
            ]
    return "\n\n".join(page) + "\n"


def help_of(command: str) -> str:
    """Returns what ``--help`` prints, without its rules."""
    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, COLUMNS=str(COLUMNS)),
        mock.patch.object(sys, "argv", [command, "--help"]),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        importlib.import_module(f"experiments.{command}").main()
    text = re.sub(r"^ +-{9,} *\n", "", printed.getvalue(), flags=re.M)
    text = re.sub(r"^ (?=\S)| +$", "", text, flags=re.M)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def differences(configurations: Mapping[str, Any]) -> str:
    """Returns a table of the options that differ between configurations."""
    from experiments.runs import flat

    options = [flat(each.as_json(with_paths=False)) for each in configurations.values()]
    rows = [["option", *(f"`{name}`" for name in configurations)], ["---"] * (len(options) + 1)]
    for name in (name for name in options[0] if name not in HIDDEN):
        values = [each[name] for each in options]
        if any(value != values[0] for value in values):
            rows.append([f"`--{name.replace('_', '-')}`", *map(_shown, values)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
