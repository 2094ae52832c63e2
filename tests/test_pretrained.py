"""Weights in files, the network that comes with the package, and training that starts from one."""

import hashlib
import json
import os

import jax
import numpy as np
import optax
import pytest

from experiments.configuration import from_json
from experiments.runs import PretrainedLungs, find_run, load_trained
from jaxseg import TrainState, UNet, metrics, pretrained
from jaxseg.data import phantom
from jaxseg.errors import InputError

IMAGES = jax.ShapeDtypeStruct((1, 16, 16, 1), np.uint8)


def state_of(model, seed=0, **options):
    return TrainState.create(model, optax.adam(1e-3), jax.random.key(seed), IMAGES, **options)


@pytest.fixture(scope="module")
def trained():
    """Random variables of a small network."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: state_of(UNet(widths=(4, 8), norm="batch")).variables())
    return jax.tree.map(lambda leaf: rng.random(leaf.shape).astype(leaf.dtype), shapes)


def test_a_file_of_weights_gives_the_same_arrays_and_its_checksum(trained, tmp_path):
    path = tmp_path / "weights"
    checksum = pretrained.save(path, trained)
    assert checksum == hashlib.sha256(path.read_bytes()).hexdigest()
    read = pretrained.load(path, sha256=checksum)
    assert jax.tree.structure(read) == jax.tree.structure(jax.device_get(trained))
    jax.tree.map(np.testing.assert_array_equal, read, trained)


def test_a_file_that_a_full_disk_refuses_leaves_the_old_one(trained, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    (tmp_path / "weights").write_text("before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        pretrained.save(tmp_path / "weights", trained)
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    assert (tmp_path / "weights").read_text() == "before"


def test_damaged_and_other_files_are_refused_by_name(trained, tmp_path):
    path = tmp_path / "weights"
    checksum = pretrained.save(path, trained)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"weights: is damaged \(its SHA-256"):
        pretrained.load(path, sha256=checksum)
    path.write_bytes(content[:-100])
    with pytest.raises(InputError, match="weights: not a file of weights"):
        pretrained.load(path)
    path.write_bytes(b"\x01")
    with pytest.raises(InputError, match="weights: not a file of weights"):
        pretrained.load(path)
    with pytest.raises(InputError, match=r"absent: cannot be read \(No such file"):
        pretrained.load(tmp_path / "absent")


def leaves(variables):
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }


@pytest.mark.parametrize(
    ("classes", "changed"),
    [pytest.param(1, set(), marks=pytest.mark.slow), (3, {"kernel", "bias"})],
)
def test_a_state_starts_from_trained_variables_except_a_head_of_other_classes(
    classes, changed, trained
):
    model = UNet(num_classes=classes, widths=(4, 8), norm="batch")
    given, new = leaves(trained), leaves(state_of(model, 1).variables())
    started = state_of(model, 1, ema=True, pretrained=trained)
    for variables in (started.variables(), {"params": started.params, **started.collections}):
        for name, leaf in leaves(variables).items():
            is_new = "head" in name and any(word in name for word in changed)
            np.testing.assert_array_equal(leaf, new[name] if is_new else given[name], name)


def test_the_optimizer_starts_from_the_given_parameters(trained):
    # The averaged iterate of schedule-free optimizers is a copy of the parameters.
    tx = optax.contrib.schedule_free_sgd(0.1)
    model = UNet(widths=(4, 8), norm="batch")
    state = TrainState.create(model, tx, jax.random.key(1), IMAGES, pretrained=trained)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state.z, trained["params"])


@pytest.mark.parametrize(
    ("network", "word"),
    [
        ({"widths": (4, 16)}, r"\S+ is of shape \(8,\) there, and of shape \(16,\) here"),
        ({"widths": (4, 8, 8)}, r"\S+decoder_1\S+ is missing there, and of shape \(8,\) here"),
        ({"norm": "none"}, r"\S+/Conv_0/bias is missing there, and of shape \(8,\) here"),
    ],
)
def test_variables_of_another_network_are_refused(network, word, trained):
    with pytest.raises(ValueError, match=f"variables do not fit the network: {word}"):
        state_of(UNet(**{"widths": (4, 8), "norm": "batch"} | network), pretrained=trained)


def test_variables_of_a_larger_network_are_refused(trained):
    larger = trained | {"other": {"scale": np.ones(3)}}
    with pytest.raises(ValueError, match="do not fit the network: it has no other/scale"):
        state_of(UNet(widths=(4, 8), norm="batch"), pretrained=larger)


@pytest.mark.slow
def test_deep_supervision_adds_heads_to_trained_variables():
    model = UNet(widths=(4, 8, 16), norm="batch", deep_supervision=True)
    plain = state_of(UNet(widths=(4, 8, 16), norm="batch"), 2).variables()
    started = state_of(model, 1, pretrained=plain)
    assert "head_1" in started.params
    kernel = plain["params"]["bottleneck"]["Conv_0"]["kernel"]
    np.testing.assert_array_equal(started.params["bottleneck"]["Conv_0"]["kernel"], kernel)


def test_the_lungs_network_segments_phantoms_that_it_never_saw():
    model, variables = pretrained.lungs()
    images = [phantom.generate(11, "Normal", i, image_size=128, mask_size=128) for i in range(1, 5)]
    logits = jax.jit(model.apply)(variables, np.stack([im.image for im in images])[..., None])
    labels = metrics.predicted_labels(logits)
    truth = np.stack([im.mask for im in images]) > 0
    dice = metrics.dice(metrics.count(labels, truth.astype(np.int32), num_classes=1))
    assert float(dice.mean()) > 0.8


def test_the_lungs_file_is_small_and_its_description_is_that_of_the_network():
    path = pretrained.FOLDER / "lungs.msgpack"
    assert path.stat().st_size < 3e6
    model, variables = pretrained.lungs()
    configuration = from_json(json.loads(path.with_suffix(".json").read_text())["configuration"])
    assert configuration.model() == model
    assert (configuration.data.size, configuration.data.channels) == (128, 1)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == 540_809
    assert f"{count:,} parameters" in (pretrained.lungs.__doc__ or "")


def test_the_lungs_network_is_a_run_without_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = find_run(PretrainedLungs.PATH)
    loaded = load_trained(run)
    jax.tree.map(
        np.testing.assert_array_equal, loaded.state.variables(), pretrained.lungs().variables
    )
    assert run.finished_summary()["test"]["dice_mean"] > 0.97
    (tmp_path / "lungs").mkdir()
    (tmp_path / "lungs" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="lungs: is a run directory here and also"):
        find_run(PretrainedLungs.PATH)
