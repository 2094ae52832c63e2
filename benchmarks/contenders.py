"""Who takes part: name, module of `benchmarks.peers`, options, interpreter."""

import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
"""Environment of processes that share a GPU: none takes its memory beforehand."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """One library's form of the network."""

    name: str
    module: str
    """Of `benchmarks.peers`."""
    needs: str
    """The module that must be importable."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of the module's ``prepare``."""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tensorflow: bool = False
    """Whether it runs in the interpreter that has TensorFlow."""
    near: bool = False
    """Another network, of about the size; its ratio compares no two ways to the same numbers."""


CONTENDERS = (
    Contender("jaxseg", "ours", "jaxseg"),
    Contender("jaxseg, rbg bits", "ours", "jaxseg", {"bits": "rbg"}),
    Contender("plain Flax", "plain_flax", "flax"),
    Contender("PyTorch eager", "pytorch", "torch"),
    Contender("torch.compile", "pytorch", "torch", {"compiled": True}),
    Contender("Keras on JAX", "keras_unet", "keras", environment={"KERAS_BACKEND": "jax"}),
    Contender(
        "Keras on TensorFlow",
        "keras_unet",
        "tensorflow",
        environment={"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"},
        tensorflow=True,
    ),
    Contender("MONAI BasicUNet", "pytorch", "monai", {"network": "monai"}, near=True),
    Contender("smp Unet", "pytorch", "segmentation_models_pytorch", {"network": "smp"}, near=True),
)

EQUALS = ("jaxseg", "plain Flax", "PyTorch eager", "torch.compile", "Keras on JAX")
NEAR = ("MONAI BasicUNet", "smp Unet")
DEFAULT = (*EQUALS, "Keras on TensorFlow", *NEAR)


def chosen(names: Iterable[str], tensorflow_python: str | None) -> list[Contender]:
    """The contenders of these names that can run here; a line says which cannot.

    Raises:
        SystemExit: A name is unknown, or there is no such interpreter.
    """
    by_name = {contender.name: contender for contender in CONTENDERS}
    if unknown := [name for name in names if name not in by_name]:
        raise SystemExit(f"no contender {unknown[0]!r}; there are: {', '.join(by_name)}")
    if tensorflow_python is not None and shutil.which(tensorflow_python) is None:
        raise SystemExit(f"--tensorflow-python: no interpreter {tensorflow_python}")
    found = []
    for contender in (by_name[name] for name in names):
        if _importable(contender, tensorflow_python):
            found.append(contender)
        else:
            print(f"{contender.name}: {contender.needs} is not installed, left out", flush=True)
    return found


def interpreter(contender: Contender, tensorflow_python: str | None) -> str:
    """The Python that runs a contender."""
    return (tensorflow_python or sys.executable) if contender.tensorflow else sys.executable


def environment(contender: Contender) -> dict[str, str]:
    """Of its process."""
    return {**os.environ, **SHARED, **contender.environment}


def _importable(contender: Contender, tensorflow_python: str | None) -> bool:
    if not contender.tensorflow or tensorflow_python is None:
        return importlib.util.find_spec(contender.needs) is not None
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({contender.needs!r}) is None)"
    return subprocess.run([tensorflow_python, "-c", code], check=False).returncode == 0
