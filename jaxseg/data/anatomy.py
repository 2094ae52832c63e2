"""The shapes of a synthetic chest: outlines of lungs, bones, vessels and what else casts a shadow.

Everything is a polygon of float64 points [N, 2], x to the right and y down. The body frame has
x = 0 on the midline and 1 on the inner side of the widest rib, y = 0 at the lungs' apex and 1 at
the bottom of the costophrenic angles; side -1 is the image's left, which is the patient's right.
`place` takes body to image coordinates, where the image is the unit square.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SIDES = (-1, 1)

Shadow = tuple[np.ndarray, float]
"""An outline in image coordinates and how much of its layer's full shadow it casts, 0..1."""


class Patient(NamedTuple):
    """How one thorax is built and where it is in the image; lengths in the body frame.

    Attributes:
        frame: body to image coordinates, an affine matrix [2, 3].
        adult: False for a child, who has no aortic knob and a wider heart.
        apex: distance of the lungs' tips from the midline.
        shoulder: how square the lungs' upper outer corners are.
        inner: distance of the lungs from the midline at the top, right and left.
        heart: how far the heart reaches into the right lung, and where its left border is.
        knob: how far the aortic arch stands out.
        dome: height of the diaphragm's domes, right and left.
        peak: distance of the domes' tops from the midline, right and left.
        fall: how late the diaphragm turns down to the costophrenic angle.
        wobble: amplitude and three phases of the unevenness of the lungs' inner border.
        pitch: from rib to rib.
        drop: from a rib's spinal to its sternal end.
        twist: how far the spine has moved to the side because the patient stands turned.
        rib: half a rib's thickness, in image coordinates.
        trunk: one half of the body's outline, [N, 2].
    """

    frame: np.ndarray
    adult: bool
    apex: float
    shoulder: float
    inner: tuple[float, float]
    heart: tuple[float, float]
    knob: float
    dome: tuple[float, float]
    peak: tuple[float, float]
    fall: float
    wobble: tuple[float, float, float, float]
    pitch: float
    drop: float
    twist: float
    rib: float
    trunk: np.ndarray


def smooth(
    points: np.ndarray | Sequence[tuple[float, float]], *, closed: bool, rounds: int = 3
) -> np.ndarray:
    """Rounds corners by Chaikin's corner cutting; an open line keeps its ends."""
    line = np.array(points)
    for _ in range(rounds):
        ahead = np.roll(line, -1, axis=0)
        cut = np.stack([0.75 * line + 0.25 * ahead, 0.25 * line + 0.75 * ahead], axis=1)
        cut = cut.reshape(-1, 2)
        line = cut if closed else np.concatenate([line[:1], cut[1:-3], line[-1:]])
    return line


def band(center: np.ndarray, half: float | np.ndarray) -> np.ndarray:
    """Outlines of stripes along lines [..., N, 2], half as thick as stated: [..., 2N, 2]."""
    along = np.gradient(center, axis=-2)
    normal = np.stack([-along[..., 1], along[..., 0]], axis=-1)
    normal *= (half / np.hypot(along[..., 0], along[..., 1]))[..., None]
    return np.concatenate([center + normal, (center - normal)[..., ::-1, :]], axis=-2)


_TURN = np.linspace(0, 2 * np.pi, 24, endpoint=False)
DISC = np.column_stack([np.cos(_TURN), np.sin(_TURN)])
"""The unit circle."""

# Half outlines, from the neck down: arms hanging, arms held out, arms beside the head.
_ARMS_DOWN = smooth(
    [(0.26, -1.2), (0.28, -0.2), (0.75, -0.1), (1.35, -0.05), (1.68, 0.12), (1.95, 2.0),
     (1.5, 2.0), (1.24, 0.46), (1.14, 0.36), (1.16, 0.8), (1.12, 1.5), (1.16, 2.2)],
    closed=False,
)  # fmt: skip
_ARMS_OUT = smooth(
    [(0.26, -1.2), (0.28, -0.16), (0.8, -0.12), (1.5, -0.16), (2.6, -0.2), (2.6, 0.14),
     (1.6, 0.2), (1.22, 0.32), (1.14, 0.6), (1.14, 1.0), (1.2, 2.2)],
    closed=False,
)  # fmt: skip
_ARMS_UP = smooth(
    [(0.3, -1.2), (0.34, -0.2), (0.7, -0.16), (1.15, -1.2), (1.8, -1.2), (1.3, 0.05),
     (1.14, 0.4), (1.13, 0.9), (1.18, 1.4), (1.26, 2.2)],
    closed=False,
)  # fmt: skip
_SCAPULA = smooth(
    [(1.3, -0.03), (1.36, 0.06), (1.2, 0.18), (1.12, 0.4), (1.06, 0.5), (1.0, 0.46),
     (0.92, 0.22), (0.94, 0.04), (1.08, 0.02)],
    closed=True,
)  # fmt: skip
_CLAVICLE = smooth(
    [(0.1, 0.09), (0.24, 0.05), (0.5, 0.04), (0.75, -0.03), (1.0, -0.07), (1.32, -0.03)],
    closed=False,
)
_VERTEBRA = smooth(
    [(-1.0, -1.0), (1.0, -1.0), (0.84, 0.0), (1.0, 1.0), (-1.0, 1.0), (-0.84, 0.0)], closed=True
)
_TRACHEA = smooth([(0.0, -0.8), (0.0, -0.1), (-0.02, 0.2), (-0.03, 0.34)], closed=False)
_BRONCHUS = smooth([(0.0, 0.31), (0.08, 0.37), (0.3, 0.46)], closed=False)


def sample_patient(rng: np.random.Generator) -> Patient:
    """Samples a patient and a posture."""
    u = rng.uniform
    adult = rng.random() < 0.55
    size = float(np.exp(np.clip(rng.normal(0.0, 0.13), -0.5, 0.35)))
    width, height = 0.385 * size * u(0.93, 1.07), (0.72 if adult else 0.76) * size * u(0.86, 1.12)
    angle = np.deg2rad(np.clip(rng.normal(0, 2.2), -8, 8))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = rotation @ np.diag([width, height])
    # Lungs too long for the image are cut off, as in many real images.
    center = np.array([0.5 + rng.normal(0, 0.018), 0.5 + rng.normal(0, 0.045)])
    dome = u(0.74, 0.87)
    poses = (_ARMS_DOWN, _ARMS_OUT) if adult else (_ARMS_DOWN, _ARMS_OUT, _ARMS_UP)
    trunk = poses[rng.integers(len(poses))] * (u(0.97, 1.06), 1) + np.array((0, u(-0.04, 0.03)))
    return Patient(
        frame=np.column_stack([linear, center - linear @ np.array([0.0, 0.5])]),
        adult=adult,
        apex=u(0.32, 0.42) if adult else u(0.26, 0.34),
        shoulder=u(2.3, 3.2) if adult else u(1.9, 2.4),
        inner=(u(0.13, 0.18), u(0.16, 0.22)),
        heart=(u(0.08, 0.19), u(0.42, 0.7) if adult else u(0.5, 0.74)),
        knob=u(0.02, 0.1) if adult else 0.0,
        dome=(dome, min(dome + u(0.0, 0.06), 0.89)),
        peak=(u(0.34, 0.5), u(0.34, 0.5)),
        fall=u(2.0, 3.4),
        wobble=(u(0.004, 0.014), u(0, 6), u(0, 6), u(0, 6)),
        pitch=u(0.092, 0.115),
        drop=u(0.4, 0.58) if adult else u(0.32, 0.5),
        twist=rng.normal(0, 0.025),
        rib=(u(0.011, 0.015) if adult else u(0.0125, 0.0165)) * size,
        trunk=trunk,
    )


def place(patient: Patient, points: np.ndarray) -> np.ndarray:
    """Takes points [..., 2] from body to image coordinates."""
    return points @ patient.frame[:, :2].T + patient.frame[:, 2]


def ease(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 up to ``low``, 1 from ``high`` on, and a smooth step between."""
    part = np.clip((value - low) / (high - low), 0.0, 1.0)
    return part * part * (3.0 - 2.0 * part)


def lateral(patient: Patient, y: np.ndarray) -> np.ndarray:
    """Distance of the lung's outer border, and so of the ribs, from the midline at height y."""
    up = 1.0 - np.clip(y, 0.0, 1.0)
    return patient.apex + (1 - patient.apex) * (1 - up**patient.shoulder) ** 0.8


def medial(patient: Patient, side: int, y: np.ndarray) -> np.ndarray:
    """Distance of the lung's inner border, along mediastinum and heart, from the midline."""
    inner = patient.inner[side > 0]
    if side > 0:
        reach = (patient.heart[1] - inner) * ease(y, 0.22, 0.82) ** 0.85
        reach = reach + patient.knob * np.exp(-(((y - 0.25) / 0.06) ** 2))
    else:
        reach = patient.heart[0] * ease(y, 0.3, 0.62)
    amplitude, first, second, third = patient.wobble
    ripple = np.sin(17 * y + first) + 0.6 * np.sin(31 * y + second) + 0.4 * np.sin(53 * y + third)
    tip = np.clip(1 - y / 0.12, 0.0, 1.0)
    inner = inner + amplitude * ease(y, 0.1, 0.4) * ripple
    return inner + reach + (patient.apex - inner) * (1 - np.sqrt(1 - tip**2))


def diaphragm(patient: Patient, side: int, x: np.ndarray) -> np.ndarray:
    """Height of the diaphragm at distance x from the midline."""
    top, peak = patient.dome[side > 0], patient.peak[side > 0]
    outer, inner = np.clip((x - peak) / (1 - peak), 0, 1), np.clip((peak - x) / peak, 0, 1)
    return top + (1 - top) * outer**patient.fall + 0.05 * inner**2


def lung(patient: Patient, side: int) -> np.ndarray:
    """The outline of one lung in image coordinates, [N, 2]."""
    down = np.linspace(0, 1, 48) ** 1.5
    # The corner at heart and diaphragm is where the two curves meet: a fixed point.
    bottom = np.array([0.85])
    for _ in range(8):
        bottom = diaphragm(patient, side, medial(patient, side, bottom))
    across = np.linspace(1.0, medial(patient, side, bottom).item(), 32)[1:]
    up = bottom * down[-2:0:-1]
    points = np.concatenate(
        [
            np.column_stack([lateral(patient, down), down]),
            np.column_stack([across, diaphragm(patient, side, across)]),
            np.column_stack([medial(patient, side, up), up]),
        ]
    )
    return place(patient, points * (side, 1))


def trunk(patient: Patient) -> list[Shadow]:
    """Neck, trunk and arms."""
    half = patient.trunk
    return [(place(patient, np.concatenate([half, half[::-1] * (-1, 1)])), 1.0)]


def mediastinum(patient: Patient) -> list[Shadow]:
    """Heart and great vessels, between the lungs."""
    y = np.linspace(-0.2, 1.1, 32)
    right = np.column_stack([-medial(patient, -1, y), y])
    left = np.column_stack([medial(patient, 1, np.minimum(y, 0.86)), y])
    return [(place(patient, np.concatenate([right, left[::-1]])), 1.0)]


def abdomen(patient: Patient) -> list[Shadow]:
    """All that is below the diaphragm."""
    x = np.linspace(0, 1.0, 24)
    right = np.column_stack([-x, diaphragm(patient, -1, x)])[::-1]
    left = np.column_stack([x, diaphragm(patient, 1, x)])
    corners = np.array([(1.3, 1.05), (1.3, 2.5), (-1.3, 2.5), (-1.3, 1.05)])
    return [(place(patient, np.concatenate([right, left, corners])), 1.0)]


def ribs(patient: Patient, rng: np.random.Generator) -> tuple[list[Shadow], list[Shadow]]:
    """The ribs' posterior and anterior halves: tilted rings, seen from the front."""
    index = np.arange(11.0)[:, None]
    spinal = -0.03 + patient.pitch * (index + rng.normal(0, 0.04, index.shape))
    drop = patient.drop * np.minimum(1.0, 0.55 + 0.09 * index)
    lift = rng.uniform(0.025, 0.06) * np.minimum(1.0, index / 3)
    reach = lateral(patient, spinal + drop / 2) + 0.035
    halves: tuple[list[Shadow], list[Shadow]] = ([], [])
    for side in SIDES:
        uneven = rng.normal(0, 0.006, index.shape)
        for half, low, high, wide in ((halves[0], 0.1, 1.72, 1.0), (halves[1], 1.45, 2.65, 1.3)):
            turn = np.linspace(low, high, 20)
            x, y = reach * np.sin(turn), spinal + drop * (1 - np.cos(turn)) / 2
            y = y + uneven - lift * np.sin(2 * turn)
            center = place(patient, np.stack([side * x, y], axis=-1))
            thick = patient.rib * wide * (0.85 + 0.15 * turn) * rng.uniform(0.8, 1.2, index.shape)
            bright = rng.uniform(0.65, 1.0, len(index)).tolist()
            # Marrow between two cortices: the rim is brighter than the middle.
            for rim, marrow, value in zip(
                band(center, thick), band(center, 0.72 * thick), bright, strict=True
            ):
                half += [(rim, value), (marrow, 0.66 * value)]
    return halves


def spine(patient: Patient) -> list[Shadow]:
    """Vertebral bodies with pedicles and spinous processes."""
    tall = 0.42 * patient.pitch
    parts = [
        (_VERTEBRA * (0.125, tall), 0.75),
        (_VERTEBRA * (0.11, 0.84 * tall), 0.58),
        (DISC * (0.018, 0.7 * tall) + np.array((0, 0.4 * tall)), 0.85),
    ]
    for side in SIDES:
        pedicle = np.array((side * 0.085, -0.2 * tall))
        parts.append((DISC * (0.027, 0.4 * tall) + pedicle, 1.0))
        parts.append((DISC * (0.017, 0.25 * tall) + pedicle, 0.7))
    y = -0.05 + patient.pitch * np.arange(-6, 16)
    centers = np.column_stack([np.full_like(y, patient.twist), y])[:, None]
    return [(outline, value) for part, value in parts for outline in place(patient, part + centers)]


def airways(patient: Patient) -> list[Shadow]:
    """Trachea and main bronchi, full of air."""
    trachea = band(_TRACHEA, 0.05) - np.array((patient.twist, 0))
    shadows = [(place(patient, trachea), 1.0)]
    for side in SIDES:
        bronchus = _BRONCHUS * (side, 1) - np.array((0.03, 0))
        shadows.append((place(patient, band(bronchus, 0.022)), 0.7))
    return shadows


def shoulder_girdle(patient: Patient, rng: np.random.Generator) -> list[Shadow]:
    """Clavicles, shoulder blades and upper arms."""
    shadows: list[Shadow] = []
    steep = rng.uniform(0.6, 2.0)
    for side in SIDES:
        shift = rng.normal(0, 0.02, 2)
        blade = _SCAPULA + np.array((rng.uniform(-0.02, 0.14), shift[1]))
        within = blade.mean(axis=0) + 0.88 * (blade - blade.mean(axis=0))
        collar = _CLAVICLE * (1, steep) + np.array((0, shift[0]))
        arm = np.array([(1.42, 0.04), (1.52, 0.3), (1.7, 1.2)]) + shift
        half = patient.rib * np.linspace(1.35, 0.9, len(collar))
        shadows += [
            (place(patient, band(arm, 0.055) * (side, 1)), 0.6),
            (place(patient, (DISC * (0.13, 0.07) + np.array((1.4, 0.03))) * (side, 1)), 0.6),
            (place(patient, blade * (side, 1)), 0.5),
            (place(patient, within * (side, 1)), 0.36),
            (band(place(patient, collar * (side, 1)), half), 1.0),
            (band(place(patient, collar * (side, 1)), 0.6 * half), 0.72),
        ]
    return shadows


def soft_parts(patient: Patient, rng: np.random.Generator) -> tuple[list[Shadow], list[Shadow]]:
    """What adds a faint shadow (breasts) and what takes one away (gas in stomach and bowel)."""
    u = rng.uniform
    folds: list[Shadow] = []
    gas: list[Shadow] = []
    if patient.adult and rng.random() < 0.4:
        x, y, width, height = u(0.5, 0.65), u(0.66, 0.82), u(0.4, 0.5), u(0.22, 0.3)
        for side in SIDES:
            breast = DISC * (width, height) + np.array((side * x, y))
            folds.append((place(patient, breast), 1.0))
    if rng.random() < 0.6:
        bubble = DISC * (u(0.12, 0.3), u(0.04, 0.1)) + np.array((u(0.3, 0.6), 1.0 + u(0, 0.05)))
        # Standing, gas lies on a level of fluid.
        if rng.random() < 0.5:
            bubble[:, 1] = np.minimum(bubble[:, 1], 1.04)
        gas.append((place(patient, bubble), 1.0))
    for _ in range(rng.integers(0, 6)):
        loop = DISC * (u(0.05, 0.12), u(0.03, 0.06)) + np.array((u(-0.6, 0.8), u(1.08, 1.35)))
        gas.append((place(patient, loop), u(0.3, 0.9)))
    return folds, gas


def vessels(
    patient: Patient, side: int, rng: np.random.Generator
) -> list[tuple[np.ndarray, float]]:
    """A tree of arteries and veins that fans out from the hilum: lines [M, 5, 2] and a width."""
    count = 9
    start = np.column_stack([rng.normal(0.26, 0.03, count), rng.normal(0.47, 0.05, count)])
    angle = np.linspace(-1.35, 1.45, count) + rng.normal(0, 0.15, count)
    reach, width = 0.08, rng.uniform(0.0075, 0.012)
    tree = []
    for _ in range(4):
        bend = rng.normal(0, 0.22, (len(start), 4)).cumsum(axis=1) + angle[:, None]
        step = reach * rng.uniform(0.6, 1.4, (len(start), 1))
        steps = np.stack([1.15 * step * np.cos(bend), step * np.sin(bend)], axis=-1)
        lines = np.concatenate([start[:, None], start[:, None] + steps.cumsum(axis=1)], axis=1)
        tree.append((place(patient, lines * (side, 1)), width))
        start = np.concatenate([lines[:, -1], lines[:, 2]])
        spread = rng.uniform(0.25, 0.7, len(lines)) * rng.choice((-1.0, 1.0), len(lines))
        angle = np.concatenate([bend[:, -1] - 0.4 * spread, bend[:, 1] + spread])
        reach, width = 0.74 * reach, 0.62 * width
    return tree
