"""The gate: is the draft answer sure enough, judged from the statistics of its tokens.

All three metrics are always aggregated and reported; one of them is compared. The end-of-sequence token is
not among the tokens, so an answer may have none: it proves nothing, counts as doubtful and reports zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from secondglance_protocol.wire import Aggregate, Confidence, GateSettings
from secondglance_server.engine.protocol import AnswerResult, EngineError, GateDefaults, TokenStats

_AGGREGATES: Mapping[Aggregate, Callable[[Sequence[float]], float]] = {
    "max": max,
    "mean": fmean,
    "first": lambda values: values[0],
    "sum": math.fsum,
}


def resolve_gate(asked: GateSettings | None, default: GateDefaults) -> GateDefaults:
    """The gate of a request: the model's, with what the request changes.

    The model's doubt threshold stays, unless the request compares another number.
    """
    if asked is None:
        return default
    metric, aggregate = asked.metric or default.metric, asked.aggregate or default.aggregate
    is_same = (metric, aggregate) == (default.metric, default.aggregate)
    return GateDefaults(
        metric=metric,
        aggregate=aggregate,
        threshold=default.threshold if asked.threshold is None else asked.threshold,
        doubt_threshold=default.doubts_above if is_same else None,
    )


def judge(tokens: Sequence[TokenStats], gate: GateDefaults) -> Confidence:
    """The confidence of an answer. Raises EngineError if the model's statistics are not numbers."""
    if not all(math.isfinite(token.min_entropy + token.shannon + token.margin) for token in tokens):
        raise EngineError("a token's statistics are not finite")
    values = {
        "min_entropy": _aggregate([token.min_entropy for token in tokens], gate.aggregate),
        "shannon": _aggregate([token.shannon for token in tokens], gate.aggregate),
        "margin": _aggregate([token.margin for token in tokens], gate.aggregate),
    }
    return Confidence(
        metric=gate.metric,
        aggregate=gate.aggregate,
        value=values[gate.metric],
        threshold=gate.threshold,
        **values,
    )


def is_doubtful(confidence: Confidence, tokens: Sequence[TokenStats]) -> bool:
    """Whether a second glance is wanted: above the threshold, or nothing was said at all."""
    return not tokens or confidence.value > confidence.threshold


def is_unreliable(result: AnswerResult, confidence: Confidence, gate: GateDefaults) -> bool:
    """Whether an answer should not be relied on: above the doubt threshold, empty, or off-domain."""
    is_empty = not result.tokens or not result.text.strip()
    return is_empty or bool(result.is_off_domain) or confidence.value > gate.doubts_above


def _aggregate(values: Sequence[float], aggregate: Aggregate) -> float:
    if not values:
        return 0.0
    return max(0.0, _AGGREGATES[aggregate](values))  # -log p of a sure token may come out at -1e-8
