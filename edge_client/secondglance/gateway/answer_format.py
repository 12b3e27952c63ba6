"""`response_format`: what an answer is wrapped into, so that an app which asks for JSON gets JSON.

The model answers in plain words and is not constrained, so only forms that any answer can be put into are
taken: an object with one value. Chat completions and responses use it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from secondglance.gateway.errors import bad_request

_TRUE, _FALSE = frozenset({"yes", "true"}), frozenset({"no", "false"})


def _as_number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def _as_integer(text: str) -> int | None:
    number = _as_number(text)
    return int(number) if number is not None and number.is_integer() else None


def _as_boolean(text: str) -> bool | None:
    word = text.strip().rstrip(".").lower()
    return word in _TRUE if word in _TRUE | _FALSE else None


_READERS: Mapping[str, Callable[[str], Any]] = {
    "string": lambda text: text,
    "number": _as_number,
    "integer": _as_integer,
    "boolean": _as_boolean,
}


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """How an answer is written: as it is, or as the one property `name` of a JSON object.

    `kind` is the property's JSON type; `choices`, if any, the values that it may have.
    """

    name: str | None = None
    kind: str = "string"
    choices: tuple[Any, ...] = ()

    @property
    def is_plain(self) -> bool:
        return self.name is None

    def write(self, answer: str) -> str | None:
        """Return the content of the reply, None for an answer that the property cannot hold."""
        if self.name is None:
            return answer
        value = _READERS[self.kind](answer)
        if self.choices:
            value = next((one for one in self.choices if str(one).lower() == answer.strip().lower()), None)
        return None if value is None else json.dumps({self.name: value}, ensure_ascii=False)


PLAIN = AnswerFormat()
"""The answer as it is."""


def answer_format(wanted: Any) -> AnswerFormat:
    """Return what `response_format` asks for. Raises ApiError for what no answer could be promised to be."""
    if wanted is None:
        return PLAIN
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "text":
        return PLAIN
    if kind == "json_object":
        return AnswerFormat("answer")
    if kind == "json_schema":
        given = wanted.get("json_schema", wanted)  # the responses API has the schema's fields beside the type
        return _of_schema(given.get("schema") if isinstance(given, dict) else None)
    raise _refused("text, json_object and json_schema are taken")


def _of_schema(schema: Any) -> AnswerFormat:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or len(properties) != 1:
        raise _refused("the schema of an object with one property is taken: the model gives one answer")
    [(name, described)] = properties.items()
    described = described if isinstance(described, dict) else {}
    choices = described.get("enum", [])
    kind = described.get("type", "string")
    if kind not in _READERS or not isinstance(choices, list):
        raise _refused(f"the property is one of {', '.join(_READERS)}, with or without enum")
    return AnswerFormat(name, kind, tuple(choices))


def _refused(why: str) -> Exception:
    return bad_request(
        f"response_format is not supported here: {why}", code="unsupported_parameter", param="response_format"
    )
