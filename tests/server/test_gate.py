"""The gate aggregates three metrics over tokens and compares one of them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from secondglance_protocol.wire import GateSettings
from secondglance_server.engine.protocol import AnswerResult, EngineError, GateDefaults, TokenStats
from secondglance_server.inference.gate import is_doubtful, is_unreliable, judge, resolve_gate

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
    assert resolve_gate(GateSettings(threshold=0.1), default) == GateDefaults("shannon", "mean", 0.1, 0.7)
    assert resolve_gate(GateSettings(metric="margin", threshold=0.0), default) == GateDefaults(
        "margin", "mean", 0.0
    )


def test_an_own_threshold_does_not_move_the_models_doubt_unless_it_compares_another_number() -> None:
    """U3: `--threshold 0` forces a second look; that must not call every answer doubtful."""
    default = GateDefaults("shannon", "mean", 0.7, doubt_threshold=1.5)
    assert resolve_gate(GateSettings(threshold=0.0), default).doubts_above == 1.5
    assert resolve_gate(GateSettings(metric="margin", threshold=0.2), default).doubts_above == 0.2
    assert GateDefaults(threshold=0.3).doubts_above == 0.3


@pytest.mark.parametrize(
    ("changes", "unreliable"),
    [
        ({}, False),
        ({"text": "  "}, True),
        ({"tokens": ()}, True),
        ({"is_off_domain": True}, True),
        ({"is_off_domain": False}, False),
    ],
    ids=repr,
)
def test_a_sure_answer_is_relied_on_unless_it_is_empty_or_off_domain(
    changes: dict[str, Any], unreliable: bool
) -> None:
    """U2, U3: an answer without tokens has the value 0, which looks sure."""
    values = {"text": "42", "tokens": TOKENS, "attention": None, "prompt_tokens": 1, "cached_tokens": 0}
    result = AnswerResult(
        **{**values, "completion_tokens": 1, "prefill_ms": 0.0, "generate_ms": 0.0, **changes}  # type: ignore[arg-type]
    )
    gate = GateDefaults(threshold=0.5, doubt_threshold=1.0)
    assert is_unreliable(result, judge(result.tokens, gate), gate) is unreliable


@pytest.mark.parametrize(("doubt_threshold", "unreliable"), [(0.99, True), (1.0, False), (None, True)])
def test_the_last_answer_is_compared_with_the_doubt_threshold(
    doubt_threshold: float | None, unreliable: bool
) -> None:
    gate = GateDefaults(threshold=0.5, doubt_threshold=doubt_threshold)
    result = AnswerResult("42", TOKENS, None, 1, 0, 1, 0.0, 0.0)
    assert is_unreliable(result, judge(TOKENS, gate), gate) is unreliable
