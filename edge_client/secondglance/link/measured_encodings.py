"""Which encoding a link deserves, by figures that were measured once: accuracy at risk against bytes saved.

The figures are `measured_encodings.json` beside this file, as `python -m benchmarks.ladder` writes it, with
the embedded model. An encoding costs the time that its bytes take on this link, and every point of accuracy
that it may lose is worth `point_worth_s`. Knows nothing of pictures: real ones differ from the mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secondglance.pictures.encoding import Recipe

MEASURED_FILE = Path(__file__).with_name("measured_encodings.json")
_MAX_POINTS_LOST = 1.0


@dataclass(frozen=True, slots=True)
class MeasuredEncoding:
    """One encoding and what it costs. The first of a list is the fixed setting.

    `points_lost` below the fixed setting: of a picture per question, of a region per question that needs one;
    `standard_error` is that of this paired difference. `second_glances`: the share of questions that need a
    region after such a picture, 0 of a region.
    """

    recipe: Recipe
    scale: float
    mean_bytes: int
    second_glances: float
    points_lost: float
    standard_error: float

    @property
    def points_at_risk(self) -> float:
        """The points that are to be expected lost, if the true difference lies about the measured one as its
        standard error says and a gain counts as none. What was not measured finely is a risk, never 0.
        """
        if self.standard_error == 0:
            return max(0.0, self.points_lost)
        z = self.points_lost / self.standard_error
        share_worse = (1 + math.erf(z / math.sqrt(2))) / 2
        density = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        return self.points_lost * share_worse + self.standard_error * density


def measured_from(rows: Iterable[dict[str, Any]]) -> tuple[MeasuredEncoding, ...]:
    """Those that lose at most a point in their measurement."""
    return tuple(
        MeasuredEncoding(
            # 4:4:4: what a patch is for; of JPEG only, where a server takes no WebP
            Recipe(
                row["format"], row["quality"], subsampling="4:2:0" if "second_glances" in row else "4:4:4"
            ),
            row.get("scale", 1.0),
            row["bytes"],
            row.get("second_glances", 0.0),
            row["points_lost"],
            row["standard_error"],
        )
        for row in rows
        if row["points_lost"] <= _MAX_POINTS_LOST
    )


_measured = json.loads(MEASURED_FILE.read_text())
IMAGES: tuple[MeasuredEncoding, ...] = measured_from(_measured["images"])
PATCHES: tuple[MeasuredEncoding, ...] = measured_from(_measured["patches"])


def choose(
    encodings: Iterable[MeasuredEncoding],
    bytes_per_s: float,
    *,
    point_worth_s: float,
    second_glance_s: float = 0.0,
) -> MeasuredEncoding:
    """Return the cheapest encoding at that rate; `second_glance_s` is what a question for a region costs."""

    def cost_s(encoding: MeasuredEncoding) -> float:
        sent_s = encoding.mean_bytes / bytes_per_s + encoding.second_glances * second_glance_s
        return sent_s + encoding.points_at_risk * point_worth_s

    return min(encodings, key=cost_s)


def smallest(encodings: Iterable[MeasuredEncoding]) -> MeasuredEncoding:
    """For a picture that would come too late otherwise."""
    return min(encodings, key=lambda encoding: encoding.mean_bytes)
