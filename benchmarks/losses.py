"""Value and gradient of losses, by jaxseg, textbook formulas and MONAI.

    python -m benchmarks.losses [--batch 16] [--size 256] [--classes 1 4]

The textbook formulas are Optax's cross entropy, and Dice written with softmax and sums.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks import protocol
from benchmarks.protocol import Implementation

MODULE = "benchmarks.losses"
IMPLEMENTATIONS = (
    Implementation("jaxseg", f"{MODULE}:by_jaxseg", "jaxseg"),
    Implementation("textbook", f"{MODULE}:by_textbook", "optax"),
    Implementation("MONAI", f"{MODULE}:by_monai", "monai"),
)
NAMES = ("cross_entropy", "soft_dice", "focal", "tversky", "generalized_dice", "jaccard")

COLUMNS = ("case", "name", "seconds", "fastest", "slowest", "relative_time", "device")


def arrays(batch: int, size: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns random logits ``[B, H, W, K]`` and class ids."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((batch, size, size, classes), np.float32)
    return logits, rng.integers(0, max(classes, 2), (batch, size, size), np.int32)


def _jax_cases(losses_of: Callable[[int], dict[str, Any]], classes: list[int], **shape: int) -> Any:
    import jax

    cases = {}
    for count in classes:
        logits, labels = jax.device_put(arrays(**shape, classes=count))
        for name, loss in losses_of(count).items():
            step = jax.jit(jax.value_and_grad(lambda z, y, loss=loss: loss(z, y).mean()))
            cases[f"{name}, K = {count}"] = partial(_waited, step, logits, labels)
    return cases, {"device": jax.devices()[0].device_kind}


def _waited(step: Callable[..., Any], *arguments: Any) -> Any:
    import jax

    return jax.block_until_ready(step(*arguments))


def by_jaxseg(**settings: Any) -> Any:
    """The losses that MONAI has, too, and cross entropy."""
    from jaxseg import losses

    def of(classes: int) -> dict[str, Any]:
        names = NAMES if classes > 1 else (*NAMES, "hausdorff_dt")
        return {name: getattr(losses, name) for name in names}

    return _jax_cases(of, **settings)


def by_textbook(**settings: Any) -> Any:
    """Cross entropy and Dice as textbooks have them."""
    import jax
    import optax

    def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
        if logits.shape[-1] == 1:
            return optax.sigmoid_binary_cross_entropy(logits[..., 0], labels.astype(logits.dtype))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    def soft_dice(logits: jax.Array, labels: jax.Array) -> jax.Array:
        binary = logits.shape[-1] == 1
        p = jax.nn.sigmoid(logits) if binary else jax.nn.softmax(logits)
        t = labels[..., None] if binary else jax.nn.one_hot(labels, logits.shape[-1])
        overlap, total = (p * t).sum((1, 2)), p.sum((1, 2)) + t.sum((1, 2))
        return 1 - (2 * overlap + 1) / (total + 1)

    return _jax_cases(
        lambda _: {"cross_entropy": cross_entropy, "soft_dice": soft_dice}, **settings
    )


def by_monai(*, batch: int, size: int, classes: list[int]) -> Any:
    """The losses of MONAI under the names of jaxseg, on the GPU if PyTorch has one."""
    monai: Any = importlib.import_module("monai.losses")
    torch: Any = importlib.import_module("torch")
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def of(many: bool) -> dict[str, Any]:
        output = {"softmax": True, "to_onehot_y": True} if many else {"sigmoid": True}
        found = {
            "soft_dice": monai.DiceLoss(**output),
            "jaccard": monai.DiceLoss(jaccard=True, **output),
            "tversky": monai.TverskyLoss(alpha=0.3, beta=0.7, **output),
            "generalized_dice": monai.GeneralizedDiceLoss(**output),
            "focal": monai.FocalLoss(use_softmax=many, to_onehot_y=many),
        }
        return found if many else found | {"hausdorff_dt": monai.HausdorffDTLoss(sigmoid=True)}

    def run(loss: Any, logits: Any, labels: Any) -> None:
        logits.grad = None
        loss(logits, labels).backward()
        if device == "cuda":
            torch.cuda.synchronize()

    cases = {}
    for count in classes:
        logits, labels = map(torch.from_numpy, arrays(batch, size, count))
        logits = logits.permute(0, 3, 1, 2).contiguous().to(device).requires_grad_()
        labels = labels[:, None].to(device, torch.float32 if count == 1 else torch.int64)
        for name, loss in of(count > 1).items():
            cases[f"{name}, K = {count}"] = partial(run, loss, logits, labels)
    return cases, {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}


if __name__ == "__main__":
    protocol.main("losses", __doc__, IMPLEMENTATIONS, COLUMNS, batch=16, size=256, classes=[1, 4])
