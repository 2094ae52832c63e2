"""The benchmarks' protocol, reports, check, and implementations that compute the same."""

import importlib.util
import json
import os
import sys
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import losses, protocol, report, roofline, run, surface, train_step
from benchmarks.peers.setting import PARAMETERS, Setting
from benchmarks.protocol import Implementation

TINY = {"batch": 2, "size": 16, "widths": (4, 8)}


def test_a_setting_survives_json_and_has_dropout_for_any_depth():
    assert Setting(**json.loads(json.dumps({"work": "train", **TINY}))) == Setting("train", **TINY)
    assert Setting("train").dropout == (0.25, 0.5, 0.5, 0.5)
    assert Setting("train", widths=(4, 8)).dropout == (0.25,)
    assert Setting("train", widths=(2,) * 7).dropout == (0.25, 0.5, 0.5, 0.5, 0.5, 0.5)


def test_a_network_with_other_parameters_is_refused():
    with pytest.raises(ValueError, match="12 parameters, not 2,158,417"):
        Setting("train").prepared(None, 12)
    cases, metadata = Setting("train", widths=(4, 8)).prepared(len, 12, device="cpu")
    assert (cases, metadata) == ({"train": len}, {"parameters": 12, "device": "cpu"})


def test_the_roofline_is_the_longer_of_computing_and_moving():
    device, flops = "TPU v5 lite", 197e12
    assert roofline.seconds(device, "bfloat16", flops, 0.0) == pytest.approx(1.0)
    assert roofline.seconds(device, "bfloat16", flops, 2 * 819e9) == pytest.approx(2.0)
    assert roofline.seconds("NVIDIA H200", "float32", 495e12, 0.0) == pytest.approx(1.0)
    assert roofline.seconds("cpu", "float32", flops, 0.0) is None
    assert roofline.seconds(device, "float32", None, 0.0) is None


FAKE = """#!/bin/sh
# Answers as benchmarks.worker does; the options say how the process ends.
case $3 in *unprepared*) echo "no such module" >&2; exit 1 ;; esac
case $3 in *slow*) seconds=4.0 ;; *) seconds=2.0 ;; esac
echo '{"cases": ["a", "b"], "metadata": {"device": "cpu"}, "versions": {"x": "1"}}'
while read -r request; do
    [ "$request" != null ] || { echo 3000000; continue; }
    case $3 in *breaks*) echo "out of memory" >&2; exit 1 ;; esac
    echo '{"seconds": ['$seconds', '$seconds'], "processor_seconds": [1.0, 1.0]}'
done
"""


@pytest.fixture
def python(tmp_path):
    """Stands in for an interpreter."""
    file = tmp_path / "python"
    file.write_text(FAKE)
    file.chmod(0o755)
    return str(file)


def test_a_row_has_the_median_and_the_time_relative_to_the_first(python, capsys):
    names = ("unprepared", "fast", "slow")
    implementations = [Implementation(name, f"{name}:prepare", "json") for name in names]
    rows = protocol.measure({each: python for each in implementations}, {}, 3)
    assert [(row["case"], row["name"], row["relative_time"]) for row in rows] == [
        ("a", "fast", 1.0), ("a", "slow", 2.0), ("b", "fast", 1.0), ("b", "slow", 2.0),
    ]  # fmt: skip
    assert rows[1] == {
        "case": "a", "name": "slow", "seconds": 4.0, "fastest": 4.0, "slowest": 4.0, "calls": 6,
        "processor_seconds": 1.0, "relative_time": 2.0, "device": "cpu", "versions": {"x": "1"},
        "peak_MB": 3.0,
    }  # fmt: skip
    assert "unprepared ended: no such module" in capsys.readouterr().out


def test_a_process_that_ends_while_it_is_measured_ends_the_benchmark(python):
    breaks = Implementation("breaks", "breaks:prepare", "json")
    with pytest.raises(SystemExit, match="breaks ended: out of memory"):
        protocol.measure({breaks: python}, {}, 1)
    with pytest.raises(SystemExit, match="no implementation is left"):
        protocol.measure({Implementation("u", "unprepared:prepare", "json"): python}, {}, 1)


def options(*arguments):
    return protocol.parser("What it measures.", train_step.IMPLEMENTATIONS).parse_args(arguments)


def test_what_is_not_installed_is_skipped_with_a_line(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else name)
    found = protocol.chosen(
        train_step.IMPLEMENTATIONS, options("--implementations", "jaxseg", "PyTorch eager")
    )
    assert [each.name for each in found] == ["jaxseg"]
    assert "PyTorch eager: skipped, torch is not installed" in capsys.readouterr().out
    monkeypatch.setattr(importlib.util, "find_spec", find)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkout", "/nowhere"], "--checkout: no directory jaxseg in /nowhere"),
        (["--tensorflow-python", "/nowhere"], "--tensorflow-python: no interpreter /nowhere"),
        (["--rounds", "0"], "--rounds: must be at least 1, got 0"),
    ],
)
def test_an_invalid_option_is_one_line(arguments, message):
    with pytest.raises(SystemExit, match=message):
        protocol.chosen(train_step.IMPLEMENTATIONS, options(*arguments))


def test_another_version_runs_from_its_checkout(tmp_path):
    (tmp_path / "jaxseg").mkdir()
    arguments = ["--checkout", str(tmp_path), "--implementations", "jaxseg"]
    ours, other = protocol.chosen(train_step.IMPLEMENTATIONS, options(*arguments))
    assert (ours.checkout, other.checkout) == (None, str(tmp_path.resolve()))
    assert other.name == f"jaxseg of {tmp_path.name}"


def test_a_sweep_has_all_combinations_and_refuses_sizes_that_pools_do_not_divide():
    swept = options()
    swept.batch, swept.size, swept.widths, swept.dtype = [1, 2], [16, 32], [4, 8], ["bfloat16"]
    found = list(train_step.settings(swept, "train"))
    assert [(each.batch, each.size) for each in found] == [(1, 16), (1, 32), (2, 16), (2, 32)]
    swept.size = [17]
    with pytest.raises(SystemExit, match="--size: 17 is not a multiple of 2"):
        list(train_step.settings(swept, "train"))


def made(**ratios) -> dict[str, Any]:
    rows = [{"case": "a", "name": "jaxseg", "relative_time": 1.0, "device": "cpu"}]
    rows += [{"case": "a", "name": name, "relative_time": of} for name, of in ratios.items()]
    return report.make("losses", {"batch": 1}, rows)


def test_a_report_is_the_same_after_it_was_written(tmp_path, monkeypatch):
    # XLA reads its flags at its start and ends the process at one that it does not know.
    jax.devices()
    monkeypatch.setenv("XLA_FLAGS", "--xla_something")
    reports = [made(Flax=2.0), made(Flax=3.0)]
    report.write(tmp_path / "file.json", reports)
    assert report.read(tmp_path / "file.json") == reports
    assert reports[0]["flags"]["XLA_FLAGS"] == "--xla_something"
    assert reports[0]["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert reports[0]["cores"] == os.cpu_count()


@pytest.mark.parametrize(
    ("flags", "vectors"),
    [("fpu sse2 avx avx2", "avx2"), ("fpu avx avx2 avx512f", "avx512f"), ("fpu", "")],
)
def test_processors_are_distinguished_by_their_vectors(flags, vectors, tmp_path, monkeypatch):
    listing = tmp_path / "cpuinfo"
    listing.write_text(f"processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: {flags}\n")
    monkeypatch.setattr(report, "CPUINFO", listing)
    assert (made()["processor"], made()["vectors"]) == ("AMD EPYC", vectors)
    assert run.kind(made()) == ("losses", {"batch": 1}, [vectors, os.cpu_count()])


def test_a_table_leaves_absent_cells_empty():
    rows = [{"name": "x", "peak_MB": 1234.5, "seconds": 0.01234, "count": 7}, {"seconds": None}]
    assert report.table(rows, ["name", "peak_MB", "seconds", "count"]).splitlines() == [
        "| name | peak MB | seconds | count |",
        "| --- | --- | --- | --- |",
        "| x | 1,234 | 0.0123 | 7 |",
        "|  |  |  |  |",
    ]


def test_the_check_names_ratios_that_are_lower_and_nothing_else():
    recorded = [made(Flax=2.0, MONAI=1.0, absent=3.0)]
    assert run.lower([made(Flax=1.75, MONAI=0.8, new=1.0)], recorded) == (
        2,
        ["a, MONAI: 0.80, recorded 1.00"],
    )
    other = {**made(Flax=9.0), "settings": {"batch": 2}}
    assert run.lower([made(Flax=1.0)], [other]) == (0, [])
    # Ratios to something other than jaxseg are not compared.
    without = made(Flax=2.0)
    del without["rows"][0]
    assert run.ratios(without) == {}


@pytest.mark.parametrize(
    ("option", "flax", "status"), [("--check", 1.9, None), ("--check", 1.0, 1), ("--record", 1, 0)]
)
def test_run_checks_and_records(option, flax, status, tmp_path, monkeypatch, capsys):
    other = {**made(Flax=9.0), "settings": {"batch": 2}}
    monkeypatch.setattr(run, "RECORDED", tmp_path / "recorded.json")
    report.write(run.RECORDED, [other, made(Flax=2.0)])
    monkeypatch.setattr(run, "measure", lambda *_: ([made(Flax=flax)], []))
    monkeypatch.setattr(sys, "argv", ["run", option, "--json", str(tmp_path / "report.json")])
    if status == 1:
        with pytest.raises(SystemExit):
            run.main()
        assert "a, Flax: 1.00, recorded 2.00" in capsys.readouterr().out
    else:
        run.main()
    new = run.ratios(report.read(run.RECORDED)[1])
    assert new == {("a", "Flax"): flax if option == "--record" else 2.0}
    assert report.read(run.RECORDED)[0] == other


def test_textbook_losses_are_those_that_are_measured():
    settings: dict[str, Any] = {"batch": 2, "size": 8, "classes": [1, 4]}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        ours, textbook = (of(**settings)[0] for of in (losses.by_jaxseg, losses.by_textbook))
        assert set(textbook) < set(ours)
        for name in ("cross_entropy, K = 1", "cross_entropy, K = 4"):
            for a, b in zip(ours[name](), textbook[name](), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_surface_distances_are_of_masks_a_few_pixels_apart():
    for _, (predicted, actual) in surface.masks(2, 32):
        overlap = (predicted & actual).sum((1, 2)) / (predicted | actual).sum((1, 2))
        assert ((overlap > 0.2) & (overlap < 1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("work", ["train", "predict"])
@pytest.mark.parametrize("form", ["ours", "plain"])
def test_the_networks_of_jax_run_and_have_equal_parameters(work, form):
    from benchmarks.peers import jax_unets

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        cases, metadata = getattr(jax_unets, form)(work=work, **TINY)
        for _ in range(2):
            cases[work]()
    assert metadata["parameters"] == 1805
    assert metadata["flops"] > 1e5


@pytest.mark.slow
@pytest.mark.parametrize("work", ["train", "predict"])
def test_the_network_of_pytorch_runs(work):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra: peers)")
    from benchmarks.peers import pytorch

    cases, metadata = pytorch.prepare(work=work, **TINY)
    cases[work]()
    assert metadata["parameters"] == 1805
    default = Setting("train")
    network = pytorch.PyTorchUNet(default.widths, default.dropout)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS
    assert network(torch.zeros(1, 1, 32, 48)).shape == (1, 1, 32, 48)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_network_of_keras_runs(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    pytest.importorskip("keras", reason="Keras is not installed (extra: peers)")
    from benchmarks.peers import keras_unet

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for work in ("train", "predict"):
            cases, metadata = keras_unet.prepare(work=work, **TINY)
            cases[work]()
            assert metadata["parameters"] == 1805


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Of MONAI.
def test_peers_of_losses_and_surface_distances_have_cases_of_jaxseg():
    pytest.importorskip("monai", reason="MONAI is not installed (extra: peers)")
    shape: dict[str, Any] = {"batch": 1, "size": 16, "classes": [1, 4]}
    masks = {"pairs": 1, "size": 16}
    for module, settings in ((losses, shape), (surface, masks)):
        ours, theirs = (of(**settings)[0] for of in (module.by_jaxseg, module.by_monai))
        assert set(theirs) <= set(ours)
        for case in theirs.values():
            case()
    pytest.importorskip("surface_distance", reason="not installed (extra: peers)")
    cases, _ = surface.by_surface_distance(**masks)
    assert set(cases) <= set(ours)
    next(iter(cases.values()))()


@pytest.mark.slow
def test_a_worker_measures_an_implementation_in_its_own_process():
    ours = Implementation("jaxseg", "benchmarks.losses:by_textbook", "optax")
    (row,) = protocol.measure({ours: sys.executable}, {"batch": 1, "size": 8, "classes": [1]}, 1)[
        :1
    ]
    assert row["case"] == "cross_entropy, K = 1"
    assert row["fastest"] <= row["seconds"] <= row["slowest"]
    assert row["peak_MB"] > 50
    assert row["versions"]["jax"] == jax.__version__
