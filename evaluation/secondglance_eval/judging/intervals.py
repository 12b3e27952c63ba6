"""Means with 95 % intervals: bootstrap over pictures, because the questions about one are not independent.

All figures of a study are taken from the same resamples, so differences are paired. Values that were not
measured are NaN and count in neither mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_QUANTILES = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Estimate:
        """Return the estimate in another unit."""
        low, high = sorted((self.low * factor, self.high * factor))
        return Estimate(self.value * factor, low, high)

    def __format__(self, spec: str) -> str:
        if math.isnan(self.value):
            return "-"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


class Resamples:
    """`draws` resamples of the pictures that questions belong to; the first row is the sample itself."""

    def __init__(self, image_ids: Sequence[str], *, draws: int = 1000, seed: int = 0) -> None:
        _, self._image_of = np.unique(np.asarray(image_ids), return_inverse=True)
        self._images = int(self._image_of.max()) + 1 if len(image_ids) else 0
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(self._images, np.full(self._images, 1 / self._images), size=draws)
        ones = np.ones((1, self._images))
        self._weights: Floats = np.concatenate([ones, drawn.astype(np.float64)])  # [1 + draws, images]

    @property
    def question_weights(self) -> Floats:
        """Return how often each question occurs in each resample: [1 + draws, questions]."""
        return self._weights[:, self._image_of]

    def mean(self, values: Floats) -> Estimate:
        """Return the mean over the questions that were measured."""
        return estimate(self._means(values))

    def difference(self, one: Floats, other: Floats) -> Estimate:
        """Return the difference of the means, over the questions where both were measured."""
        return estimate(self._means(one - other))

    def ratio(self, one: Floats, other: Floats) -> Estimate:
        """Return the ratio of the sums, over the questions where both were measured."""
        both = ~np.isnan(one) & ~np.isnan(other)
        with np.errstate(invalid="ignore", divide="ignore"):
            return estimate(self._sums(np.where(both, one, 0)) / self._sums(np.where(both, other, 0)))

    def _means(self, values: Floats) -> Floats:
        known = ~np.isnan(values)
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._sums(np.where(known, values, 0)) / self._sums(known.astype(np.float64))

    def _sums(self, values: Floats) -> Floats:
        by_image = np.bincount(self._image_of, weights=values, minlength=self._images)
        sums: Floats = self._weights @ by_image
        return sums


def estimate(figures: Floats) -> Estimate:
    """Return the estimate from a figure of the sample itself (first) and of its resamples."""
    drawn = figures[1:][~np.isnan(figures[1:])]
    if math.isnan(figures[0]) or not len(drawn):
        return Estimate(float(figures[0]), math.nan, math.nan)
    low, high = np.quantile(drawn, _QUANTILES)
    return Estimate(float(figures[0]), float(low), float(high))


def weighted_auroc(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Return, for each row of weights, the chance that a positive scores above a negative.

    Ties count half. `weights` [rows, n]; NaN where a row holds no positive or no negative.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], scores[order][1:] != scores[order][:-1]]))
    up = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    down = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        areas: Floats = (up * below).sum(axis=1) / (up.sum(axis=1) * down.sum(axis=1))
    return areas


def auroc(scores: Sequence[float], positives: Sequence[bool]) -> float:
    """Return the chance that a positive scores above a negative (ties count half); NaN without either."""
    if not len(scores):
        return math.nan
    weights = np.ones((1, len(scores)))
    return float(weighted_auroc(np.asarray(scores, float), np.asarray(positives, bool), weights)[0])
