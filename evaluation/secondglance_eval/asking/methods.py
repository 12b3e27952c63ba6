"""The methods that are put to the server. All others are computed from their records (see `derived`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from secondglance_eval.asking.asker import Asker, CropRule
from secondglance_eval.asking.baseline_crops import centre_crop, oracle_crop, random_crop
from secondglance_eval.asking.photo import Photo, View
from secondglance_eval.asking.records import Record
from secondglance_eval.datasets.example import Example
from secondglance_protocol.wire import Mode, Recipes

ALWAYS = "always"
PAIR = "pair"
RANDOM_CROP = "random_crop"
CENTRE_CROP = "centre_crop"
ORACLE_CROP = "oracle_crop"
ORIGINAL_WHOLE = "original_whole"
GLOBAL_PREFIX = "global: "  # of a single picture in some encoding

WHOLE_EVERY = 5  # it needs the server to decode megapixels and answers like global-only: a fifth is enough

SAMPLED_LEAST = 20  # pictures


@dataclass(frozen=True, slots=True)
class Method:
    """`every`: put to each n-th picture of many. `needs_box`: only for examples that say where to look."""

    name: str
    ask: Callable[[Asker, Photo, Example], Record]
    every: int = 1
    needs_box: bool = False

    def applies_to(self, example: Example, picture_number: int, pictures: int) -> bool:
        """Say whether the example is asked; its picture is that number, from 0, of so many.

        Of few pictures a method gets all, or at least `SAMPLED_LEAST`: a mean over two says nothing.
        """
        step = max(1, min(self.every, pictures // SAMPLED_LEAST))
        return picture_number % step == 0 and (example.box is not None or not self.needs_box)


def standard_methods() -> tuple[Method, ...]:
    """Return all methods but single pictures in other encodings, which depend on the pair's bytes."""
    return (
        Method(ALWAYS, partial(_through_the_edge, method=ALWAYS, mode="always")),
        Method(RANDOM_CROP, partial(_other_crop, method=RANDOM_CROP, mode="always", place=random_crop)),
        Method(CENTRE_CROP, partial(_other_crop, method=CENTRE_CROP, mode="always", place=centre_crop)),
        Method(
            ORACLE_CROP,
            partial(_other_crop, method=ORACLE_CROP, mode="always", place=oracle_crop),
            needs_box=True,
        ),
        Method(ORIGINAL_WHOLE, _original_whole, every=WHOLE_EVERY),
    )


def pair_method() -> Method:
    """Return the product as it comes, which must answer what is computed from `always`."""
    return Method(PAIR, partial(_through_the_edge, method=PAIR, mode="auto"))


def global_method(view: View, *, every: int = 1) -> Method:
    """Return a method that sends one picture, larger, finer or in another format than the edge's."""
    name = f"{GLOBAL_PREFIX}{view.name}"

    def ask(asker: Asker, photo: Photo, example: Example) -> Record:
        return asker.with_one_picture(name, photo, example, photo.view(view))

    return Method(name, ask, every=every)


def recipes_method(name: str, recipes: Recipes) -> Method:
    """Return the pair with picture and region encoded as the recipes say."""

    def ask(asker: Asker, photo: Photo, example: Example) -> Record:
        return asker.with_recipes(name, photo, example, recipes)

    return Method(name, ask)


def _through_the_edge(asker: Asker, photo: Photo, example: Example, *, method: str, mode: Mode) -> Record:
    return asker.through_the_edge(method, photo, example, mode)


def _other_crop(
    asker: Asker, photo: Photo, example: Example, *, method: str, mode: Mode, place: CropRule
) -> Record:
    return asker.with_another_crop(method, photo, example, mode, place)


def _original_whole(asker: Asker, photo: Photo, example: Example) -> Record:
    return asker.with_one_picture(ORIGINAL_WHOLE, photo, example, photo.whole())
