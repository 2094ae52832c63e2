"""The other benchmarks' commands, on tiny sizes or at the first thing that they refuse."""

import dataclasses
import runpy
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import (
    augment,
    full_release,
    learning_curve,
    predict,
    report,
    run,
    startup,
    survival,
)
from experiments import scores
from jaxseg.data import phantom

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("input_pipeline", ["--manual-dir", "/nowhere"]),
        ("predict", ["/nowhere", "--images", "/nowhere"]),
    ],
)
def test_an_absent_folder_is_one_line(name, arguments, monkeypatch, capsys):
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


@pytest.mark.parametrize("name", [*run.NAMES, "tpu_programs", "survival"])
def test_every_command_has_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / f"benchmarks/{name}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert "--json FILE" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("tiles", [False, True])
def test_both_forms_of_the_warp_change_images(tiles):
    cases, _ = augment.prepare(images=2, size=16, tiles=tiles)
    for run_case in cases.values():
        assert np.asarray(run_case()["images"]).shape == (2, 16, 16, 1)


@pytest.mark.filterwarnings("ignore::jaxseg.data.archive.PartialReleaseWarning")
def test_a_rehearsal_finds_what_was_written(tmp_path):
    counts = {"COVID": 3, "Lung_Opacity": 1, "Normal": 6, "Viral Pneumonia": 1}
    full_release.write_release(tmp_path, counts)
    found = full_release.rehearse(str(tmp_path), str(tmp_path / "data"), 16)
    names = ["build", "open what is built", "arrays at 16", "open the arrays"]
    assert [row["name"] for row in found["rows"]] == names
    # This process holds JAX and more.
    found["rows"][0]["peak_MB"] = 1
    full_release.check(found, counts)
    with pytest.raises(AssertionError, match="Normal"):
        full_release.check(found, {**counts, "Normal": 7})


def test_the_rate_of_predict_is_relative_to_its_network_alone(tmp_path, monkeypatch):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"")
    monkeypatch.setattr(predict, "upper_bound", lambda _: 4.0)
    monkeypatch.setattr(predict, "seconds", lambda _, images, *__: 2 + 2 * (images == tmp_path))
    file = tmp_path / "report.json"
    arguments = ["RUN", "--images", str(tmp_path), "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    predict.main()
    rows = report.read(file)[0]["rows"]
    assert [row["name"] for row in rows] == ["masks and overlays", "masks only"]
    assert rows[0]["images_per_second"] == 1.0
    assert rows[0]["fraction_of_upper_bound"] == 0.25


def test_the_cache_of_a_first_step_is_empty_and_then_full(monkeypatch):
    seen = []
    monkeypatch.setattr(startup, "import_seconds", lambda _: 1.0)
    monkeypatch.setattr(startup, "first_step_seconds", lambda cache: seen.append(cache) or 2.0)
    monkeypatch.setattr(sys, "argv", ["startup", "--rounds", "2"])
    startup.main()
    assert seen[0] == seen[1] != seen[2] == seen[3]


def test_survival_waits_for_a_status_and_says_what_came(tmp_path):
    def process(status):
        command = [sys.executable, "-c", f"print('why'); raise SystemExit({status})"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    assert survival.end(process(75), status=75) >= 0
    with pytest.raises(SystemExit, match="exit status 3, not 75:\nwhy"):
        survival.end(process(3), status=75)
    run_directory = survival.RunDirectory(tmp_path)
    assert not survival.is_saving(run_directory)
    (run_directory.checkpoints / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    assert survival.is_saving(run_directory)


@pytest.mark.slow
def test_survival_counts_what_ended_before_and_wrong_statuses(tmp_path, monkeypatch):
    def start(*_, **__):
        return subprocess.Popen(["sleep", "1"], stdout=subprocess.PIPE, text=True)

    stops = survival.Stops.__new__(survival.Stops)
    monkeypatch.setattr(survival, "start", start)
    monkeypatch.setattr(survival, "is_saving", lambda _: True)
    stops.folder, stops.unbroken, stops.seconds = tmp_path, survival.RunDirectory(tmp_path), 0.5
    stops.options, stops.random = [], survival.random.Random(0)
    monkeypatch.setattr(stops, "resumed", lambda _: True)
    monkeypatch.setattr(stops.random, "uniform", lambda *_: 0.1)
    monkeypatch.setattr(survival, "STATUS", {signal.SIGKILL: -9, signal.SIGTERM: 75})
    killed, ended, *_ = stops.signals(2)
    assert (killed["name"], killed["wrong_status"], killed["resumed"]) == ("train, SIGKILL", 0, 2)
    assert killed["good"]
    assert (ended["wrong_status"], ended["ended_before"], ended["good"]) == (2, 0, False)


def test_the_script_for_a_gpu_is_valid_and_runs_what_exists():
    script = ROOT / "benchmarks/gpu.sh"
    subprocess.run(["bash", "-n", script], check=True)
    words = script.read_text().split()
    for module in {word for word in words if word.startswith("benchmarks.") and "/" not in word}:
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
    for file in {word.strip("}") for word in words if word.startswith("tests/")}:
        assert (ROOT / file).exists(), file
    assert "never run on a GPU" in script.read_text()


def test_a_coarse_image_has_the_sizes_of_the_release():
    sample = full_release.coarse(0, "Normal", 1)
    assert (sample.image.shape, sample.mask.shape) == ((299, 299), (256, 256))
    assert set(np.unique(sample.mask)) == {0, 255}
    assert phantom.generate(0, "Normal", 1).image.shape == sample.image.shape


@pytest.fixture
def few_images(tmp_path):
    """Options for a learning curve on small phantoms."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for n in range(14):
        sample = phantom.generate(0, "Normal", n + 1, image_size=48, mask_size=48)
        Image.fromarray(sample.image).save(tmp_path / "images" / f"image-{n}.png")
        Image.fromarray(sample.mask).save(tmp_path / "masks" / f"image-{n}.png")
    return learning_curve.Options(
        tmp_path / "images", tmp_path / "masks", tmp_path / "out",
        classes=("lungs=255",), background=(0,), counts=(4, 8), draws=2, size=32, steps=2,
    )  # fmt: skip


def test_a_learning_curve_tests_on_images_that_no_draw_trains_on(few_images):
    tested, draws = learning_curve.draw_images(few_images)
    assert len(tested) == 6
    assert all(len(draw) == 8 and not set(draw) & set(tested) for draw in draws)
    assert draws[0] != draws[1]
    assert set(draws[0]) == set(draws[1])


@pytest.mark.slow
def test_a_learning_curve_has_a_row_for_each_start_and_number_of_images(few_images, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # One device, which four images fit.
    monkeypatch.setattr(learning_curve, "STARTS", {"pretrained": ["--init", "lungs"]})
    few_images = dataclasses.replace(few_images, counts=(4,), draws=1)
    rows = learning_curve.curve(few_images)
    assert [(row["start"], row["training_images"]) for row in rows] == [("pretrained", 4)]
    for row in rows:
        run = few_images.out / f"{row['start']}-4-0"
        scored = scores.read(run / "test_per_image.csv")
        assert row["dice"] == pytest.approx(np.nanmean(scored.columns["dice"]), abs=1e-6)
        assert row["test_images"] == len(scored.ids) == 10
        assert '"init": "lungs"' in (run / "config.json").read_text()
    learning_curve.draw_curve(rows, few_images.out / "curve.png")
    assert (few_images.out / "curve.png").stat().st_size > 5000
