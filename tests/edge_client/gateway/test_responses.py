"""U12: `/v1/responses` says what chat completions say, to the official client, whole and streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest
from openai.types.responses import response_create_params

from secondglance.gateway.errors import ApiError
from secondglance.gateway.responses import _IGNORED, _OTHER_NAME, _REFUSED, _SAME_NAME, _as_chat
from secondglance_server.engine.fake import FakeEngine, FakeScript

MODEL = "second-glance"


def about(picture: str, text: str = "What number is on the sign?", **more: Any) -> list[dict[str, Any]]:
    parts = [{"type": "input_text", "text": text}, {"type": "input_image", "image_url": picture, **more}]
    return [{"role": "user", "content": parts}]


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine(FakeScript(draft="a red sign", answer="number 42"))


@pytest.fixture
def app(serve: Any, gateway_to: Any, engine: FakeEngine) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway_to(serve(engine).url), api_key="unused", max_retries=0) as client:
        yield client


def test_a_response_says_what_the_chat_completion_says(
    app: openai.OpenAI, photo: bytes, messages: Any
) -> None:
    uri = messages.data_uri(photo)
    told = app.responses.create(model=MODEL, input=about(uri), instructions="Be brief.")
    chat = app.chat.completions.create(model=MODEL, messages=messages.about(photo))
    assert told.output_text == chat.choices[0].message.content == "number 42"
    assert (told.status, told.error, told.incomplete_details) == ("completed", None, None)
    assert told.usage is not None
    assert chat.usage is not None
    assert told.usage.total_tokens >= told.usage.output_tokens > 0
    extension = told.model_extra["second_glance"]
    assert (extension["stage"], extension["draft"]) == (2, "a red sign")
    assert "system messages are ignored" in extension["notes"]
    assert app.responses.create(model=MODEL, input=about(uri, detail="low")).output_text == "a red sign"


def test_a_stream_has_the_events_that_the_official_client_puts_together(
    app: openai.OpenAI, photo: bytes, messages: Any
) -> None:
    with app.responses.stream(model=MODEL, input=about(messages.data_uri(photo))) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert len(deltas) > 1
    assert "".join(deltas) == final.output_text == "number 42"
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_an_answer_that_is_cut_is_incomplete(app: openai.OpenAI, photo: bytes, messages: Any) -> None:
    told = app.responses.create(model=MODEL, input=about(messages.data_uri(photo)), max_output_tokens=1)
    assert told.status == "incomplete"
    assert told.incomplete_details is not None
    assert told.incomplete_details.reason == "max_output_tokens"


class Number(pydantic.BaseModel):
    number: int


def test_structured_outputs_are_parsed_or_refused(
    app: openai.OpenAI, engine: FakeEngine, photo: bytes, messages: Any
) -> None:
    asked = about(messages.data_uri(photo))
    engine.script = FakeScript(answer="42")
    assert app.responses.parse(model=MODEL, input=asked, text_format=Number).output_parsed == Number(
        number=42
    )
    engine.script = FakeScript(answer="many")
    refused = app.responses.parse(model=MODEL, input=asked, text_format=Number)
    assert refused.output_parsed is None
    with app.responses.stream(model=MODEL, input=asked, text_format=Number) as stream:
        kinds = {event.type for event in stream}
    assert {"response.refusal.delta", "response.refusal.done"} <= kinds
    engine.script = FakeScript(draft="a red sign", answer="number 42")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"previous_response_id": "resp_1"}, "unsupported_parameter"),
        ({"background": True}, "unsupported_parameter"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_parameter"),
        ({"modle": 1}, "unknown_parameter"),
        ({"input": 3}, "invalid_value"),
        ({"input": [{"type": "function_call_output"}]}, "unsupported_content"),
        ({"input": "What is it?"}, "missing_image"),
        ({"text": {"format": {"type": "grammar"}}}, "unsupported_parameter"),
    ],
)
def test_what_cannot_be_is_400_by_name(
    app: openai.OpenAI, photo: bytes, messages: Any, changes: dict[str, Any], code: str
) -> None:
    asked = {"model": MODEL, "input": about(messages.data_uri(photo)), **changes}
    with pytest.raises(openai.BadRequestError) as raised:
        app.post("/responses", body=asked, cast_to=dict)
    assert raised.value.code == code


def test_every_parameter_of_the_official_client_has_a_treatment() -> None:
    official = set(response_create_params.ResponseCreateParamsBase.__annotations__) | {"stream"}
    known = {*_SAME_NAME, *_OTHER_NAME, *_IGNORED, *_REFUSED, "text", "input", "instructions"}
    assert official - known == set()
    assert known - official == {"second_glance"}


def test_what_is_ignored_is_noted_unless_it_changes_nothing() -> None:
    _, notes = _as_chat({"input": "?", "reasoning": {"effort": "high"}, "truncation": "auto", "include": []})
    assert notes == ["reasoning is ignored: the model does not reason aloud"]
    with pytest.raises(ApiError):
        _as_chat([])
