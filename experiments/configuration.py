"""The configuration of a run: what to train, on which data. A run keeps it in ``config.json``."""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tyro.conf import OmitArgPrefixes, Suppress

import jaxseg
from experiments.options import PATHS, Data, Network, Optimization
from jaxseg import losses
from jaxseg.augment import UNCHANGED, Strengths
from jaxseg.errors import InputError
from jaxseg.training import Loss, TrainState


@dataclasses.dataclass(frozen=True)
class Configuration:
    """What a run trains, and on which data. The command line overrides any option."""

    name: Annotated[str, Suppress]
    data: OmitArgPrefixes[Data] = Data()
    network: OmitArgPrefixes[Network] = Network()
    optimization: OmitArgPrefixes[Optimization] = Optimization()
    augment: Strengths = UNCHANGED

    def __post_init__(self) -> None:
        """Raises InputError that names an invalid option, or a loss that the classes do not fit."""
        # Not in the groups themselves: the option parser would wrap their errors.
        self.data.check()
        self.network.check()
        self.optimization.check()
        logits = jax.ShapeDtypeStruct((1, 32, 32, self.num_classes), jnp.float32)
        labels = jax.ShapeDtypeStruct((1, 32, 32), jnp.int32)
        for name in self.optimization.loss_weights():
            try:
                jax.eval_shape(getattr(losses, name), logits, labels)
            except ValueError as error:
                raise InputError(f"--loss {name}: {error}") from None

    @property
    def num_classes(self) -> int:
        """Number of logit channels: 1 for one class, else one each and one for the background."""
        count = len(self.data.classes)
        return count + 1 if count > 1 else 1

    def model(self) -> jaxseg.UNet:
        """Returns the network."""
        return self.network.model(self.num_classes)

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """Returns the optimizer for a run of this many steps."""
        return self.optimization.transformation(steps)

    def loss(self) -> Loss:
        """Returns the loss function."""
        weights = self.optimization.loss_weights()
        loss = losses.combine({getattr(losses, name): w for name, w in weights.items()})
        return losses.deep_supervision(loss) if self.network.deep_supervision else loss

    def key(self) -> jax.Array:
        """Returns the random key of the run, which does not depend on JAX's default generator."""
        return jax.random.key(self.optimization.seed, impl="threefry2x32")

    def state(self, tx: optax.GradientTransformation, **options: Any) -> TrainState:
        """Returns the state before the first step, see `jaxseg.TrainState.create`."""
        size, has_ema = self.data.size, self.optimization.ema_decay is not None
        images = jax.ShapeDtypeStruct((1, size, size, self.data.channels), np.uint8)
        return TrainState.create(self.model(), tx, self.key(), images, ema=has_ema, **options)

    def with_seed(self, seed: int) -> "Configuration":
        """Returns the same configuration with another random seed."""
        return dataclasses.replace(
            self, optimization=dataclasses.replace(self.optimization, seed=seed)
        )

    def with_data(self, **changed: Any) -> "Configuration":
        """Returns the same configuration with other data options."""
        return dataclasses.replace(self, data=dataclasses.replace(self.data, **changed))

    def as_json(self, *, with_paths: bool = True) -> dict[str, Any]:
        """Returns plain values for ``config.json``. Paths become absolute, or None if unwanted."""
        values = dataclasses.asdict(self)
        for name in PATHS:
            # A run may be used from another working directory.
            path = values["data"][name] if with_paths else None
            values["data"][name] = None if path is None else Path(path).absolute()
        return json.loads(json.dumps(values, default=str))


def from_json(values: Mapping[str, Any]) -> Configuration:
    """Reads what `Configuration.as_json` wrote. Absent options have their default.

    Raises:
        InputError: An option is unknown or invalid.
    """
    return _from_json(Configuration(name=str(values.get("name"))), values)


def one_sided(class_names: Iterable[str]) -> str | None:
    """Returns the first class whose name says that it is on one side of the body."""
    word = re.compile("(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)
    return next((name for name in class_names if word.search(name)), None)


def _from_json(default: Any, values: Mapping[str, Any]) -> Any:
    if unknown := sorted(values.keys() - vars(default).keys()):
        raise InputError(f"config.json: has unknown options: {', '.join(unknown)}")
    read = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(before := getattr(default, name)):
            read[name] = _from_json(before, value)
        elif isinstance(before, tuple):
            read[name] = tuple(value)
        else:
            read[name] = Path(value) if name in PATHS and value is not None else value
    return dataclasses.replace(default, **read)
