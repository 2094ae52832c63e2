"""Random augmentation of images, labels and valid pixels, on the device."""

from jaxseg.augment.affine import affine_matrices, elastic_displacements, warp
from jaxseg.augment.batch import make_augment
from jaxseg.augment.intensity import add_noise, adjust, blur
from jaxseg.augment.strengths import ROBUST, UNCHANGED, Strengths

__all__ = [
    "ROBUST",
    "UNCHANGED",
    "Strengths",
    "add_noise",
    "adjust",
    "affine_matrices",
    "blur",
    "elastic_displacements",
    "make_augment",
    "warp",
]
