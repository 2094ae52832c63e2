"""The documentation does what it says: its code runs, and its pages build without a warning."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tyro
from PIL import Image

from experiments.runs import RunDirectory
from jaxseg import parallel
from jaxseg.data import phantom

ROOT = Path(__file__).parents[1]


def blocks_of(page, language="python"):
    """The code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)


def code_of(page):
    """All Python of a page."""
    return "\n".join(blocks_of(page))


def narrower(code):
    """The same code with a network that compiles in seconds."""
    code, changed = re.subn(r'UNet\(norm="batch"\)', 'UNet(norm="batch", widths=(4, 8))', code)
    assert changed == 1
    return code


def run(code, **names):
    space = dict(names)
    exec(compile(code, "page", "exec"), space)
    return space


PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in [*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md"), *ROOT.glob("[be]*/**/*.md")]
)
PLACEHOLDERS = {"N": "1", "SPLIT": "random", "fold:$fold/5": "fold:1/5", "...": "RUN"}


def commands_of(page):
    """The commands of a page with their arguments, from blocks and from single backticks."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    lines = "\n".join(re.findall(r"^```(?:ba)?sh\n(.*?)^```", text, re.S | re.M))
    for line in lines.splitlines() + re.findall(r"`(python -m [^` ]+ [^`]*)`", text):
        for module, arguments in re.findall(r"python -m experiments\.([a-z_]+)([^>;&]*)", line):
            if "--help" not in arguments:
                words = shlex.split(arguments, comments=True)
                yield module, [PLACEHOLDERS.get(word, word) for word in words]


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_links_to_exist(page):
    text = (ROOT / page).read_text()
    generated = ROOT / "docs" / "reference" / "commands.md"
    for path in re.findall(r"\]\(([\w./-]+)(?:#[\w-]*)?\)", text):
        file = ((ROOT / page).parent / path).resolve()
        assert file == generated or file.exists(), path


class Parsed(Exception):
    """The command line is valid."""


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands_of(page))])
def test_every_command_of_a_page_has_valid_options(page, monkeypatch):
    cli = tyro.cli

    def only_parse(*args, **options):
        cli(*args, **options)
        raise Parsed

    monkeypatch.setattr(tyro, "cli", only_parse)
    for module, arguments in commands_of(page):
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        with pytest.raises(Parsed):
            importlib.import_module(f"experiments.{module}").main()


@pytest.mark.slow
def test_the_readme_trains_and_scores(capsys):
    space = run(code_of("README.md"))
    assert int(space["state"].step) == 60
    # All object would have 0.67.
    assert 0.85 < float(capsys.readouterr().out.strip(" []\n")) <= 1


@pytest.mark.slow
def test_the_shapes_of_the_tutorial_are_segmented(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(code_of("docs/shapes.md"))
    with Image.open(tmp_path / "shapes" / "masks" / "7.png") as mask:
        assert set(np.unique(np.asarray(mask))) == {0, 80, 160, 255}
    train, predict = (
        command.replace("\\\n", " ").split() for command in blocks_of("docs/shapes.md", "sh")
    )
    for arguments in (train, predict):
        subprocess.run(
            [sys.executable, *arguments[1:]], check=True, capture_output=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        )  # fmt: skip
    with Image.open(tmp_path / "shapes" / "predicted" / "7_mask.png") as mask:
        assert set(np.unique(np.asarray(mask))) == {0, 80, 160}
    test = RunDirectory(tmp_path / "runs" / "shapes").finished_summary()["test"]
    assert test["images"] == 20, "as many as the table says"
    for name in ("disc", "square"):
        assert test["classes"][name]["dice_mean"] > 0.9
    # The strip that nobody labeled is in no score.
    assert np.sum(test["confusion_matrix"]) == 20 * 64 * 61


@pytest.mark.slow
def test_the_page_on_your_folders_trains_and_scores(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for n in range(40):
        sample = phantom.generate(0, "Normal", n, image_size=128, mask_size=128)
        Image.fromarray(sample.image).save(tmp_path / "images" / f"{n}.png")
        Image.fromarray(sample.mask > 127).save(tmp_path / "masks" / f"{n}.png")  # 1 bit.
    # In a process of its own: optimized, as users run it.
    printed = subprocess.run(
        [sys.executable, "-c", code_of("docs/folders_in_python.md")], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        stdout=subprocess.PIPE, text=True, check=True,
    ).stdout  # fmt: skip
    (last,) = (int(folder.name) for folder in (tmp_path / "checkpoints").iterdir())
    assert last % 20 == 0 < last, "the checkpoint of 20 epochs"
    # A mask that is all lung would have about 0.4.
    assert 0.75 < float(printed) <= 1


@pytest.mark.slow
def test_the_page_on_many_devices_in_code_takes_a_step():
    batch = {
        "images": np.zeros((jax.device_count(), 16, 16, 1), np.uint8),
        "labels": np.zeros((jax.device_count(), 16, 16), np.int32),
    }
    code = narrower(code_of("docs/parallel_code.md"))
    space = run(code, my_rows_of_every_batch=lambda: [batch])
    assert int(space["state"].step) == 1
    assert np.isfinite(parallel.gather_to_host(space["metrics"]["loss"]))


@pytest.mark.slow
def test_the_tutorial_runs_from_import_to_figure(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="the docs extra is not installed")
    nbformat = pytest.importorskip("nbformat", reason="the docs extra is not installed")
    # The kernel is a process of its own, which is to run as a reader's does.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    book = nbformat.read(ROOT / "docs/tutorial.ipynb", 4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=600, kernel_name="python3", resources=where).execute()
    pictures = [
        output
        for cell in book.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 3
    said = "".join(
        output.get("text", "") for cell in book.cells for output in cell.get("outputs", ())
    )
    (dice,) = re.findall(r"Dice, mean of 32 images: (0\.\d+)", said)
    assert 0.8 < float(dice) < 1


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # The script of the search, and what it searches when the site is opened from disk.
    assert "javascripts/iframe-worker.js" in (tmp_path / "index.html").read_text()
    assert "soft_dice" in (tmp_path / "search/search_index.js").read_text()
    commands = (tmp_path / "reference/commands.html").read_text()
    assert "--near-duplicate-bits INT" in commands
    assert "\x1b" not in commands
    # A link between two pages that are made from files outside docs/.
    link = '<a href="changelog.html">CHANGELOG.md</a>'
    assert link in (tmp_path / "contributing.html").read_text()
    losses = (tmp_path / "reference/losses.html").read_text()
    assert 'id="jaxseg.losses.soft_dice"' in losses
    assert "<math" in losses
    assert not re.search(r'id="jaxseg[\w.]*\._[a-z]', losses)


@pytest.mark.slow
def test_the_model_card_segments_an_image_file(tmp_path):
    sample = phantom.generate(5, "Normal", 2, image_size=200, mask_size=200)
    Image.fromarray(sample.image).save(tmp_path / "image.png")
    predicted = run(code_of("docs/model_card.md"))["lung_mask"](tmp_path / "image.png")
    actual = sample.mask > 0
    assert predicted.shape == actual.shape == (200, 200)
    assert (predicted & actual).sum() / (predicted | actual).sum() > 0.8


def test_the_page_on_trained_weights_starts_from_them():
    space = run(code_of("docs/fine_tuning.md"))
    given, started = space["variables"]["params"], space["state"].params
    assert given.keys() == started.keys()
    for name in given.keys() - {"head"}:
        jax.tree.map(np.testing.assert_array_equal, started[name], given[name])
    assert started["head"]["bias"].shape == (3,)


@pytest.mark.slow
def test_the_training_loop_finds_both_classes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    with jax.numpy_dtype_promotion("standard"):
        run(code_of("docs/training_loop.md"))
    said = capsys.readouterr().out
    dice = dict(re.findall(r"^(disc|square): Dice ([01]\.\d+)", said, re.M))
    # All of one class would have less than 0.2.
    assert min(map(float, dice.values())) > 0.85
    assert len(dice) == 2
    assert (tmp_path / "examples.png").stat().st_size > 5000
