"""All four classes, duplicates kept in one split, batch norm, overlap in the loss, augmentation.

Command: ``python -m experiments.train lungs --manual-dir DIR``
A starting point: chosen by what is known to help, not yet by measurement on these films.
"""

from experiments.configuration import Configuration
from jaxseg import augment, losses

LUNGS = Configuration(
    name="lungs",
    data_config="all",
    split="grouped",
    size=256,
    norm="batch",
    augment=augment.ROBUST,
    loss=losses.combine({losses.cross_entropy: 1.0, losses.soft_dice: 1.0}),
    epochs=30,
    learning_rate=2e-3,
    schedule="cosine",
    weight_decay=1e-4,
    ema_decay=0.99,
)
