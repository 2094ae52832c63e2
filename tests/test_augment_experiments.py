"""Augmentation in experiments: configured, stored, overridden and passed to the step."""

import dataclasses
import json

import pytest

from experiments import train
from experiments.configuration import from_json
from experiments.configurations import CONFIGURATIONS
from jaxseg.data import phantom


def test_the_baseline_has_no_augmentation_and_lungs_has_no_left_right_flips():
    assert not CONFIGURATIONS["seed"].augment.changes
    lungs = CONFIGURATIONS["lungs"].augment
    assert lungs.changes
    assert lungs.moves
    assert lungs.flip_left_right == 0


def test_strengths_are_stored_with_a_run():
    lungs, seed = CONFIGURATIONS["lungs"], CONFIGURATIONS["seed"]
    kept = json.loads(json.dumps(lungs.as_json()))
    assert kept["augment"]["rotation"] == lungs.augment.rotation
    assert from_json(kept, like=dataclasses.replace(seed, loss=lungs.loss)) == lungs


def test_a_run_stored_before_augmentation_existed_is_still_read():
    seed = CONFIGURATIONS["seed"]
    kept = {name: value for name, value in seed.as_json().items() if name != "augment"}
    assert from_json(kept, like=seed) == seed


def test_a_field_missing_in_a_stored_run_has_its_default_not_the_configurations_value():
    lungs = CONFIGURATIONS["lungs"]
    kept = {name: value for name, value in lungs.as_json().items() if name != "label_size"}
    assert lungs.label_size == 256
    assert from_json(kept, like=lungs) == dataclasses.replace(lungs, label_size=None)


class Stop(Exception):
    """Raised instead of training, with the strengths."""


@pytest.mark.filterwarnings("ignore::jaxseg.data.archive.PartialReleaseWarning")
def test_the_command_line_overrides_a_strength_and_training_uses_it(tmp_path, monkeypatch):
    phantom.write_archive(tmp_path, images=dict.fromkeys(phantom.CLASSES, 5), seed=0)

    def make_augment(strengths):
        raise Stop(strengths)

    monkeypatch.setattr(train, "make_augment", make_augment)
    options = ["lungs", "--manual-dir", tmp_path, "--data-dir", tmp_path / "data", "--size", "32"]
    options += ["--workdir", tmp_path / "run", "--batch-size", "8", "--augment.noise", "0.125"]
    monkeypatch.setattr("sys.argv", ["train", *map(str, options)])
    with pytest.raises(Stop) as stop:
        train.main()
    expected = dataclasses.replace(CONFIGURATIONS["lungs"].augment, noise=0.125)
    assert stop.value.args == (expected,)
