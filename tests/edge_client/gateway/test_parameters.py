"""Every parameter of the official API has a treatment, and the document says the same as the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import completion_create_params

from secondglance.gateway.errors import ApiError
from secondglance.gateway.messages import compose, parse_chat
from secondglance.gateway.parameters import PARAMETERS, sort_out

DOCUMENT = Path(__file__).parents[3] / "docs" / "gateway.md"

NEUTRAL: dict[str, list[Any]] = {
    "n": [None, 1],
    "tools": [None, []],
    "tool_choice": [None, "none", "auto"],
    "top_logprobs": [None, 0],
    "logit_bias": [None, {}],
    "modalities": [None, ["text"]],
    "temperature": [None, 0],
    "top_p": [None, 1],
    "seed": [None, 7],
    "user": ["somebody"],
}

REFUSED: dict[str, Any] = {
    "n": 2,
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "top_logprobs": 3,
    "logit_bias": {"50256": -100},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy"},
    "web_search_options": {},
    "moderation": {"mode": "score"},
}


OF_OTHER_SERVERS: dict[str, Any] = {
    "top_k": 20,
    "min_p": 0.1,
    "typical_p": 0.9,
    "repetition_penalty": 1.1,
    "length_penalty": 0.8,
    "ignore_eos": True,
    "min_tokens": 3,
    "chat_template_kwargs": {"enable_thinking": False},
    "mm_processor_kwargs": {"num_crops": 4},
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "include_stop_str_in_output": True,
    "truncate_prompt_tokens": 100,
    "add_generation_prompt": False,
    "priority": 3,
    "request_id": "mine",
    "cache_salt": "salt",
    "keep_alive": "5m",
    "options": {"num_ctx": 4096},
    "best_of": 3,
    "use_beam_search": True,
    "structured_outputs": {"choice": ["a", "b"]},
    "guided_json": {"type": "object"},
    "guided_regex": "[0-9]+",
    "guided_choice": ["a", "b"],
    "guided_grammar": "root ::= [0-9]",
    "structural_tag": "{}",
    "prompt_logprobs": 2,
    "bad_words": ["no"],
    "logits_processors": ["x"],
    "stop_token_ids": [2],
}
REFUSED |= {
    name: OF_OTHER_SERVERS[name] for name in OF_OTHER_SERVERS if PARAMETERS[name].treatment == "refused"
}


def test_every_parameter_of_the_official_client_has_a_treatment() -> None:
    official = set(completion_create_params.CompletionCreateParamsBase.__annotations__) | {"stream"}
    assert official - PARAMETERS.keys() == set()
    assert PARAMETERS.keys() - official == {"second_glance", *OF_OTHER_SERVERS}


@pytest.mark.parametrize("name", sorted(OF_OTHER_SERVERS.keys() - REFUSED.keys()))
def test_what_vllm_takes_and_shapes_style_is_ignored_aloud(name: str) -> None:
    """U12: `top_k`, `min_p` and the like were 400, so that apps written for vLLM did not work."""
    honoured, notes = sort_out({name: OF_OTHER_SERVERS[name]})
    assert honoured == {}
    quiet = name in ("spaces_between_special_tokens", "request_id", "cache_salt", "keep_alive")
    assert (notes == []) if quiet else notes[0].startswith(f"{name} is ignored: ")


@pytest.mark.parametrize(("name", "value"), [(name, v) for name, vs in NEUTRAL.items() for v in vs])
def test_a_value_that_changes_nothing_passes_in_silence(name: str, value: Any) -> None:
    assert sort_out({name: value}) == ({}, [])


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_app_would_rely_on_is_refused_by_name(name: str) -> None:
    with pytest.raises(ApiError) as raised:
        sort_out({name: REFUSED[name]})
    error = raised.value
    assert (error.status, error.code, error.param) == (400, "unsupported_parameter", name)


def test_all_that_is_refused_is_tried_above() -> None:
    refused = {name for name, parameter in PARAMETERS.items() if parameter.treatment == "refused"}
    assert refused == REFUSED.keys()


def test_tools_that_may_not_be_called_are_ignored_aloud() -> None:
    tools = REFUSED["tools"]
    assert sort_out({"tools": tools, "tool_choice": "none"}) == (
        {},
        ["tools is ignored: the model calls no tools"],
    )


def test_a_misspelt_parameter_is_refused() -> None:
    with pytest.raises(ApiError, match="max_tokns") as raised:
        sort_out({"max_tokns": 5})
    assert raised.value.code == "unknown_parameter"


def test_the_document_says_of_each_parameter_what_the_code_does() -> None:
    """One table in docs/gateway.md: `name` | treatment | what exactly."""
    rows = re.findall(r"^\| (`[^|]+`) \| (honoured|ignored|refused)\b", DOCUMENT.read_text(), re.MULTILINE)
    told = {name: treatment for names, treatment in rows for name in re.findall(r"`(\w+)`", names)}
    assert told == {name: parameter.treatment for name, parameter in PARAMETERS.items()}


def chat(*messages: dict[str, Any], **more: Any) -> Any:
    return parse_chat({"model": "m", "messages": list(messages), **more})[0]


PICTURES = [{"type": "image_url", "image_url": {"url": f"data:{n}"}} for n in range(3)]


def user(*parts: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": "user", "content": content}


def picked(*messages: dict[str, Any]) -> tuple[str, str]:
    question = compose(chat(*messages).messages, system="ignore")
    return question.text, question.picture.image_url.url  # type: ignore[union-attr]


def test_the_last_text_is_asked_about_the_first_picture_of_the_latest_message_with_any() -> None:
    assert picked(user("a", PICTURES[0], "b", PICTURES[1])) == ("a\nb", "data:0")
    answer = {"role": "assistant", "content": "yes"}
    follow_up = {"role": "user", "content": "and?"}
    assert picked(user("a", PICTURES[0]), answer, follow_up) == ("and?", "data:0")
    assert picked(user("a", PICTURES[0]), answer, user("b", PICTURES[1]), answer, follow_up) == (
        "and?",
        "data:1",
    )


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([user("no picture")], "missing_image"),
        ([user(PICTURES[0])], "missing_text"),
        ([user("  ", PICTURES[0])], "missing_text"),
        ([{"role": "system", "content": "hi"}], "missing_text"),
        ([user("listen", {"type": "input_audio", "input_audio": {}}, PICTURES[0])], "unsupported_content"),
        ([], "invalid_value"),
        ([{"role": "wizard", "content": "hi"}], "invalid_value"),
        ([user("x", {"type": "image_url"})], "missing_required_parameter"),
    ],
)
def test_a_conversation_without_question_or_picture_is_400(messages: list[Any], code: str) -> None:
    with pytest.raises(ApiError) as raised:
        compose(chat(*messages).messages, system="ignore")
    assert (raised.value.status, raised.value.code) == (400, code)


def test_a_complaint_never_quotes_the_picture() -> None:
    with pytest.raises(ApiError) as raised:
        chat(user("x", {"type": "image_url", "image_url": {"url": ["data:image/png;base64,SECRET"]}}))
    assert "SECRET" not in str(raised.value)
