"""Renders a synthetic chest X-ray: shadows add up along the beam, then exposure, grain, a marker.

In body coordinates x is 0 on the midline and 1 at the widest rib, and y is 0 at the lungs' tips
and 1 at the costophrenic angles. The heart is at x > 0. A layer is an array of 0 to 1,
``[size, size]``. Widths of strokes and radii of blurs are fractions of the image.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Stroke = tuple[np.ndarray, float, float]
"""A line ``[N, 2]`` in image coordinates (0 to 1, y down), its width, and its value, 0 to 1."""

FINDINGS = {
    "COVID": ((1, 5), (0.6, 0.95), (0.35, 0.95), (0.15, 0.4), (0.1, 0.28), (0.35, 0.9)),
    "Lung_Opacity": ((1, 3), (0.3, 0.8), (0.2, 0.9), (0.2, 0.6), (0.15, 0.4), (0.8, 1.0)),
    "Normal": ((0, 1), (0, 0), (0, 0), (1, 1), (1, 1), (0, 0)),
    "Viral Pneumonia": ((2, 7), (0.2, 0.65), (0.3, 0.85), (0.08, 0.25), (0.05, 0.16), (0.3, 0.85)),
}
"""By class, ranges of the patches in a lung: number, center x and y, radii, density."""

# Hanging, held out, and (children) above the head.
_ARMS = ((1.3, 0.1), (1.7, 2.2)), ((1.0, 0.05), (2.8, 0.0)), ((1.0, 0.1), (1.6, -1.5))
_R = (((0, 1), (0, 0), (0.5, 0), (0.65, 0.1), (0.65, 0.4), (0.5, 0.5), (0, 0.5)),
      ((0.35, 0.5), (0.65, 1)))  # fmt: skip


class Chest:
    """The shape of a random thorax and its position in the image."""

    def __init__(self, rng: np.random.Generator):
        u = rng.uniform
        self.is_adult = rng.random() < 0.55
        self.scale = float(np.exp(np.clip(rng.normal(0, 0.13), -0.5, 0.35)))
        width = 0.385 * self.scale * u(0.93, 1.07)
        height = (0.72 if self.is_adult else 0.76) * self.scale * u(0.86, 1.12)
        angle = np.deg2rad(np.clip(rng.normal(0, 2.2), -8, 8))
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self.linear = rotation @ np.diag([width, height])
        # Lungs too long for the image are cut off, as in many real images.
        self.center = 0.5 + rng.normal(0, (0.018, 0.045))
        self.tip = u(0.32, 0.42) if self.is_adult else u(0.26, 0.34)
        self.shoulder = u(2.3, 3.2) if self.is_adult else u(1.9, 2.4)
        self.inner = u(0.13, 0.18), u(0.16, 0.22)
        self.heart = u(0.08, 0.19), u(0.42, 0.7) if self.is_adult else u(0.5, 0.74)
        self.knob = u(0.02, 0.1) if self.is_adult else 0.0
        self.dome = u(0.74, 0.83), u(0.78, 0.88)
        self.peak, self.fall = u(0.34, 0.5), u(2.0, 3.4)
        self.wave = u(0, 6), u(0, 6)
        self.pitch = u(0.092, 0.115)
        self.drop = u(0.4, 0.58) if self.is_adult else u(0.32, 0.5)
        self.twist = rng.normal(0, 0.025)
        self.rib = u(0.024, 0.031) * self.scale

    def place(self, points: np.ndarray | Sequence[tuple[float, float]]) -> np.ndarray:
        """Takes points ``[..., 2]`` from body to image coordinates."""
        return (np.asarray(points) - (0, 0.5)) @ self.linear.T + self.center

    def grid(self, size: int) -> np.ndarray:
        """Body coordinates (x, y) of the pixel centers, ``[2, size, size]``."""
        axis = (np.arange(size) + 0.5) / size
        x, y = np.meshgrid(axis - self.center[0], axis - self.center[1])
        (a, b), (c, d) = np.linalg.inv(self.linear)
        return np.stack([a * x + b * y, c * x + d * y + 0.5])

    def lateral(self, y: np.ndarray) -> np.ndarray:
        """Distance of a lung's outer border, and so of the ribs, from the midline."""
        up = 1 - np.clip(y, 0, 1)
        return self.tip + (1 - self.tip) * (1 - up**self.shoulder) ** 0.8

    def medial(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Distance of the inner border, along vessels and heart, of the lung on x's side."""
        y, one, two = np.clip(y, -0.2, 0.9), *self.wave
        left = (self.heart[1] - self.inner[1]) * ease(y, 0.22, 0.82) ** 0.85
        left += self.knob * np.exp(-(((y - 0.25) / 0.06) ** 2))
        inner = np.where(x > 0, self.inner[1], self.inner[0])
        inner += 0.008 * ease(y, 0.1, 0.4) * (np.sin(17 * y + one) + 0.6 * np.sin(37 * y + two))
        reach = np.where(x > 0, left, self.heart[0] * ease(y, 0.3, 0.62))
        tip = np.clip(1 - y / 0.12, 0, 1)
        return inner + reach + (self.tip - inner) * (1 - np.sqrt(1 - tip**2))

    def diaphragm(self, x: np.ndarray) -> np.ndarray:
        """Height of the diaphragm."""
        top, far = np.where(x > 0, self.dome[1], self.dome[0]), np.abs(x)
        outer, inner = np.clip((far - self.peak) / (1 - self.peak), 0, 1), 1 - far / self.peak
        return top + (1 - top) * outer**self.fall + 0.05 * np.clip(inner, 0, 1) ** 2

    def depths(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How far pixels are inside a lung's outer, inner and lower border; below 0 is outside."""
        far = np.abs(x)
        return self.lateral(y) - far, far - self.medial(x, y), self.diaphragm(x) - y

    def lungs(self, size: int) -> np.ndarray:
        """Whether each pixel's center is in a lung, bool ``[size, size]``."""
        x, y = self.grid(size)
        return (np.minimum.reduce(self.depths(x, y)) > 0) & (y > 0)


def ease(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 up to ``low``, 1 from ``high`` on, and a smooth step between."""
    part = np.clip((value - low) * (1 / (high - low)), 0, 1)
    return part * part * (3 - 2 * part)


def edge(depth: np.ndarray, width: float) -> np.ndarray:
    """A layer of what is inside a border, which is blurred over a width in body coordinates."""
    return np.clip(depth * (1 / width) + 0.5, 0, 1)


def draw(strokes: Iterable[Stroke], size: int) -> np.ndarray:
    """A layer of lines, later ones over earlier ones."""
    picture = Image.new("L", (2 * size, 2 * size))
    pen = ImageDraw.Draw(picture)
    for points, width, value in strokes:
        line = (points * 2 * size).ravel().tolist()
        pen.line(line, round(255 * value), max(1, round(width * 2 * size)))
    return np.asarray(picture.reduce(2), np.float32) / 255


def soften(layer: np.ndarray, radius: float) -> np.ndarray:
    """Blurs a layer by a Gaussian."""
    picture = Image.fromarray((np.clip(layer, 0, 1) * 255).astype(np.uint8))
    blurred = picture.filter(ImageFilter.GaussianBlur(radius * len(layer)))
    return np.asarray(blurred, np.float32) / 255


def clouds(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """Smooth noise, of unit variance where the cells have their centers."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def lesions(rng: np.random.Generator, finding: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A layer of how much of the lungs' air disease has filled."""
    u, (count, *ranges) = rng.uniform, FINDINGS[finding]
    rough = 0.4 * clouds(rng, 8, len(x)) + 0.25 * clouds(rng, 25, len(x))
    one_lung = int(rng.choice((-1, 1)))
    filled = np.zeros_like(x)
    for side in (one_lung,) if finding == "Lung_Opacity" else (-1, 1):
        # Patches stop at the midline, and two do not fill the same air twice.
        for _ in range(rng.integers(*count)):
            across, down, width, height, density = (u(*span) for span in ranges)
            distance = np.hypot((x * side - across) / width, (y - down) / height)
            patch = ease(1.3 - distance + 0.5 * rough, 0.0, 1.2)
            filled = np.maximum(filled, density * patch * (x * side > 0))
    if rng.random() < {"Normal": 0, "Lung_Opacity": 0.35}.get(finding, 0.12):
        # Fluid up to a level, which climbs along the chest wall.
        climb = 0.16 * np.clip((x * one_lung - 0.45) / 0.55, 0, 1.2) ** 2
        fluid = ease(y - u(0.5, 0.92) + climb + 0.012 * rough, -0.03, 0.05)
        filled = np.maximum(filled, fluid * (x * one_lung > 0))
    return filled


def ribs(rng: np.random.Generator, chest: Chest) -> tuple[list[Stroke], list[Stroke]]:
    """The posterior and the anterior halves of the ribs: tilted rings, seen from the front."""
    halves: tuple[list[Stroke], list[Stroke]] = ([], [])
    lift = rng.uniform(0.025, 0.06)
    for index in range(11):
        spinal = -0.03 + chest.pitch * (index + rng.normal(0, 0.04))
        drop = chest.drop * min(1, 0.55 + 0.09 * index)
        reach = chest.lateral(np.array([spinal + drop / 2])) + 0.035
        for side in (-1, 1):
            uneven, value = rng.normal(0, 0.006), rng.uniform(0.65, 1)
            for half, turn, wide in ((halves[0], (0.1, 1.72), 1), (halves[1], (1.45, 2.65), 1.4)):
                t = np.linspace(*turn, 20)
                y = spinal + drop * (1 - np.cos(t)) / 2 - lift * min(1, index / 3) * np.sin(2 * t)
                line = chest.place(np.column_stack([side * reach * np.sin(t), y + uneven]))
                width = wide * chest.rib * rng.uniform(0.85, 1.15)
                # The rim of a bone is brighter than its middle.
                half += [(line, width, value), (line, 0.7 * width, 0.66 * value)]
    return halves


def attenuation(rng: np.random.Generator, chest: Chest, finding: str, size: int) -> np.ndarray:
    """What the beam passes through on its way, from 0 (air) to about 1 (spine and heart)."""
    u, pixel = rng.uniform, 1 / (0.4 * chest.scale * size)
    x, y = chest.grid(size).astype(np.float32)
    far = np.abs(x)
    arm, width = _ARMS[rng.integers(2 if chest.is_adult else 3)], 0.42 * chest.linear[0, 0]
    limbs = [(chest.place(np.multiply(arm, (side, 1))), width, 1.0) for side in (-1, 1)]
    neck = 0.28 + 0.95 * ease(y, -0.3, 0.12)
    body = ease(soften(np.maximum(far < neck, draw(limbs, size)), 0.02), 0.3, 0.7)
    outer, inner, lower = chest.depths(x, y)
    # The border is crisp at the ribs, and the heartbeat blurs it next to the heart.
    air = edge(outer, pixel) * edge(inner, u(0.02, 0.06)) * edge(lower, u(0.02, 0.04)) * (y > 0)
    trunk = np.exp(-np.square(np.square(x / u(0.9, 1.08))))
    aerated = air * (0.6 + 0.4 * soften(air, 0.035)) * (0.3 + 0.7 * trunk)
    aerated *= 1 - lesions(rng, finding, x, y)
    middle = edge(-inner, 0.12) * (1 - ease(y, 1.0, 1.2))
    posterior, anterior = (draw(half, size) for half in ribs(rng, chest))
    path = (u(0.05, 0.22) + u(0.4, 0.5) * trunk) * (0.35 + 0.65 * soften(body, 0.03))
    path += 0.015 * clouds(rng, 7, size) + 0.007 * clouds(rng, 25, size)
    path += u(0.1, 0.2) * middle + u(0.05, 0.16) * edge(-lower, 0.15) - u(0.3, 0.42) * aerated
    path += u(0.05, 0.14) * np.exp(-np.square(np.square((x - chest.twist) / 0.14)))
    path += u(0.09, 0.15) * posterior * (1 - 0.35 * middle) * (1 - ease(y, 1.0, 1.3))
    path += u(0.05, 0.1) * anterior * ease(far, 0.3, 0.75) * (1 - ease(y, 0.75, 1.1))
    path += aerated * u(0.015, 0.04) * (clouds(rng, 40, size) + clouds(rng, 100, size)) / 2
    return np.maximum(path, 0.02) * body


def expose(rng: np.random.Generator, path: np.ndarray) -> np.ndarray:
    """Exposure curve, post-processing of a digital image, unsharpness and grain; values in 0..1."""
    u = rng.uniform
    path = path / float(np.quantile(path[::8, ::8], 0.99))
    # Digital images come with their detail enhanced.
    path += u(0.2, 1.0) * (path - soften(path, 0.025)) * np.minimum(path * 4, 1)
    steep = u(0.8, 2.2)
    value = (1 - np.exp(-steep * np.maximum(path, 0))) / (1 - np.exp(-steep))
    value = soften(u(0, 0.05) + value * u(0.75, 0.95), u(0.0012, 0.0034))
    grain = rng.standard_normal(path.shape, np.float32)
    grain = grain + np.roll(grain, 1, axis=0)
    return value + u(0.0008, 0.0045) * (grain + np.roll(grain, 1, axis=1))


def render(rng: np.random.Generator, chest: Chest, finding: str, size: int) -> np.ndarray:
    """The image of a patient, uint8 ``[size, size]``, bright where the tissue absorbs most."""
    value = expose(rng, attenuation(rng, chest, finding, size))
    if rng.random() < 0.85:
        tall, corner, bright = rng.uniform(0.04, 0.1), rng.uniform((0, 0), (0.1, 0.3)), 0.9
        letter = [(np.array(line) * tall + corner, 0.13 * tall, bright) for line in _R]
        value = np.maximum(value, draw(letter, size))
    return (np.clip(value, 0, 1) * 255 + 0.5).astype(np.uint8)
