"""Traces of train steps, in the format that Perfetto reads."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from experiments.profiling import Trace


def events(folder):
    """Returns the events of the only trace in a directory."""
    (file,) = folder.glob("plugins/profile/*/perfetto_trace.json.gz")
    assert len(list(file.parent.glob("*.xplane.pb"))) == 1
    return json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]


def traced_steps(folder):
    return [int(e["args"]["step_num"]) for e in events(folder) if e.get("name") == "train"]


def run(trace, steps):
    double = jax.jit(lambda x: x + x)
    for number in range(steps):
        with trace.step(number):
            result = double(jnp.ones(3))
            if trace.is_running:
                jax.block_until_ready(result)
    trace.close()


def test_three_steps_after_two_are_traced(tmp_path, capsys):
    run(Trace(tmp_path / "trace"), 8)
    assert traced_steps(tmp_path / "trace") == [2, 3, 4]
    names = [str(event.get("name")) for event in events(tmp_path / "trace")]
    assert not any("backend_compile" in name for name in names)
    assert capsys.readouterr().out.count("traced 3 train steps") == 1


def test_a_run_that_ends_early_leaves_what_was_traced(tmp_path, capsys):
    run(Trace(tmp_path / "trace"), 3)
    assert traced_steps(tmp_path / "trace") == [2]
    assert "traced 1 train steps" in capsys.readouterr().out


@pytest.mark.parametrize(("is_asked", "words"), [(True, "none was traced"), (False, "")])
def test_a_run_of_two_steps_traces_nothing(is_asked, words, tmp_path, capsys):
    run(Trace(tmp_path if is_asked else None), 2)
    assert words in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
