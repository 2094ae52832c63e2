"""Strict JAX for every test: 8 CPU devices, no silent promotion, shapes checked as annotated."""

import gc
import os
import signal
import sys
import warnings
from importlib import metadata

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the time is compiling. These flags make it several times as fast. Set XLA_FLAGS to test
# what users run; CI does. XLA stops at a flag that it does not know, and other versions may not
# know the last two.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    * metadata.version("jaxlib").startswith("0.10."),
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import pytest
from hypothesis import settings
from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook

install_import_hook("jaxseg", "beartype.beartype")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# A first call compiles; how long one takes says nothing. The same code draws the same examples.
settings.register_profile(
    "jax", parent=settings.get_profile("default"), deadline=None, derandomize=True, database=None
)
settings.load_profile("jax")

# Compiled programs fill the heap, and each full collection walks all of it.
gc.set_threshold(50_000, 20, 50)


@pytest.fixture(autouse=True)
def restored_signal_handlers():
    """Commands watch for signals until their process ends."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    if any(signal.getsignal(number) is not handler for number, handler in before.items()):
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def called(capsys, monkeypatch):
    """Runs a command in this process: exit status, standard output and standard error."""
    from experiments import command

    def call(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with jax.numpy_dtype_promotion("standard"), pytest.raises(SystemExit) as stopped:
            command.run(module.main)
        return (stopped.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def succeeds(called):
    """Runs a command that must end with status 0; returns its standard output."""

    def call(*arguments):
        code, out, error = called(*arguments)
        assert code == 0, error
        return out

    return call


@pytest.fixture
def refused(called):
    """Runs a command that must end with status 2 and one line of error; returns that line."""

    def call(*arguments):
        code, _, error = called(*arguments)
        lines = [line for line in error.splitlines() if not line.startswith("warning: ")]
        assert code == 2, error
        assert len(lines) == 1, error
        assert lines[0].startswith("error: ")
        return lines[0]

    return call


@pytest.fixture(scope="session")
def untrained_run(tmp_path_factory):
    """A run with an untrained network, whose masks are as good as any here."""
    from experiments import configuration, files, options, runs
    from jaxseg.checkpoint import Checkpoints

    run = runs.RunDirectory(tmp_path_factory.mktemp("runs") / "run")
    run.path.mkdir()
    untrained = configuration.Configuration(
        "phantom",
        options.Data(size=32),
        options.Network(widths=(4, 8)),
        options.Optimization(batch_size=4),
    )
    values = {"configuration": untrained.as_json(), "data_fingerprint": "fingerprint"}
    files.write_json(run.config, values)
    with jax.numpy_dtype_promotion("standard"), Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(untrained.state(untrained.optimizer(steps=1)), {})
    return run


@pytest.fixture
def unchecked_types():
    """Turns jaxtyping's checks off, to reach the errors that users see."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)
