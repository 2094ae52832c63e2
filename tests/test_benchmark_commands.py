"""The benchmarks' commands: what they refuse, in one line and before they measure anything."""

import importlib.util
import runpy
import signal
import sys
import warnings
from pathlib import Path

import jax
import pytest

from benchmarks import agreement, layers, metrics, predict
from benchmarks import run as run_benchmarks
from jaxseg.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def without(monkeypatch):
    """Makes a library seem not to be installed, and all others as if they were."""

    def hide(hidden):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == hidden else True
        )

    return hide


@pytest.mark.parametrize("library", ["torch", "monai", "torchmetrics"])
def test_agreement_misses_a_library_before_it_predicts(library, without, monkeypatch, tmp_path):
    without(library)
    monkeypatch.setattr(agreement, "masks", lambda _: pytest.fail("it predicted"))
    monkeypatch.setattr(sys, "argv", ["agreement", str(tmp_path)])
    with pytest.raises(InputError, match=f"{library} is not installed"):
        agreement.main()


def test_layers_misses_pytorch_before_it_measures(without, monkeypatch):
    without("torch")
    monkeypatch.setattr(layers, "measure", lambda *_: pytest.fail("it measured"))
    monkeypatch.setattr(sys, "argv", ["layers", "--peer"])
    with pytest.raises(SystemExit, match="--peer: torch is not installed"):
        layers.main()


@pytest.mark.parametrize(("module", "argument"), [(layers, "--peer"), (metrics, "losses")])
def test_peers_on_the_cpu_are_not_timed_beside_an_accelerator(
    module, argument, without, monkeypatch
):
    without("nothing")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(layers, "measure", lambda *_: pytest.fail("it measured"))
    monkeypatch.setattr(metrics, "SECTIONS", {"losses": lambda _: pytest.fail("it measured")})
    monkeypatch.setattr(sys, "argv", ["it", argument])
    with pytest.raises(SystemExit, match=r"gpu.*JAX_PLATFORMS=cpu"):
        module.main()


def test_peers_of_surface_distances_are_timed_beside_jaxseg_in_their_convention(monkeypatch):
    monkeypatch.setattr(metrics, "installed", lambda _: True)
    monkeypatch.setattr(metrics, "our_surface", lambda _, __, convention: convention)
    monkeypatch.setattr(metrics, "monai_surface", lambda *_: "monai")
    monkeypatch.setattr(metrics, "surface_distance_surface", lambda *_: "surface-distance")
    monkeypatch.setattr(metrics, "lungs", metrics.squares)
    compared = []
    monkeypatch.setattr(metrics, "compare", lambda _, them, __: compared.append([*them.values()]))
    metrics.surface_section(1)
    assert compared[:-1] == 3 * [["monai"] * 2, ["surface-distance"] * 2]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("near_duplicates", ["--manual-dir", "/nowhere"]),
        ("input_pipeline", ["loaders", "--manual-dir", "/nowhere"]),
        ("predict", ["/nowhere", "--images", "/nowhere"]),
        ("bare_rate", ["/nowhere"]),
    ],
)
def test_a_folder_that_is_not_there_is_one_line(name, arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / f"benchmarks/{name}.py"), run_name="__main__")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: /nowhere")


@pytest.mark.parametrize(("ends", "expected"), [("echo 12.5", 12.5), ("exit 2", 2)])
def test_the_bare_rate_is_of_a_process_of_its_own(ends, expected, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$*" = "-m benchmarks.bare_rate RUN" ] || exit 9\n{ends}\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    try:
        rate = predict.bare_rate(Path("RUN"))
    except SystemExit as ended:
        rate = ended.code
    assert rate == expected


def test_the_readme_lists_the_benchmarks_that_run_runs():
    listed = (ROOT / "benchmarks/README.md").read_text().splitlines()
    (row,) = (line for line in listed if line.startswith("| `python -m benchmarks.run`"))
    assert tuple(row.replace(" and ", ", ").split("`")[3::2]) == run_benchmarks.NAMES
