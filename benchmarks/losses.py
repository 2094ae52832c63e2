"""Value and gradient of losses, by jaxseg and MONAI.

python -m benchmarks.losses [--batch 16] [--size 256] [--classes 1 4]
"""

import importlib
from functools import partial
from typing import Any

import numpy as np

from benchmarks import protocol
from benchmarks.protocol import Implementation

IMPLEMENTATIONS = (
    Implementation("jaxseg", "benchmarks.losses:by_jaxseg"),
    Implementation("MONAI", "benchmarks.losses:by_monai"),
)
COLUMNS = ("case", "name", "seconds", "fastest", "slowest", "relative_time", "device")


def arrays(batch: int, size: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns random logits ``[B, H, W, K]`` and class ids."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((batch, size, size, classes), np.float32)
    return logits, rng.integers(0, max(classes, 2), (batch, size, size), np.int32)


def by_jaxseg(*, batch: int, size: int, classes: list[int]) -> Any:
    """The losses that MONAI has, too, and cross entropy."""
    import jax

    from jaxseg import losses

    def run(step: Any, logits: Any, labels: Any) -> Any:
        return jax.block_until_ready(step(logits, labels))

    names = ["cross_entropy", "soft_dice", "focal", "tversky", "generalized_dice", "jaccard"]
    cases = {}
    for count in classes:
        logits, labels = jax.device_put(arrays(batch, size, count))
        for name in names if count > 1 else [*names, "hausdorff_dt"]:
            loss = getattr(losses, name)
            step = jax.jit(jax.value_and_grad(lambda z, y, loss=loss: loss(z, y).mean()))
            cases[f"{name}, K = {count}"] = partial(run, step, logits, labels)
    return cases, {"device": jax.devices()[0].device_kind}


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
