"""The how-to pages on your own networks: Flax Linen, Flax NNX and Equinox."""

import functools
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses
from jaxseg.inference import make_predict
from jaxseg.training import make_train_step

DOCS = Path(__file__).parents[1] / "docs"
TEXT = "".join((DOCS / page).read_text() for page in ("own_model.md", "nnx_equinox.md"))
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.S | re.M)


@functools.cache
def namespace() -> dict[str, Any]:
    """Returns what the pages define, without its training runs."""
    space: dict[str, Any] = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in BLOCKS:
            if "import equinox" in block and not has_equinox():
                continue
            exec(compile(re.sub(r"(?m)^\w*state = train.*$", "", block), "page", "exec"), space)
    return space


def has_equinox():
    try:
        import equinox  # noqa: F401
    except ImportError:
        return False
    return True


def model_of(framework):
    space = namespace()
    if framework == "equinox":
        if not has_equinox():
            pytest.skip("Equinox is not installed (extra: peers)")
        return space["EquinoxModel"](space["make"])
    return space["Dilated"]() if framework == "linen" else space["bridge"].ToLinen(space["Net"])


@pytest.fixture(autouse=True)
def relaxed_promotion():
    """Other frameworks rely on promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["linen", "nnx", "equinox"])
def test_a_network_of_any_framework_trains_and_predicts(framework, capsys):
    model, space = model_of(framework), namespace()
    state = space["train"](model)
    assert int(state.step) == 60
    (dice,) = re.findall(r"Dice (0\.\d\d)\n", capsys.readouterr().out)
    # All lung would score about 0.4.
    assert float(dice) > 0.75
    images = space["images"][:2]
    predict = make_predict(model)
    logits = predict(jax.device_get(state), images)
    assert logits.shape == (2, 32, 32, 1)
    floats = predict(jax.device_get(state), images / np.float32(255))
    np.testing.assert_allclose(logits, floats, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["linen", "nnx", "equinox"])
def test_dropout_acts_in_training_and_changes_with_the_step(framework):
    import optax

    from jaxseg import TrainState

    model, space = model_of(framework), namespace()
    batch = {"images": space["images"][:4], "labels": space["labels"][:4]}
    tx = optax.sgd(0.0)
    state = TrainState.create(model, tx, jax.random.key(0), batch["images"])
    step = jax.jit(make_train_step(model, tx, losses.cross_entropy))
    seen = []
    for _ in range(3):
        state, measured = step(state, batch)
        seen.append(float(measured["loss"]))
    # The learning rate is 0, so only dropout can change the loss.
    assert len(set(seen)) == 3


def test_the_loss_of_the_page_is_the_mean_squared_error_over_valid_pixels():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 4, 1)).astype(np.float32)
    labels, where = rng.integers(0, 2, (2, 4, 4)), rng.random((2, 4, 4)) < 0.5
    found = namespace()["brier"](jnp.asarray(logits), jnp.asarray(labels), where=where)
    errors = (1 / (1 + np.exp(-logits[..., 0].astype(np.float64))) - labels) ** 2
    expected = [row[valid].mean() for row, valid in zip(errors, where, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
