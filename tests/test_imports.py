"""Which modules import which, and what importing the library loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "jaxseg"

BELOW = {
    "types": set(),
    "errors": set(),
    "files": set(),
    "models": {"types"},
    "surface": {"types"},
    "metrics": {"types"},
    "resizing": {"types"},
    "augment": {"types", "errors"},
    "data": {"types", "errors"},
    "losses": {"types", "surface"},
    "training": {"types", "metrics", "resizing"},
    "pretrained": {"errors", "files", "models"},
}
ABOVE = {*BELOW} - {"data", "pretrained"}
BELOW |= {part: ABOVE for part in ("parallel", "checkpoint", "inference", "export")}
"""What each part of the library may import of it; imports go one way."""

HOMES = {
    "flax.linen": {"models"},
    "optax": {"losses", "training"},
    "orbax": {"checkpoint", "parallel"},
    "tensorflow_datasets": {"data"},
    "grain": {"data"},
    "tyro": set(),
    "matplotlib": set(),
    "torch": set(),
    "scipy": {"inference", "metrics"},
}
"""Where a dependency may be imported."""


def imports_of(file):
    """Yields the dotted names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = {
    file: file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for file in sorted(PACKAGE.rglob("*.py"))
    if file != PACKAGE / "__init__.py"
}
"""Each file with the part of the library that it belongs to."""


def test_a_module_imports_only_what_is_below_it():
    for file, part in FILES.items():
        found = {name.split(".")[1] for name in imports_of(file) if name.startswith("jaxseg.")}
        assert found <= BELOW[part] | {part}, file


def test_a_dependency_is_imported_only_where_it_belongs():
    for file, part in FILES.items():
        for name in imports_of(file):
            for dependency, homes in HOMES.items():
                if name == dependency or name.startswith(f"{dependency}."):
                    assert part in homes, f"{name} in {file}"


def loaded_by(statement):
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_library_and_its_lungs_network_loads_no_heavy_library():
    heavy = {"tensorflow_datasets", "grain", "orbax", "tensorflow", "tyro", "matplotlib", "PIL"}
    loaded = loaded_by("from jaxseg import pretrained; pretrained.lungs()")
    assert "flax" in loaded
    assert not loaded & (heavy | {"scipy"})


@pytest.mark.slow
def test_importing_the_library_adds_little_to_flax_and_optax():
    ours, theirs = (
        set(loaded_by(statement))
        for statement in ("import jaxseg", "import flax.linen, optax, jaxtyping")
    )
    assert ours - theirs == {"jaxseg"}
