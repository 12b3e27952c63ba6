"""The repository's own scenes as a dataset: fonts and backgrounds that training never saw, 4-12 megapixels.

Seeds: 0-1,099 and 10,000-20,249 belong to other measurements, 200,000 upwards to results, 300,000 upwards to
whatever is chosen by measurement (gates, encodings), so that nothing is chosen on what it is judged by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scenes.generator import Scene, encode_jpeg, make_scene, render
from scenes.questions import Question
from secondglance_eval.datasets.example import Example, exact_match
from secondglance_eval.datasets.seeds import TEST_SEED
from secondglance_protocol.geometry import cover_pixels
from secondglance_protocol.wire import ImageSize, PixelBox

PIXELS = (4_000_000, 12_000_000)
_ASPECTS = (0.5, 2.0)
_SIDE_SALT = 41  # apart from the scene's own stream of random numbers


@dataclass(frozen=True, slots=True)
class SceneImage:
    """Renders the scene of a seed as the JPEG that a camera would have written."""

    seed: int

    def __call__(self) -> bytes:
        scene = scene_of(self.seed)
        return encode_jpeg(render(scene), scene.jpeg_quality)


@dataclass(frozen=True, slots=True)
class HeldOutScenes:
    """All questions of the scenes `first_seed`, `first_seed + 1`, ..."""

    scenes: int
    first_seed: int = TEST_SEED

    @property
    def name(self) -> str:
        return f"held-out scenes from seed {self.first_seed}"

    def __len__(self) -> int:
        return self.scenes

    def __iter__(self) -> Iterator[tuple[Example, ...]]:
        for seed in range(self.first_seed, self.first_seed + self.scenes):
            scene = scene_of(seed)
            yield tuple(_example(scene, number, question) for number, question in enumerate(scene.questions))

    def score(self, prediction: str, example: Example) -> float:
        return exact_match(prediction, example)


def scene_of(seed: int) -> Scene:
    """Return the held-out scene of that seed, at its size of 4-12 megapixels."""
    return make_scene(seed, split="test", size=size_of(seed))


def size_of(seed: int) -> tuple[int, int]:
    """Return width and height: pixels uniform in `PIXELS`, shapes from 1:2 to 2:1."""
    rng = np.random.default_rng([seed, _SIDE_SALT])
    pixels = rng.uniform(*PIXELS)
    aspect = math.exp(rng.uniform(math.log(_ASPECTS[0]), math.log(_ASPECTS[1])))
    width = math.isqrt(int(pixels * aspect))
    height = min(max(round(pixels / width), math.ceil(PIXELS[0] / width)), PIXELS[1] // width)
    return width, height


def _example(scene: Scene, number: int, question: Question) -> Example:
    sign = None if question.sign is None else scene.signs[question.sign]
    return Example(
        id=f"{scene.seed}/{number}",
        image_id=str(scene.seed),
        question=question.text,
        answers=(question.answer,),
        kind=question.kind,
        image=SceneImage(scene.seed),
        width=scene.width,
        height=scene.height,
        box=None if sign is None else _pixels(sign.box, scene),
        text_height_px=None if sign is None else scene.text_height_in_view(sign),
    )


def _pixels(box: tuple[float, float, float, float], scene: Scene) -> PixelBox:
    return cover_pixels(*box, ImageSize(width=scene.width, height=scene.height))
