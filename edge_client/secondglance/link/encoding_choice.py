"""How the pictures of one conversation are encoded: as the user said, or as the measured link deserves."""

from __future__ import annotations

from collections.abc import Iterator

from secondglance.link.measured_encodings import IMAGES, PATCHES, MeasuredEncoding, choose, smallest
from secondglance.link.uplink import Uplink
from secondglance.pictures.encoding import Recipe
from secondglance.settings import EdgeSettings


class EncodingChoice:
    """Asked when a picture is due, so that what stage one taught about the link serves stage two."""

    def __init__(self, settings: EdgeSettings, link: Uplink) -> None:
        self._settings = settings
        self._link = link

    def for_image(self) -> tuple[Recipe, float]:
        """And the share of the server's side that the picture shall have."""
        rate = self._rate()
        if rate is None:
            return self._settings.image_recipe, self._settings.image_scale
        round_trip_s = self._link.round_trip_s or 0.0
        glance_s = round_trip_s + self._patch_encoding(rate).mean_bytes / rate
        worth_s = self._settings.point_worth_s
        encoding = choose(IMAGES, rate, point_worth_s=worth_s, second_glance_s=glance_s)
        return encoding.recipe, encoding.scale

    def for_patch(self) -> Iterator[Recipe]:
        """The one to use; then the one for a patch that would come too late."""
        rate = self._rate()
        if rate is None:
            yield self._settings.patch_recipe
            return
        encoding = self._patch_encoding(rate)
        yield encoding.recipe
        least = smallest(PATCHES)
        if least != encoding:
            yield least.recipe

    def _patch_encoding(self, rate: float) -> MeasuredEncoding:
        return choose(PATCHES, rate, point_worth_s=self._settings.point_worth_s)

    def _rate(self) -> float | None:
        """Bytes a second, if they are known and shall count."""
        return self._link.uplink_bytes_per_s if self._settings.may_adapt else None
