"""Why a reply has no second stage, or no answer: the names on the wire and what they mean in words."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "answers_only": "this model cannot say where to look",
        "original_seen": "the model has seen every pixel of the picture",
        "whole_image": "the model would have to see nearly the whole picture",
        "no_finer": "the region has no finer detail than the model has seen",
        "not_sendable": "the region has a shape that the server does not take",
        "off_domain": "the model does not know this kind of question",
        "empty_answer": "the model has said nothing",
    }
)


def in_words(reason: str) -> str:
    """Return what a reason means; one that only a newer server knows stays as it is."""
    return REASONS.get(reason, reason)
