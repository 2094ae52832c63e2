"""Traces of train steps, in the format that Perfetto reads."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from experiments.profiling import traced


@pytest.mark.slow
def test_three_steps_after_two_are_traced(tmp_path, capsys):
    folder = tmp_path / "trace"
    double = traced(jax.jit(lambda x: x + x), folder)
    assert [float(double(jnp.float32(number))) for number in range(7)] == [0, 2, 4, 6, 8, 10, 12]
    (file,) = folder.glob("plugins/profile/*/perfetto_trace.json.gz")
    assert len(list(file.parent.glob("*.xplane.pb"))) == 1
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    assert [int(e["args"]["step_num"]) for e in events if e.get("name") == "train"] == [3, 4, 5]
    assert not any("backend_compile" in str(event.get("name")) for event in events)
    assert f"traced train steps 3 to 5: {folder}" in capsys.readouterr().out


def test_a_run_without_a_directory_is_not_wrapped():
    assert traced(abs, None) is abs
