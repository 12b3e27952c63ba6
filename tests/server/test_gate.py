"""The gate aggregates three metrics over tokens and compares one of them."""

from __future__ import annotations

import math

import pytest

from secondglance_protocol.wire import GateSettings
from secondglance_server.engine.protocol import EngineError, GateDefaults, TokenStats
from secondglance_server.inference.gate import is_doubtful, judge, resolve_gate

TOKENS = (
    TokenStats("4", min_entropy=0.2, shannon=0.5, margin=0.1),
    TokenStats("2", min_entropy=1.0, shannon=0.1, margin=0.6),
    TokenStats(".", min_entropy=0.3, shannon=0.3, margin=0.2),
)


@pytest.mark.parametrize(
    ("aggregate", "min_entropy", "shannon", "margin"),
    [
        ("max", 1.0, 0.5, 0.6),
        ("mean", 0.5, 0.3, 0.3),
        ("first", 0.2, 0.5, 0.1),
        ("sum", 1.5, 0.9, 0.9),
    ],
)
def test_all_three_metrics_are_aggregated_alike(
    aggregate: str, min_entropy: float, shannon: float, margin: float
) -> None:
    confidence = judge(TOKENS, GateDefaults(metric="shannon", aggregate=aggregate))  # type: ignore[arg-type]
    assert confidence.min_entropy == pytest.approx(min_entropy)
    assert confidence.shannon == pytest.approx(shannon)
    assert confidence.margin == pytest.approx(margin)
    assert confidence.value == confidence.shannon


@pytest.mark.parametrize(("threshold", "doubtful"), [(0.99, True), (1.0, False), (1.01, False)])
def test_an_answer_at_the_threshold_is_sure(threshold: float, doubtful: bool) -> None:
    assert is_doubtful(judge(TOKENS, GateDefaults(threshold=threshold)), TOKENS) is doubtful


def test_an_answer_of_no_tokens_is_doubtful() -> None:
    assert is_doubtful(judge((), GateDefaults()), ())


def test_rounding_below_zero_is_zero() -> None:
    token = TokenStats("a", min_entropy=-1e-8, shannon=0.0, margin=0.0)
    assert judge((token,), GateDefaults()).value == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_statistics_that_are_not_numbers_are_the_engines_failure(value: float) -> None:
    """Even where the aggregate would hide them."""
    tokens = (*TOKENS, TokenStats("a", min_entropy=value, shannon=0.0, margin=0.0))
    with pytest.raises(EngineError):
        judge(tokens, GateDefaults(aggregate="first"))


def test_what_a_request_leaves_out_is_the_models() -> None:
    default = GateDefaults("shannon", "mean", 0.7)
    assert resolve_gate(None, default) == default
    assert resolve_gate(GateSettings(threshold=0.1), default) == GateDefaults("shannon", "mean", 0.1)
    assert resolve_gate(GateSettings(metric="margin", threshold=0.0), default) == GateDefaults(
        "margin", "mean", 0.0
    )
