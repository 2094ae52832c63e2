"""Your images and masks, with one class or several.

Command: ``python -m experiments.train custom --images DIR --masks DIR --classes left=1 right=2``
One class is trained with a sigmoid; two or more with a softmax that includes the background.
"""

from experiments.configuration import Configuration
from experiments.options import Data, Network, Optimization
from jaxseg.augment import ROBUST

CUSTOM = Configuration(
    name="custom",
    data=Data(size=128),
    network=Network(widths=(8, 16, 32, 64, 128), norm="batch"),
    optimization=Optimization(
        loss=("cross_entropy", "soft_dice"),
        epochs=30,
        batch_size=8,
        learning_rate=2e-3,
        schedule="cosine",
        weight_decay=1e-4,
    ),
    augment=ROBUST,
)
