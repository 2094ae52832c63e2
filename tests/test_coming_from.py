"""Every call on the page for users of other libraries runs, and no loss or metric is left out."""

import inspect
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxseg

PAGE = (Path(__file__).parents[1] / "docs/coming_from.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| `") or re.match(r"\| [a-z]", line)
]
CALLS = [row[1].strip("`") for row in ROWS if row[1].startswith("`")]


@pytest.fixture(scope="module")
def names():
    (setup,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
    space = {}
    exec(setup, space)
    return space


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_a_call_runs_and_its_result_is_finite_where_it_is_defined(call, names):
    for leaf in jax.tree.leaves(eval(call, names)):
        assert not np.isnan(np.asarray(leaf, np.float64)).all()


def sections():
    return {text.split("\n", 1)[0]: text for text in re.split("^## ", PAGE, flags=re.M)[1:]}


def test_the_tables_are_read():
    assert len(CALLS) > 55
    assert set(sections()) == {
        "MONAI: losses", "MONAI: metrics", "segmentation_models_pytorch", "torchmetrics",
        "nnU-Net", "Keras",
    }  # fmt: skip


def test_every_loss_of_jaxseg_that_others_have_is_on_the_page():
    ours = {name for name in jaxseg.losses.__all__ if f"losses.{name}" in PAGE}
    only_here = {"focal_tversky", "log_cosh_dice", "lovasz_hinge"}
    assert set(jaxseg.losses.__all__) - ours <= only_here | {"soft_skeleton"}


def classes_of(module):
    """Its classes; aliases are in small letters."""
    return {n for n, value in vars(module).items() if inspect.isclass(value) and n[0].isupper()}


def test_every_loss_of_monai_is_on_the_page():
    theirs = pytest.importorskip("monai.losses")
    classes = classes_of(theirs)
    missing = {name for name in classes if f"`{name}`" not in sections()["MONAI: losses"]}
    assert missing <= {"Dice"}, "an alias of DiceLoss"


def test_every_metric_of_monai_is_on_the_page():
    theirs = pytest.importorskip("monai.metrics")
    bases = {"Metric", "IterationMetric", "Cumulative", "CumulativeAverage", "DiceHelper"}
    bases |= {"CumulativeIterationMetric", "CalibrationReduction"}
    classes = classes_of(theirs)
    text = sections()["MONAI: metrics"]
    assert {name for name in classes - bases if not re.search(rf"`{name}\b", text)} == set()


def test_every_loss_of_segmentation_models_pytorch_is_on_the_page():
    theirs = pytest.importorskip("segmentation_models_pytorch.losses")
    classes = classes_of(theirs)
    text = sections()["segmentation_models_pytorch"]
    assert {name for name in classes if not re.search(rf"`{name}\b", text)} == set()
