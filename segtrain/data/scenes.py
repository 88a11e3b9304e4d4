"""Generated street scenes: a data set without files, in which rare thin classes stand beside large easy ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from segtrain.data.labels import IGNORE, LabelSpec
from segtrain.registry import DATASETS
from segtrain.task import Color, Kind, Sample

LABELS = LabelSpec(
    names=("ground", "sky", "building", "road", "vehicle", "pole", "person"),
    palette=((107, 142, 35), (70, 130, 180), (90, 90, 90), (128, 64, 128), (0, 0, 200), (250, 200, 40), (220, 20, 60)),
)
GROUND, SKY, BUILDING, ROAD, VEHICLE, POLE, PERSON = range(7)
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Array = npt.NDArray[Any]
Point = tuple[float, float]  # x, y


@dataclass(frozen=True)
class Scenes:
    """`length` scenes of one split; a scene is a function of (seed, split, index) and of the size."""

    split: Split
    length: int
    size: tuple[int, int]
    seed: int
    labels: LabelSpec = LABELS
    kind: Kind = "segmentation"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, SPLITS.index(self.split), index))
        image, target = draw(rng, *self.size)
        return Sample(image, target, self.path(index))

    def path(self, index: int) -> str:
        return f"scenes/{self.split}/{index:05d}"


@DATASETS.register("scenes")
def scenes(
    *,
    split: Split = "train",
    length: Annotated[int, Field(ge=1)] = 640,
    size: tuple[Annotated[int, Field(ge=16)], Annotated[int, Field(ge=16)]] = (96, 128),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Scenes:
    """Street scenes drawn on the fly, 1 to 2 ms each at 96x128: 7 classes, poles and persons among them rare and thin.

    `length`: how many there are. `size`: height and width in pixels. A part of them has an ignored border.
    """
    return Scenes(split, length, size, seed)


class Canvas(NamedTuple):
    """An image and its labels, drawn on together; `unit` is the length that is one pixel in a scene 96 high."""

    rng: np.random.Generator
    image: npt.NDArray[np.uint8]  # [H, W, 3]
    target: npt.NDArray[np.uint8]  # [H, W]
    unit: float

    @property
    def height(self) -> int:
        return len(self.target)

    @property
    def width(self) -> int:
        return int(self.target.shape[1])

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def color(self, base: Color, spread: float) -> Color:
        """`base`, lighter or darker as a whole and off in each channel, by up to `spread` grey values."""
        off = self.between(-spread, spread) + self.rng.uniform(-spread / 3, spread / 3, 3)
        red, green, blue = np.clip(np.add(base, off), 0, 255).astype(int).tolist()
        return red, green, blue

    def polygon(self, points: list[Point], color: Color, label: int | None) -> None:
        """Fill a polygon; smooth edges in the image, hard ones in the labels. `label` None paints only."""
        fixed = np.round(np.array(points) * 16).astype(np.int32)  # 4 fractional bits
        cv2.fillPoly(self.image, [fixed], color, cv2.LINE_AA, 4)
        if label is not None:
            cv2.fillPoly(self.target, [fixed], label, cv2.LINE_8, 4)

    def box(self, left: float, top: float, right: float, bottom: float, color: Color, label: int | None) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], color, label)

    def disc(self, center: Point, radii: Point, color: Color, label: int | None) -> None:
        middle = (round(center[0] * 16), round(center[1] * 16))
        axes = (max(8, round(radii[0] * 16)), max(8, round(radii[1] * 16)))
        for surface, value, line in ((self.image, color, cv2.LINE_AA), (self.target, label, cv2.LINE_8)):
            if value is not None:
                cv2.ellipse(surface, middle, axes, 0, 0, 360, value, -1, line, 4)


def draw(rng: np.random.Generator, height: int, width: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """One scene: image uint8 [H, W, 3] and train ids uint8 [H, W]."""
    image, target = np.empty((height, width, 3), np.uint8), np.empty((height, width), np.uint8)
    canvas = Canvas(rng, image, target, height / 96)
    horizon = canvas.between(0.36, 0.5) * height
    vanishing = canvas.between(0.3, 0.7) * width
    _sky(canvas, horizon)
    _buildings(canvas, horizon)
    _ground(canvas, horizon)
    edges = _road(canvas, horizon, vanishing)
    _things(canvas, horizon, edges)
    lit = _light(canvas)
    if canvas.chance(0.3):
        _border(canvas)
    return lit, target


def _sky(canvas: Canvas, horizon: float) -> None:
    """A gradient from zenith to horizon with clouds; now and then almost white, as buildings can be."""
    overcast = canvas.rng.random() ** 1.5
    zenith = np.array(canvas.color((90, 140, 205), 35)) * (1 - overcast) + 190 * overcast
    haze = np.array(canvas.color((205, 215, 225), 25))
    height = int(horizon) + 2
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    clouds = _smooth_noise(canvas, (height, canvas.width), 5, 9)[..., None] * canvas.between(10, 40)
    canvas.image[:height] = np.clip(zenith + (haze - zenith) * down + clouds, 0, 255)
    canvas.target[:height] = SKY


def _buildings(canvas: Canvas, horizon: float) -> None:
    """A row of houses along the horizon, with gaps, roofs and windows."""
    left = canvas.between(-20, 0) * canvas.unit
    while left < canvas.width:
        right = left + canvas.between(12, 34) * canvas.unit
        if canvas.chance(0.8):
            _house(canvas, left, right, horizon)
        left = right if canvas.chance(0.6) else right + canvas.between(2, 14) * canvas.unit


def _house(canvas: Canvas, left: float, right: float, horizon: float) -> None:
    bottom = horizon + 3 * canvas.unit
    top = horizon - canvas.between(0.25, 0.95) * horizon
    wall = canvas.color(
        [(150, 120, 100), (175, 165, 150), (125, 128, 135), (185, 190, 198)][canvas.rng.integers(4)], 25
    )
    canvas.box(left, top, right, bottom, wall, BUILDING)
    if canvas.chance(0.35):
        ridge = ((left + right) / 2, top - canvas.between(3, 9) * canvas.unit)
        canvas.polygon([(left, top), ridge, (right, top)], canvas.color((120, 70, 60), 25), BUILDING)
    glass = canvas.color((80, 90, 105) if canvas.chance(0.75) else (230, 215, 160), 20)
    across, down = canvas.between(4, 7) * canvas.unit, canvas.between(5, 8) * canvas.unit
    for y in np.arange(top + 0.35 * down, bottom - 0.6 * down, down):
        for x in np.arange(left + 0.3 * across, right - 0.6 * across, across):
            canvas.box(x, y, x + 0.45 * across, y + 0.5 * down, glass, None)


def _ground(canvas: Canvas, horizon: float) -> None:
    """Grass, gravel or paving from the horizon down."""
    top = int(horizon)
    base = canvas.color([(96, 118, 70), (140, 130, 110), (128, 128, 126)][canvas.rng.integers(3)], 22)
    shape = (canvas.height - top, canvas.width)
    patches, grain = _smooth_noise(canvas, shape, 5, 8), _smooth_noise(canvas, shape, shape[0], shape[1] // 2)
    texture = canvas.between(6, 12) * patches + canvas.between(4, 12) * grain
    canvas.image[top:] = np.clip(base + texture[..., None], 0, 255)
    canvas.target[top:] = GROUND


def _road(canvas: Canvas, horizon: float, vanishing: float) -> Callable[[float], Point]:
    """The road, its kerbs and its marks. Returns the function from y to the left and right edge of the road."""
    middle = canvas.between(0.3, 0.7) * canvas.width
    near, far = canvas.between(0.3, 0.5) * canvas.width, canvas.between(1, 4) * canvas.unit

    def edges(y: float) -> Point:
        depth = (y - horizon) / (canvas.height - horizon)  # 0 at the horizon, 1 at the lower edge
        center, half = vanishing + (middle - vanishing) * depth, far + (near - far) * depth
        return center - half, center + half

    top, bottom = horizon, float(canvas.height)
    corners = [(edges(top)[0], top), (edges(top)[1], top), (edges(bottom)[1], bottom), (edges(bottom)[0], bottom)]
    asphalt = canvas.color((98, 98, 102), 26)
    canvas.polygon(corners, asphalt, ROAD)
    paint = canvas.color((215, 212, 200), 25)
    for start in np.arange(0.04, 1, 0.16):
        first, last = (horizon + d**1.4 * (bottom - horizon) for d in (start, start + 0.08))
        (a, b), (c, d) = edges(first), edges(last)
        far_end = [(0.51 * a + 0.49 * b, first), (0.49 * a + 0.51 * b, first)]
        canvas.polygon([*far_end, (0.49 * c + 0.51 * d, last), (0.51 * c + 0.49 * d, last)], paint, None)
    return edges


def _things(canvas: Canvas, horizon: float, edges: Callable[[float], Point]) -> None:
    """Vehicles, poles and persons, far ones first so that near ones cover them."""
    makers = [
        (_vehicle, canvas.rng.integers(0, 4)),
        (_pole, canvas.rng.integers(1, 5)),
        (_person, canvas.rng.integers(0, 5)),
    ]
    placed = [(canvas.rng.random() ** 1.3, make) for make, count in makers for _ in range(count)]
    for depth, make in sorted(placed, key=lambda thing: thing[0]):
        foot = horizon + (0.06 + 0.86 * depth) * (canvas.height - horizon)
        left, right = edges(foot)
        if make is _vehicle:
            x = canvas.between(left, right)
        else:
            beside = canvas.between(1, 22) * canvas.unit * (0.4 + depth)
            x = left - beside if canvas.chance(0.5) else right + beside
            if make is _person and canvas.chance(0.25):
                x = canvas.between(left, right)
        make(canvas, x, foot, 0.3 + 0.7 * depth)


def _vehicle(canvas: Canvas, x: float, foot: float, scale: float) -> None:
    half = canvas.between(9, 14) * canvas.unit * scale
    tall = canvas.between(0.55, 0.8) * half
    hues = [(170, 35, 35), (40, 70, 150), (225, 225, 228), (35, 36, 40), (120, 124, 130), (190, 150, 40)]
    paint = canvas.color(hues[canvas.rng.integers(len(hues))], 18)
    canvas.disc((x, foot), (1.05 * half, 0.16 * half), (42, 42, 44), None)  # its shadow on the road
    roof = [(x - 0.6 * half, foot - tall), (x - 0.4 * half, foot - 1.75 * tall)]
    roof += [(x + 0.4 * half, foot - 1.75 * tall), (x + 0.65 * half, foot - tall)]
    canvas.polygon(roof, paint, VEHICLE)
    canvas.box(x - half, foot - 1.05 * tall, x + half, foot - 0.18 * tall, paint, VEHICLE)
    pane = [(x - 0.48 * half, foot - 1.02 * tall), (x - 0.34 * half, foot - 1.6 * tall)]
    pane += [(x + 0.34 * half, foot - 1.6 * tall), (x + 0.52 * half, foot - 1.02 * tall)]
    canvas.polygon(pane, canvas.color((60, 75, 90), 20), None)
    for wheel in (-0.6, 0.6):
        canvas.disc((x + wheel * half, foot - 0.16 * tall), (0.2 * half, 0.24 * tall), (24, 24, 26), VEHICLE)
    canvas.box(x + 0.86 * half, foot - 0.8 * tall, x + 0.99 * half, foot - 0.6 * tall, (235, 225, 170), None)


def _pole(canvas: Canvas, x: float, foot: float, scale: float) -> None:
    """A lamp post, a sign post or a bare pole, one to three units wide: at 96x128, what a network can just see."""
    tall = canvas.between(30, 58) * canvas.unit * scale
    half = canvas.between(0.7, 1.3) * canvas.unit * (0.4 + 0.6 * scale)
    metal = canvas.color([(95, 98, 100), (160, 162, 165), (92, 74, 58)][canvas.rng.integers(3)], 25)
    top = foot - tall
    canvas.box(x - half, top, x + half, foot, metal, POLE)
    kind = canvas.rng.random()
    side = 1 if canvas.chance(0.5) else -1
    if kind < 0.4:
        tip = x + side * canvas.between(5, 9) * canvas.unit * scale
        canvas.polygon([(x, top), (tip, top), (tip, top + 1.6 * half), (x, top + 1.6 * half)], metal, POLE)
    elif kind < 0.65:
        plate = canvas.color([(200, 40, 40), (40, 80, 170), (230, 200, 60)][canvas.rng.integers(3)], 20)
        radius = canvas.between(2.5, 4) * canvas.unit * scale
        canvas.disc((x, top + radius), (radius, radius), plate, POLE)


def _person(canvas: Canvas, x: float, foot: float, scale: float) -> None:
    tall = canvas.between(17, 24) * canvas.unit * scale
    head, step = 0.085 * tall, canvas.between(0.03, 0.14) * tall
    coats = [(60, 55, 60), (150, 60, 50), (60, 90, 140), (150, 140, 120), (70, 100, 70), (200, 190, 180)]
    coat, trousers = canvas.color(coats[canvas.rng.integers(len(coats))], 22), canvas.color((58, 58, 72), 24)
    hip, shoulder, wide = foot - 0.47 * tall, foot - 0.83 * tall, 0.13 * tall
    for way in (-1, 1):
        leg = [(x - 0.06 * tall, hip), (x + 0.06 * tall, hip), (x + way * step + 0.05 * tall, foot)]
        canvas.polygon([*leg, (x + way * step - 0.05 * tall, foot)], trousers, PERSON)
        arm = [(x + way * 0.8 * wide, shoulder), (x + way * 1.25 * wide, shoulder + 0.03 * tall)]
        canvas.polygon([*arm, (x + way * (wide + step), hip), (x + way * (0.7 * wide + step), hip)], coat, PERSON)
    torso = [(x - wide, shoulder), (x + wide, shoulder), (x + 0.8 * wide, hip + 0.05 * tall)]
    canvas.polygon([*torso, (x - 0.8 * wide, hip + 0.05 * tall)], coat, PERSON)
    canvas.disc((x, foot - 0.91 * tall), (head, 1.2 * head), canvas.color((190, 150, 125), 45), PERSON)


def _light(canvas: Canvas) -> npt.NDArray[np.uint8]:
    """The image under light from one side, in one colour temperature, with sensor noise."""
    height, width = canvas.target.shape
    gain = canvas.between(0.65, 1.15) * np.array(
        [canvas.between(0.93, 1.07), 1.0, canvas.between(0.9, 1.1)], np.float32
    )
    side = np.linspace(canvas.between(0.85, 1), canvas.between(0.85, 1), width, dtype=np.float32)[:, None]
    noise = canvas.rng.standard_normal((height, width, 3), np.float32) * np.float32(canvas.between(3, 11))
    image = canvas.image.astype(np.float32) * (gain * side) + noise
    return np.asarray(np.clip(image, 0, 255), np.uint8)


def _border(canvas: Canvas) -> None:
    """An ignored frame, as rectified pictures have it."""
    wide = max(1, round(canvas.between(1, 2.5) * canvas.unit))
    cv2.rectangle(canvas.target, (0, 0), (canvas.width - 1, canvas.height - 1), IGNORE, 2 * wide - 1)


def _smooth_noise(canvas: Canvas, shape: tuple[int, int], rows: int, columns: int) -> npt.NDArray[np.float32]:
    """Standard normal noise on a grid of rows x columns, enlarged to `shape` [H, W]."""
    grid = canvas.rng.standard_normal((max(2, rows), max(2, columns)), np.float32)
    return np.asarray(cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float32)
