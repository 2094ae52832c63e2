"""The benchmarks' protocol, reports, check, and implementations that compute the same."""

import os
import sys
from typing import Any

import jax
import pytest

from benchmarks import losses, protocol, report, run, surface, train_step
from benchmarks.peers.setting import PARAMETERS, Setting
from benchmarks.protocol import Implementation

TINY = {"batch": 2, "size": 16, "widths": (4, 8)}


def test_a_network_has_a_dropout_rate_for_each_pooling():
    assert Setting("train").dropout == (0.25, 0.5, 0.5, 0.5)
    assert Setting("train", widths=(4, 8)).dropout == (0.25,)
    assert Setting("train", widths=(2,) * 7).dropout == (0.25, 0.5, 0.5, 0.5, 0.5, 0.5)


def test_a_network_with_other_parameters_is_refused():
    with pytest.raises(ValueError, match="12 parameters, not 2,158,417"):
        Setting("train").prepared(None, 12)
    cases, metadata = Setting("train", widths=(4, 8)).prepared(len, 12, device="cpu")
    assert (cases, metadata) == ({"train": len}, {"parameters": 12, "device": "cpu"})


FAKE = """
import itertools
import os
from types import SimpleNamespace

from benchmarks import worker

def prepare(*, seconds, fails=False):
    clock = itertools.count(step=seconds)
    worker.time = SimpleNamespace(perf_counter=lambda: next(clock))
    run = (lambda: 1 / 0) if fails else int
    return {"a": run, "b": run}, {"device": os.environ["DEVICE"]}
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes implementations whose calls take these seconds."""
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    device = {"DEVICE": "cpu"}
    return lambda name, **options: Implementation(name, "fake:prepare", options, device)


def test_a_row_has_the_median_and_the_time_relative_to_the_first(fake, capsys):
    absent = Implementation("absent", "no_such_module:prepare")
    implementations = [absent, fake("fast", seconds=2.0), fake("slow", seconds=4.0)]
    rows = protocol.measure(implementations, {}, 3)
    assert [(row["case"], row["name"], row["relative_time"]) for row in rows] == [
        ("a", "fast", 1.0), ("a", "slow", 2.0), ("b", "fast", 1.0), ("b", "slow", 2.0),
    ]  # fmt: skip
    assert rows[1].pop("peak_MB") > 10
    assert rows[1] == {
        "case": "a", "name": "slow", "seconds": 4.0, "fastest": 4.0, "slowest": 4.0,
        "relative_time": 2.0, "device": "cpu",
    }  # fmt: skip
    assert "absent: left out, ModuleNotFoundError" in capsys.readouterr().out


def test_an_implementation_that_fails_while_it_is_measured_ends_the_benchmark(fake):
    with pytest.raises(ZeroDivisionError):
        protocol.measure([fake("fails", seconds=1.0, fails=True)], {}, 1)
    with pytest.raises(SystemExit, match="no implementation is left"):
        protocol.measure([Implementation("absent", "no_such_module:prepare")], {}, 1)


def test_rounds_alternate_and_there_is_one_or_more(capsys):
    seen = []
    functions = {name: lambda name=name: seen.append(name) for name in "ab"}
    protocol.alternate(functions, 2)
    assert seen == ["a", "b", "a", "b"]
    with pytest.raises(SystemExit):
        protocol.parser("A benchmark.").parse_args(["--rounds", "0"])
    assert "--rounds: must be at least 1, got 0" in capsys.readouterr().err


def test_the_first_that_the_command_line_names_is_what_ratios_refer_to(monkeypatch, capsys):
    def measure(implementations, settings, rounds):
        assert (settings["batch"], settings["dtype"], rounds) == (4, "bfloat16", 2)
        return [{"name": each.name, "seconds": 2.0} for each in implementations]

    monkeypatch.setattr(protocol, "measure", measure)
    names = ["--implementations", "plain Flax", "jaxseg"]
    options = ["--batch", "4", "--dtype", "bfloat16", "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", ["train_step", *options, *names])
    train_step.main("train_step", "A step.", work="train", batch=16)
    table = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split(" | ")[0] for line in table] == ["| plain Flax", "| jaxseg"]
    assert " | 2 |" in table[0], "images per second"


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
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    other = {**made(Flax=9.0), "settings": {"batch": 2}}
    monkeypatch.setattr(run, "RECORDED", tmp_path / "recorded.json")
    report.write(run.RECORDED, [other, made(Flax=2.0)])
    monkeypatch.setattr(run, "measure", lambda *_: [made(Flax=flax)])
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


def test_nothing_is_recorded_on_a_busy_machine(monkeypatch, capsys):
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 0.1, 0.1))
    monkeypatch.setattr(run, "measure", lambda *_: pytest.fail("it measured"))
    monkeypatch.setattr(sys, "argv", ["run", "--record"])
    with pytest.raises(SystemExit):
        run.main()
    assert "the load is 1.5" in capsys.readouterr().err


def test_surface_distances_are_of_masks_a_few_pixels_apart():
    for predicted, actual in surface.masks(2, 32).values():
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
