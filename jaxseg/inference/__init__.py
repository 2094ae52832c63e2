"""From images to masks: prediction, tiles, test-time augmentation, ensembles, post-processing."""

from jaxseg.inference.ensemble import disagreement, ensemble_logits, mutual_information
from jaxseg.inference.masks import component_areas, confidence, fill_holes, largest_components
from jaxseg.inference.prediction import make_predict
from jaxseg.inference.test_time_augmentation import with_test_time_augmentation
from jaxseg.inference.tiles import Tiling, predict_tiles
from jaxseg.resizing import resize_logits, resize_logits_on_host

__all__ = [
    "Tiling",
    "component_areas",
    "confidence",
    "disagreement",
    "ensemble_logits",
    "fill_holes",
    "largest_components",
    "make_predict",
    "mutual_information",
    "predict_tiles",
    "resize_logits",
    "resize_logits_on_host",
    "with_test_time_augmentation",
]
