"""Answers begin, end and are dropped between the steps of others; what they say is what they say alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from secondglance_server.engine import decode
from secondglance_server.engine.prefix import PrefixEngine
from secondglance_server.engine.protocol import (
    AnswerRequest,
    AnswerResult,
    AttentionMap,
    EngineError,
    NeutralRequest,
    Picture,
    Prepared,
    Progress,
    TokenStats,
    Work,
)
from secondglance_server.engine.token_texts import TokenTexts
from tests.engine.conftest import Family, load_family
from tests.engine.test_equalities import LANDSCAPE, PORTRAIT, SQUARE, assert_equal_results
from tests.engine.tiny.parts import picture

QUESTIONS = ("Hi", "What number is on the red sign?", "And on the left of it?", "Is it?")
SHAPES = {"a": LANDSCAPE, "b": PORTRAIT, "c": LANDSCAPE, "d": SQUARE}


class Desk:
    """Begins work as the device's owner does, and keeps what has come of it, by key."""

    def __init__(self, engine: PrefixEngine) -> None:
        self.engine = engine
        self.tokens: dict[int, list[TokenStats]] = {}
        self.outcomes: dict[int, AnswerResult | AttentionMap | EngineError] = {}
        self.ended: list[int] = []
        self._waiting: dict[int, Prepared] = {}

    def ask(self, *works: Work) -> list[int]:
        keys = [len(self.tokens) + n for n in range(len(works))]
        for key, work in zip(keys, works, strict=True):
            self.tokens[key] = []
            self._waiting[key] = self.engine.prepare(work)
        return keys

    def begin(self) -> None:
        """What can begin together, once."""
        keys = list(self._waiting)
        chosen = [keys[n] for n in self.engine.choose(list(self._waiting.values()))]
        self._note(self.engine.begin({key: self._waiting.pop(key) for key in chosen}))

    def step(self) -> None:
        self._note(self.engine.step())

    def finish(self) -> None:
        while self._waiting or self.engine._answering:
            self.begin()
            self.step()

    def _note(self, progress: Sequence[Progress]) -> None:
        for each in progress:
            assert each.key not in self.outcomes, "something after the outcome"
            self.tokens[each.key] += each.tokens
            if each.outcome is not None:
                self.outcomes[each.key] = each.outcome
                self.ended.append(each.key)


def request(key: str, question: str, *, patch: bool = False, tokens: int = 5) -> AnswerRequest:
    crop = Picture("patch", picture(24, 40)) if patch else None
    return AnswerRequest(Picture(key, SHAPES[key]), question, patch=crop, max_new_tokens=tokens)


def alone(engine: PrefixEngine, work: AnswerRequest) -> AnswerResult:
    (result,) = engine.answer([work])
    assert isinstance(result, AnswerResult), result
    return result


@pytest.fixture(autouse=True)
def nothing_lasts(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "family" in request.fixturenames:
        engine = request.getfixturevalue("family").engine
        assert engine._answering == {}, "an answer was left running"
        assert not engine._live()


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> PrefixEngine:
    return load_family("llava", tmp_path_factory.mktemp("llava")).engine


@pytest.mark.parametrize("steps_behind", [0, 1])
@pytest.mark.parametrize("patience", [0, 1_000_000], ids=["recorded", "eager"])
def test_m5_rows_that_come_and_go_say_what_they_say_alone(
    family: Family, monkeypatch: pytest.MonkeyPatch, steps_behind: int, patience: int
) -> None:
    """M5: both stages, held prefixes and new ones, several questions about one picture, limits of 1 to 9
    tokens, beginnings at any step, some dropped in the middle; read at once, and a step late."""
    engine, chance = family.engine, random.Random(7 * steps_behind + (patience == 0))
    monkeypatch.setattr(decode, "_steps_behind", lambda _: steps_behind)
    monkeypatch.setattr(engine.steps, "patience", patience)
    works = [
        request(
            chance.choice("abcd"), chance.choice(QUESTIONS), patch=chance.random() < 0.4,
            tokens=chance.randint(1, 9),
        )
        for _ in range(14)
    ]  # fmt: skip
    engine.prefixes.clear()
    desk, left, dropped = Desk(engine), list(works), set()
    while left:
        for _ in range(chance.randint(0, 3)):
            if left:
                desk.ask(left.pop(0))
        desk.begin()
        desk.step()
        running = [each.key for each in engine._answering.values()]
        if running and len(dropped) < 3 and chance.random() < 0.3:
            forsaken = chance.choice(running)
            engine.drop(forsaken)
            dropped.add(forsaken)
        if chance.random() < 0.2:
            engine.prefixes.clear()  # as if there were no room for them
    desk.finish()
    for key, work in enumerate(works):
        if key not in desk.outcomes:
            assert key in dropped
            continue
        result = desk.outcomes[key]
        assert isinstance(result, AnswerResult), result
        assert_equal_results(result, alone(engine, work))
        assert tuple(desk.tokens[key]) == result.tokens


def test_m5_a_long_answer_does_not_hold_short_ones(llava: PrefixEngine) -> None:
    """M5: a 120-token answer held seven of 4 tokens until it was done itself."""
    llava.adapter.end_ids, ends = frozenset({-1}), llava.adapter.end_ids
    desk = Desk(llava)
    (long,) = desk.ask(request("a", "Hi", tokens=120))
    desk.begin()
    desk.step()
    short = desk.ask(*(request(key, q, tokens=4) for key in "bcd" for q in QUESTIONS[:2]))
    rounds = 0
    while not set(short) <= desk.outcomes.keys():
        desk.begin()
        desk.step()
        rounds += 1
    assert long not in desk.outcomes
    assert rounds <= 12  # each prompt's turn and its four tokens
    desk.finish()
    assert len(desk.tokens[long]) == 120
    llava.adapter.end_ids = ends


def test_m5_what_is_ready_does_not_wait_for_prompts_of_other_lengths(llava: PrefixEngine) -> None:
    """M5: of one call with pictures of eight widths, all replies came with the last."""
    llava.prefixes.clear()
    desk = Desk(llava)
    first, *others = desk.ask(*(request("a", "Hi" * n, patch=n % 2 == 1, tokens=1) for n in range(1, 5)))
    desk.begin()
    assert first in desk.outcomes
    assert not set(others) & desk.outcomes.keys()
    desk.finish()


@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_m6_neutral_prompts_ride_with_like_work(
    name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M6: a neutral prompt ran alone, ahead of everything. Padded or not, they share a pass by pictures."""
    engine = load_family(name, tmp_path_factory.mktemp(name)).engine
    for key in "abc":
        alone(engine, request(key, "Hi"))
    passes: list[int] = []
    forward = engine.adapter.forward

    def count(chunk: Any, cache: Any) -> torch.Tensor:
        passes.append(len(chunk.embeddings))
        return forward(chunk, cache)

    maps = {}
    for key in "ac":
        maps[key] = engine.neutral_attention(Picture(key, SHAPES[key]))
        held = engine.prefixes.get(key)
        assert held is not None
        held.neutral = None
    monkeypatch.setattr(engine.adapter, "forward", count)
    desk = Desk(engine)
    desk.ask(*(NeutralRequest(Picture(key, SHAPES[key])) for key in "ac"))
    desk.begin()
    assert passes == [2]
    for key, attention in zip("ac", desk.outcomes.values(), strict=True):
        assert isinstance(attention, AttentionMap)
        np.testing.assert_allclose(attention.weights, maps[key].weights, atol=1e-6)
    desk.ask(*(NeutralRequest(Picture(key, SHAPES[key])) for key in "ac"))
    desk.finish()
    assert passes == [2]  # held by now


def test_a_question_beside_its_neutral_prompt_is_one_pass(
    llava: PrefixEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone(llava, request("a", "Hi"))
    alone(llava, request("c", "Hi"))
    expected = alone(llava, request("c", QUESTIONS[1]))
    desk = Desk(llava)
    neutral, asked = desk.ask(NeutralRequest(Picture("a", SHAPES["a"])), request("c", QUESTIONS[1]))
    desk.begin()
    assert neutral in desk.outcomes
    assert desk.tokens[asked] or asked in desk.outcomes
    desk.finish()
    result = desk.outcomes[asked]
    assert isinstance(result, AnswerResult)
    assert_equal_results(result, expected)


def test_an_answer_is_not_overwritten_by_another_question_about_its_picture(family: Family) -> None:
    """An answer that runs is written behind its picture's prefix; what else needs the prefix copies it."""
    engine = family.engine
    engine.prefixes.clear()
    works = [request("a", q, patch=p, tokens=9) for q, p in ((QUESTIONS[1], False), (QUESTIONS[2], True))]
    expected = [alone(engine, work) for work in works]
    neutral = engine.neutral_attention(works[0].picture)
    for is_held in (False, True):
        if not is_held:
            engine.prefixes.clear()
        else:
            held = engine.prefixes.get("a")
            assert held is not None
            held.neutral = None
        desk = Desk(engine)
        (first,) = desk.ask(works[0])
        desk.begin()
        desk.step()
        second, third = desk.ask(works[1], NeutralRequest(works[0].picture))
        desk.finish()
        for key, result in ((first, expected[0]), (second, expected[1])):
            got = desk.outcomes[key]
            assert isinstance(got, AnswerResult), got
            assert_equal_results(got, result)
        attention = desk.outcomes[third]
        assert isinstance(attention, AttentionMap)
        np.testing.assert_allclose(attention.weights, neutral.weights, atol=1e-6)


def test_texts_of_tokens_are_the_answer(family: Family) -> None:
    """A tokenizer of bytes and a model that knows nothing: characters come in pieces, and are cut off."""
    engine = family.engine
    ends, engine.adapter.end_ids = engine.adapter.end_ids, frozenset({-1})
    desk = Desk(engine)
    desk.ask(*(request(key, question, tokens=40) for key in "ab" for question in QUESTIONS))
    ids: dict[int, list[int]] = {}
    while len(desk.outcomes) < len(desk.tokens):
        desk.begin()
        ids |= {each.key: each.decoded.ids for each in engine._answering.values()}
        desk.step()
    engine.adapter.end_ids = ends
    for key, result in desk.outcomes.items():
        assert isinstance(result, AnswerResult), result
        assert result.tokens == tuple(desk.tokens[key])
        assert len(result.tokens) == 40
        assert "".join(token.text for token in result.tokens) == engine.adapter.tokenizer.decode(ids[key])


def test_a_character_of_several_tokens_comes_with_its_last() -> None:
    """What was given out never changes; what stays cut comes with the end."""
    texts = TokenTexts(lambda ids: bytes(ids).decode(errors="replace"))
    said = list("né∀".encode())
    given = [[token.text for token in texts.add(said[: n + 1], (0.0, 0.0, 0.0))] for n in range(len(said))]
    assert given == [["n"], [], ["", "é"], [], [], ["", "", "∀"]]
    assert texts.end(said) == ()
    cut = [*said, "é".encode()[0]]
    assert texts.add(cut, (0.5, 1.0, 0.25)) == ()
    assert texts.end(cut) == (TokenStats("\N{REPLACEMENT CHARACTER}", 0.5, 1.0, 0.25),)


@pytest.mark.parametrize("failure", [RuntimeError("odd"), torch.OutOfMemoryError("full")])
def test_after_a_step_that_failed_no_answer_is_lost_and_no_token_comes_twice(
    llava: PrefixEngine, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    ends, llava.adapter.end_ids = llava.adapter.end_ids, frozenset({-1})
    works = [request(key, q, tokens=7) for key, q in zip("abc", QUESTIONS, strict=False)]
    expected = [alone(llava, work) for work in works]
    step, calls = llava.steps.step, iter(range(1000))

    def fail_once(rows: Any, tokens: torch.Tensor) -> torch.Tensor:
        if next(calls) == 3:
            raise failure
        return step(rows, tokens)

    monkeypatch.setattr(llava.steps, "step", fail_once)
    desk = Desk(llava)
    desk.ask(*works)
    desk.finish()
    for key, result in enumerate(expected):
        got = desk.outcomes[key]
        assert isinstance(got, AnswerResult), got
        assert_equal_results(got, result)
        assert "".join(t.text for t in desk.tokens[key]) == "".join(t.text for t in got.tokens)
    llava.adapter.end_ids = ends


def test_a_step_that_always_fails_for_one_answer_fails_that_one_only(
    llava: PrefixEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, llava.adapter.end_ids = llava.adapter.end_ids, frozenset({-1})
    works = [request(key, "Hi", tokens=7) for key in "abc"]
    step = llava.steps.step

    def fail_on_b(rows: Any, tokens: torch.Tensor) -> torch.Tensor:
        (batch,) = [each for each in llava._batches if each.rows is rows]
        if any(llava._answering[one].job.work.picture.key == "b" for one in batch.answers):
            raise IndexError("odd")
        return step(rows, tokens)

    monkeypatch.setattr(llava.steps, "step", fail_on_b)
    desk = Desk(llava)
    desk.ask(*works)
    desk.finish()
    assert [type(desk.outcomes[key]) for key in range(3)] == [AnswerResult, EngineError, AnswerResult]
    llava.adapter.end_ids = ends


def test_what_was_dropped_is_heard_of_no_more_and_leaves_the_others(llava: PrefixEngine) -> None:
    ends, llava.adapter.end_ids = llava.adapter.end_ids, frozenset({-1})
    desk = Desk(llava)
    keys = desk.ask(*(request(key, "Hi", tokens=9) for key in "abc"))
    while len(llava._answering) < 3:
        desk.begin()
    llava.drop(keys[0])
    llava.drop(12345)
    before = len(desk.tokens[keys[0]])
    desk.finish()
    assert set(desk.outcomes) == set(keys[1:])
    assert len(desk.tokens[keys[0]]) == before
    llava.adapter.end_ids = ends
