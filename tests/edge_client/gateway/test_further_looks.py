"""Further looks through the gateway: who allows them, what they cost, and which answer an app is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import openai
import pytest

from secondglance_server.engine.fake import FakeEngine, FakeScript
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, EngineError

MODEL = "second-glance"
LOOKS = [("look one", 2.0), ("the second", 1.2), ("third of them", 1.9), ("a fourth", 1.8)]


class Looking(FakeEngine):
    """Answers each look of a question as `looks` say: the words and their min-entropy in nats."""

    def __init__(self, looks: Sequence[tuple[str, float]] = LOOKS) -> None:
        super().__init__()
        self.looks = looks
        self.n_looks = 0

    def answer(self, requests: Sequence[AnswerRequest]) -> list[AnswerResult | EngineError]:
        self.n_looks = 0 if requests[0].patch is None else self.n_looks + 1
        if self.n_looks:
            answer, entropy = self.looks[self.n_looks - 1]
            self.script = FakeScript(answer=answer, answer_entropy_nats=entropy)
        return super().answer(requests)


@pytest.fixture(scope="module")
def engine() -> Looking:
    return Looking()


@pytest.fixture(scope="module")
def asked(serve: Any, gateway_to: Any, engine: Looking, photo: bytes, messages: Any) -> Callable[..., Any]:
    """Ask for one answer; `wish` is the extension. Each set of `settings` has a gateway of its own."""
    url = serve(engine).url
    gateways: dict[str, str] = {}

    def ask(
        wish: dict[str, Any] | None = None,
        *,
        looks: Sequence[tuple[str, float]] = LOOKS,
        settings: dict[str, Any] | None = None,
        **terms: Any,
    ) -> Any:
        engine.looks = looks
        name = repr(settings)
        if name not in gateways:
            gateways[name] = gateway_to(url, **(settings or {}))
        with openai.OpenAI(base_url=gateways[name], api_key="unused", max_retries=0) as app:
            extra = {"second_glance": wish} if wish else {}
            ask = {"model": MODEL, "messages": messages.about(photo, text="What?"), "extra_body": extra}
            done = app.chat.completions.create(**ask, **terms)
            return list(done) if terms.get("stream") else done

    return ask


def lines(completion: Any) -> list[int]:
    """Return the bytes sent for each look."""
    receipt = completion.second_glance["receipt"]
    looks = [receipt["stage2"], *receipt.get("further_looks", [])]
    return [look["uplink_bytes"] for look in looks if look]


@pytest.mark.parametrize(
    ("settings", "wish", "n_looks"),
    [
        ({}, {}, 1),
        ({}, {"max_rounds": 3}, 3),
        ({"max_rounds": 2}, {}, 2),
        ({"max_rounds": 2}, {"max_rounds": 4}, 4),
        ({"max_rounds": 4}, {"max_rounds": 1}, 1),
        ({"max_rounds": 4}, {"mode": "answer_only"}, 0),
        ({}, {"max_rounds": 99}, 4),
    ],
    ids=str,
)
def test_a_request_says_how_many_looks_or_the_setting_does(
    asked: Any, settings: dict[str, Any], wish: dict[str, Any], n_looks: int
) -> None:
    """Issue 24: the gateway knew one look only. Each look has its line, and all of them are the total."""
    done = asked(wish, settings=settings)
    told = done.second_glance
    assert len(lines(done)) == n_looks
    assert all(spent > 0 for spent in lines(done))
    before = sum(
        (told["receipt"][stage] or {"uplink_bytes": 0})["uplink_bytes"] for stage in ("setup", "stage1")
    )
    assert told["receipt"]["uplink_bytes"] == before + sum(lines(done))
    assert len(told.get("looks", [])) == (n_looks if n_looks > 1 else 0)
    assert done.choices[0].message.content == ["a sign", "look one", *["the second"] * 3][n_looks]


@pytest.mark.parametrize("by_setting", [False, True])
def test_the_budget_ends_the_looks_and_the_best_answer_stays(asked: Any, by_setting: bool) -> None:
    fresh = {
        "model_names": (f"another-{by_setting}",)
    }  # has yet to ask what the server takes, as those below
    whole = asked({"max_rounds": 4}, settings=fresh).second_glance["receipt"]
    budget = whole["uplink_bytes"] - whole["further_looks"][-1]["uplink_bytes"] // 2
    limits = {"max_uplink_bytes": budget}
    if by_setting:
        done = asked({"max_rounds": 4}, settings=limits)
    else:
        done = asked({"max_rounds": 4, **limits}, settings={"max_uplink_bytes": 10 * budget})
    assert len(lines(done)) == 3
    assert done.second_glance["receipt"]["uplink_bytes"] <= budget
    assert (done.choices[0].message.content, done.second_glance["degraded"]) == ("the second", None)


def test_tokens_are_counted_over_all_looks(asked: Any) -> None:
    counted = [asked({"max_rounds": rounds}).usage.completion_tokens for rounds in (1, 2, 3, 4)]
    made = [len(answer.split()) + 1 for answer, _ in LOOKS]  # with the end token
    assert [later - counted[0] for later in counted] == [sum(made[1:rounds]) for rounds in (1, 2, 3, 4)]


def test_an_answer_ends_by_its_own_length_not_by_that_of_a_later_look(asked: Any) -> None:
    """The third look's answer has as many tokens as may be; the second's, which counts, has one fewer."""
    done = asked({"max_rounds": 3}, max_tokens=4)
    assert (done.choices[0].message.content, done.choices[0].finish_reason) == ("the second", "stop")


@pytest.mark.parametrize("rounds", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "looks",
    [LOOKS, LOOKS[::-1], [("at once", 0.01), *LOOKS], [LOOKS[0], ("sure now", 0.02), *LOOKS]],
    ids=["worse", "better", "sure", "surer"],
)
def test_a_stream_shows_the_surest_answer_and_takes_nothing_back(asked: Any, looks: Any, rounds: int) -> None:
    """Words of a look that a surer one may replace would have to be taken back, so none has left."""
    wish = {"max_rounds": rounds}
    whole = asked(wish, looks=looks, logprobs=True)
    chunks = asked(wish, looks=looks, logprobs=True, stream=True)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == whole.choices[0].message.content
    tokens = [token for chunk in chunks if (told := chunk.choices[0].logprobs) for token in told.content]
    assert [token.logprob for token in tokens] == [t.logprob for t in whole.choices[0].logprobs.content]
    assert (len(texts) > 3) == (rounds == 1), "with one look the words leave as they come"
    assert len(lines(chunks[-1])) == len(lines(whole))


def test_the_newer_api_takes_the_wish_and_has_the_lines(
    serve: Any, gateway_to: Any, photo: bytes, messages: Any
) -> None:
    with openai.OpenAI(base_url=gateway_to(serve(Looking()).url), api_key="unused", max_retries=0) as app:
        content = [
            {"type": "input_text", "text": "What?"},
            {"type": "input_image", "image_url": messages.data_uri(photo), "detail": "auto"},
        ]
        done = app.responses.create(
            model=MODEL,
            input=[{"role": "user", "content": content}],
            extra_body={"second_glance": {"max_rounds": 2}},
        )
    assert done.output_text == "the second"
    assert len(lines(done)) == 2


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "two"])
def test_a_number_of_looks_that_makes_no_sense_is_refused(asked: Any, wrong: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="max_rounds"):
        asked({"max_rounds": wrong})
