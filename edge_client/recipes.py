"""How the pictures of one conversation are encoded: as the user said, or as the measured link deserves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from edge_client.encoding import Recipe
from edge_client.ladder import LADDER, Rung, choose, smallest
from edge_client.link import Link
from edge_client.settings import EdgeSettings


class Recipes:
    """Asked when a picture is due, so that what stage one taught about the link serves stage two."""

    def __init__(self, settings: EdgeSettings, link: Link) -> None:
        self._settings = settings
        self._link = link

    def for_image(self) -> tuple[Recipe, float]:
        """And the share of the server's side that the picture shall have."""
        rung = self._rung("stage1")
        if rung is None:
            return self._settings.image_recipe, self._settings.image_scale
        return rung.image, rung.image_scale

    def for_patch(self) -> Iterator[Recipe]:
        """The one to use; then the one for a patch that would come too late."""
        rung = self._rung("stage2")
        if rung is None:
            yield self._settings.patch_recipe
            return
        yield rung.patch
        least = smallest(LADDER)
        if least != rung:
            yield least.patch

    def _rung(self, stage: Literal["stage1", "stage2"]) -> Rung | None:
        rate = self._link.uplink_bytes_per_s
        if rate is None or not self._settings.may_adapt:
            return None
        return choose(LADDER, stage, rate, point_worth_s=self._settings.point_worth_s)
