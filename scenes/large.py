"""Large originals whose signs are small: a quarter of a cell to a whole one of the embedded model's map.

Kinds of backgrounds and fonts are the held-out ones. Signs this small are off the training domain: in the
small copy they are specks, and the model is often wrong about where to look.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scenes.backgrounds import make_background
from scenes.fonts import font_files
from scenes.generator import VIEW_SIDE_PX, Scene, free_spot, random_text
from scenes.questions import make_questions
from scenes.signs import COLORS, Sign, make_sign

SIZE = (12_000, 4_500)  # pixels
CELL_VIEW_PX = 16  # a cell of the embedded model's map, in pixels of its view
SIGN_CELLS = (0.25, 1.0)  # the longer side of a sign, log-uniform
_SALT = 43  # apart from the streams of random numbers of other scenes


def make_large_scene(seed: int) -> Scene:
    """Return a scene of 3-5 signs; the same seed gives the same scene."""
    rng = np.random.default_rng([seed, _SALT])
    signs = _place_signs(rng)
    return Scene(
        seed=seed,
        split="test",
        width=SIZE[0],
        height=SIZE[1],
        background=make_background(rng, "test"),
        signs=signs,
        questions=make_questions(rng, signs),
        noise=float(rng.uniform(0, 9)),
        blur=float(rng.uniform(0, 1.3)),
        jpeg_quality=90,
    )


def _place_signs(rng: np.random.Generator) -> tuple[Sign, ...]:
    fonts = font_files("test")
    cell = CELL_VIEW_PX * SIZE[0] / VIEW_SIDE_PX  # pixels of the original
    signs: list[Sign] = []
    for color in rng.permutation(COLORS)[: int(rng.integers(3, 6))]:
        moved = None
        while moved is None:
            text = random_text(rng)
            if any(text == other.text for other in signs):
                continue
            font = fonts[int(rng.integers(len(fonts)))]
            sign = make_sign(rng, text=text, color=str(color), font=font, text_height=100.0, least_height=0.0)
            side = cell * float(np.exp(rng.uniform(*np.log(SIGN_CELLS))))
            sign = _scaled(sign, side / max(sign.width, sign.height))
            moved = free_spot(rng, sign, SIZE, [other.box for other in signs], cell / 4)
        signs.append(moved)
    return tuple(signs)


def _scaled(sign: Sign, factor: float) -> Sign:
    return replace(
        sign,
        width=sign.width * factor,
        height=sign.height * factor,
        text_height=sign.text_height * factor,
        corners=tuple((x * factor, y * factor) for x, y in sign.corners),
    )
