"""Which encoding a link deserves, by figures that were measured once: accuracy at risk against bytes saved.

The figures are those of benchmarks/results/ladder.json (`python -m benchmarks.ladder`), with the embedded
model; a test holds them together. A rung costs the time that its bytes take on this link, and every point of
accuracy that it may lose is worth `point_worth_s`. Knows nothing of pictures: real ones differ from the mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from edge_client.encoding import Recipe

SECOND_GLANCES = 0.3  # share of questions that needed a patch in that measurement


@dataclass(frozen=True, slots=True)
class Rung:
    """Mean bytes of the pictures; the pair's accuracy in points below the fixed settings, the first rung.

    `standard_error` is that of the paired difference: what was not measured finely is a risk.
    """

    image: Recipe
    image_scale: float
    patch: Recipe
    image_bytes: int
    patch_bytes: int
    points_lost: float
    standard_error: float

    @property
    def points_at_risk(self) -> float:
        """A gain counts as none: it may be chance."""
        return max(0.0, self.points_lost) + self.standard_error


def _webp(quality: int) -> Recipe:
    return Recipe("webp", quality, min_quality=20)


LADDER: tuple[Rung, ...] = (
    Rung(Recipe("webp", 50), 1.0, Recipe("webp", 85, subsampling="4:4:4"), 2821, 4595, 0.0, 0.0),
    Rung(_webp(50), 1.0, _webp(50), 2821, 2050, -0.33, 0.33),
    Rung(_webp(30), 1.0, _webp(30), 2151, 1606, -1.33, 1.05),
    Rung(_webp(50), 0.75, _webp(50), 2015, 2079, -0.33, 1.45),
)
"""Nothing that loses more than a point in its measurement."""


def choose(
    rungs: Iterable[Rung], stage: Literal["stage1", "stage2"], bytes_per_s: float, *, point_worth_s: float
) -> Rung:
    """The cheapest rung for a picture of that stage on a link of that rate."""

    def cost_s(rung: Rung) -> float:
        sent = rung.patch_bytes
        if stage == "stage1":
            sent = rung.image_bytes + round(SECOND_GLANCES * rung.patch_bytes)
        return sent / bytes_per_s + rung.points_at_risk * point_worth_s

    return min(rungs, key=cost_s)


def smallest(rungs: Iterable[Rung]) -> Rung:
    """For a patch that would come too late otherwise."""
    return min(rungs, key=lambda rung: rung.patch_bytes)
