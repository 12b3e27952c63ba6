"""Whether an answer can be relied on, and in words why not. Older servers do not say: their gate does."""

from __future__ import annotations

from secondglance.text import NOT_SURE
from secondglance_protocol.reasons import in_words
from secondglance_protocol.wire import InferenceResponse

_NO_ANSWER = "the model gave no answer: it ended without a word, and its uncertainty says nothing"


def is_doubtful(final: InferenceResponse) -> bool:
    """Return whether the answer of the last stage that answered should not be relied on."""
    if final.doubtful is not None:
        return final.doubtful
    return not final.answer.strip() or final.confidence.value > final.confidence.threshold


def note_of_doubt(final: InferenceResponse) -> str | None:
    """Return what to tell a person of a doubtful answer, None of a sure one."""
    if not is_doubtful(final):
        return None
    return f"{NOT_SURE} {_why(final)}"


def _why(final: InferenceResponse) -> str:
    if not final.answer.strip():
        return _NO_ANSWER
    if final.off_domain:
        return in_words("off_domain")
    if final.reason is not None:
        return f"no second look: {in_words(final.reason)}"
    return "the answer may be wrong"
