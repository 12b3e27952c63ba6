"""Every gate that the server knows, judged on drafts that were recorded: by the server's own code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from secondglance_eval.asking.records import TokenUncertainty
from secondglance_protocol.wire import Aggregate, Metric
from secondglance_server.engine.protocol import GateDefaults, TokenStats
from secondglance_server.inference.gate import judge

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GateStatistic:
    """What is compared with a threshold."""

    metric: Metric
    aggregate: Aggregate

    @property
    def name(self) -> str:
        return f"{self.metric} {self.aggregate}"


ALL_GATES = tuple(
    GateStatistic(metric, aggregate) for metric in get_args(Metric) for aggregate in get_args(Aggregate)
)


def doubts(drafts: Sequence[Sequence[TokenUncertainty]], gate: GateStatistic) -> Floats:
    """Return how doubtful each draft is: infinite for one without tokens, which always counts as doubtful."""
    defaults = GateDefaults(metric=gate.metric, aggregate=gate.aggregate, threshold=0.0)
    return np.array([_doubt(draft, defaults) for draft in drafts], dtype=np.float64)


def _doubt(draft: Sequence[TokenUncertainty], gate: GateDefaults) -> float:
    if not draft:
        return float("inf")
    return judge([TokenStats("", t.min_entropy, t.shannon, t.margin) for t in draft], gate).value
