"""From films to masks at their own size: tiles, views and networks averaged, masks mended."""

from jaxseg.inference.ensemble import disagreement, ensemble_logits, mutual_information
from jaxseg.inference.logits import make_predict
from jaxseg.inference.masks import component_areas, confidence, fill_holes, largest_components
from jaxseg.inference.tiles import Tiling, predict_tiles
from jaxseg.inference.views import average_views
from jaxseg.resizing import resize_logits, resize_logits_on_host

__all__ = [
    "Tiling",
    "average_views",
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
]
