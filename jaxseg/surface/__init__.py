"""Exact surface distances between 2-D masks, computed on the device.

`hausdorff`, `average_surface_distance`, `normalized_surface_dice`, `boundary_f_score` and
`boundary_iou` compute one metric each. `measure` computes several from one search; only
`boundary_iou`, which compares bands of pixels, is not among them. All of them work under ``jit``,
``vmap``, ``pmap`` and sharding.

The argument ``convention`` selects the boundary and the percentile, after the library that the
results agree with:

- ``"monai"`` (the default). The boundary is the set of edge pixels: True pixels with a False
  4-neighbor, or on the image border. Every edge pixel counts 1. Percentiles are interpolated
  linearly between ranks.
- ``"surface-distance"``. The boundary is the set of pixel corners whose four surrounding pixels
  are not all equal. Pixels outside the image are False. Every corner is weighted by the length of
  the contour through it. A percentile is the smallest distance not exceeded by that fraction of
  the total length. It can differ from the library by rounding where the lengths add up to exactly
  that fraction.

The argument ``where`` marks valid pixels. An invalid pixel is neither foreground nor background,
so it creates no boundary. With ``"monai"``, an edge pixel is a valid True pixel with a valid False
4-neighbor, or on the image border. With ``"surface-distance"``, a corner that touches an invalid
pixel is not part of the boundary.
"""

from jaxseg.surface.boundary_scores import boundary_f_score, boundary_iou
from jaxseg.surface.checks import Convention, Spacing
from jaxseg.surface.distances import SurfaceDistances
from jaxseg.surface.metrics import (
    average_surface_distance,
    hausdorff,
    measure,
    normalized_surface_dice,
    surface_distances,
)
from jaxseg.surface.transform import distance_transform

__all__ = [
    "Convention",
    "Spacing",
    "SurfaceDistances",
    "average_surface_distance",
    "boundary_f_score",
    "boundary_iou",
    "distance_transform",
    "hausdorff",
    "measure",
    "normalized_surface_dice",
    "surface_distances",
]
