"""The options of a run in groups: data, network, optimization."""

import dataclasses
import math
import re
import typing
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
from tyro.conf import Suppress, arg

import jaxseg
from jaxseg import losses
from jaxseg.data.near_duplicates import MAX_HASH_DISTANCE
from jaxseg.data.preprocessing import Preprocessing
from jaxseg.data.sampling import Sampling
from jaxseg.errors import InputError

SOURCE = "source:"
"""Prefix of ``--split`` for a held-out source."""

FOLD = re.compile(r"fold:(\d+)/(\d+)")
"""``--split`` for cross-validation: the fold to test on, and the number of folds."""

PATHS = ("manual_dir", "data_dir", "images", "masks", "table")
"""Options that depend on the machine and do not change the result."""

LOSSES = tuple(
    name for name in losses.__all__ if "logits" in signature(getattr(losses, name)).parameters
)


def check_both_folders(images: Path | None, masks: Path | None) -> None:
    """Raises InputError if one folder is given without the other."""
    if (images is None) != (masks is None):
        missing = "--masks" if masks is None else "--images"
        raise InputError(f"{missing}: --images and --masks go together")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check_choices(options: Any) -> None:
    """Checks fields of type Literal."""
    for name, hint in typing.get_type_hints(type(options)).items():
        choices = typing.get_args(hint)
        if typing.get_origin(hint) is Literal and getattr(options, name) not in choices:
            named = ", ".join(map(str, choices))
            raise InputError(f"{_option(name)}: {getattr(options, name)!r} is not one of {named}")


def _check_least(options: Any, least: int, *names: str) -> None:
    """Checks numbers; None is valid and NaN is not."""
    for name in names:
        if (value := getattr(options, name)) is not None and not value >= least:
            raise InputError(f"{_option(name)}: must be at least {least}, got {value:g}")


@dataclasses.dataclass(frozen=True)
class Data:
    """Which images to train on, and how they are resized."""

    #: Folder of the COVID-19 Radiography Database: Kaggle's archive, or what it unpacks to.
    manual_dir: Path | None = None
    #: Folder for prepared data and caches. Default: your cache directory.
    data_dir: Path | None = None
    #: Which classes of the database to use.
    data_config: Literal["all", "covid", "normal", "lung_opacity", "viral_pneumonia"] = "all"
    #: Folder of your images, instead of the database: PNG, JPEG, TIFF, BMP or DICOM.
    images: Path | None = None
    #: Folder of their masks. A mask has the name of its image.
    masks: Path | None = None
    #: Text at the end of the masks' names, such as _mask.
    mask_suffix: str = ""
    #: Mask values of each class: lungs=150,200 heart=250. A value is a palette index or a gray
    #: level. Default: one class, gray levels above 127.
    classes: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE,...")] = ()
    #: Mask values of the background, with --classes. Other values become background with a
    #: warning; if they are more than 1 % of the object, they are an error.
    background: tuple[int, ...] = (0,)
    #: Mask values of pixels to leave out of the loss and the scores.
    ignore: tuple[int, ...] = ()
    #: CSV file about --images: a column image and a column group, split or both. Images of one
    #: group share a split. The column split holds train, validation or test.
    table: Path | None = None
    #: Images share a split if their perceptual hashes differ in at most this many of 1,023 bits.
    #: Calibrated on chest X-rays. Use less if unrelated images are grouped.
    near_duplicate_bits: int = MAX_HASH_DISTANCE
    #: Skip invalid images and list them, instead of stopping with an error.
    skip_bad: bool = False
    #: grouped: 70/10/20, near-duplicates and patients kept together. random: 70/30, no validation.
    #: fold:I/K: cross-validation, tested on fold I of K, with groups as in grouped.
    #: model-selection: to choose a configuration, without the test images of grouped and random.
    #: source:TEXT: test on images whose source URL contains TEXT.
    split: Annotated[str, arg(metavar="RULE")] = "grouped"
    #: Height and width of the network's images in pixels.
    size: int = 256
    #: Height and width at which the loss is computed, if larger than --size. Logits are resized to
    #: it. Default: --size.
    label_size: int | None = None
    #: 1 for gray images, 3 for RGB.
    channels: Literal[1, 3] = 1
    #: How images are resized. Masks are always resized by nearest neighbor.
    image_resize: Literal["bilinear", "nearest"] = "bilinear"
    #: Change of gray levels before resizing.
    preprocessing: Preprocessing = "none"
    #: device: keep all images on every device. stream: decode them batch by batch. auto: device if
    #: they fit into half of its free memory, otherwise stream.
    input_path: Literal["auto", "device", "stream"] = "auto"
    #: Number of synthetic images, for a configuration that needs no download.
    phantoms: Annotated[int | None, Suppress] = None

    def check(self) -> None:
        """Raises InputError that names an invalid option."""
        _check_choices(self)
        _check_least(self, 1, "size", "label_size")
        _check_least(self, 0, "near_duplicate_bits")
        rules = ("grouped", "random", "model-selection")
        has_rule = self.split in rules or self.split.startswith(SOURCE)
        if not has_rule and not FOLD.fullmatch(self.split):
            raise InputError(f"--split: must be {', '.join(rules)}, fold:I/K or {SOURCE}TEXT")
        check_both_folders(self.images, self.masks)
        if self.images is not None and self.manual_dir is not None:
            raise InputError(
                "--manual-dir: cannot be combined with --images. Use the database or your folders"
            )
        if self.images is not None and self.input_path == "stream":
            raise InputError("--input-path stream: needs the database. Use auto or device")
        has_groups = self.split in ("grouped", "model-selection") or FOLD.fullmatch(self.split)
        if self.table is not None and not has_groups:
            raise InputError("--table: needs --split grouped, fold:I/K or model-selection")
        self.mask_values()
        for name in ("table", "classes", "ignore", "mask_suffix", "near_duplicate_bits"):
            if self.images is None and getattr(self, name) != getattr(Data, name):
                raise InputError(f"{_option(name)}: needs --images and --masks")

    def mask_values(self) -> dict[str, tuple[int, ...]]:
        """Returns the mask values of every named class. Raises InputError if one is invalid."""
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
            raise InputError(
                f"--classes: mask value {min(twice)} is assigned to two classes. "
                "Give each value to one class"
            )
        return named

    def class_names(self) -> list[str]:
        """Returns the names of the classes but the background; one name for one class."""
        return list(self.mask_values()) or ["lungs" if self.images is None else "object"]

    def sampling(self) -> Sampling:
        """Returns how images and masks are resized; labels are never smaller than images."""
        return Sampling(
            self.size,
            max(self.size, self.label_size or self.size),
            channels=self.channels,
            resize=self.image_resize,
            preprocessing=self.preprocessing,
        )


@dataclasses.dataclass(frozen=True)
class Network:
    """The U-Net."""

    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Channels of each level, finest first."""
    norm: Literal["none", "batch", "group", "instance"] = "none"
    """Normalization after each convolution."""
    norm_groups: int = 8
    """Number of groups for --norm group. It must divide every width."""
    dropout: tuple[float, ...] = (0.0,)
    """Dropout rate after each pooling: one rate, or one per pooling."""
    decoder_dropout: float = 0.0
    """Dropout rate after each concatenation."""
    deep_supervision: bool = False
    """Compute the loss at every decoder level."""
    bfloat16: bool = False
    """Compute in bfloat16. Parameters stay float32."""
    remat: tuple[int, ...] = ()
    """Levels (0 is the finest) to rematerialize in the backward pass: less memory, more compute."""

    def check(self) -> None:
        """Raises InputError that names an invalid option."""
        _check_choices(self)
        _check_least(self, 1, "norm_groups")
        poolings = len(self.widths) - 1
        if poolings < 1 or min(self.widths) < 1:
            raise InputError("--widths: needs two or more positive numbers")
        if self.norm == "group" and any(width % self.norm_groups for width in self.widths):
            raise InputError(f"--norm-groups: {self.norm_groups} does not divide all --widths")
        if len(self.dropout) not in (1, poolings):
            raise InputError(f"--dropout: needs one rate, or {poolings}, one per pooling")
        if not set(self.remat) <= set(range(poolings + 1)):
            raise InputError(f"--remat: levels are 0 to {poolings}")
        if not all(0 <= rate < 1 for rate in (*self.dropout, self.decoder_dropout)):
            raise InputError("--dropout, --decoder-dropout: must be at least 0 and below 1")

    def model(self, num_classes: int) -> jaxseg.UNet:
        """Returns the network with this number of logit channels."""
        return jaxseg.UNet(
            num_classes=num_classes,
            widths=self.widths,
            norm=self.norm,
            norm_groups=self.norm_groups,
            dropout=self.dropout[0] if len(self.dropout) == 1 else self.dropout,
            decoder_dropout=self.decoder_dropout,
            deep_supervision=self.deep_supervision,
            dtype=jnp.bfloat16 if self.bfloat16 else jnp.float32,
            remat=self.remat,
        )


@dataclasses.dataclass(frozen=True)
class Optimization:
    """Loss, optimizer and schedule."""

    #: Weighted sum of losses of jaxseg.losses: cross_entropy soft_dice=0.5.
    loss: Annotated[tuple[str, ...], arg(metavar="NAME[=WEIGHT] ...")] = ("cross_entropy",)
    #: Start from trained weights: lungs, the pretrained network, or a run directory. --widths
    #: and --norm must be equal; for other classes the last layer is random. Default: all are
    #: random.
    init: Annotated[str | None, arg(metavar="lungs|RUN")] = None
    #: sgd has Nesterov momentum 0.9. With --weight-decay, adam is AdamW.
    optimizer: Literal["adam", "lion", "sgd"] = "adam"
    #: Passes over the training images.
    epochs: int = 30
    #: Stop after this many epochs in a row without a better validation Dice. Default: never.
    patience: int | None = None
    #: Global batch size: images per step over all devices.
    batch_size: int = 16
    #: Split each batch into this many chunks and accumulate gradients, to save memory. Batch norm
    #: statistics are per chunk. Default: 1, or on a single CPU device whatever is fastest.
    microbatches: int | None = None
    #: Peak learning rate.
    learning_rate: float = 5e-4
    #: cosine: 5 % linear warm-up, then cosine decay to zero.
    schedule: Literal["constant", "cosine"] = "constant"
    #: Epsilon of adam.
    adam_epsilon: float = 1e-8
    #: Decoupled weight decay of the kernels.
    weight_decay: float = 0.0
    #: Clip gradients to this global norm. Default: no clipping.
    clip_norm: float | None = None
    #: Decay of the exponential moving average (EMA) of the parameters. If set, the EMA is used for
    #: evaluation and prediction. Default: no EMA.
    ema_decay: float | None = None
    #: Updates that are not finite are skipped. This many in a row end the run.
    skipped_in_a_row: int = 10
    #: Random seed of initialization, order, dropout and augmentation.
    seed: int = 0

    def check(self) -> None:
        """Raises InputError that names an invalid option."""
        _check_choices(self)
        _check_least(
            self, 1, "epochs", "batch_size", "microbatches", "patience", "skipped_in_a_row"
        )
        _check_least(self, 0, "weight_decay", "ema_decay", "seed")
        for name in ("learning_rate", "adam_epsilon", "clip_norm"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise InputError(f"{_option(name)}: must be above 0, got {value:g}")
        if self.ema_decay is not None and self.ema_decay >= 1:
            raise InputError(f"--ema-decay: must be below 1, got {self.ema_decay:g}")
        if self.seed >= 2**32:
            raise InputError("--seed: must be below 4294967296")
        self.loss_weights()

    def loss_weights(self) -> dict[str, float]:
        """Returns the weight of each loss by its name.

        Raises InputError if a name is unknown or there twice, or if a weight is not positive.
        """
        weights: dict[str, float] = {}
        for text in self.loss:
            name, _, weight = text.partition("=")
            if name not in LOSSES or name in weights:
                wrong = "is there twice" if name in weights else "is not a loss"
                raise InputError(f"--loss: {name!r} {wrong}. Losses are {', '.join(LOSSES)}")
            try:
                weights[name] = float(weight or 1.0)
            except ValueError:
                weights[name] = 0.0
            if not 0 < weights[name] < math.inf:
                raise InputError(f"--loss: {text!r} needs a positive weight")
        if not weights:
            raise InputError(f"--loss: name one or more of {', '.join(LOSSES)}")
        return weights

    def transformation(self, steps: int) -> optax.GradientTransformation:
        """Returns the optimizer for a run of this many steps."""
        rate = self.learning_rate
        if self.schedule == "cosine":
            rate = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 20, steps)
        chain = [] if self.clip_norm is None else [optax.clip_by_global_norm(self.clip_norm)]
        chain.append(
            {
                "adam": optax.scale_by_adam(eps=self.adam_epsilon),
                "lion": optax.scale_by_lion(),
                "sgd": optax.trace(decay=0.9, nesterov=True),
            }[self.optimizer]
        )
        if self.weight_decay:
            is_kernel = partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
            chain.append(optax.add_decayed_weights(self.weight_decay, mask=is_kernel))
        return optax.chain(*chain, optax.scale_by_learning_rate(rate))
