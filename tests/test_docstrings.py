"""The examples in docstrings give what they say, and the main public names have one."""

import doctest
import importlib

import pytest

MAIN = {
    "jaxseg.augment.make_augment",
    "jaxseg.checkpoint.Checkpoints",
    "jaxseg.data.phantom.generate",
    "jaxseg.export.export_prediction",
    "jaxseg.inference.make_predict",
    "jaxseg.inference.predict_tiles",
    "jaxseg.losses.combine",
    "jaxseg.losses.cross_entropy",
    "jaxseg.losses.soft_dice",
    "jaxseg.metrics.bootstrap_mean",
    "jaxseg.metrics.count",
    "jaxseg.metrics.dice",
    "jaxseg.metrics.iou",
    "jaxseg.metrics.mean_over_images",
    "jaxseg.metrics.pooled",
    "jaxseg.models.UNet",
    "jaxseg.parallel.jit_step",
    "jaxseg.parallel.make_mesh",
    "jaxseg.parallel.shard_batch",
    "jaxseg.surface.average_surface_distance",
    "jaxseg.surface.distance_transform",
    "jaxseg.surface.hausdorff",
    "jaxseg.training.TrainState.create",
    "jaxseg.training.evaluate",
    "jaxseg.training.make_eval_step",
    "jaxseg.training.make_train_step",
}
"""The names that a new user meets first."""

MORE = {
    "jaxseg.inference.largest_components",
    "jaxseg.losses.balanced_class_weights",
    "jaxseg.losses.focal",
    "jaxseg.metrics.count_objects",
    "jaxseg.metrics.match_objects",
    "jaxseg.metrics.cl_dice",
    "jaxseg.metrics.paired_bootstrap",
    "jaxseg.metrics.predicted_labels",
    "jaxseg.surface.boundary_iou",
    "jaxseg.surface.measure",
    "jaxseg.surface.normalized_surface_dice",
}

COMPILES_MUCH = {
    "jaxseg.augment.make_augment",
    "jaxseg.checkpoint.Checkpoints",
    "jaxseg.export.export_prediction",
    "jaxseg.inference.make_predict",
    "jaxseg.models.UNet",
    "jaxseg.parallel.jit_step",
    "jaxseg.training.evaluate",
    "jaxseg.training.make_eval_step",
    "jaxseg.training.make_train_step",
}


def named(path):
    """The object of a dotted name."""
    parts = path.split(".")
    for split in range(len(parts) - 1, 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for name in parts[split:]:
            thing = getattr(thing, name)
        return thing
    raise AssertionError(f"{path} is nothing")


def examples(path):
    """The doctests of one docstring, run in an empty namespace, as after pasting them."""
    text = named(path).__doc__
    assert text is not None, f"{path} has no docstring"
    return doctest.DocTestParser().get_doctest(text, {}, path, path, None)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] if path in COMPILES_MUCH else [])
        for path in sorted(MAIN | MORE)
    ],
)
def test_the_example_gives_what_it_says(path):
    test = examples(path)
    assert test.examples
    said = []
    result = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF).run(test, out=said.append)
    assert result.failed == 0, "".join(said)
