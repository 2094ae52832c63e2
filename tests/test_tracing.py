"""Traces of training steps, in the format that Perfetto reads."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.tracing import Trace
from jaxseg.data import phantom
from jaxseg.errors import InputError

ROOT = Path(__file__).parents[1]


def events(folder):
    """Returns the events of the only trace in a directory."""
    (file,) = folder.glob("plugins/profile/*/perfetto_trace.json.gz")
    assert len(list(file.parent.glob("*.xplane.pb"))) == 1
    return json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]


def traced_steps(folder):
    return [int(e["args"]["step_num"]) for e in events(folder) if e.get("name") == "train"]


def run(trace, steps):
    """Runs some steps."""
    double = jax.jit(lambda x: x + x)
    for number in range(steps):
        with trace.step(number):
            trace.wait_for(double(jnp.ones(3)))


def test_three_steps_after_two_are_traced(tmp_path, capsys):
    trace = Trace(tmp_path / "trace")
    run(trace, 8)
    trace.close()
    assert traced_steps(tmp_path / "trace") == [2, 3, 4]
    names = [str(event.get("name")) for event in events(tmp_path / "trace")]
    assert not any("backend_compile" in name for name in names)
    assert "traced 3 train steps" in capsys.readouterr().out


def test_a_run_that_ends_early_leaves_what_was_traced(tmp_path, capsys):
    trace = Trace(tmp_path / "trace")
    run(trace, 3)
    trace.close()
    assert traced_steps(tmp_path / "trace") == [2]
    assert "traced 1 train steps" in capsys.readouterr().out


def test_a_run_of_two_steps_traces_nothing_and_says_so(tmp_path, capsys):
    trace = Trace(tmp_path / "trace")
    run(trace, 2)
    trace.close()
    assert "none was traced" in capsys.readouterr().out


def test_without_a_directory_nothing_is_traced_or_printed(capsys):
    trace = Trace(None)
    run(trace, 6)
    trace.close()
    assert capsys.readouterr().out == ""


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--profile: .*file"):
        Trace(tmp_path / "file")


@pytest.mark.slow
def test_train_traces_its_own_steps(tmp_path):
    phantom.write_archive(tmp_path, images=dict.fromkeys(phantom.CLASSES, 8), seed=1)
    arguments = ["--manual-dir", tmp_path, "--data-dir", tmp_path / "data", "--size", "16"]
    arguments += ["--widths", "4", "8", "--epochs", "1", "--batch-size", "2"]
    arguments += ["--workdir", tmp_path / "run", "--profile", tmp_path / "trace"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.train", "phantom", *map(str, arguments)], cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert traced_steps(tmp_path / "trace") == [2, 3, 4]
