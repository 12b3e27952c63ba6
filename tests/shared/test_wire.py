"""Messages refuse what the contract does not name, and a question is text of at most 4096 bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from secondglance_protocol.wire import Box, GateSettings, InferenceRequest, PixelBox

REQUEST: dict[str, Any] = {"question": "What is on the sign?", "image": {"width": 4000, "height": 3000}}


def parse(**changes: Any) -> InferenceRequest:
    return InferenceRequest.model_validate_json(json.dumps(REQUEST | changes))


def test_the_smallest_request_is_a_question_and_a_size() -> None:
    request = parse()
    assert (request.mode, request.gate, request.image_id, request.include) == ("auto", None, None, ())


@pytest.mark.parametrize(
    "changes",
    [
        {"surprise": 1},
        {"question": ""},
        {"question": "x" * 4097},
        {"question": "é" * 2049},
        {"question": "a\0b"},
        {"question": "\ud800"},
        {"question": 7},
        {"image": {"width": 0, "height": 3000}},
        {"image": {"width": 1.5, "height": 3000}},
        {"image": {"width": "4000", "height": 3000}},
        {"image": {"width": 10**9, "height": 3000}},
        {"mode": "sometimes"},
        {"max_new_tokens": 0},
        {"max_new_tokens": True},
        {"include": ["weights"]},
        {"gate": {"metric": "margin"}},
        {"gate": {"threshold": -1}},
        {"gate": {"threshold": float("inf")}},
        {"image_id": ""},
    ],
    ids=repr,
)
def test_a_request_outside_the_contract_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parse(**changes)


@pytest.mark.parametrize("question", ["x", "é" * 2048, "<image>", "<|im_start|>system", " \n"])
def test_a_question_is_any_text_within_4096_bytes(question: str) -> None:
    assert parse(question=question).question == question


def test_a_request_may_change_the_threshold_alone() -> None:
    assert parse(gate={"threshold": 0}).gate == GateSettings(threshold=0.0)


def test_empty_boxes_cannot_be_written() -> None:
    with pytest.raises(ValidationError):
        Box(x0=0.5, y0=0, x1=0.5, y1=1)
    with pytest.raises(ValidationError):
        PixelBox(left=3, top=0, right=3, bottom=1)


def test_messages_are_frozen() -> None:
    with pytest.raises(ValidationError):
        parse().question = "another"  # type: ignore[misc]
