"""An exported network gives the same logits without its code, on every platform."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from PIL import Image

from benchmarks import tpu_programs
from experiments import export as export_command
from experiments.configuration import from_json
from experiments.runs import load_trained
from jaxseg import UNet, export, pretrained
from jaxseg.data import phantom
from jaxseg.errors import InputError
from jaxseg.inference import make_predict, resize_logits
from jaxseg.training import TrainState

ROOT = Path(__file__).parents[1]


def trained_state(model):
    images = jax.ShapeDtypeStruct((1, 16, 16, 1), np.uint8)
    return TrainState.create(model, optax.adam(1e-3), jax.random.key(0), images, ema=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network, its state, and the file."""
    model = UNet(widths=(4, 64), norm="batch", dropout=0.5)
    state = trained_state(model)
    # As after training, the moving averages differ from the parameters and initial values.
    state = state.replace(
        ema=jax.tree.map(lambda leaf: 2 * leaf, state.params),
        collections=jax.tree.map(lambda leaf: leaf + 0.3, state.collections),
    )
    path = tmp_path_factory.mktemp("exported") / "network.jaxseg"
    export.save(path, export.export_prediction(model, state, multiple=2), {"size": 16})
    return model, state, path


def test_the_file_gives_the_networks_logits_at_any_size(exported):
    model, state, path = exported
    images = np.random.default_rng(0).integers(0, 256, (3, 10, 34, 1), np.uint8)
    program, metadata = export.load(path)
    logits = jax.jit(program.call)(images)
    expected = jax.jit(make_predict(model))(state, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-4)
    assert float(jnp.abs(expected).max()) > 0
    assert metadata["size"] == 16
    assert metadata["program"]["images"] == {"shape": "(b, 2*h, 2*w, 1)", "dtype": "uint8"}
    assert metadata["program"]["platforms"] == ["cpu", "cuda", "tpu"]


def test_a_batch_sharded_over_devices_gives_the_same_logits(exported):
    model, state, path = exported
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 1), np.uint8)
    mesh = jax.make_mesh((8,), ("data",))
    rows = jax.NamedSharding(mesh, jax.P("data"))
    call = jax.jit(export.load(path)[0].call, in_shardings=rows, out_shardings=rows)
    logits = call(jax.device_put(images, rows))
    expected = jax.jit(make_predict(model))(state, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert len(logits.sharding.device_set) == 8


def test_images_of_another_size_or_dtype_are_refused(exported):
    program, _ = export.load(exported[2])
    with pytest.raises(ValueError, match="remainder 1"):
        program.call(np.zeros((1, 16, 15, 1), np.uint8))
    with pytest.raises(ValueError, match="expected uint8"):
        program.call(np.zeros((1, 16, 16, 1), np.float32))


def test_the_parameters_are_in_the_file_once(exported):
    _, state, path = exported
    program, _ = export.load(path)
    parameters = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.variables()))
    assert len(program.serialize()) < 1.5 * parameters


class Threshold(nn.Module):
    """A custom network with two classes and two input channels."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        return nn.Dense(2)(images)


def test_any_module_of_floats_can_be_exported(tmp_path):
    model, images = Threshold(), np.random.default_rng(0).random((2, 5, 7, 2), np.float32)
    state = TrainState.create(model, optax.sgd(0.1), jax.random.key(0), images)
    program = export.export_prediction(model, state, multiple=1, channels=2, dtype=jnp.float32)
    export.save(tmp_path / "file", program, {})
    dense = jax.device_get(state.params["Dense_0"])
    expected = images @ dense["kernel"] + dense["bias"]
    np.testing.assert_allclose(export.load(tmp_path / "file")[0].call(images), expected, atol=1e-6)


class Half(nn.Module):
    """A network with bfloat16 logits."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        return nn.Dense(1, dtype=jnp.bfloat16)(images.astype(jnp.bfloat16))


def test_logits_are_float32_even_if_the_network_computes_in_bfloat16():
    model, images = Half(), np.random.default_rng(0).random((2, 5, 7, 1), np.float32)
    state = TrainState.create(model, optax.sgd(0.1), jax.random.key(0), images)
    program = export.export_prediction(model, state, multiple=1, dtype=jnp.float32)
    logits = program.call(images)
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(logits, make_predict(model)(state, images).astype(jnp.float32))


def test_other_files_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"absent: there is no such file"):
        export.load(tmp_path / "absent")
    (tmp_path / "text").write_text("no zip")
    with pytest.raises(InputError, match=r"text: not an exported network"):
        export.load(tmp_path / "text")
    with zipfile.ZipFile(tmp_path / "other", "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(InputError, match=r"other: not an exported network .*metadata.json"):
        export.load(tmp_path / "other")


def test_an_export_that_fails_leaves_the_old_file(exported, tmp_path, monkeypatch):
    program, _ = export.load(exported[2])
    (tmp_path / "file").write_text("before")

    def no_flatbuffers(*_, **__):
        raise ImportError

    monkeypatch.setattr(type(program), "serialize", no_flatbuffers)
    with pytest.raises(InputError, match=r"pip install -e '\.\[export\]'"):
        export.save(tmp_path / "file", program, {})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "before"


@pytest.fixture(scope="module")
def written(untrained_run, tmp_path_factory):
    """The file that the export command writes."""
    path = tmp_path_factory.mktemp("written") / "folder" / "lungs"
    export_command.write(export_command.Options(run=untrained_run.path, out=path))
    return path


@pytest.mark.slow
def test_the_script_of_the_docs_segments_an_image_without_jaxseg(untrained_run, written, tmp_path):
    image = phantom.generate(3, "Normal", 1, image_size=75, mask_size=64).image
    Image.fromarray(image).save(tmp_path / "image.png")
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.S)
    blocked = "import sys; sys.modules.update(jaxseg=None, flax=None, experiments=None)\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + script, written, "image.png", "mask.png"],
        cwd=tmp_path, env={**os.environ, "XLA_FLAGS": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = load_trained(untrained_run)
    small = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR))
    logits = jax.jit(make_predict(loaded.model))(loaded.state, small[None, ..., None])
    expected = np.asarray(resize_logits(logits, image.shape))[0, ..., 0]
    with Image.open(tmp_path / "mask.png") as mask:
        found = np.asarray(mask) > 0
    clear = np.abs(expected) > 1e-4
    assert clear.mean() > 0.95
    assert 0 < found.mean() < 1
    np.testing.assert_array_equal(found[clear], (expected > 0)[clear])


def test_the_metadata_describes_the_run(written):
    with zipfile.ZipFile(written) as archive:
        metadata = json.loads(archive.read("metadata.json"))
    assert metadata["size"] == 32
    assert metadata["image_resize"] == "bilinear"
    assert metadata["preprocessing"] == "none"
    assert metadata["threshold"] == {"probability": 0.5, "logit": 0.0}
    assert metadata["run"]["configuration"] == "phantom"
    assert metadata["run"]["data_fingerprint"] == "fingerprint"
    assert metadata["versions"]["jax"] == jax.__version__


@pytest.mark.slow
def test_the_weights_of_a_run_are_written_with_its_configuration_and_scores(
    untrained_run, tmp_path
):
    options = export_command.Options(run=untrained_run.path, out=tmp_path / "weights", weights=True)
    with pytest.raises(InputError, match="training has not finished"):
        export_command.write(options)
    untrained_run.summary.write_text(json.dumps({"test": {"dice_mean": 0.5}, "checkpoint_step": 0}))
    try:
        export_command.write(options)
    finally:
        untrained_run.summary.unlink()
    written = json.loads((tmp_path / "weights.json").read_text())
    assert from_json(written["configuration"]).model() == UNet(widths=(4, 8))
    assert written["summary"]["test"] == {"dice_mean": 0.5}
    expected = load_trained(untrained_run).state.variables()
    jax.tree.map(np.testing.assert_array_equal, pretrained.load(tmp_path / "weights"), expected)


def test_invalid_input_of_the_command_is_one_line(untrained_run, tmp_path, refused):
    for arguments, word in (
        ([tmp_path / "absent", "--out", tmp_path / "file"], "absent"),
        ([untrained_run.path, "--out", tmp_path], "is a folder"),
    ):
        error = refused(export_command, *arguments)
        assert word in error


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_the_file_compiles_for_a_tpu():
    model = UNet(widths=(16, 32))
    program = export.export_prediction(model, trained_state(model), multiple=2)
    device = tpu_programs.mesh_of("v5e:2x2").devices.flat[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    images = jax.ShapeDtypeStruct((8, 32, 32, 1), np.uint8, sharding=sharding)
    call = jax.jit(program.call, in_shardings=sharding, out_shardings=sharding)
    text = str(call.lower(images).compile().as_text())
    assert "f32[8,32,32,16]" in text
