"""How the pictures of one conversation are encoded.

As the user said; else as was measured best for the server's model, if it names that; else as the link
deserves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from secondglance.link.measured_encodings import IMAGES, PATCHES, MeasuredEncoding, choose, smallest
from secondglance.link.uplink import Uplink
from secondglance.pictures.encoding import Recipe
from secondglance.settings import EdgeSettings
from secondglance_protocol.wire import EncodingRecipe, Recipes

# Of a further region, most of which show nothing that matters. benchmarks/rounds.py: no answer lost by it.
_FURTHER_QUALITY = 50


class EncodingChoice:
    """Asked when a picture is due, so that what stage one taught about the link serves stage two."""

    def __init__(self, settings: EdgeSettings, link: Uplink, recipes: Recipes | None = None) -> None:
        self._settings = settings
        self._link = link
        self._named = recipes if recipes is not None and settings.may_follow_recipes else Recipes()

    @property
    def patch_scale(self) -> float:
        """The share of the offered sides that the region shall have."""
        return 1.0 if self._named.patch is None else self._named.patch.scale

    def for_image(self) -> tuple[Recipe, float]:
        """And the share of the server's side that the picture shall have."""
        if self._named.image is not None:
            return _as_named(self._named.image, self._settings.image_recipe), self._named.image.scale
        rate = self._rate()
        if rate is None:
            return self._settings.image_recipe, self._settings.image_scale
        round_trip_s = self._link.round_trip_s or 0.0
        glance_s = round_trip_s + self._patch_encoding(rate).mean_bytes / rate
        worth_s = self._settings.point_worth_s
        encoding = choose(IMAGES, rate, point_worth_s=worth_s, second_glance_s=glance_s)
        return encoding.recipe, encoding.scale

    def for_patch(self, *, is_further: bool = False, is_sharper: bool = False) -> Iterator[Recipe]:
        """The one to use; then the one for a patch that would come too late.

        `is_further`: another region was sent before this one. `is_sharper`: this one was, and that was too
        little.
        """
        if is_sharper:
            yield self._settings.patch_recipe
        elif is_further and self._settings.may_follow_recipes:
            for recipe in self.for_patch():
                yield replace(recipe, quality=min(recipe.quality, _FURTHER_QUALITY))
        else:
            yield from self._for_first_patch()

    def _for_first_patch(self) -> Iterator[Recipe]:
        rate, least = self._rate(), smallest(PATCHES).recipe
        if self._named.patch is not None:
            first = _as_named(self._named.patch, self._settings.patch_recipe)
            is_smaller = least.quality < first.quality
        else:
            first = self._settings.patch_recipe if rate is None else self._patch_encoding(rate).recipe
            is_smaller = least != first
        yield first
        if rate is not None and is_smaller:
            yield least

    def _patch_encoding(self, rate: float) -> MeasuredEncoding:
        return choose(PATCHES, rate, point_worth_s=self._settings.point_worth_s)

    def _rate(self) -> float | None:
        """Bytes a second, if they are known and shall count."""
        return self._link.uplink_bytes_per_s if self._settings.may_adapt else None


def _as_named(named: EncodingRecipe, usual: Recipe) -> Recipe:
    """Return the server's recipe with what only the edge decides: chroma, and the least quality."""
    least = min(usual.min_quality, named.quality)
    return replace(usual, format=named.format, quality=named.quality, min_quality=least)
