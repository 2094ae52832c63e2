"""Options of a run: checked, stored, read back, and what is built from them."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import batches, dataset, figures, train
from experiments.configs import CONFIGURATIONS
from experiments.configuration import Configuration, from_json, one_sided
from experiments.options import LOSSES, Data, Network, Optimization
from jaxseg import losses
from jaxseg.augment import Strengths
from jaxseg.data import phantom
from jaxseg.data.splits import fold_split
from jaxseg.errors import InputError

FOLDERS: dict[str, Any] = {"images": Path("images"), "masks": Path("masks")}
TABLE = {"table": Path("patients.csv")}


@pytest.mark.parametrize(
    ("group", "options", "words"),
    [
        (Data, {"images": Path("images")}, "--masks: --images and --masks go together"),
        (Data, {"masks": Path("masks")}, "--images: --images and --masks"),
        (Data, {**FOLDERS, "manual_dir": Path("x")}, "--manual-dir: cannot be combined"),
        (Data, {**FOLDERS, "input_path": "stream"}, "--input-path stream: needs the database"),
        (Data, {**FOLDERS, "classes": ("lungs",)}, "'lungs' is not NAME=VALUE"),
        (Data, {**FOLDERS, "classes": ("lungs=1,x",)}, "'lungs=1,x' is not"),
        (Data, {**FOLDERS, "classes": ("=1",)}, "'=1' is not"),
        (Data, {**FOLDERS, "classes": ("lungs=1", "lungs=2")}, "lungs is there twice"),
        (Data, {**FOLDERS, "classes": ("a=1,2", "b=2")}, "value 2 is assigned to two classes"),
        (Data, {"classes": ("lungs=1",)}, "--classes: needs --images"),
        (Data, TABLE, "--table: needs --images"),
        (Data, {**FOLDERS, **TABLE, "split": "random"}, "--table: needs --split grouped"),
        (Data, {"near_duplicate_bits": 100}, "--near-duplicate-bits: needs --images"),
        (Data, {**FOLDERS, "near_duplicate_bits": -1}, "must be at least 0, got -1"),
        (Data, {"split": "half"}, "--split: must be grouped, random"),
        (Data, {"split": "fold:1"}, "--split: must be .* fold:I/K or source:TEXT"),
        (Data, {"size": 0}, "--size: must be at least 1, got 0"),
        (Data, {"channels": 2}, "--channels: 2 is not one of 1, 3"),
        (Network, {"widths": (8,)}, "--widths: needs two or more"),
        (Network, {"dropout": (0.1, 0.2)}, "--dropout: needs one rate, or 4"),
        (Network, {"dropout": (1.0,)}, "at least 0 and below 1"),
        (Network, {"remat": (5,)}, "--remat: levels are 0 to 4"),
        (Network, {"norm": "layer"}, "--norm: 'layer' is not one of none, batch"),
        (Network, {"norm": "group", "norm_groups": 5}, "--norm-groups: 5 does not divide"),
        (Optimization, {"epochs": 0}, "--epochs: must be at least 1, got 0"),
        (Optimization, {"learning_rate": 0.0}, "--learning-rate: must be above 0, got 0"),
        (Optimization, {"learning_rate": float("nan")}, "--learning-rate: must be above 0"),
        (Optimization, {"weight_decay": -1.0}, "--weight-decay: must be at least 0, got -1"),
        (Optimization, {"ema_decay": 1.0}, "--ema-decay: must be below 1"),
        (Optimization, {"seed": -1}, "--seed: must be at least 0"),
        (Optimization, {"seed": 2**32}, "--seed: must be below 4294967296"),
        (Optimization, {"optimizer": "adamw"}, "--optimizer: 'adamw' is not one of adam"),
        (Optimization, {"loss": ("dice",)}, "--loss: 'dice' is not a loss. Losses are boundary"),
        (Optimization, {"loss": ("focal", "focal")}, "--loss: 'focal' is there twice"),
        (Optimization, {"loss": ("focal=x",)}, "--loss: 'focal=x' needs a positive weight"),
        (Optimization, {"loss": ("focal=0",)}, "--loss: 'focal=0' needs a positive weight"),
        (Optimization, {"loss": ()}, "--loss: name one or more"),
    ],
)
def test_an_invalid_option_is_named_with_its_value(group, options, words):
    with pytest.raises(InputError, match=words):
        group(**options).check()


def test_a_fold_is_split_by_the_groups_of_the_images():
    options: dict[str, Any] = {**FOLDERS, **TABLE}
    Data(**options, split="fold:1/3").check()
    groups = ["a", "a", "b", "c", "c", "c", "d"]
    arrays: Any = SimpleNamespace(groups=groups)
    for fold in (1, 2, 3):
        found = dataset.split(arrays, f"fold:{fold}/3", fingerprint="")
        expected = fold_split(groups, fold, 3)
        parts = (found.train, found.validation, found.test)
        jax.tree.map(np.testing.assert_array_equal, parts, expected)


def test_a_loss_that_does_not_fit_the_classes_is_refused_before_any_work():
    hinge = Optimization(loss=("lovasz_hinge",))
    two = Data(**FOLDERS, classes=("a=1", "b=2"))
    assert Configuration("custom", optimization=hinge).loss() is not None
    with pytest.raises(InputError, match="--loss lovasz_hinge: "):
        Configuration("custom", data=two, optimization=hinge)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_of_the_library_can_be_chosen(name):
    classes = () if name == "lovasz_hinge" else ("a=1", "b=2")
    data = Data(**FOLDERS, classes=classes)
    configuration = Configuration("custom", data, optimization=Optimization(loss=(f"{name}=0.5",)))
    logits = jax.ShapeDtypeStruct((2, 8, 8, configuration.num_classes), jnp.float32)
    labels = jax.ShapeDtypeStruct((2, 8, 8), jnp.int32)
    assert jax.eval_shape(configuration.loss(), logits, labels).shape == (2,)


def test_the_loss_is_the_weighted_sum_of_what_was_named():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 8, 8, 1)).astype(np.float32)
    labels = rng.integers(0, 2, (2, 8, 8))
    chosen = Optimization(loss=("cross_entropy", "soft_dice=0.5"))
    found = Configuration("custom", optimization=chosen).loss()(logits, labels)
    expected = losses.cross_entropy(logits, labels) + 0.5 * losses.soft_dice(logits, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    deep = Configuration("custom", network=Network(deep_supervision=True), optimization=chosen)
    np.testing.assert_allclose(deep.loss()((logits,), labels), expected, rtol=1e-6)
    assert deep.model().deep_supervision


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, optax.adam(0.1)),
        ({"weight_decay": 0.01}, optax.adamw(0.1, weight_decay=0.01, mask={"w": True, "b": False})),
        ({"optimizer": "sgd"}, optax.sgd(0.1, momentum=0.9, nesterov=True)),
        ({"optimizer": "lion"}, optax.lion(0.1, weight_decay=0.0)),
        ({"clip_norm": 0.5}, optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1))),
    ],
)
def test_the_optimizer_is_that_of_optax(options, expected):
    params = {"w": np.ones((2, 2), np.float32), "b": np.ones(2, np.float32)}
    gradients = {"w": np.full((2, 2), 0.3, np.float32), "b": np.full(2, -2.0, np.float32)}
    found = []
    with jax.numpy_dtype_promotion("standard"):
        for tx in (Optimization(learning_rate=0.1, **options).transformation(10), expected):
            state, updated = tx.init(params), params
            for _ in range(2):
                updates, state = tx.update(gradients, state, updated)
                updated = optax.apply_updates(updated, updates)
            found.append(updated)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *found)


@pytest.mark.parametrize(("classes", "channels"), [((), 1), (("a=1",), 1), (("a=1", "b=2,3"), 3)])
def test_the_network_has_a_channel_for_each_class_and_the_background(classes, channels):
    folders = {name: folder.absolute() for name, folder in FOLDERS.items()}
    configuration = Configuration("custom", Data(**folders, classes=classes, ignore=(255,)))
    assert configuration.model().num_classes == channels
    assert from_json(json.loads(json.dumps(configuration.as_json()))) == configuration


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_is_read_back_as_it_was_stored(name):
    configuration = CONFIGURATIONS[name]
    stored = json.loads(json.dumps(configuration.as_json()))
    assert from_json(stored) == configuration
    del stored["augment"], stored["data"]["label_size"]
    expected = dataclasses.replace(configuration, augment=Strengths()).with_data(label_size=None)
    assert from_json(stored) == expected, "absent options have their default"
    stored["augment"] = dataclasses.asdict(Strengths(rotation=5.0))
    del stored["augment"]["elastic"]
    assert from_json(stored).augment == Strengths(rotation=5.0), "of a version without it"


@pytest.mark.parametrize(
    ("group", "option", "value", "words"),
    [
        ("data", "fold", 3, "unknown options: fold"),
        ("augment", "swirl", 1.0, "unknown options: swirl"),
        ("optimization", "loss", ["dice"], "--loss: 'dice' is not a loss"),
        ("optimization", "optimizer", "adamw", "--optimizer: 'adamw' is not one of"),
    ],
)
def test_an_unknown_option_or_name_in_a_stored_run_is_refused(group, option, value, words):
    stored = CONFIGURATIONS["phantom"].as_json()
    stored[group][option] = value
    with pytest.raises(InputError, match=words):
        from_json(stored)


def test_the_baseline_is_the_network_of_the_keras_project():
    baseline = CONFIGURATIONS["baseline"]
    model = baseline.model()
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 64, 64, 1), np.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 2_158_417
    assert (model.dropout, model.decoder_dropout) == ((0.25, 0.5, 0.5, 0.5), 0.5)
    assert not baseline.augment.changes


def test_a_run_has_the_same_keys_whatever_the_default_generator_is():
    keys = []
    for generator in ("threefry2x32", "rbg"):
        with jax.default_prng_impl(generator):
            keys.append(jax.random.key_data(CONFIGURATIONS["phantom"].key()))
    np.testing.assert_array_equal(*keys)


def test_a_class_of_one_side_is_found_by_its_name():
    assert one_sided(["heart", "lung_Left"]) == "lung_Left"
    assert one_sided(["bright", "cleft"]) is None


def test_the_command_line_overrides_an_augmentation_and_training_uses_it(tmp_path, monkeypatch):
    phantom.write_archive(tmp_path, images=dict.fromkeys(phantom.CLASSES, 5), seed=0)

    class Stop(Exception):
        pass

    def make_augment(strengths):
        raise Stop(strengths)

    monkeypatch.setattr(train, "make_augment", make_augment)
    options = ["lungs", "--manual-dir", tmp_path, "--data-dir", tmp_path / "data", "--size", "32"]
    options += ["--workdir", tmp_path / "run", "--batch-size", "8", "--augment.noise", "0.125"]
    monkeypatch.setattr("sys.argv", ["train", *map(str, options)])
    with (
        pytest.warns(match="release"),
        pytest.raises(Stop) as stop,
    ):
        train.main()
    expected = dataclasses.replace(CONFIGURATIONS["lungs"].augment, noise=0.125)
    assert stop.value.args == (expected,)


def test_an_epoch_uses_every_image_at_most_once_in_its_own_order():
    images = np.arange(100, 137)
    orders = [batches.epoch_order(images, 42, epoch, 16) for epoch in (0, 1)]
    for order in orders:
        assert order.shape == (2, 16)
        assert len(set(order.ravel())) == 32
        assert set(order.ravel()) <= set(images)
    assert not np.array_equal(orders[0], orders[1])
    np.testing.assert_array_equal(orders[0], batches.epoch_order(images, 42, 0, 16))


def test_examples_show_the_contour_of_every_class(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        figures, "draw_contour", lambda _, mask, *style: drawn.append((mask.sum(), style[1]))
    )
    truth = np.array([[0, 1, 1], [2, 2, 255]], np.uint8)
    image = np.zeros((2, 3, 3), np.uint8)
    figures.examples([image], [truth], [truth.astype(np.int32)], ["a $ b"], names=["a$", "b$"])
    assert drawn == [(2, "solid"), (2, "dashed"), (2, "solid"), (2, "dashed")]
