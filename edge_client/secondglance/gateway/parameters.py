"""What becomes of each parameter of a chat completion: honoured, ignored or refused.

Ignored is what shapes sampling and style (this pair decodes greedily), so that apps work unchanged; a value
that would have mattered is reported in the reply's notes. Refused is what an app would rely on. Unknown names
are refused: they are typing errors, or promises nobody here can keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from secondglance.gateway.errors import bad_request

Treatment = Literal["honoured", "ignored", "refused"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """`why` completes "<name> is ignored/refused: "; values for which `is_neutral` holds pass in silence."""

    treatment: Treatment
    why: str = ""
    is_neutral: Callable[[Any], bool] = lambda value: not value


def _any(value: Any) -> bool:
    return True


def _is(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value is None or value in values


_GREEDY = "decoding is greedy"
_ONE_MODEL = "the model has no such setting"

PARAMETERS: Mapping[str, Parameter] = {
    "model": Parameter("honoured"),
    "messages": Parameter("honoured"),
    "stream": Parameter("honoured"),
    "stream_options": Parameter("honoured"),
    "max_tokens": Parameter("honoured"),
    "max_completion_tokens": Parameter("honoured"),
    "stop": Parameter("honoured"),
    "logprobs": Parameter("honoured"),
    "response_format": Parameter("honoured"),
    "second_glance": Parameter("honoured"),
    "temperature": Parameter("ignored", _GREEDY),
    "top_p": Parameter("ignored", _GREEDY, _is(1)),
    "seed": Parameter("ignored", _GREEDY, _any),
    "presence_penalty": Parameter("ignored", _GREEDY),
    "frequency_penalty": Parameter("ignored", _GREEDY),
    "reasoning_effort": Parameter("ignored", _ONE_MODEL),
    "verbosity": Parameter("ignored", _ONE_MODEL),
    "prediction": Parameter("ignored", _ONE_MODEL),
    "store": Parameter("ignored", "nothing is stored"),
    "metadata": Parameter("ignored", "nothing is stored", _any),
    "user": Parameter("ignored", "it never leaves the edge", _any),
    "safety_identifier": Parameter("ignored", "it never leaves the edge", _any),
    "service_tier": Parameter("ignored", "there is one", _any),
    "parallel_tool_calls": Parameter("ignored", "there are no tools", _any),
    "prompt_cache_key": Parameter("ignored", "pictures are remembered by content", _any),
    "prompt_cache_options": Parameter("ignored", "pictures are remembered by content", _any),
    "prompt_cache_retention": Parameter("ignored", "pictures are remembered by content", _any),
    # Of vLLM and other servers, which apps send in `extra_body`.
    **dict.fromkeys(("top_k", "min_p", "typical_p"), Parameter("ignored", _GREEDY)),
    "repetition_penalty": Parameter("ignored", _GREEDY, _is(1)),
    "length_penalty": Parameter("ignored", _GREEDY, _is(1)),
    "ignore_eos": Parameter("ignored", _ONE_MODEL),
    "min_tokens": Parameter("ignored", _ONE_MODEL),
    "chat_template_kwargs": Parameter("ignored", _ONE_MODEL),
    "mm_processor_kwargs": Parameter("ignored", _ONE_MODEL),
    "skip_special_tokens": Parameter("ignored", "answers never hold special tokens", _is(True)),
    "spaces_between_special_tokens": Parameter("ignored", "answers never hold special tokens", _any),
    "include_stop_str_in_output": Parameter("ignored", "answers end before the stop sequence"),
    "truncate_prompt_tokens": Parameter("ignored", "questions are short"),
    "add_generation_prompt": Parameter("ignored", "the server writes the prompt", _is(True)),
    "priority": Parameter("ignored", "the server has an order of its own"),
    "request_id": Parameter("ignored", "X-Request-Id of the reply names it", _any),
    "cache_salt": Parameter("ignored", "pictures are remembered for each key by itself", _any),
    "keep_alive": Parameter("ignored", "the model stays loaded", _any),
    "options": Parameter("ignored", _GREEDY),
    "best_of": Parameter("refused", "greedy decoding has one answer", _is(1)),
    "use_beam_search": Parameter("refused", "decoding is greedy"),
    **dict.fromkeys(
        (
            "structured_outputs",
            "guided_json",
            "guided_regex",
            "guided_choice",
            "guided_grammar",
            "structural_tag",
        ),
        Parameter("refused", "answers are not constrained; response_format is taken"),
    ),
    "prompt_logprobs": Parameter("refused", "only the answer's probabilities are known"),
    "bad_words": Parameter("refused", "the model's probabilities are not changed"),
    "logits_processors": Parameter("refused", "the model's probabilities are not changed"),
    "stop_token_ids": Parameter("refused", "tokens are not named here; stop takes text"),
    "n": Parameter("refused", "greedy decoding has one answer", _is(1)),
    "tools": Parameter("refused", "the model calls no tools"),
    "tool_choice": Parameter("refused", "the model calls no tools", _is("none", "auto")),
    "functions": Parameter("refused", "the model calls no functions"),
    "function_call": Parameter("refused", "the model calls no functions", _is("none", "auto")),
    "top_logprobs": Parameter("refused", "only the emitted token's probability is known"),
    "logit_bias": Parameter("refused", "the model's probabilities are not changed"),
    "modalities": Parameter("refused", "answers are plain text", _is(["text"])),
    "audio": Parameter("refused", "answers are plain text"),
    "web_search_options": Parameter("refused", "nothing is looked up", _is()),
    "moderation": Parameter("refused", "nothing is moderated"),
}


def sort_out(document: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The honoured parameters, and notes about what was ignored. Raises ApiError for what is refused."""
    honoured: dict[str, Any] = {}
    notes: list[str] = []
    for name, value in document.items():
        parameter = PARAMETERS.get(name)
        if parameter is None:
            raise bad_request(f"{name}: unknown parameter", code="unknown_parameter", param=name)
        if parameter.treatment == "honoured":
            honoured[name] = value
        elif not parameter.is_neutral(value):
            if parameter.treatment == "refused" and not _is_without_effect(name, document):
                raise bad_request(
                    f"{name} is not supported here: {parameter.why}", code="unsupported_parameter", param=name
                )
            notes.append(f"{name} is ignored: {parameter.why}")
    return honoured, notes


def _is_without_effect(name: str, document: Mapping[str, Any]) -> bool:
    """Tools that the app itself forbids to call."""
    forbids = {"tools": "tool_choice", "functions": "function_call"}
    return name in forbids and document.get(forbids[name]) == "none"
