"""What a run is made of: one frozen dataclass, kept in the run's ``config.json``."""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
from tyro.conf import Suppress, arg

import jaxseg
from jaxseg import losses
from jaxseg.augment import UNCHANGED, Strengths
from jaxseg.data.near_duplicates import MAX_HASH_DISTANCE
from jaxseg.data.preprocessing import Preprocessing
from jaxseg.data.sampling import Sampling
from jaxseg.errors import InputError
from jaxseg.training import Loss

SOURCE = "source:"
"""What stands before the held-out source's text in ``--split``."""

PLACES = ("manual_dir", "data_dir", "images", "masks", "groups")
"""Fields that say where things lie on one machine and do not change the result."""


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One run of an experiment. The command line overrides any field."""

    name: Annotated[str, Suppress]
    """The configuration's name."""

    manual_dir: Path | None = None
    """Folder that holds Kaggle's archive, or its unpacked folder. Phantoms need none."""
    data_dir: Path | None = None
    """Where prepared data and arrays are kept; the user's cache unless given."""
    data_config: Literal["all", "covid", "normal", "lung_opacity", "viral_pneumonia"] = "all"
    """Which classes of films."""
    skip_bad: bool = False
    """Leave out films that will not do, and count them in the report, in place of an error."""
    images: Path | None = None
    """Folder of images instead of an archive: PNG, JPEG, TIFF, BMP or DICOM; goes with --masks."""
    masks: Path | None = None
    """Folder of their masks, each named as its film."""
    groups: Path | None = None
    """CSV file with a column image and a column group, split or both. Images of one group, such as
    a patient, share a split. The column split (train, validation, test) sets the splits."""
    near: int = MAX_HASH_DISTANCE
    """Films of one's own share a split if their perceptual hashes differ in so few of 1,023 bits.
    Measured on chest films; other pictures may all look alike by it, and need less."""
    classes: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE,...")] = ()
    """What the masks' values mean: lungs=150,200 heart=250. In a palette picture a value is the
    index, else the grey; all others are background. One class, grey above 127, unless given."""
    background: tuple[int, ...] = (0,)
    """Mask values of the background, if --classes are named. Other values are an error."""
    ignore: tuple[int, ...] = ()
    """Mask values of pixels to leave out of the loss and the scores."""
    mask_suffix: str = ""
    """Text at the end of the masks' names, such as _mask."""
    split: Annotated[str, arg(metavar="seed|grouped|choosing|source:TEXT")] = "grouped"
    """seed: 70/30 by permutation, nothing selected. grouped: 70/10/20, duplicates kept together.
    choosing: to choose a recipe by; films that seed or grouped tests on are left out, and the
    validation films of grouped are scored. source:TEXT: test on films whose source's address holds
    TEXT, learn from all others."""
    size: int = 256
    """Side in pixels that films are resized to for the network."""
    label_size: int | None = None
    """Side that masks are resized to for the loss, where that is more than --size; logits are then
    resized to it, so that a network learns from finer masks than the films it sees."""
    film_resize: Literal["bilinear", "nearest"] = "bilinear"
    """How films are resized; masks always nearest."""
    preprocessing: Preprocessing = "none"
    """What is done to films' grey values first; clahe and equalize need scikit-image."""
    phantom_films: Annotated[int | None, Suppress] = None
    """How many phantoms are drawn where no archive is used; None where an archive is needed."""

    input_path: Literal["auto", "device", "stream"] = "auto"
    """device: keep all images on every device. stream: decode them batch by batch. auto: device if
    they fit into half of its free memory, otherwise stream."""

    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Features of each level of the U-Net, finest first."""
    norm: Literal["none", "batch", "group", "instance"] = "none"
    """Normalization after each convolution."""
    norm_groups: int = 8
    """Number of groups of --norm group; it must divide every width."""
    dropout: tuple[float, ...] = (0.0,)
    """Dropout rate after each pool; one rate serves all."""
    decoder_dropout: float = 0.0
    """Dropout rate after each concatenation."""
    bfloat16: bool = False
    """Compute in bfloat16; parameters and sums stay float32."""
    remat: tuple[int, ...] = ()
    """Levels, 0 the finest, computed again for the gradient: less memory, more work."""

    augment: Strengths = UNCHANGED
    """How far training films are changed at random."""

    loss: Annotated[Loss, Suppress] = losses.cross_entropy
    """The loss; a configuration module sets it."""
    epochs: int = 30
    """Passes over the training films."""
    batch_size: int = 16
    """Films a step, over all devices."""
    microbatches: int | None = None
    """Parts of a batch that are computed one after another, to save memory. Batch norm sees each
    part alone. Default: 1, or on a single CPU device as many as are fastest."""
    learning_rate: float = 5e-4
    """Adam's, at its peak."""
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine: 5 % linear warm-up, then down to zero at the last step."""
    adam_epsilon: float = 1e-8
    """Adam's epsilon."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the kernels."""
    clip_norm: float | None = None
    """Largest norm of the gradient of all parameters together; none clips nothing."""
    ema_decay: float | None = None
    """Decay of the moving average of the parameters that predictions use; none keeps none."""
    skipped_in_a_row: int = 10
    """An update that is not finite is skipped; so many in a row end the run."""
    seed: int = 0
    """Seed of initialisation, order, dropout and augmentation."""

    def __post_init__(self) -> None:
        """Refuses what cannot be trained.

        Raises:
            InputError: Naming the option.
        """
        counts = ("size", "label_size", "epochs", "batch_size", "microbatches", "skipped_in_a_row")
        for field in counts:
            if (value := getattr(self, field)) is not None and value < 1:
                raise InputError(f"--{field.replace('_', '-')}: must be at least 1")
        rules = ("seed", "grouped", "choosing")
        if self.split not in rules and not self.split.startswith(SOURCE):
            known = f"{', '.join(rules)} and {SOURCE}TEXT"
            raise InputError(f"--split: {self.split!r} is none of {known}")
        if (self.images is None) != (self.masks is None):
            missing = "--masks" if self.masks is None else "--images"
            raise InputError(f"{missing}: --images and --masks go together")
        if self.images is not None and self.manual_dir is not None:
            raise InputError("--manual-dir: an archive and --images exclude each other")
        if self.groups is not None and (
            self.images is None or self.split not in ("grouped", "choosing")
        ):
            raise InputError(
                "--groups: goes with --images, --masks and --split grouped or choosing"
            )
        if self.near != MAX_HASH_DISTANCE and self.images is None:
            raise InputError("--near: goes with --images and --masks")
        if self.near < 0:
            raise InputError("--near: must not be negative")
        if self.images is not None and self.input_path == "stream":
            raise InputError("--input-path: films of one's own are not streamed, only an archive's")
        self.mask_values()
        for field in ("classes", "ignore", "mask_suffix"):
            if getattr(self, field) and self.images is None:
                option = field.replace("_", "-")
                raise InputError(f"--{option}: goes with --images and --masks")
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise InputError("--widths: needs two or more positive numbers, finest level first")
        if len(self.dropout) not in (1, len(self.widths) - 1):
            raise InputError(
                f"--dropout: needs one rate or {len(self.widths) - 1}, one for each pool"
            )
        if not set(self.remat) <= set(range(len(self.widths))):
            raise InputError(f"--remat: levels are 0 to {len(self.widths) - 1}")
        if not all(0 <= rate < 1 for rate in (*self.dropout, self.decoder_dropout)):
            raise InputError("--dropout and --decoder-dropout: rates lie in [0, 1)")
        for field in ("learning_rate", "adam_epsilon", "clip_norm"):
            # Worded so that NaN is refused too.
            if (value := getattr(self, field)) is not None and not value > 0:
                raise InputError(f"--{field.replace('_', '-')}: must be above 0")
        if not self.weight_decay >= 0:
            raise InputError("--weight-decay: must not be negative")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise InputError("--ema-decay: lies in [0, 1)")
        if not 0 <= self.seed < 2**32:
            raise InputError("--seed: lies between 0 and 4294967295")

    def check_new(self) -> str | None:
        """Refuses what no run should begin with, though older ones may have; or has a warning.

        Raises:
            InputError: Naming the option.
        """
        sided = one_sided(self.mask_values())
        if self.augment.flip_left_right and sided:
            return f"--augment.flip-left-right: a flipped film has its {sided} on the other side"
        return None

    def mask_values(self) -> dict[str, tuple[int, ...]]:
        """The classes by name, background left out, with their masks' values; empty for one class.

        Raises:
            InputError: ``classes`` is no such list, or names a class or a value twice.
        """
        named: dict[str, tuple[int, ...]] = {}
        for text in self.classes:
            name, _, listed = text.partition("=")
            values = listed.split(",")
            if not name or not all(value.isdecimal() for value in values):
                raise InputError(f"--classes: {text!r} is not NAME=VALUE,VALUE with whole numbers")
            if name in named:
                raise InputError(f"--classes: {name} is there twice")
            named[name] = tuple(map(int, values))
        everything = [value for values in named.values() for value in values]
        if twice := {value for value in everything if everything.count(value) > 1}:
            raise InputError(f"--classes: {min(twice)} stands for two classes")
        return named

    def key(self) -> jax.Array:
        """The random key of a run, of one generator whatever JAX's default is."""
        return jax.random.key(self.seed, impl="threefry2x32")

    def sampling(self) -> Sampling:
        """How images and masks are resized."""
        return Sampling(
            self.size,
            self.size_of_labels(),
            resize=self.film_resize,
            preprocessing=self.preprocessing,
        )

    def size_of_labels(self) -> int:
        """The side of the labels to learn from, never less than the films'."""
        return max(self.size, self.label_size or self.size)

    def model(self) -> jaxseg.UNet:
        """The network: binary for one class, else a channel for each and for the background."""
        count = len(self.classes)
        return jaxseg.UNet(
            num_classes=count + 1 if count > 1 else 1,
            widths=self.widths,
            norm=self.norm,
            norm_groups=self.norm_groups,
            dropout=self.dropout[0] if len(self.dropout) == 1 else self.dropout,
            decoder_dropout=self.decoder_dropout,
            dtype=jnp.bfloat16 if self.bfloat16 else jnp.float32,
            remat=self.remat,
        )

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """Adam for a run of so many steps, after clipping where that is asked for."""
        rate = self.learning_rate
        if self.schedule == "cosine":
            rate = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 20, steps)
        if self.weight_decay:
            adam = optax.adamw(
                rate,
                eps=self.adam_epsilon,
                weight_decay=self.weight_decay,
                mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
            )
        else:
            adam = optax.adam(rate, eps=self.adam_epsilon)
        if self.clip_norm is None:
            return adam
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), adam)

    def as_json(self) -> dict[str, Any]:
        """Plain values for ``config.json``; the loss by its name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["loss"] = loss_name(self.loss)
        for name in PLACES:
            # A run may be used from another working directory.
            values[name] = None if values[name] is None else Path(values[name]).absolute()
        values["augment"] = dataclasses.asdict(self.augment)
        return json.loads(json.dumps(values, default=str))


def one_sided(objects: Iterable[str]) -> str | None:
    """A class whose name says that it is of one side, if there is one."""
    word = re.compile("(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)
    sides = [name for name in objects if word.search(name)]
    return sides[0] if sides else None


def loss_name(loss: Loss) -> str:
    """The loss as code would write it."""
    return getattr(loss, "__name__", repr(loss))


def with_defaults(kept: Mapping[str, Any]) -> dict[str, Any]:
    """What `Configuration.as_json` wrote, maybe before there were some of today's options.

    A run from before there was an option is as one that leaves it at its default.

    Raises:
        InputError: An option is unknown.
    """
    defaults = Configuration(name=kept["name"]).as_json()
    unknown = [
        *(kept.keys() - defaults.keys()),
        *(kept.get("augment", {}).keys() - defaults["augment"].keys()),
    ]
    if unknown:
        raise InputError(f"config.json: has unknown options: {', '.join(sorted(unknown))}")
    return defaults | dict(kept) | {"augment": defaults["augment"] | kept.get("augment", {})}


def from_json(values: Mapping[str, Any], like: Configuration) -> Configuration:
    """Reads what `Configuration.as_json` wrote; the loss is taken from ``like``."""
    known = {field.name for field in dataclasses.fields(Configuration)} - {"loss"}
    fields = {name: value for name, value in with_defaults(values).items() if name in known}
    for name in ("widths", "dropout", "remat", "classes", "background", "ignore"):
        fields[name] = tuple(fields[name])
    fields["augment"] = Strengths(**fields["augment"])
    for name in PLACES:
        fields[name] = None if fields[name] is None else Path(fields[name])
    return dataclasses.replace(like, **fields)
