"""What the demo model learns from: the pictures are what their words say, and are the same each time."""

from __future__ import annotations

from random import Random

import numpy as np

from training.draw import held_out, make_up, paint, words
from training.look import ground_of, shape_of


def test_a_picture_shows_what_its_words_say() -> None:
    """Looked at in pixels, as the model's own pictures are judged."""
    for seed in range(120):
        random = Random(seed)
        scene = make_up(random, test=True)
        (shape,) = scene.shapes
        said, picture = words(scene, random), paint(scene, random)
        assert f"{shape.colour} {shape.kind}" in said
        assert (ground_of(picture), shape_of(picture)) == (scene.background, (shape.colour, shape.kind)), said


def test_a_seed_gives_the_same_picture_and_none_of_those_that_are_held_out() -> None:
    for seed in range(200):
        one, other = Random(seed), Random(seed)
        scene = make_up(one)
        assert not any(held_out(shape.colour, shape.kind, scene.background) for shape in scene.shapes)
        again = make_up(other)
        assert scene == again and words(scene, one) == words(again, other)
        assert np.array_equal(paint(scene, one), paint(again, other))
