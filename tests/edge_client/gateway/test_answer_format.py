"""U12: an app that asks for JSON gets JSON, or is told before anything is sent that it cannot."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pydantic
import pytest

from secondglance.gateway.answer_format import answer_format
from secondglance.gateway.errors import ApiError
from secondglance_server.engine.fake import FakeEngine, FakeScript


def schema(**properties: Any) -> dict[str, Any]:
    described = {"type": "object", "properties": properties}
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": described}}


@pytest.mark.parametrize(
    ("wanted", "answer", "written"),
    [
        (None, "42", "42"),
        ({"type": "text"}, "42", "42"),
        ({"type": "json_object"}, 'a "sign"\n', '{"answer": "a \\"sign\\"\\n"}'),
        (schema(text={"type": "string"}), "Straße", '{"text": "Straße"}'),
        (schema(n={"type": "integer"}), "42", '{"n": 42}'),
        (schema(n={"type": "integer"}), "1,024", '{"n": 1024}'),
        (schema(n={"type": "integer"}), "4.5", None),
        (schema(n={"type": "number"}), "4.5", '{"n": 4.5}'),
        (schema(n={"type": "number"}), "four", None),
        (schema(there={"type": "boolean"}), "Yes.", '{"there": true}'),
        (schema(there={"type": "boolean"}), "no", '{"there": false}'),
        (schema(there={"type": "boolean"}), "perhaps", None),
        (schema(colour={"enum": ["Red", "blue"]}), "red", '{"colour": "Red"}'),
        (schema(colour={"enum": ["red", "blue"]}), "green", None),
    ],
)
def test_an_answer_is_written_as_wanted_or_not_at_all(
    wanted: dict[str, Any] | None, answer: str, written: str | None
) -> None:
    form = answer_format(wanted)
    assert form.write(answer) == written
    if written is not None and not form.is_plain:
        assert len(json.loads(written)) == 1


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "grammar"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"schema": {"type": "array"}}},
        schema(),
        schema(a={"type": "string"}, b={"type": "string"}),
        schema(a={"type": "array"}),
        schema(a={"enum": "red"}),
    ],
)
def test_a_form_that_nobody_could_promise_is_refused_by_name(wanted: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as raised:
        answer_format(wanted)
    assert (raised.value.status, raised.value.param) == (400, "response_format")


class Number(pydantic.BaseModel):
    number: int


class Colour(pydantic.BaseModel):
    colour: Literal["red", "blue"]


def test_the_official_clients_structured_outputs_are_parsed_or_refused(
    serve: Any, gateway_to: Any, photo: bytes, messages: Any
) -> None:
    engine = FakeEngine(FakeScript(answer="42"))
    asked = messages.about(photo)
    with openai.OpenAI(base_url=gateway_to(serve(engine).url), api_key="unused", max_retries=0) as app:
        parse = app.chat.completions.parse
        good = parse(model="second-glance", messages=asked, response_format=Number).choices[0].message
        assert good.parsed == Number(number=42)
        bad = parse(model="second-glance", messages=asked, response_format=Colour).choices[0].message
        assert (bad.parsed, bad.refusal) == (None, "the model's answer is no such value: 42")
        streamed = app.chat.completions.create(
            model="second-glance", messages=asked, response_format={"type": "json_object"}, stream=True
        )
        said = "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)
        assert json.loads(said) == {"answer": "42"}
