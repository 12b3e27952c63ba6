"""Chat completions in chunks: a token at a time, nothing that would have to be taken back."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondglance.gateway.streaming import Deltas
from secondglance_server.engine.fake import FakeScript
from tests.server.gated_engine import GatedEngine

MODEL = "second-glance"
SCRIPT = FakeScript(draft="a draft of words", answer="forty two or so")


@pytest.fixture(scope="module")
def engine() -> GatedEngine:
    return GatedEngine(SCRIPT)


@pytest.fixture(scope="module")
def app(serve: Any, gateway_to: Any, engine: GatedEngine) -> Iterator[openai.OpenAI]:
    base_url = gateway_to(serve(engine).url)
    with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
        yield client
    engine.open()


@pytest.fixture(autouse=True)
def _closed(engine: GatedEngine) -> None:
    engine.script, engine.breaks_at, engine.n_steps = SCRIPT, None, 0
    while engine.gate.acquire(blocking=False):
        pass


def contents(chunks: list[Any]) -> list[str]:
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    return [text for text in texts if text]


def asked(app: openai.OpenAI, about: Any, **terms: Any) -> Any:
    return app.chat.completions.create(model=MODEL, messages=about, stream=True, **terms)


def test_the_tokens_of_a_second_answer_leave_as_they_come(
    app: openai.OpenAI, engine: GatedEngine, photo: bytes, messages: Any
) -> None:
    """By order of events: each chunk is there before the engine may make the next token."""
    for _ in SCRIPT.draft.split():
        engine.gate.release()
    with asked(app, messages.about(photo)) as stream:
        chunks = iter(stream)
        opening = next(chunks)
        assert (opening.second_glance["draft"], opening.choices[0].delta.content) == (SCRIPT.draft, "")
        for word in SCRIPT.answer.split():
            engine.gate.release()
            assert next(chunks).choices[0].delta.content.strip() == word
        assert next(chunks).choices[0].finish_reason == "stop"


def test_a_draft_that_nothing_can_replace_leaves_as_it_comes(
    app: openai.OpenAI, engine: GatedEngine, photo: bytes, messages: Any
) -> None:
    second_glance = {"second_glance": {"mode": "answer_only"}}
    engine.gate.release()
    with asked(app, messages.about(photo), extra_body=second_glance) as stream:
        chunks = iter(stream)
        assert next(chunks).choices[0].delta.role == "assistant"
        texts = [next(chunks).choices[0].delta.content]
        for _ in SCRIPT.draft.split()[1:]:
            engine.gate.release()
            texts.append(next(chunks).choices[0].delta.content)
        last = next(chunks)
    assert "".join(texts) == SCRIPT.draft
    assert (last.choices[0].finish_reason, last.second_glance["stage"]) == ("stop", 1)


@pytest.mark.parametrize("entropy", [0.01, 2.0])
@pytest.mark.parametrize(
    "terms",
    [{}, {"logprobs": True}, {"stop": ["of", "two or"]}, {"max_tokens": 2}, {"stop": "f"}],
    ids=str,
)
def test_a_stream_says_what_a_whole_completion_says(
    app: openai.OpenAI, engine: GatedEngine, photo: bytes, messages: Any, entropy: float, terms: Any
) -> None:
    engine.script = FakeScript(draft=SCRIPT.draft, answer=SCRIPT.answer, draft_entropy_nats=entropy)
    engine.open()
    whole = app.chat.completions.create(model=MODEL, messages=messages.about(photo), **terms).choices[0]
    chunks = list(asked(app, messages.about(photo), **terms))
    assert "".join(contents(chunks)) == whole.message.content
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason
    if "logprobs" in terms:
        told = [chunk.choices[0].logprobs for chunk in chunks]
        tokens = [token for each in told if each is not None for token in each.content]
        assert [(token.token, token.logprob) for token in tokens] == [
            (token.token, token.logprob) for token in whole.logprobs.content
        ]


def test_a_second_answer_that_breaks_off_is_an_error_and_not_half_an_answer(
    app: openai.OpenAI, engine: GatedEngine, photo: bytes, messages: Any
) -> None:
    """Words that have left cannot be taken back for the draft."""
    engine.open()
    engine.breaks_at = len(SCRIPT.draft.split()) + 2
    seen: list[Any] = []
    with asked(app, messages.about(photo)) as stream, pytest.raises(openai.APIError, match="broke off"):
        seen.extend(stream)
    assert contents(seen) == ["forty", " two"]
    engine.breaks_at, engine.n_steps = len(SCRIPT.draft.split()), 0
    chunks = list(asked(app, messages.about(photo)))
    assert "".join(contents(chunks)) == SCRIPT.draft
    assert chunks[-1].second_glance["degraded"]


words = st.text(st.sampled_from("ab \n.\ufffd"), max_size=30)


@given(
    words,
    st.lists(st.integers(0, 30), max_size=6),
    st.lists(st.text("ab. ", min_size=1, max_size=4), max_size=3),
)
def test_what_is_shown_is_the_answers_beginning_however_it_is_cut(
    text: str, cuts: list[int], stops: list[str]
) -> None:
    """Blanks around the answer, stop sequences over several tokens, halves of characters."""
    deltas = Deltas(tuple(stops))
    answer = text.strip()
    found = [at for at in map(answer.find, stops) if at >= 0]
    wanted = answer[: min(found)] if found else answer
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    shown = "".join(deltas.add(text[start:end]) for start, end in pairwise(places))
    assert shown == deltas.shown
    rest = deltas.rest(wanted)
    assert rest is not None
    assert shown + rest == wanted
