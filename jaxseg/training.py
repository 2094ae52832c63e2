"""The train state, and pure functions that update it and evaluate it.

`jaxseg.parallel` compiles these functions for one or many devices.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Key

from jaxseg import metrics
from jaxseg.resizing import resize_logits
from jaxseg.types import Array, Batch, Images


@runtime_checkable
class Model(Protocol):
    """A Flax Linen module, or any object with its ``init`` and ``apply``."""

    def init(self, rngs: Any, /, *args: Any, **kwargs: Any) -> Any:
        """``init(rngs, images, train=False)`` returns the variables."""
        ...

    def apply(self, variables: Any, /, *args: Any, **kwargs: Any) -> Any:
        """``apply(variables, images, train=..., rngs=..., mutable=...)`` returns logits.

        They are ``[B, H, W, K]``, or in training a tuple of logits, finest first, for deep
        supervision. With ``mutable=[...]`` it returns ``(logits, updated collections)``.
        """
        ...


Loss = Callable[..., jax.Array]
"""``loss(logits, labels, *, where=None)``: ``[B]``, or a scalar that is pooled over the batch."""

Augment = Callable[[jax.Array, Batch], Batch]
"""``augment(key, batch) -> batch``."""

StepMetrics = Mapping[str, jax.Array]
Step = Callable[["TrainState", Batch], tuple["TrainState", StepMetrics]]

CACHED_PIXELS = 2 * 256 * 256
"""Pixels of a microbatch whose finest level (16 channels of float32) fits a CPU's cache."""

MAX_CPU_MICROBATCHES = 8
"""On a CPU each microbatch is compiled separately, so more of them take longer to compile."""


class TrainState(struct.PyTreeNode):
    """Everything that training changes, as one pytree.

    Attributes:
        step: int32 scalar, the number of steps done.
        params: The model's parameters.
        collections: The model's other collections, such as ``batch_stats``; often empty.
        opt_state: The optimizer's state.
        key: The run's random key; each step uses ``fold_in(key, step)``.
        ema: Exponential moving average of ``params``, or None.
    """

    # Any, because leaves may be shardings or specs while JAX transforms a pytree.
    step: Any
    params: Any
    collections: Any
    opt_state: Any
    key: Any
    ema: Any = None

    @staticmethod
    def create(
        model: Model,
        tx: optax.GradientTransformation,
        key: Key[jax.Array, ""],
        images: Images | jax.ShapeDtypeStruct,
        *,
        ema: bool = False,
        pretrained: Mapping[str, Any] | None = None,
    ) -> "TrainState":
        """Initializes the parameters and the optimizer.

        Args:
            model: The network. Its ``init`` gets the random keys ``params`` and ``dropout``.
            tx: The optimizer.
            key: A typed random key. Equal keys give equal states.
            images: Example images, or their shape and dtype. Only one row's shape matters.
            ema: Whether to keep a moving average of the parameters.
            pretrained: Variables to start from, such as those of `jaxseg.pretrained.lungs`, instead
                of random ones. The network must have the same shapes. Only a submodule whose name
                starts with ``head`` may differ, for another number of classes. It then keeps its
                random parameters.

        Returns:
            The state before the first step.

        Raises:
            ValueError: ``pretrained`` does not fit the network.

        Examples:
            >>> import jax
            >>> import optax
            >>> import jaxseg
            >>> model, tx = jaxseg.UNet(widths=(4, 8)), optax.adam(1e-3)
            >>> images = jax.ShapeDtypeStruct((1, 32, 32, 1), "uint8")
            >>> state = jaxseg.TrainState.create(model, tx, jax.random.key(0), images)
            >>> int(state.step), sum(leaf.size for leaf in jax.tree.leaves(state.params))
            (0, 1805)
        """
        example = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)

        @jax.jit
        def create(key: jax.Array, pretrained: Mapping[str, Any] | None) -> TrainState:
            params_key, dropout_key, run_key = jax.random.split(key, 3)
            keys = {"params": params_key, "dropout": dropout_key}
            zeros = jnp.zeros(example.shape, example.dtype)
            variables = dict(model.init(keys, zeros, train=False))
            if pretrained is not None:
                variables = _start_from(pretrained, variables)
            params = variables.pop("params")
            return TrainState(
                step=jnp.zeros((), jnp.int32),
                params=params,
                collections=variables,
                opt_state=tx.init(params),
                key=run_key,
                ema=jax.tree.map(jnp.copy, params) if ema else None,
            )

        return create(key, pretrained)

    def variables(self) -> dict[str, Any]:
        """Returns what ``model.apply`` takes to predict, with the averaged parameters if kept."""
        return {"params": self.params if self.ema is None else self.ema, **self.collections}


def make_train_step(
    model: Model,
    tx: optax.GradientTransformation,
    loss: Loss,
    *,
    augment: Augment | None = None,
    microbatches: int | None = None,
    ema_decay: float | None = None,
    axis_name: str | None = None,
) -> Step:
    """Makes the pure function that does one optimizer update.

    The objective is the mean of the loss over the images of the global batch. If the loss or a
    gradient is not finite, the update is skipped: only the step number changes.

    Labels may have a finer grid than the images, as masks often do. The logits are then resized
    bilinearly to the labels' size before the loss.

    Args:
        model: The network; see `Model`. Dropout uses the random key ``dropout``.
        tx: The optimizer.
        loss: ``loss(logits, labels, *, where)``: one value per image, or a scalar that is pooled
            over the global batch. A pooled loss needs jit and no microbatches.
        augment: ``augment(key, batch) -> batch``, applied first; see `jaxseg.augment`.
        microbatches: Number of equal microbatches of a batch. Their gradients are computed one
            after another and averaged, to save memory. Row i belongs to microbatch
            ``i % microbatches``, so that every microbatch is split evenly over the devices. The
            result is that of the whole batch up to rounding, with two exceptions: batch norm sees
            each microbatch alone, and dropout samples other masks. None means 1, except on a
            single CPU device. There it means `cpu_microbatches`, which is faster, if the loss is
            per image and the model has no collections, such as batch statistics.
        ema_decay: Decay of the moving average of the parameters. It warms up as
            ``min(ema_decay, (1 + step) / (10 + step))``. The state needs ``ema=True``.
        axis_name: The mapped axis under `jax.pmap` or `jax.shard_map`. None under jit.

    Returns:
        ``step(state, batch) -> (state, metrics)``. ``batch`` holds ``images``, ``labels`` and
        optionally ``where``, without padding rows. ``metrics`` are the scalars ``loss`` (float32),
        ``images`` (int32, size of the global batch), ``gradient_norm`` (float32, before the
        optimizer) and ``skipped`` (int32, 1 if the update was skipped).

    Raises:
        ValueError: While the step is traced: the loss returns neither one value per image nor a
            scalar; microbatches do not divide the batch; a pooled loss is used with microbatches
            or under ``axis_name``; the batch has ``valid``; the state has no ``ema``.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> import optax
        >>> import jaxseg
        >>> from jaxseg import losses
        >>> model, tx = jaxseg.UNet(widths=(4, 8)), optax.adam(1e-2)
        >>> images = np.random.default_rng(0).random((2, 8, 8, 1), dtype=np.float32)
        >>> batch = {"images": images, "labels": (images[..., 0] > 0.5).astype(np.int32)}
        >>> state = jaxseg.TrainState.create(model, tx, jax.random.key(0), images)
        >>> step = jax.jit(jaxseg.make_train_step(model, tx, losses.cross_entropy))
        >>> for _ in range(40):
        ...     state, measured = step(state, batch)
        >>> int(state.step), int(measured["images"]), bool(measured["loss"] < 0.65)
        (40, 2, True)
    """
    if axis_name is not None:
        model = _with_axis(model, axis_name)
    objective = partial(_objective, model, loss, is_mapped=axis_name is not None)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        if "valid" in batch:
            raise ValueError("a training batch has no 'valid': drop the last partial batch instead")
        key = jax.random.fold_in(state.key, state.step)
        devices = 1
        if axis_name is not None:
            devices = jax.lax.axis_size(axis_name)
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        augment_key, dropout_key = jax.random.split(key)
        if augment is not None:
            batch = augment(augment_key, batch)
        count = microbatches
        if count is None:
            count = 1 if axis_name else _automatic_microbatches(objective, state, batch)
        value, collections, gradients = _gradients(objective, state, batch, dropout_key, count)
        if axis_name is not None:
            value, gradients = jax.lax.pmean((value, gradients), axis_name)
        norm = optax.tree.norm(gradients)
        # Optax mixes Python floats with the int32 step count.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        updated = {
            "params": params,
            "collections": collections,
            "opt_state": opt_state,
            "ema": _moving_average(state.ema, params, state.step, ema_decay),
        }
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        current = {name: getattr(state, name) for name in updated}
        updated = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, current)
        return state.replace(step=state.step + 1, **updated), {
            "loss": value,
            "images": jnp.asarray(devices * batch["images"].shape[0], jnp.int32),
            "gradient_norm": norm,
            "skipped": (~finite).astype(jnp.int32),
        }

    tagged: Any = step
    tagged.axis_name = axis_name  # `jaxseg.parallel` refuses a step made for another kind of map.
    return tagged


def _start_from(pretrained: Mapping[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
    """Returns the pretrained variables, with the head of ``variables`` if its shape differs."""
    paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(variables)
    given = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(pretrained)
    }
    leaves = []
    for path, leaf in paths_and_leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        replacement = given.pop(name, None)
        if replacement is not None and replacement.shape == leaf.shape:
            leaves.append(jnp.asarray(replacement, leaf.dtype))
        elif "/head" in name:
            leaves.append(leaf)
        else:
            found = "missing" if replacement is None else f"of shape {replacement.shape}"
            raise ValueError(
                f"the pretrained variables do not fit the network: {name} is {found} there, and of "
                f"shape {leaf.shape} here"
            )
    if surplus := [name for name in given if "/head" not in name]:
        raise ValueError(
            f"the pretrained variables do not fit the network: it has no {sorted(surplus)[0]}"
        )
    return jax.tree.unflatten(structure, leaves)


class Evaluation(struct.PyTreeNode):
    """Loss and counts of a batch, one row per image.

    Attributes:
        loss: ``[B]`` float32.
        counts: `jaxseg.metrics.Counts`, ``[B, K]``.
        soft_dice: `jaxseg.metrics.SoftDiceSums`, ``[B, K]``.
    """

    loss: Any
    counts: Any
    soft_dice: Any


EvalStep = Callable[[TrainState, Batch], Evaluation]


def make_eval_step(model: Model, loss: Loss, *, multilabel: bool = False) -> EvalStep:
    """Makes the pure function that evaluates a batch, without dropout.

    It uses the averaged parameters if the state keeps them, and resizes the logits to the labels'
    size as in training.

    Args:
        model: The network.
        loss: ``loss(logits, labels, *, where)``, one value per image.
        multilabel: Whether each channel is an independent binary problem; ``labels`` are then
            ``[B, H, W, K]`` of 0 and 1.

    Returns:
        ``eval_step(state, batch) -> Evaluation`` with one row per row of the batch, padding rows
        included. `evaluate` leaves these out.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> import optax
        >>> import jaxseg
        >>> from jaxseg import losses
        >>> model, images = jaxseg.UNet(widths=(4, 8)), np.zeros((3, 8, 8, 1), np.uint8)
        >>> state = jaxseg.TrainState.create(model, optax.adam(1e-3), jax.random.key(0), images)
        >>> eval_step = jax.jit(jaxseg.make_eval_step(model, losses.cross_entropy))
        >>> result = eval_step(state, {"images": images, "labels": np.zeros((3, 8, 8), np.int32)})
        >>> result.loss.shape, result.counts.tp.shape
        ((3,), (3, 1))
    """

    def eval_step(state: TrainState, batch: Batch) -> Evaluation:
        labels, where = jnp.asarray(batch["labels"]), batch.get("where")
        logits = _resized(apply_in_parts(model, state.variables(), batch["images"]), labels)
        predicted = metrics.predicted_labels(logits, multilabel=multilabel)
        # Weights are for the loss. Counts are of pixels.
        valid = None if where is None else jnp.asarray(where).astype(bool)
        options = {"where": valid, "multilabel": multilabel}
        return Evaluation(
            loss=loss(logits, labels, where=where),
            counts=metrics.count(predicted, labels, num_classes=logits.shape[-1], **options),
            soft_dice=metrics.soft_dice_sums(logits, labels, **options),
        )

    return eval_step


class Evaluated(NamedTuple):
    """The result of `evaluate`.

    Attributes:
        loss: Mean loss over the images; NaN without images.
        counts: Pooled `jaxseg.metrics.Counts`, ``[K]`` int64, for ratios over the whole set.
        soft_dice: Pooled `jaxseg.metrics.SoftDiceSums`, ``[K]`` float64.
        images: `Evaluation` with one row per image, in the order of the batches, as NumPy arrays.
    """

    loss: float
    counts: metrics.Counts
    soft_dice: metrics.SoftDiceSums
    images: Evaluation


def evaluate(
    eval_step: EvalStep,
    state: TrainState,
    batches: Iterable[Batch],
    *,
    gather: Callable[[Any], Any] = jax.device_get,
) -> Evaluated:
    """Evaluates all batches of a dataset and leaves padding rows out.

    Args:
        eval_step: From `make_eval_step`, compiled.
        state: The train state.
        batches: Batches with ``images``, ``labels`` and optionally ``where`` and ``valid``, ``[B]``
            bool, False on padding rows. Keep one batch size, so that the step compiles once.
        gather: Copies a pytree of device arrays to the host. With several processes pass
            `jaxseg.parallel.gather_to_host`.

    Returns:
        Mean loss, pooled counts, and the results per image.

    Raises:
        ValueError: There is no batch.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> import optax
        >>> import jaxseg
        >>> from jaxseg import losses, metrics
        >>> model, images = jaxseg.UNet(widths=(4, 8)), np.zeros((4, 8, 8, 1), np.uint8)
        >>> state = jaxseg.TrainState.create(model, optax.adam(1e-3), jax.random.key(0), images)
        >>> eval_step = jax.jit(jaxseg.make_eval_step(model, losses.cross_entropy))
        >>> batch = {"images": images, "labels": np.ones((4, 8, 8), np.int32)}
        >>> padded = {**batch, "valid": np.array([True, False, False, False])}
        >>> result = jaxseg.evaluate(eval_step, state, [batch, padded])
        >>> metrics.dice(result.images.counts).shape, metrics.dice(result.counts).shape
        ((5, 1), (1,))
    """
    results = []
    for batch in batches:
        result = gather(eval_step(state, batch))
        if "valid" in batch:
            valid = np.asarray(gather(batch["valid"]))
            result = jax.tree.map(lambda rows, valid=valid: rows[valid], result)
        results.append(result)
    if not results:
        raise ValueError("evaluate got no batch")
    images = jax.tree.map(lambda *rows: np.concatenate(rows), *results)
    return Evaluated(
        loss=float(images.loss.mean(dtype=np.float64)) if len(images.loss) else math.nan,
        counts=metrics.pooled(images.counts),
        soft_dice=metrics.pooled(images.soft_dice),
        images=images,
    )


def cpu_microbatches(rows: int, height: int, width: int) -> int:
    """Returns how many microbatches to make of a batch: 1, except on a single CPU device.

    There, a step whose activations fit the cache takes up to a third less time
    (benchmarks/NOTES.md). The number is the smallest divisor of ``rows`` that leaves at most
    `CACHED_PIXELS` in a microbatch, and at most `MAX_CPU_MICROBATCHES`.

    Args:
        rows: Number of images.
        height: Their height in pixels.
        width: Their width in pixels.
    """
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return 1
    wanted = min(rows * height * width / CACHED_PIXELS, MAX_CPU_MICROBATCHES)
    divisors = [n for n in range(1, MAX_CPU_MICROBATCHES + 1) if rows % n == 0]
    return next((n for n in divisors if n >= wanted), divisors[-1])


def apply_in_parts(model: Model, variables: Any, images: Images) -> jax.Array:
    """Computes logits without dropout, on a single CPU device in chunks that fit its cache."""
    apply: Callable[..., Any] = partial(model.apply, variables, train=False)
    if not all(isinstance(size, int) for size in images.shape):
        return apply(images)  # An exported program has symbolic sizes.
    parts = jnp.split(jnp.asarray(images), cpu_microbatches(*images.shape[:3]))
    return jnp.concatenate([apply(part) for part in parts])


def _objective(
    model: Model,
    loss: Loss,
    params: Any,
    collections: Any,
    batch: Batch,
    key: jax.Array,
    *,
    is_mapped: bool,
) -> tuple[jax.Array, Any]:
    """The loss of a batch, ``[B]`` or a scalar, and the updated collections."""
    labels = batch["labels"]
    logits, collections = model.apply(
        {"params": params, **collections},
        batch["images"],
        train=True,
        rngs={"dropout": key},
        mutable=list(collections),
    )
    values = loss(_resized(logits, labels), labels, where=batch.get("where"))
    rows = labels.shape[0]
    if values.shape not in ((), (rows,)):
        raise ValueError(
            f"the loss has shape {values.shape}; it must have one value per image, ({rows},), or "
            "be a scalar. Average a loss per pixel over its pixels."
        )
    if values.ndim == 0 and is_mapped:
        raise ValueError("a loss that is pooled over the batch needs jit, not a mapped axis")
    return values, dict(collections)


def _automatic_microbatches(objective: Callable[..., Any], state: TrainState, batch: Batch) -> int:
    count = cpu_microbatches(*batch["images"].shape[:3])
    # A collection may depend on the batch, as batch statistics do.
    if count == 1 or state.collections:
        return 1
    values, _ = jax.eval_shape(objective, state.params, state.collections, batch, state.key)
    return count if values.ndim else 1


def _gradients(
    objective: Callable[..., Any], state: TrainState, batch: Batch, key: jax.Array, count: int
) -> tuple[jax.Array, Any, Any]:
    """Mean loss, collections and gradients, from ``count`` microbatches one after another."""

    def mean_loss(params: Any, collections: Any, part: Batch, key: jax.Array) -> Any:
        values, collections = objective(params, collections, part, key)
        if values.ndim == 0 and count > 1:
            raise ValueError("a loss that is pooled over the batch needs microbatches=1")
        return values.mean() / count, collections

    loss_and_gradients = jax.value_and_grad(mean_loss, has_aux=True)
    if count == 1:
        (value, collections), gradients = loss_and_gradients(
            state.params, state.collections, batch, key
        )
        return value, collections, gradients
    rows = batch["images"].shape[0]
    if rows % count:
        raise ValueError(f"microbatches={count} does not divide {nearest_sizes(rows, count)}")

    def cut(array: Array) -> jax.Array:
        array = jnp.asarray(array)
        return array.reshape(-1, count, *array.shape[1:]).swapaxes(0, 1)

    def add(sums: Any, part_and_key: Any) -> tuple[Any, None]:
        value, collections, gradients = sums
        (more, collections), added = loss_and_gradients(state.params, collections, *part_and_key)
        return (value + more, collections, jax.tree.map(jnp.add, gradients, added)), None

    def one_by_one(sums: Any, parts: Any) -> Any:
        for i in range(count):
            part = jax.tree.map(lambda array, i=i: array[i], parts)
            sums, _ = add(*jax.lax.optimization_barrier((sums, part)))
        return sums

    def in_a_loop(sums: Any, parts: Any) -> Any:
        return jax.lax.scan(add, sums, parts)[0]

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    sums = (jnp.zeros((), jnp.float32), state.collections, zeros)
    parts = ({name: cut(array) for name, array in batch.items()}, jax.random.split(key, count))
    # On a CPU the gradient of a convolution is many times slower inside a loop.
    return jax.lax.platform_dependent(sums, parts, cpu=one_by_one, default=in_a_loop)


def nearest_sizes(rows: int, divisor: int) -> str:
    """Says for an error message which batch sizes near ``rows`` the divisor divides."""
    below = rows // divisor * divisor
    near = f"{below} and {below + divisor}" if below else str(divisor)
    return f"a batch of {rows} images; the nearest sizes that fit are {near}"


def _resized(logits: Any, labels: Array) -> Any:
    """Resizes logits, or the finest of several depths, to finer labels of equal proportions.

    Any other mismatch of sizes is left to the loss, which refuses it.
    """
    if isinstance(logits, tuple):
        return (_resized(logits[0], labels), *logits[1:])
    if logits.ndim != 4 or labels.ndim < 3:
        return logits
    (height, width), (rows, columns) = logits.shape[1:3], labels.shape[1:3]
    is_finer = rows > height and rows * width == columns * height
    return resize_logits(logits, (rows, columns)) if is_finer else logits


def _with_axis(model: Any, axis_name: str) -> Model:
    """Tells a model with a field ``axis_name`` the mapped axis, for its batch norm."""
    return model.clone(axis_name=axis_name) if hasattr(model, "axis_name") else model


def _moving_average(ema: Any, params: Any, step: jax.Array, decay: float | None) -> Any:
    if decay is None:
        return ema
    if ema is None:
        raise ValueError("ema_decay needs a state created with ema=True")
    done = step.astype(jnp.float32)
    rate = 1.0 - jnp.minimum(decay, (1.0 + done) / (10.0 + done))
    return jax.tree.map(lambda old, new: old + rate.astype(old.dtype) * (new - old), ema, params)
