"""The COVID-19 Radiography Database as a TFDS dataset; importing this registers it."""

from jaxseg.data.covid_radiography.covid_radiography_dataset_builder import Builder
from jaxseg.data.covid_radiography.prepare import default_data_dir, prepare

__all__ = ["Builder", "default_data_dir", "prepare"]
