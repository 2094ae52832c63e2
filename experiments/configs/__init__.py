"""The configurations, by the name that ``python -m experiments.train`` takes."""

from experiments.configs.baseline import BASELINE
from experiments.configs.custom import CUSTOM
from experiments.configs.lungs import LUNGS
from experiments.configs.phantom import PHANTOM
from experiments.configuration import Configuration

CONFIGURATIONS: dict[str, Configuration] = {
    configuration.name: configuration for configuration in (PHANTOM, BASELINE, LUNGS, CUSTOM)
}
