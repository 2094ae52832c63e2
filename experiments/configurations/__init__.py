"""The configurations, by the name that the command line takes."""

from experiments.configuration import Configuration
from experiments.configurations.lungs import LUNGS
from experiments.configurations.own import OWN
from experiments.configurations.phantom import PHANTOM
from experiments.configurations.seed import SEED

CONFIGURATIONS: dict[str, Configuration] = {
    configuration.name: configuration for configuration in (PHANTOM, SEED, LUNGS, OWN)
}
