"""The pictures that the demo model learns from, and the words for them: all of it is drawn here, from a seed.

`scene(random)` makes up what there is to see, `words` says it in one of many ways, `paint` draws it. Nothing but the
seed decides, so the same pictures come again anywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random
from zlib import crc32

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128
"""Pixels a side."""
_FINE = 2
"""How much finer it is drawn, for smooth edges."""

COLOURS = {
    "red": (220, 40, 40),
    "orange": (245, 145, 30),
    "yellow": (250, 220, 50),
    "green": (45, 160, 70),
    "blue": (45, 85, 210),
    "purple": (140, 60, 170),
    "pink": (250, 150, 185),
    "brown": (125, 80, 45),
    "black": (20, 20, 20),
    "white": (248, 248, 248),
    "grey": (135, 135, 135),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "diamond", "heart")
PLURALS = {"cross": "crosses"}
SIZES = {"small": (0.13, 0.18), "": (0.20, 0.28), "big": (0.31, 0.38)}
"""Half of the width, as a part of the picture's; two or more in one picture are smaller."""
PLACES = {
    "left": (0.27, 0.5),
    "right": (0.73, 0.5),
    "top": (0.5, 0.27),
    "bottom": (0.5, 0.73),
    "": (0.5, 0.5),
}
RELATIONS = ("left of", "right of", "above", "below")
SCENES = ("sun", "night", "house", "boat")


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape: where its middle is and half its width, as parts of the picture's width."""

    kind: str
    colour: str
    x: float
    y: float
    radius: float
    size: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """What there is to see."""

    background: str
    shapes: list[Shape] = field(default_factory=list)
    relation: str = ""
    """Of the first shape to the second."""
    scene: str = ""


def held_out(colour: str, kind: str, background: str) -> bool:
    """Whether the model never sees this shape in this colour on this background: one in eight."""
    return crc32(f"{colour} {kind} {background}".encode()) % 8 == 0


def make_up(random: Random, *, test: bool = False) -> Picture:
    """Something to see. With `test` it is one shape of those that are held out, otherwise none of them."""
    while True:
        picture = _one_shape(random) if test else _anything(random)
        seen = [held_out(shape.colour, shape.kind, picture.background) for shape in picture.shapes]
        if (test and all(seen)) or (not test and not any(seen)):
            return picture


def _anything(random: Random) -> Picture:
    chance = random.random()
    if chance < 0.62:
        return _one_shape(random)
    if chance < 0.76:
        return _several(random)
    if chance < 0.94:
        return _two(random)
    scene = random.choice(SCENES)
    return Picture(
        random.choice(("blue", "orange", "pink", "grey")) if scene != "night" else "black", scene=scene
    )


def _background(random: Random, *colours: str) -> str:
    return random.choice([name for name in COLOURS if name not in colours])


def _near(random: Random, x: float, y: float, by: float) -> tuple[float, float]:
    return x + random.uniform(-by, by), y + random.uniform(-by, by)


def _one_shape(random: Random) -> Picture:
    kind, colour = random.choice(SHAPES), random.choice(list(COLOURS))
    size = random.choice(("", "", "small", "big"))
    place = random.choice(("", "", "", "left", "right", "top", "bottom")) if size != "big" else ""
    x, y = _near(random, *PLACES[place], 0.04)
    radius = random.uniform(*SIZES[size])
    return Picture(_background(random, colour), [Shape(kind, colour, x, y, radius, size, place)])


def _several(random: Random) -> Picture:
    kind, colour = random.choice(SHAPES), random.choice(list(COLOURS))
    middles = {
        2: [(0.28, 0.5), (0.72, 0.5)],
        3: [(0.5, 0.27), (0.26, 0.7), (0.74, 0.7)],
    }[random.choice((2, 3))]
    radius = random.uniform(0.15, 0.19)
    shapes = [Shape(kind, colour, *_near(random, x, y, 0.03), radius) for x, y in middles]
    return Picture(_background(random, colour), shapes)


def _two(random: Random) -> Picture:
    relation = random.choice(RELATIONS)
    first, second = {
        "left of": ((0.27, 0.5), (0.73, 0.5)),
        "right of": ((0.73, 0.5), (0.27, 0.5)),
        "above": ((0.5, 0.27), (0.5, 0.73)),
        "below": ((0.5, 0.73), (0.5, 0.27)),
    }[relation]
    colours = [random.choice(list(COLOURS)) for _ in range(2)]
    sizes = [random.choice(("", "", "small", "big")) for _ in range(2)]
    shapes = [
        Shape(
            random.choice(SHAPES),
            colour,
            *_near(random, *middle, 0.03),
            random.uniform(*{"small": (0.10, 0.13), "": (0.15, 0.19), "big": (0.21, 0.24)}[size]),
            size,
        )
        for colour, middle, size in zip(colours, (first, second), sizes, strict=True)
    ]
    return Picture(_background(random, *colours), shapes, relation)


# --- words ------------------------------------------------------------------------------------------------------


def words(picture: Picture, random: Random) -> str:
    """What there is to see, in one of many ways to say it."""
    if picture.scene:
        return _scene_words(picture, random)
    if picture.relation:
        first, second = (_noun(shape, random) for shape in picture.shapes)
        text = f"{first} {picture.relation} {second}"
    elif len(picture.shapes) > 1:
        shape = picture.shapes[0]
        number = {2: "two", 3: "three"}[len(picture.shapes)]
        text = f"{number} {shape.colour} {PLURALS.get(shape.kind, shape.kind + 's')}"
    else:
        shape = picture.shapes[0]
        text = _noun(shape, random)
        if shape.place:
            text += random.choice((" on the {}", " at the {}", ", {}", " {}")).format(shape.place)
    if random.random() < 0.92:
        ground = f"{picture.background} background"
        text += random.choice((f" on {picture.background}", f" on {_with_article(ground)}", f", {ground}"))
    return text


def _noun(shape: Shape, random: Random) -> str:
    said = " ".join(filter(None, (shape.size, shape.colour, shape.kind)))
    return _with_article(said) if random.random() < 0.7 else said


def _with_article(said: str) -> str:
    return f"{'an' if said[0] in 'aeiou' else 'a'} {said}"


def _scene_words(picture: Picture, random: Random) -> str:
    sky = f"{picture.background} sky"
    return {
        "sun": random.choice((f"a yellow sun over green hills, {sky}", f"sun over hills under a {sky}")),
        "night": random.choice(("a white moon and stars at night", "night sky with a moon and stars")),
        "house": random.choice((f"a red house with a tree, {sky}", f"a house and a tree under a {sky}")),
        "boat": random.choice((f"a boat on the sea, {sky}", f"a sailing boat on the blue sea under a {sky}")),
    }[picture.scene]


# --- paint ------------------------------------------------------------------------------------------------------


def paint(picture: Picture, random: Random, *, outlined: bool = False) -> np.ndarray:
    """The picture, `uint8 [SIZE, SIZE, 3]`. With `outlined` each shape has a thick white rim with a thin black one."""
    side = SIZE * _FINE
    image = Image.new("RGB", (side, side), _colour(picture.background, random))
    pen = ImageDraw.Draw(image)
    if picture.scene:
        _paint_scene(pen, picture.scene, side, random)
    for shape in picture.shapes:
        if outlined:
            _paint_shape(pen, shape, side, (0, 0, 0), grow=0.075)
            _paint_shape(pen, shape, side, (255, 255, 255), grow=0.055)
        _paint_shape(pen, shape, side, _colour(shape.colour, random))
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX))


def _colour(name: str, random: Random) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, part + random.randint(-6, 6))) for part in COLOURS[name])
    return red, green, blue


def outline(kind: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """The corners of a shape around a middle."""

    def at(angle: float, distance: float) -> tuple[float, float]:
        return x + distance * math.sin(angle), y - distance * math.cos(angle)

    match kind:
        case "square":
            side = radius * 0.86
            return [(x - side, y - side), (x + side, y - side), (x + side, y + side), (x - side, y + side)]
        case "triangle":
            return [(x, y - radius), (x + radius, y + radius * 0.8), (x - radius, y + radius * 0.8)]
        case "diamond":
            return [(x, y - radius), (x + radius * 0.7, y), (x, y + radius), (x - radius * 0.7, y)]
        case "star":
            return [at(k * math.pi / 5, radius * (1.1 if k % 2 == 0 else 0.45)) for k in range(10)]
        case "cross":
            arm, wide = radius, radius * 0.34
            return [
                (x - wide, y - arm), (x + wide, y - arm), (x + wide, y - wide), (x + arm, y - wide),
                (x + arm, y + wide), (x + wide, y + wide), (x + wide, y + arm), (x - wide, y + arm),
                (x - wide, y + wide), (x - arm, y + wide), (x - arm, y - wide), (x - wide, y - wide),
            ]  # fmt: skip
        case "heart":
            points = []
            for step in range(48):
                t = step * 2 * math.pi / 48
                across = 16 * math.sin(t) ** 3
                up = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
                points.append((x + across * radius / 16, y - up * radius / 16))
            return points
    return [at(k * 2 * math.pi / 48, radius) for k in range(48)]  # a circle, or the rim of a ring


def _paint_shape(
    pen: ImageDraw.ImageDraw,
    shape: Shape,
    side: int,
    colour: tuple[int, int, int],
    grow: float = 0.0,
) -> None:
    def scaled(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(px * side, py * side) for px, py in points]

    radius = shape.radius + grow
    if shape.kind == "ring":
        width = int((shape.radius * 0.36 + 2 * grow) * side)
        box = [
            (shape.x - radius) * side,
            (shape.y - radius) * side,
            (shape.x + radius) * side,
            (shape.y + radius) * side,
        ]
        pen.ellipse(box, outline=colour, width=width)
        return
    points = scaled(outline(shape.kind, shape.x, shape.y, shape.radius))
    pen.polygon(points, fill=colour)
    if grow:
        pen.line([*points, points[0], points[1]], fill=colour, width=int(2 * grow * side), joint="curve")


def _paint_scene(pen: ImageDraw.ImageDraw, scene: str, side: int, random: Random) -> None:
    def box(x: float, y: float, radius: float) -> list[float]:
        return [(x - radius) * side, (y - radius) * side, (x + radius) * side, (y + radius) * side]

    def corners(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(px * side, py * side) for px, py in points]

    x = 0.5 + random.uniform(-0.15, 0.15)
    match scene:
        case "sun":
            pen.ellipse(box(x, 0.42 + random.uniform(-0.05, 0.05), 0.16), fill=COLOURS["yellow"])
            for middle in (0.15, 0.8):
                pen.ellipse(box(middle + random.uniform(-0.05, 0.05), 1.15, 0.55), fill=COLOURS["green"])
        case "night":
            pen.ellipse(box(x, 0.33, 0.15), fill=COLOURS["white"])
            for _ in range(7):
                star = outline("star", random.uniform(0.05, 0.95), random.uniform(0.05, 0.95), 0.045)
                pen.polygon(corners(*star), fill=COLOURS["yellow"])
        case "house":
            pen.rectangle([0, 0.75 * side, side, side], fill=COLOURS["green"])
            pen.rectangle([0.15 * side, 0.42 * side, 0.5 * side, 0.8 * side], fill=COLOURS["red"])
            pen.polygon(corners((0.1, 0.42), (0.55, 0.42), (0.325, 0.2)), fill=COLOURS["brown"])
            pen.rectangle([0.72 * side, 0.5 * side, 0.79 * side, 0.82 * side], fill=COLOURS["brown"])
            pen.ellipse(box(0.755, 0.42, 0.15), fill=COLOURS["green"])
        case _:
            pen.rectangle([0, 0.62 * side, side, side], fill=COLOURS["blue"])
            pen.polygon(
                corners((x - 0.25, 0.6), (x + 0.25, 0.6), (x + 0.16, 0.74), (x - 0.16, 0.74)),
                fill=COLOURS["brown"],
            )
            pen.polygon(corners((x, 0.2), (x + 0.2, 0.56), (x, 0.56)), fill=COLOURS["white"])
