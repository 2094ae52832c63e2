"""Exact Euclidean distances between masks, on the device: under jit, vmap, pmap and sharding."""

from jaxseg.surface.checks import Convention, Spacing
from jaxseg.surface.distances import SurfaceDistances
from jaxseg.surface.scores import (
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
    "distance_transform",
    "hausdorff",
    "measure",
    "normalized_surface_dice",
    "surface_distances",
]
