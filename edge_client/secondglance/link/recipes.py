"""How the pictures of one conversation are encoded: as the user said, or as the measured link deserves."""

from __future__ import annotations

from collections.abc import Iterator

from secondglance.link.ladder import IMAGES, PATCHES, Rung, choose, smallest
from secondglance.link.link import Link
from secondglance.pictures.encoding import Recipe
from secondglance.settings import EdgeSettings


class Recipes:
    """Asked when a picture is due, so that what stage one taught about the link serves stage two."""

    def __init__(self, settings: EdgeSettings, link: Link) -> None:
        self._settings = settings
        self._link = link

    def for_image(self) -> tuple[Recipe, float]:
        """And the share of the server's side that the picture shall have."""
        rate = self._rate()
        if rate is None:
            return self._settings.image_recipe, self._settings.image_scale
        round_trip_s = self._link.round_trip_s or 0.0
        glance_s = round_trip_s + self._patch_rung(rate).mean_bytes / rate
        worth_s = self._settings.point_worth_s
        rung = choose(IMAGES, rate, point_worth_s=worth_s, second_glance_s=glance_s)
        return rung.recipe, rung.scale

    def for_patch(self) -> Iterator[Recipe]:
        """The one to use; then the one for a patch that would come too late."""
        rate = self._rate()
        if rate is None:
            yield self._settings.patch_recipe
            return
        rung = self._patch_rung(rate)
        yield rung.recipe
        least = smallest(PATCHES)
        if least != rung:
            yield least.recipe

    def _patch_rung(self, rate: float) -> Rung:
        return choose(PATCHES, rate, point_worth_s=self._settings.point_worth_s)

    def _rate(self) -> float | None:
        """Bytes a second, if they are known and shall count."""
        return self._link.uplink_bytes_per_s if self._settings.may_adapt else None
