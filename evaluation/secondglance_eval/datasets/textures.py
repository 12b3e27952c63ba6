"""Signs with words and numbers before photographs: what a user's own photo looks like, with known answers.

Photographs, fonts and words are those that training never saw. Originals are 900 to 4,000 pixels long.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scenes.generator import encode_jpeg
from secondglance_eval.datasets.example import Example
from secondglance_eval.datasets.seeds import TEST_SEED
from secondglance_protocol.geometry import cover_pixels
from secondglance_protocol.wire import ImageSize, PixelBox
from secondglance_server.engine.reader.alphabet import folded
from training.reader.asking import Asked, Asker
from training.reader.drawing.worlds import VIEW_SIDE_PX, make_world, render_world
from training.reader.records import Subject, true_signs
from training.reader.targets import expected_text

QUESTIONS = 10  # about a picture, before those that no picture answers are left out
_QUESTION_SALT = 3  # apart from the world's own stream of random numbers
_JPEG_QUALITY = 92


@dataclass(frozen=True, slots=True)
class TextureImage:
    """Renders the world of a seed as the JPEG that a camera would have written."""

    seed: int

    def __call__(self) -> bytes:
        return encode_jpeg(render_world(make_world(self.seed, "test")), _JPEG_QUALITY)


@dataclass(frozen=True, slots=True)
class PhotoTextures:
    """Questions about the worlds `first_seed`, `first_seed + 1`, ...; worlds without any are passed over."""

    scenes: int
    first_seed: int = TEST_SEED

    @property
    def name(self) -> str:
        return f"photo textures from seed {self.first_seed}"

    def __len__(self) -> int:
        return self.scenes

    def __iter__(self) -> Iterator[tuple[Example, ...]]:
        found, seed = 0, self.first_seed
        while found < self.scenes:
            examples = tuple(_examples(seed))
            if examples:
                found += 1
                yield examples
            seed += 1

    def score(self, prediction: str, example: Example) -> float:
        """Return 1 if letters and digits are those of an answer; case, blanks and punctuation count not."""
        return float(_letters(prediction) in map(_letters, example.answers))


def _examples(seed: int) -> Iterator[Example]:
    subject = Subject(make_world(seed, "test"))
    width, height = subject.size
    truth = true_signs(subject.signs, (0.0, 0.0, float(width), float(height)))
    asked_about = Asker(np.random.default_rng([seed, _QUESTION_SALT]), off_domain=0.0).ask(truth, QUESTIONS)
    for number, asked in enumerate(asked_about):
        if asked.expected in ("nothing", "cannot"):
            continue
        box, text_height = _place(subject, asked)
        yield Example(
            id=f"texture {seed}/{number}",
            image_id=f"texture {seed}",
            question=asked.text,
            answers=(expected_text(asked, truth),),
            kind="read" if asked.expected in ("sign", "line") else asked.kind,
            image=TextureImage(seed),
            width=width,
            height=height,
            box=box,
            text_height_px=text_height,
        )


def _place(subject: Subject, asked: Asked) -> tuple[PixelBox | None, float | None]:
    """Return where the answer lies, and the height of its smallest text in the first picture."""
    if asked.sign is None:
        return None, None
    width, height = subject.size
    sign = subject.signs[asked.sign]
    lines = sign.lines if asked.line is None else (sign.lines[asked.line],)
    left, top, right, bottom = sign.box if asked.line is None else lines[0][2]
    box = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    smallest = min(line[3] - line[1] for _, _, line in lines)
    size = ImageSize(width=width, height=height)
    return cover_pixels(*box, size), smallest * VIEW_SIDE_PX / max(width, height)


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", folded(text).lower())
