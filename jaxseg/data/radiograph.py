"""Renders a synthetic chest X-ray: shadows add up along the beam, then exposure, grain, lettering.

A layer is a float32 picture [size, size] of how much of something the beam passes, 0..1; lengths
and radii are fractions of the image's side.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from jaxseg.data import anatomy
from jaxseg.data.anatomy import SIDES, Patient, Shadow, ease

COARSE = 75
"""Side of the grid on which soft things are rendered before they are enlarged."""

# Strokes on a grid 4 wide and 6 high, two digits a point, a space where the pen lifts.
_GLYPHS = {
    "A": "062046 1434", "B": "06003041423303 3344453606", "E": "40000646 0333",
    "K": "0006 4003 1346", "L": "000646", "O": "103041453616050110", "P": "06003041423303",
    "R": "06003041423303 2346", "T": "0040 2026", "V": "002640", "-": "1333", ":": "2122 2425",
    "0": "103041453616050110", "1": "112026", "2": "01103041420646",
    "3": "011030414233 23334445361605", "4": "300444 3036", "5": "400003334445361605",
    "6": "3010010516364544331304", "7": "004016", "8": "13020110304142331304051636454433",
    "9": "1636454130100102133342",
}  # fmt: skip


def paint(shadows: Sequence[Shadow], size: int, *, finer: int = 2) -> np.ndarray:
    """Fills outlines, later ones over earlier ones; edges are averaged over finer pixels."""
    picture = Image.new("L", (finer * size, finer * size))
    pen = ImageDraw.Draw(picture)
    for outline, value in shadows:
        pen.polygon((outline * (finer * size)).ravel().tolist(), fill=round(255 * value))
    return _values(picture.reduce(finer))


def _values(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, np.float32) * np.float32(1 / 255)


def _picture(layer: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(layer, 0, 1) * 255 + 0.5).astype(np.uint8))


def soften(layer: np.ndarray, radius: float) -> np.ndarray:
    """Blurs a layer of values in 0..1 by a Gaussian, a wide one on as coarse a grid as will do."""
    size = len(layer)
    coarser = max(1, int(radius * size))
    picture = _picture(layer)
    if coarser > 1:
        picture = picture.resize((size // coarser, size // coarser), Image.Resampling.BOX)
    picture = picture.filter(ImageFilter.GaussianBlur(radius * picture.width))
    return enlarge(_values(picture), size) if coarser > 1 else _values(picture)


def enlarge(coarse: np.ndarray, size: int) -> np.ndarray:
    """Brings a coarse layer to the image's size."""
    picture = Image.fromarray(coarse.astype(np.float32))
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))


def clouds(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """Smooth noise, of unit variance where the cells have their centers."""
    return enlarge(rng.standard_normal((cells, cells), np.float32), size)


def body_grid(patient: Patient, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Body coordinates x and y of the pixels, float32 [size, size] each."""
    axis = ((np.arange(size) + 0.5) / size).astype(np.float32)
    frame = patient.frame.astype(np.float32)
    right, down = axis[None, :] - frame[0, 2], axis[:, None] - frame[1, 2]
    inverse = np.linalg.inv(frame[:, :2])
    x = inverse[0, 0] * right + inverse[0, 1] * down
    return x, inverse[1, 0] * right + inverse[1, 1] * down


class Lesions:
    """What disease has filled of the lungs' air, on the coarse grid."""

    def __init__(self, rng: np.random.Generator, patient: Patient):
        """Starts from healthy lungs."""
        self.x, self.y = body_grid(patient, COARSE)
        self.rough = 0.4 * clouds(rng, 8, COARSE) + 0.25 * clouds(rng, 25, COARSE)
        self.filled = np.zeros((COARSE, COARSE), np.float32)

    def patch(
        self, side: int, place: tuple[float, float], reach: tuple[float, float], dense: float
    ) -> None:
        """A cloud about a place; where it is dense, the lung's border is lost from sight."""
        (x, y), (width, height) = place, reach
        distance = np.hypot((self.x * side - x) / width, (self.y - y) / height)
        cover = dense * ease(1.3 - distance + 0.5 * self.rough, 0.0, 1.2)
        # A lung's disease stops at the midline, and two clouds do not fill the same air twice.
        self.filled = np.maximum(self.filled, cover * (self.x * side > 0))

    def effusion(self, side: int, level: float) -> None:
        """Fluid up to a level, which climbs along the chest wall."""
        depth = self.y - level + 0.16 * np.clip((self.x * side - 0.45) / 0.55, 0, 1.2) ** 2
        cover = ease(depth + 0.012 * self.rough, -0.03, 0.05)
        self.filled = np.maximum(self.filled, cover * (self.x * side > 0))


def peripheral_haze(lesions: Lesions, rng: np.random.Generator) -> None:
    """Ground glass in the outer parts of both lungs, now and then everywhere."""
    u = rng.uniform
    for side in SIDES:
        for _ in range(rng.integers(1, 5)):
            place, reach = (u(0.6, 0.95), u(0.35, 0.95)), (u(0.15, 0.4), u(0.1, 0.28))
            lesions.patch(side, place, reach, u(0.35, 0.9))
    if rng.random() < 0.25:
        for side in SIDES:
            lesions.patch(side, (0.5, u(0.6, 0.9)), (0.7, u(0.3, 0.6)), u(0.4, 0.85))


def consolidation(lesions: Lesions, rng: np.random.Generator) -> None:
    """One or two dense consolidations, effusions or a white lung."""
    u = rng.uniform
    for _ in range(rng.integers(1, 3)):
        side, kind = int(rng.choice(SIDES)), rng.random()
        if kind < 0.4:
            lesions.effusion(side, u(0.45, 0.9))
        elif kind < 0.9:
            place, reach = (u(0.3, 0.8), u(0.2, 0.9)), (u(0.2, 0.5), u(0.12, 0.3))
            lesions.patch(side, place, reach, u(0.75, 1.0))
        else:
            lesions.patch(side, (0.5, 0.5), (1.2, 1.0), u(0.85, 1.0))


def scattered_patches(lesions: Lesions, rng: np.random.Generator) -> None:
    """Many small patches about the hila, at times one that has flowed together."""
    u = rng.uniform
    for side in SIDES:
        for _ in range(rng.integers(2, 7)):
            place, reach = (u(0.2, 0.65), u(0.3, 0.85)), (u(0.08, 0.25), u(0.05, 0.16))
            lesions.patch(side, place, reach, u(0.3, 0.85))
    if rng.random() < 0.3:
        place, reach = (u(0.3, 0.6), u(0.4, 0.9)), (u(0.3, 0.5), u(0.2, 0.4))
        lesions.patch(int(rng.choice(SIDES)), place, reach, u(0.7, 1.0))


def no_finding(lesions: Lesions, rng: np.random.Generator) -> None:
    """Healthy lungs."""


FINDINGS = {
    "COVID": peripheral_haze,
    "Lung_Opacity": consolidation,
    "Normal": no_finding,
    "Viral Pneumonia": scattered_patches,
}
"""What the images of each class show."""


def vessel_layer(patient: Patient, rng: np.random.Generator, size: int) -> np.ndarray:
    """The pulmonary vessels of both lungs."""
    picture = Image.new("L", (2 * size, 2 * size))
    pen = ImageDraw.Draw(picture)
    for side in SIDES:
        for lines, width in anatomy.vessels(patient, side, rng):
            fill, thick = round(min(255, 60 + 14000 * width)), max(1, round(width * 2 * size))
            for line in (lines * 2 * size).reshape(len(lines), -1).tolist():
                pen.line(line, fill=fill, width=thick)
    return soften(_values(picture.reduce(2)), 0.003)


def devices(patient: Patient, rng: np.random.Generator, size: int) -> np.ndarray:
    """Tubes, wires and electrodes, on images of the very ill."""
    u = rng.uniform
    full = 2 * size
    picture = Image.new("L", (full, full))
    pen = ImageDraw.Draw(picture)

    def wire(points: np.ndarray, width: float, fill: int) -> None:
        line = anatomy.smooth(points, closed=False) * full
        pen.line(line.ravel().tolist(), fill=fill, width=max(1, round(width * full)))

    if rng.random() < 0.5:
        tip = u(0.2, 0.32)
        for x in (-0.03, 0.03):
            tube = [(x, -0.9), (x + u(-0.02, 0.02), 0.0), (x - 0.02, tip)]
            wire(anatomy.place(patient, np.array(tube)), 0.003, 110)
    if rng.random() < 0.4:
        tube = [(0.05, -0.9), (0.0, 0.3), (0.03, 0.8), (u(0.2, 0.5), 1.05), (u(0.0, 0.5), 1.2)]
        wire(anatomy.place(patient, np.array(tube)), 0.005, 90)
    for _ in range(rng.integers(1, 5)):
        x, y = u(0.1, 0.9), u(0.1, 0.8)
        lead = [(x, y), (x + u(-0.2, 0.2), y + u(0, 0.2)), (u(0, 1), u(0.5, 1)), (u(0, 1), 1.1)]
        wire(np.array(lead), 0.004, 130)
        for radius, fill in ((0.024, 70), (0.009, 255)):
            disc = (anatomy.DISC * radius + np.array((x, y))) * full
            pen.polygon(disc.ravel().tolist(), fill=fill)
    return _values(picture.reduce(2))


def attenuate(rng: np.random.Generator, patient: Patient, finding: str, size: int) -> np.ndarray:
    """What the beam passes through on its way, from 0 (air) to about 1 (spine and heart)."""
    u = rng.uniform
    lesions = Lesions(rng, patient)
    FINDINGS[finding](lesions, rng)
    if finding != "Normal" and rng.random() < 0.12:
        lesions.effusion(int(rng.choice(SIDES)), u(0.75, 0.92))
    x, y = body_grid(patient, size)
    body = soften(paint(anatomy.trunk(patient), size), 0.007)
    air = paint([(anatomy.lung(patient, side), 1.0) for side in SIDES], size, finer=4)
    posterior, anterior = (paint(half, size) for half in anatomy.ribs(patient, rng))
    middle = soften(paint(anatomy.mediastinum(patient), size), 0.025)
    abdomen = soften(paint(anatomy.abdomen(patient), size), 0.03)
    folds, gas = (paint(parts, size) for parts in anatomy.soft_parts(patient, rng))
    trunk = np.exp(-np.square(np.square(x / u(0.9, 1.08))))
    # The border is crisp at the ribs and beaten to a blur beside the heart.
    outer = ease(np.abs(x), 0.3, 0.75)
    aerated = outer * air + (1 - outer) * soften(air, u(0.002, 0.008))
    aerated *= (0.6 + 0.4 * soften(air, 0.035)) * (0.3 + 0.7 * trunk)
    aerated *= 1 - np.clip(enlarge(lesions.filled, size), 0, 1)

    path = (u(0.05, 0.22) + u(0.4, 0.5) * trunk) * (0.35 + 0.65 * soften(body, 0.03))
    path += 0.015 * clouds(rng, 7, size) + 0.007 * clouds(rng, 25, size)
    path += u(0.1, 0.2) * middle + u(0.05, 0.16) * abdomen - u(0.3, 0.42) * aerated
    # The column is a soft band; its bones stand out from it.
    path += u(0.05, 0.14) * np.exp(-np.square(np.square((x - patient.twist) / 0.14)))
    path += u(0.05, 0.12) * paint(anatomy.spine(patient), size)
    path += u(0.09, 0.15) * posterior * (1 - 0.35 * middle) * (1 - ease(y, 1.0, 1.3))
    path += u(0.05, 0.1) * anterior * outer * (1 - ease(y, 0.75, 1.1))
    path += u(0.07, 0.13) * paint(anatomy.shoulder_girdle(patient, rng), size)
    path -= u(0.06, 0.14) * soften(paint(anatomy.airways(patient), size), 0.008)
    path += u(0.03, 0.08) * soften(folds, 0.006) - u(0.1, 0.2) * soften(gas, 0.012)
    texture = 0.5 * clouds(rng, 40, size) + 0.5 * clouds(rng, 100, size)
    hila = np.exp(-np.square((np.abs(x) - 0.24) / 0.12) - np.square((y - 0.47) / 0.13))
    texture = u(0.015, 0.04) * texture + u(0.03, 0.1) * hila
    path += aerated * (u(0.06, 0.14) * vessel_layer(patient, rng, size) + texture)
    path = np.clip(path, 0.02, None) * body
    if rng.random() < 0.3:
        path += u(0.15, 0.3) * devices(patient, rng, size)
    return path


def expose(rng: np.random.Generator, path: np.ndarray) -> np.ndarray:
    """Exposure curve, post-processing of a digital image, unsharpness and grain; values in 0..1."""
    u = rng.uniform
    size = len(path)
    path = path / float(np.quantile(path[::8, ::8], 0.99))
    # Digital images come with their detail enhanced and their darkest and brightest drawn together.
    path += u(0.2, 1.0) * (path - soften(path, 0.025)) * np.minimum(path * 4, 1)
    steep = u(0.8, 2.2)
    value = (1 - np.exp(-steep * np.clip(path, 0, None))) / (1 - np.exp(-steep))
    value = u(0.0, 0.05) + value * u(0.75, 0.95)
    value = soften(value, u(0.0012, 0.0034))
    grain = rng.standard_normal((size, size), np.float32)
    grain[1:] += grain[:-1]
    grain[:, 1:] += grain[:, :-1]
    return value + u(0.0008, 0.0045) * grain


def collimate(rng: np.random.Generator, value: np.ndarray) -> np.ndarray:
    """Shutters that keep the beam off the image's margins, on some images."""
    size = len(value)
    margins = rng.uniform(-0.05, 0.05, 4) + rng.choice((0.0, -0.06), 4, p=(0.3, 0.7))
    left, right, top, bottom = np.round(np.clip(margins, 0, None) * size).astype(int)
    inside = np.zeros_like(value)
    inside[top : size - bottom, left : size - right] = 1
    return value * (0.03 + 0.97 * inside)


def write(
    pen: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], tall: float, fill: int
) -> None:
    """Writes text in strokes from its top left corner on; lengths in pixels of the picture."""
    unit = tall / 6
    for index, character in enumerate(text):
        for stroke in _GLYPHS[character].split():
            points = np.array([int(digit) for digit in stroke]).reshape(-1, 2)
            line = corner + unit * (points + np.array((5.6 * index, 0)))
            pen.line(line.ravel().tolist(), fill=fill, width=max(1, round(0.8 * unit)))


def lettering(rng: np.random.Generator, size: int) -> np.ndarray:
    """The side marker, and what else people and machines write on images."""
    u = rng.uniform
    full = 2 * size
    picture = Image.new("L", (full, full))
    pen = ImageDraw.Draw(picture)
    fill = int(rng.integers(200, 256))
    if rng.random() < 0.85:
        text, left = ("R", u(0.0, 0.12)) if rng.random() < 0.75 else ("L", u(0.86, 0.93))
        write(pen, text, (left * full, u(0.01, 0.3) * full), u(0.04, 0.1) * full, fill)
    if rng.random() < 0.15:
        text = str(rng.choice(("PORTABLE", "AP", "A-P")))
        write(pen, text, (u(0.02, 0.6) * full, 0.02 * full), u(0.025, 0.04) * full, fill)
    if rng.random() < 0.2:
        hour, minute, second = rng.integers((24, 60, 60))
        text = f"{hour:02d}:{minute:02d}:{second:02d}"
        write(pen, text, (0.83 * full, 0.01 * full), 0.021 * full, fill)
    if rng.random() < 0.2:
        write(pen, f"KV{rng.integers(55, 95)}", (0.9 * full, 0.965 * full), 0.025 * full, fill)
    return _values(picture.reduce(2))


def render(rng: np.random.Generator, patient: Patient, finding: str, size: int) -> np.ndarray:
    """The image of a patient, uint8 [size, size], bright where the tissue absorbs most."""
    value = expose(rng, attenuate(rng, patient, finding, size))
    if rng.random() < 0.2:
        value = collimate(rng, value)
    return np.asarray(_picture(np.maximum(value, lettering(rng, size))))
