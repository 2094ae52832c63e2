"""The benchmarks of speed: arithmetic, guard, and contenders that are what they claim."""

import dataclasses
import json
import math
import os
import sys

import jax
import numpy as np
import pytest

from benchmarks import inference, layers, record, roofline, train_step
from benchmarks.contenders import CONTENDERS, Contender, chosen, environment
from benchmarks.peers.setting import PARAMETERS, Setting
from benchmarks.turns import Protocol, Result, measure

TINY = Setting(batch=2, size=16, widths=(4, 8))


def test_a_setting_survives_its_json_and_spreads_dropout_over_any_depth():
    assert Setting.from_json(TINY.as_json()) == TINY
    assert Setting().dropout == (0.25, 0.5, 0.5, 0.5)
    assert TINY.dropout == (0.25,)
    assert Setting(widths=(2,) * 7).dropout == (0.25, 0.5, 0.5, 0.5, 0.5, 0.5)


def test_the_roofline_is_the_longer_of_computing_and_moving():
    device, flops = "TPU v5 lite", 197e12
    assert roofline.seconds(device, "bfloat16", flops, 0.0) == pytest.approx(1.0)
    assert roofline.seconds(device, "bfloat16", flops, 2 * 819e9) == pytest.approx(2.0)
    assert roofline.seconds(device, "bfloat16", flops, 0.0, chips=4) == pytest.approx(0.25)
    assert roofline.seconds("cpu", "float32", flops, 0.0) is None
    # JAX's default precision: one pass of bfloat16 on TPUs, TF32 on GPUs.
    assert roofline.seconds(device, "float32", flops, 0.0) == pytest.approx(1.0)
    assert roofline.seconds("NVIDIA H200", "float32", 495e12, 0.0) == pytest.approx(1.0)
    assert roofline.seconds(device, "float32", None, 0.0) is None


def test_a_row_is_of_the_median_and_of_the_share_of_the_roofline():
    facts = {"device": "TPU v5 lite", "flops": 0.0, "bytes": 819e9, "parameters": 1}
    row = Result("some", False, [9.0, 2.0, 4.0], facts).row(TINY, 2.0)
    assert (row["seconds"], row["fastest"], row["slowest"], row["ratio"]) == (4.0, 2.0, 9.0, 2.0)
    assert row["images_per_second"] == 0.5
    assert row["share_of_roofline"] == pytest.approx(0.25)


def test_the_guard_names_what_fell_and_nothing_else():
    recorded = {"plain Flax": 2.0, "PyTorch eager": 1.0, "absent": 3.0}
    assert train_step.fallen({"plain Flax": 1.75, "PyTorch eager": 0.8}, recorded) == [
        "PyTorch eager: 0.80, recorded 1.00"
    ]


def test_ratios_leave_out_the_reference_and_other_networks():
    rows = [
        {"name": "jaxseg", "near": False, "ratio": 1.0},
        {"name": "plain Flax", "near": False, "ratio": 2.0},
        {"name": "smp Unet", "near": True, "ratio": 3.0},
    ]
    assert train_step.ratios(rows) == {"plain Flax": 2.0}


@pytest.mark.parametrize(("found", "told"), [([], "not installed"), (["jaxseg"], "ended")])
def test_measuring_without_a_contender_ends_with_a_line(found, told, monkeypatch):
    monkeypatch.setattr(train_step, "chosen", lambda *_: found)
    monkeypatch.setattr(train_step, "measure", lambda *_, **__: [])
    options = train_step.parser("train").parse_args([])
    with pytest.raises(SystemExit, match=f"no contender is left.*{told}"):
        train_step.run(options, TINY)


def test_ratios_to_another_than_the_first_contender_are_told(monkeypatch, capsys):
    second = Result("plain Flax", False, [2.0], {"parameters": 1})
    monkeypatch.setattr(train_step, "chosen", lambda *_: ["plain Flax"])
    monkeypatch.setattr(train_step, "measure", lambda *_, **__: [second])
    train_step.run(train_step.parser("train").parse_args([]), TINY)
    assert "jaxseg is left out: ratios are to plain Flax" in capsys.readouterr().out


@pytest.mark.parametrize("module", [train_step, inference])
def test_a_sweep_that_ends_keeps_what_it_measured(module, tmp_path, monkeypatch):
    def run(_, setting):
        if setting.batch == 2:
            raise SystemExit("no contender is left")
        return []

    written = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["it", "--batch", "1", "2", "--json", str(written)])
    monkeypatch.setattr(module, "run", run)
    with pytest.raises(SystemExit, match="no contender is left"):
        module.main()
    assert [each["setting"]["batch"] for each in json.loads(written.read_text())["results"]] == [1]


@pytest.mark.parametrize("module", [train_step, inference])
def test_no_process_takes_an_accelerators_memory_beforehand(module, monkeypatch):
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    assert all(environment(each).items() >= shared.items() for each in CONTENDERS)
    for name in shared:
        monkeypatch.setenv(name, "")
    found = {}
    monkeypatch.setattr(sys, "argv", ["it"])
    monkeypatch.setattr(module, "run", lambda *_: found.update(os.environ))
    module.main()
    assert found.items() >= shared.items()


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A file of recorded ratios with an entry for the default setting."""
    file = tmp_path / "recorded.json"
    record.write(file, {train_step.place(Setting()): {"plain Flax": 3.0, "PyTorch eager": 1.0}})
    monkeypatch.setattr(train_step, "RECORDED", file)
    return file


def rows(**ratios):
    return [{"name": name, "near": False, "ratio": ratio} for name, ratio in ratios.items()]


def test_recording_keeps_the_ratios_of_peers_that_are_not_there(recorded, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_step", "--record"])
    monkeypatch.setattr(train_step, "run", lambda *_: rows(jaxseg=1.0, **{"plain Flax": 2.0}))
    train_step.main()
    kept = {"plain Flax": 2.0, "PyTorch eager": 1.0}
    assert json.loads(recorded.read_text()) == {train_step.place(Setting()): kept}


@pytest.mark.parametrize("option", ["--check", "--record"])
@pytest.mark.parametrize(
    ("ratios", "told"),
    [({"plain Flax": 1.0, "PyTorch eager": 2.0}, "not plain Flax"), ({"jaxseg": 1.0}, "no peer")],
)
def test_ratios_are_recorded_and_checked_of_jaxseg_and_a_peer(
    option, ratios, told, recorded, monkeypatch
):
    before = recorded.read_text()
    monkeypatch.setattr(sys, "argv", ["train_step", option])
    monkeypatch.setattr(train_step, "run", lambda *_: rows(**ratios))
    with pytest.raises(SystemExit, match=told):
        train_step.main()
    assert recorded.read_text() == before


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("option", ["--check", "--record"])
def test_another_first_contender_is_refused_before_anything_is_measured(option, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_step", option, "--contenders", "plain Flax", "jaxseg"])
    monkeypatch.setattr(train_step, "run", lambda *_: pytest.fail("it measured"))
    with pytest.raises(SystemExit, match="not plain Flax"):
        train_step.main()


@pytest.mark.parametrize(
    ("flags", "vectors"),
    [("fpu sse2 avx avx2", "avx2"), ("fpu avx avx2 avx512f", "avx512f"), ("fpu", "")],
)
def test_processors_of_one_name_are_told_apart_by_their_vectors(
    flags, vectors, tmp_path, monkeypatch
):
    listing = tmp_path / "cpuinfo"
    listing.write_text(f"processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: {flags}\n")
    monkeypatch.setattr(record, "CPUINFO", listing)
    assert record.conditions()["vectors"] == vectors
    kind = f"AMD EPYC {vectors}".strip()
    assert train_step.place(TINY).startswith(f"{kind}, ")
    monkeypatch.setattr(record, "CPUINFO", tmp_path / "absent")
    assert record.conditions()["vectors"] == ""


def test_a_table_leaves_unknown_cells_empty():
    assert record.table([{"a_b": 1.25, "c": None}], {"a_b": ".1f", "c": "d"}).splitlines() == [
        "| a b | c |",
        "| --- | --- |",
        "| 1.2 |  |",
    ]


def test_layers_are_those_of_the_network():
    kernels = sum(9 * inputs * outputs for _, _, inputs, outputs in layers.shapes(Setting()))
    biases = sum(outputs for *_, outputs in layers.shapes(Setting()))
    head = 16 + 1
    assert kernels + biases + head == PARAMETERS
    assert {side for name, side, *_ in layers.shapes(Setting()) if name == "up_0"} == {128}


def test_the_protocol_takes_as_many_steps_as_asked():
    assert Protocol.for_device(False, steps=3) == Protocol(2, 3, 1)
    assert Protocol.for_device(True) == Protocol(20, 10, 10)


def test_an_unknown_contender_or_interpreter_is_named():
    with pytest.raises(SystemExit, match="no contender 'Flux'"):
        chosen(["Flux"], None)
    with pytest.raises(SystemExit, match="--tensorflow-python: no interpreter /nowhere"):
        chosen(["jaxseg"], "/nowhere")


@pytest.mark.parametrize("value", ["float16"])
def test_an_unknown_dtype_is_named(value):
    options = train_step.parser("train").parse_args(["--dtype", value])
    with pytest.raises(SystemExit, match="--dtype: 'float16' is neither"):
        train_step.settings(options, "train")


def test_a_size_that_cannot_be_halved_so_often_is_named():
    options = train_step.parser("train").parse_args(["--size", "40"])
    with pytest.raises(SystemExit, match="--size: 40 cannot be halved 4 times"):
        train_step.settings(options, "train")


@pytest.mark.slow
def test_contenders_in_processes_of_their_own_are_timed_and_one_that_ends_is_told(capsys):
    broken = Contender("broken", "absent_module", "jax")
    ours = next(c for c in CONTENDERS if c.name == "jaxseg")
    results = measure([broken, ours], TINY, Protocol(1, 2, 1))
    assert [result.name for result in results] == ["jaxseg"]
    assert len(results[0].seconds) == 2
    assert all(math.isfinite(second) and second > 0 for second in results[0].seconds)
    assert results[0].facts["flops"] > 1e6
    assert results[0].peak_bytes is not None
    assert results[0].peak_bytes > 1e8
    assert "broken ended: ModuleNotFoundError" in capsys.readouterr().out


ENDING = """#!/bin/sh
answer() { echo '{"facts": {"parameters": 1}, "seconds": [2.0], "peak_bytes": 3}'; }
answer
case $3 in steady) turns=9 ;; ends_in_a_turn) turns=2 ;; ends_at_the_end) turns=4 ;; esac
while [ $turns -gt 0 ] && read -r steps; do answer; turns=$((turns - 1)); done
if [ $3 = steady ]; then answer; else echo "out of memory" >&2; fi
"""
"""Stands in for an interpreter: answers as `benchmarks.worker` does, and ends too early or not."""


def test_a_contender_that_ends_in_its_turns_is_left_out_and_told(tmp_path, capsys):
    python = tmp_path / "python"
    python.write_text(ENDING)
    python.chmod(0o755)
    names = ("steady", "ends_in_a_turn", "ends_at_the_end")
    contenders = [Contender(name, name, "sh", tensorflow=True) for name in names]
    results = measure(contenders, TINY, Protocol(1, 3, 1), tensorflow_python=str(python))
    assert [(result.name, result.seconds) for result in results] == [("steady", [2.0] * 3)]
    said = capsys.readouterr().out
    for name in names[1:]:
        assert f"{name} ended: out of memory" in said


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("data", "kind"), [("device", jax.Array), ("host", np.ndarray)])
def test_kerass_batches_lie_where_the_setting_says(data, kind, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    pytest.importorskip("keras", reason="Keras is not installed (extra: peers)")
    from benchmarks.peers import keras_unet

    class Model:
        def __init__(self):
            self.given = []

        def compile(self, **_):
            pass

        def count_params(self):
            return 1

        def train_on_batch(self, *arrays):
            self.given += arrays

        predict_on_batch = train_on_batch

    for work, arrays in (("train", 2), ("predict", 1)):
        model = Model()
        monkeypatch.setattr(keras_unet, "network", lambda _, model=model: model)
        keras_unet.prepare(dataclasses.replace(TINY, work=work, data=data)).run()
        assert len(model.given) == 2 * arrays
        assert all(isinstance(array, kind) for array in model.given)


@pytest.mark.slow
def test_pytorchs_network_has_the_parameters_and_the_logits_shape():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra: peers)")
    from benchmarks.peers import pytorch

    network = pytorch.seeds(Setting())
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS
    assert network(torch.zeros(1, 1, 32, 48)).shape == (1, 1, 32, 48)


def test_conditions_name_the_device_the_versions_and_the_flags(monkeypatch):
    # XLA reads its flags at its start and ends the process at one that it does not know.
    jax.devices()
    monkeypatch.setenv("XLA_FLAGS", "--xla_something")
    found = record.conditions()
    assert found["flags"]["XLA_FLAGS"] == "--xla_something"
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert json.loads(json.dumps(found)) == found
