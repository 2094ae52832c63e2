"""Films and masks of one's own, of one class or several.

Command: ``python -m experiments.train own --images DIR --masks DIR --classes left=1 right=2``
Two or more classes are learnt by softmax, with the background; one, or none named, by sigmoid.
"""

from experiments.configuration import Configuration
from jaxseg import augment, losses

OWN = Configuration(
    name="own",
    size=128,
    widths=(8, 16, 32, 64, 128),
    norm="batch",
    augment=augment.ROBUST,
    loss=losses.combine({losses.cross_entropy: 1.0, losses.soft_dice: 1.0}),
    epochs=30,
    batch_size=8,
    learning_rate=2e-3,
    schedule="cosine",
    weight_decay=1e-4,
)
