"""The train state and the pure steps on it: one update, one evaluation, many updates at once.

Nothing here knows devices but an optional ``axis_name``; `jaxseg.parallel` compiles the steps.
"""

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Int, Key

from jaxseg import metrics
from jaxseg.resizing import resize_logits
from jaxseg.types import Array, Batch, Images

Loss = Callable[..., jax.Array]
"""``loss(logits, labels, *, where=None)``: ``[B]``, or a scalar over the batch."""

Augment = Callable[..., Batch]
"""``augment(key, batch) -> batch``, where it wants also ``rows``; see `make_train_step`."""

StepMetrics = Mapping[str, jax.Array]
Step = Callable[["TrainState", Batch], tuple["TrainState", StepMetrics]]


class Evaluation(struct.PyTreeNode):
    """What evaluating a batch gives, a row per image.

    Attributes:
        loss: ``[B]`` float32.
        counts: `jaxseg.metrics.Counts`, ``[B, K]``.
        soft_dice: `jaxseg.metrics.SoftDiceSums`, ``[B, K]``.
    """

    loss: Any
    counts: Any
    soft_dice: Any


class TrainState(struct.PyTreeNode):
    """All that training changes, as one pytree.

    Attributes:
        step: int32 scalar, updates done.
        params: The model's parameters.
        collections: The model's other collections (``batch_stats``); empty for most.
        opt_state: The optimiser's state.
        key: The run's key; a step's own key is ``fold_in(key, step)``.
        ema: Exponential moving average of ``params``, or None.
    """

    # Any, because a pytree's leaves may be shardings or specs while JAX transforms it.
    step: Any
    params: Any
    collections: Any
    opt_state: Any
    key: Any
    ema: Any = None

    @staticmethod
    def create(
        model: nn.Module,
        tx: optax.GradientTransformation,
        key: Key[jax.Array, ""],
        images: Images | jax.ShapeDtypeStruct,
        *,
        ema: bool = False,
    ) -> "TrainState":
        """Initialises the parameters and the optimiser.

        Args:
            model: A Linen module with ``__call__(images, *, train)``.
            tx: The optimiser.
            key: A typed key. Equal keys give equal states.
            images: Example images, or their shape and dtype; only these matter, one row does.
            ema: Whether to keep a moving average of the parameters.

        Returns:
            The state before the first step.

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
        def initial(key: jax.Array) -> TrainState:
            init_key, run_key = jax.random.split(key)
            variables = dict(
                model.init(init_key, jnp.zeros(example.shape, example.dtype), train=False)
            )
            params = variables.pop("params")
            return TrainState(
                step=jnp.zeros((), jnp.int32),
                params=params,
                collections=variables,
                opt_state=tx.init(params),
                key=run_key,
                ema=jax.tree.map(jnp.copy, params) if ema else None,
            )

        return initial(key)

    def variables(self) -> dict[str, Any]:
        """What ``model.apply`` takes to predict: averaged parameters where these are kept."""
        return {"params": self.params if self.ema is None else self.ema, **self.collections}


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    loss: Loss,
    *,
    augment: Augment | None = None,
    microbatches: int = 1,
    unroll: bool = True,
    ema_decay: float | None = None,
    axis_name: str | None = None,
) -> Step:
    """Makes the pure function that does one update.

    Labels may be finer than the images, as masks often are than the films a network sees: logits
    are resized bilinearly to the labels' size before the loss. A network that learns from labels
    at its own size, taken from every other pixel, learns them half a mask's pixel off.

    The loss is the sum over rows of loss times ``valid``, over the number of valid rows, both
    over the global batch; so rows that pad a batch change nothing. A loss that is pooled already is
    told them by ``where``. Where the loss or a gradient is not finite, nothing is updated but the
    step's number.

    Args:
        model: A Linen module with ``__call__(images, *, train)``; where it also takes ``valid``
            or ``rows`` (each row's index in the global batch), it is given them. Dropout draws
            from the key collection ``dropout``.
        tx: The optimiser.
        loss: ``loss(logits, labels, *, where)``, one value per image, or a scalar that is
            already pooled over the global batch (under pmap by the loss's own ``axis_name``).
        augment: ``augment(key, batch) -> batch``, done first. Where it takes ``rows`` it is given
            them and may draw from them; under pmap it must.
        microbatches: Into how many equal parts a batch is cut; gradients are summed part by part,
            so that activations of one part at a time are kept. The result is that of the whole
            batch, but for batch norm, whose statistics are each part's. Row ``i`` belongs to part
            ``i % microbatches``, so that every device has its share of every part.
        unroll: Whether the parts' code is repeated, which a CPU needs
            (`jaxseg.parallel.unrolls`), or looped over, which needs the least memory.
        ema_decay: Decay of the moving average of the parameters, reached from below as
            ``(1 + step) / (10 + step)`` so that early parameters are soon forgotten. Needs a
            state created with ``ema=True``.
        axis_name: The mapped axis inside `jax.pmap` or `jax.shard_map`; None under jit.

    Returns:
        ``step(state, batch) -> (state, metrics)``; metrics are the scalars ``loss`` (float32),
        ``images`` (int32, valid rows), ``gradient_norm`` (float32, before the optimiser) and
        ``skipped`` (int32, 1 where nothing was updated).

    Raises:
        ValueError: ``augment`` takes no ``rows`` under pmap; and, by the step while it is traced:
            a loss that gives neither one value per image nor a scalar, a batch that cannot be cut
            into equal parts, a pooled loss with parts, a state that lacks the average that
            ``ema_decay`` needs.

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
    model = _along_axis(model, axis_name)
    apply: Callable[..., Any] = model.apply
    model_takes = _named_arguments(type(model).__call__) & {"valid", "rows"}
    in_pieces = microbatches > 1 or axis_name is not None
    augment_takes = set() if augment is None else _named_arguments(augment) & {"rows"}
    if augment is not None and axis_name is not None and not augment_takes:
        raise ValueError("augment takes no rows: under pmap every device would draw alike")

    def over_devices(tree: Any) -> Any:
        return tree if axis_name is None else jax.lax.psum(tree, axis_name)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(state.key, state.step)
        counted = {"valid": _valid_rows(batch), "rows": _global_rows(batch, axis_name)}
        images = over_devices(counted["valid"].sum(dtype=jnp.int32))
        if augment is not None:
            options = {name: counted[name] for name in augment_takes}
            batch = augment(jax.random.fold_in(key, 1), batch, **options)

        def objective(params: Any, collections: Any, part: Batch) -> tuple[jax.Array, Any]:
            dropout = key
            if in_pieces and "rows" not in model_takes:
                # Else each piece would drop what the others drop; 1 is the augmentation's.
                dropout = jax.random.fold_in(jax.random.fold_in(key, 2), part["rows"][0])
            logits, collections = apply(
                {"params": params, **collections},
                part["images"],
                train=True,
                rngs={"dropout": dropout},
                mutable=list(collections),
                **{name: part[name] for name in model_takes},
            )
            logits = _at_size_of(logits, part["labels"])
            where = part.get("where")
            if "valid" in batch:
                # A loss may have no gradient where there is nothing, and 0 times NaN is NaN.
                logits = jax.tree.map(lambda leaf: _real_rows(leaf, part["valid"]), logits)
                if jax.eval_shape(loss, logits, part["labels"], where=where).ndim == 0:
                    where = _real_pixels(part)
            values = loss(logits, part["labels"], where=where)
            if values.ndim == 0:
                if microbatches > 1:
                    raise ValueError("a loss pooled over the batch cannot be summed over parts")
                # Every device holds the whole value already; the sum over them follows below.
                devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
                return values / devices, dict(collections)
            if values.shape != part["valid"].shape:
                raise ValueError(
                    f"the loss gives {values.shape}, and should give one value per image, "
                    f"{part['valid'].shape}, or a scalar; a loss per pixel wants .mean((1, 2))"
                )
            total = jnp.where(part["valid"], values, 0.0).sum()
            return total / jnp.maximum(images, 1).astype(jnp.float32), dict(collections)

        value, collections, gradients = _summed_over_parts(
            jax.value_and_grad(objective, has_aux=True),
            state,
            {**batch, **counted},
            microbatches=microbatches,
            unroll=unroll,
        )
        value, gradients = over_devices((value, gradients))
        norm = optax.tree.norm(gradients)
        # Optax itself mixes Python floats with the int32 step count.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        updated = {
            "params": params,
            "collections": collections,
            "opt_state": opt_state,
            "ema": _averaged(state.ema, params, state.step, ema_decay),
        }
        kept = {name: getattr(state, name) for name in updated}
        updated = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, kept)
        return state.replace(step=state.step + 1, **updated), {
            "loss": value,
            "images": images,
            "gradient_norm": norm,
            "skipped": (~finite).astype(jnp.int32),
        }

    return step


def make_eval_step(model: nn.Module, loss: Loss) -> Callable[[TrainState, Batch], Evaluation]:
    """Makes the pure function that evaluates a batch: dropout off, averaged parameters where kept.

    Logits are resized to the labels' size first, as for training.

    Args:
        model: A Linen module with ``__call__(images, *, train)``.
        loss: ``loss(logits, labels, *, where)``, one value per image.

    Returns:
        ``evaluate(state, batch) -> Evaluation``, one row per row of the batch. Rows that pad it
        are there too: leave them out by ``valid`` (`jaxseg.metrics.pooled` takes it).

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> import optax
        >>> import jaxseg
        >>> from jaxseg import losses
        >>> model, images = jaxseg.UNet(widths=(4, 8)), np.zeros((3, 8, 8, 1), np.uint8)
        >>> state = jaxseg.TrainState.create(model, optax.adam(1e-3), jax.random.key(0), images)
        >>> evaluate = jax.jit(jaxseg.make_eval_step(model, losses.cross_entropy))
        >>> result = evaluate(state, {"images": images, "labels": np.zeros((3, 8, 8), np.int32)})
        >>> result.loss.shape, result.counts.tp.shape
        ((3,), (3, 1))
    """

    def evaluate(state: TrainState, batch: Batch) -> Evaluation:
        labels, where = jnp.asarray(batch["labels"]), batch.get("where")
        logits: Any = model.apply(state.variables(), batch["images"], train=False)
        logits = _at_size_of(logits, labels)
        predicted = metrics.predicted_labels(logits)
        return Evaluation(
            loss=loss(logits, labels, where=where),
            counts=metrics.count(predicted, labels, num_classes=logits.shape[-1], where=where),
            soft_dice=metrics.soft_dice_sums(logits, labels, where=where),
        )

    return evaluate


def gather_batch(films: Mapping[str, Array], indices: Int[Array, "B"]) -> dict[str, jax.Array]:
    """Takes a batch out of arrays that lie on the device.

    Args:
        films: Arrays with one row per film, at least ``images`` and ``labels``.
        indices: Rows to take; -1 gives a row that only pads the batch.

    Returns:
        The batch, with ``valid``.

    Examples:
        >>> import numpy as np
        >>> from jaxseg.training import gather_batch
        >>> films = {"images": np.arange(3).reshape(3, 1, 1, 1)}
        >>> batch = gather_batch(films, np.array([2, 0, -1]))
        >>> batch["images"].ravel().tolist(), batch["valid"].tolist()
        ([2, 0, 0], [True, True, False])
    """
    indices = jnp.asarray(indices)
    rows = jnp.maximum(indices, 0)
    batch = {name: jnp.take(jnp.asarray(array), rows, axis=0) for name, array in films.items()}
    return {**batch, "valid": indices >= 0}


def make_many_steps(
    step: Step, *, unroll: bool, gather: Callable[..., Batch] = gather_batch
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Makes one program of several steps over films that lie on the device.

    Args:
        step: The step.
        unroll: True repeats the step's code, which a CPU needs: there the gradient of a
            convolution is many times slower inside a loop. False rolls a loop, for accelerators.
        gather: ``gather(films, indices) -> batch``.

    Returns:
        ``many_steps(state, films, indices) -> (state, metrics)``: ``films`` as `gather_batch`
        has them, ``indices`` ``[k, B]`` int32 for k steps, metrics with a leading axis k.
    """

    def many_steps(
        state: TrainState, films: Mapping[str, Array], indices: Int[Array, "k B"]
    ) -> tuple[TrainState, StepMetrics]:
        def one_step(state: TrainState, rows: jax.Array) -> tuple[TrainState, StepMetrics]:
            return step(state, gather(films, rows))

        if not unroll:
            return jax.lax.scan(one_step, state, jnp.asarray(indices))
        # Not scan(unroll=True), which still leaves a loop around a single step.
        measured = []
        for rows in jnp.asarray(indices):
            state, metrics_of_step = one_step(state, rows)
            measured.append(metrics_of_step)
        return state, jax.tree.map(lambda *values: jnp.stack(values), *measured)

    return many_steps


def _at_size_of(logits: Any, labels: Array) -> Any:
    """Logits at the size of finer labels; whatever else does not fit is the loss's to refuse.

    Logits of several depths are left to a loss that takes them.
    """
    if not isinstance(logits, jax.Array) or labels.ndim < 3:
        return logits
    (height, width), (rows, columns) = logits.shape[1:3], labels.shape[1:3]
    finer = rows > height and rows * width == columns * height
    return resize_logits(logits, (rows, columns)) if finer else logits


def _valid_rows(batch: Batch) -> jax.Array:
    rows = batch["images"].shape[0]
    return jnp.asarray(batch["valid"]) if "valid" in batch else jnp.ones(rows, bool)


def _real_rows(leaf: Any, valid: Any) -> Any:
    """An array of a row per film, 0 in rows that pad the batch; any other as it is."""
    if jnp.shape(leaf)[:1] != valid.shape:
        return leaf
    return jnp.where(valid.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, jnp.zeros((), leaf.dtype))


def _real_pixels(batch: Batch) -> jax.Array:
    """``where`` of a batch, False too in the rows that pad it."""
    shape = batch["labels"].shape[:3]
    real = jnp.broadcast_to(batch["valid"].reshape(-1, *(1,) * (len(shape) - 1)), shape)
    return real & batch["where"] if "where" in batch else real


def _global_rows(batch: Batch, axis_name: str | None) -> jax.Array:
    rows = batch["images"].shape[0]
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * rows
    return first + jnp.arange(rows, dtype=jnp.int32)


def _summed_over_parts(
    value_and_grad: Callable[..., Any],
    state: TrainState,
    batch: Batch,
    *,
    microbatches: int,
    unroll: bool,
) -> tuple[jax.Array, Any, Any]:
    """The loss, the collections after all parts, and the gradients, summed over the parts."""

    def add(sums: Any, part: Batch) -> tuple[Any, None]:
        value, collections, gradients = sums
        (more, collections), slope = value_and_grad(state.params, collections, part)
        return (value + more, collections, jax.tree.map(jnp.add, gradients, slope)), None

    if microbatches == 1:
        (value, collections), gradients = value_and_grad(state.params, state.collections, batch)
        return value, collections, gradients
    parts = _parts(batch, microbatches)
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    sums = (jnp.zeros((), jnp.float32), state.collections, zeros)
    if not unroll:
        return jax.lax.scan(add, sums, parts)[0]
    for i in range(microbatches):
        sums, _ = add(sums, jax.tree.map(operator.itemgetter(i), parts))
    return sums


def _parts(batch: Batch, microbatches: int) -> dict[str, jax.Array]:
    """Row ``i`` to part ``i % microbatches``; parts are the new first axis."""
    rows = batch["images"].shape[0]
    if rows % microbatches:
        raise ValueError(f"a batch of {rows} rows cannot be cut into {microbatches} equal parts")

    def cut(array: Array) -> jax.Array:
        array = jnp.asarray(array)
        return array.reshape(-1, microbatches, *array.shape[1:]).swapaxes(0, 1)

    return {name: cut(array) for name, array in batch.items()}


def _named_arguments(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


def _along_axis(model: nn.Module, axis_name: str | None) -> nn.Module:
    """The same model, told the mapped axis where it has a field for it."""
    if axis_name is None or not hasattr(model, "axis_name"):
        return model
    return model.clone(axis_name=axis_name)


def _averaged(ema: Any, params: Any, step: jax.Array, decay: float | None) -> Any:
    if decay is None:
        return ema
    if ema is None:
        raise ValueError("ema_decay needs a state created with ema=True")
    done = step.astype(jnp.float32)
    decay_now = jnp.minimum(decay, (1.0 + done) / (10.0 + done))
    return jax.tree.map(
        lambda old, new: old + (1.0 - decay_now).astype(old.dtype) * (new - old), ema, params
    )
