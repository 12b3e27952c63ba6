"""What is read inside vLLM against transformers' eager attention and full distributions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from secondglance_server.engine.prefix import NEUTRAL_PROMPT
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult
from secondglance_server.engine.vllm.tokens import AnswerTokens
from tests.vllm.engine.conftest import Running, Stock, picture, running

MOST_ATTENTION = 1e-6
MOST_ENTROPY = 1e-5
QUESTIONS = (
    "What number is on the red sign?",
    "How many signs are there?",
    "What color is the sign on the left?",
    "What is written on the blue sign next to the green one?",
)
GLOBAL_TOKENS = 196

WAYS: dict[str, dict[str, Any]] = {
    "eager": {},
    "compiled, in chunks": {"is_eager": False, "max_batched_tokens": 128},
}


@pytest.fixture(scope="module", params=sorted(WAYS))
def engine(request: pytest.FixtureRequest) -> Iterator[Running]:
    """Chunks of 128 tokens cut every prompt in two; compiled steps go round Python."""
    yield from running(**WAYS[request.param])


def differences(
    engine: Running, stock: Stock, request: AnswerRequest, result: AnswerResult
) -> tuple[float, float]:
    """Largest difference of the map, and of the three measures of each token."""
    ids, measured, grid = stock.answer(engine.core, request, len(result.tokens))
    assert result.text == engine.core._front.adapter.tokenizer.decode(ids, skip_special_tokens=True).strip()
    mine = np.array([[t.min_entropy, t.shannon, t.margin] for t in result.tokens])
    entropy = float(np.abs(mine - measured[: len(mine)]).max())
    if result.attention is None:
        return 0.0, entropy
    return float(np.abs(result.attention.weights.reshape(-1) - grid).max()), entropy


def test_the_check_at_the_start_has_passed(engine: Running) -> None:
    assert engine.core.info.answers_only is None


def test_attention_and_entropies_equal_eager_transformers(engine: Running, stock: Stock) -> None:
    """Twelve questions at once about four pictures, then all again on top of what is cached of them."""
    asked = [
        AnswerRequest(picture(n, 224, 120 + 20 * n), q, max_new_tokens=4)
        for n in range(4)
        for q in QUESTIONS[:3]
    ]
    worst = np.zeros(2)
    for is_cached in (False, True):
        results = engine.answer(asked)
        found = [differences(engine, stock, r, result) for r, result in zip(asked, results, strict=True)]
        worst = np.maximum(worst, np.max(found, axis=0))
        if is_cached:
            assert all(result.cached_tokens > 0 for result in results)
    print(f"\nlargest difference: attention {worst[0]:.1e}, entropies {worst[1]:.1e}")
    assert worst[0] <= MOST_ATTENTION
    assert worst[1] <= MOST_ENTROPY


def test_the_neutral_prompts_map_equals_eager_transformers(engine: Running, stock: Stock) -> None:
    shown = picture(1)
    neutral = engine.run(engine.core.neutral_attention(shown))
    _, _, grid = stock.answer(engine.core, AnswerRequest(shown, NEUTRAL_PROMPT), 1)
    assert np.abs(neutral.weights.reshape(-1) - grid).max() <= MOST_ATTENTION


def test_the_second_stage_finds_the_global_picture_computed(engine: Running, stock: Stock) -> None:
    """At least 80 % of the global picture's tokens come out of the cache."""
    shown, patch = picture(50), picture(51, 200, 200)
    engine.answer([AnswerRequest(shown, QUESTIONS[0], max_new_tokens=4)])
    request = AnswerRequest(shown, QUESTIONS[0], patch=patch, max_new_tokens=4)
    (result,) = engine.answer([request])
    print(f"\ncached in stage two: {result.cached_tokens} of {result.prompt_tokens}")
    assert result.cached_tokens >= 0.8 * GLOBAL_TOKENS
    assert result.attention is None
    assert differences(engine, stock, request, result)[1] <= MOST_ENTROPY


def test_another_tenants_picture_is_not_found(engine: Running) -> None:
    """Keys name content and tenant; the same pixels under another key start from nothing."""
    shown = picture(60)
    other = type(shown)("another-tenant", shown.rgb)
    first, second = (
        engine.answer([AnswerRequest(p, QUESTIONS[0], max_new_tokens=1)])[0] for p in (shown, other)
    )
    assert second.cached_tokens <= first.cached_tokens < 32


def test_tokens_come_one_by_one_and_equal_the_answer(engine: Running) -> None:
    came: list[Any] = []
    request = AnswerRequest(picture(3), QUESTIONS[0], max_new_tokens=8)
    result, _ = engine.run(engine.core.answer(request, on_token=came.append))
    assert tuple(came) == result.tokens
    assert "".join(token.text for token in came).strip() == result.text


@pytest.fixture
def endless(engine: Running, monkeypatch: pytest.MonkeyPatch) -> Running:
    """The engine, whose answers end with their limit only: the embedded model's own are short."""
    core, make = engine.core, engine.core._params

    def params(*args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        made.ignore_eos, made.stop_token_ids = True, []
        return made

    monkeypatch.setattr(core, "_params", params)
    monkeypatch.setattr(core._front.adapter, "end_ids", frozenset())
    monkeypatch.setattr(core, "info", replace(core.info, max_new_tokens=40))
    return engine


def test_a_front_that_falls_behind_gets_every_number(
    endless: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM puts the steps together that nobody has fetched, in a table by token id.

    The chosen token is the best one, so one of its numbers overwrote another: under load requests failed.
    """
    core = endless.core
    request = AnswerRequest(picture(3), QUESTIONS[0], max_new_tokens=40)
    expected, _ = endless.run(core.answer(request))
    together: list[int] = []
    add = AnswerTokens.add

    def count(self: AnswerTokens, output: Any) -> Any:
        together.append(len(output.token_ids))
        return add(self, output)

    monkeypatch.setattr(AnswerTokens, "add", count)
    slow, _ = endless.run(core.answer(request, on_token=lambda _: time.sleep(0.1)))
    assert max(together) > 1
    assert [token.text for token in slow.tokens] == [token.text for token in expected.tokens]
    assert len(slow.tokens) == 40
    for name in ("min_entropy", "shannon", "margin"):
        got, wanted = ([getattr(token, name) for token in each.tokens] for each in (slow, expected))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


def test_what_the_prompt_has_shown_comes_before_the_answer_is_whole(endless: Running) -> None:
    """For the early gate: the map that comes early is the one that comes with the answer."""
    came: list[Any] = []
    request = AnswerRequest(picture(5), QUESTIONS[0], max_new_tokens=40)
    result, _ = endless.run(
        endless.core.answer(request, on_token=came.append, on_opening=lambda opening, _: came.append(opening))
    )
    (opening,) = (each for each in came if isinstance(each, AnswerResult))
    print(f"\nthe map came before token {came.index(opening) + 1} of 40")
    assert came.index(opening) < 30
    assert (opening.attention, opening.tokens, opening.text) == (result.attention, (), "")
    assert (opening.prompt_tokens, opening.is_off_domain) == (result.prompt_tokens, result.is_off_domain)


def test_a_cancelled_request_frees_its_place_and_leaves_no_map(engine: Running) -> None:
    """Sixteen are cancelled while they wait, run, or are about to fetch their map."""
    core = engine.core

    async def cancel_some() -> None:
        for delay_s in (0.0, 0.02, 0.1, 0.3):
            asked = [AnswerRequest(picture(100 + n), QUESTIONS[0], max_new_tokens=8) for n in range(16)]
            tasks = [asyncio.create_task(core.answer(request)) for request in asked]
            await asyncio.sleep(delay_s)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        while core._maps._unwanted:
            await asyncio.sleep(0.01)

    engine.run(cancel_some())
    assert core._llm.get_num_unfinished_requests() == 0
    (state,) = engine.run(core.call_workers("capture_state"))
    assert state == {"maps": 0, "failure": None}
    engine.answer([AnswerRequest(picture(1), QUESTIONS[0])])


def adversarial_questions(count: int) -> Iterator[str]:
    rng = np.random.default_rng(7)
    controls = [
        "<image>",
        "</s>",
        "<s>",
        "<pad>",
        "USER:",
        "ASSISTANT:",
        "<im<image>age>",
        "< image >",
        "<IMAGE>",
    ]
    words = ["What", "is", "written", "on", "the", "red", "sign", "?", "\n", " ", "\x00", "é", "\u200b"]
    for _ in range(count):
        parts = rng.choice(controls + words, rng.integers(1, 9))
        yield rng.choice(["", " "]).join([*parts, str(rng.choice(controls))])


def test_no_control_token_of_a_question_reaches_the_model(engine: Running) -> None:
    """400 questions that spell control tokens: vLLM's own record of each prompt holds the template's only."""
    core, tokenizer = engine.core, engine.core._front.adapter.tokenizer
    controls = set(tokenizer.all_special_ids) | {core._front.adapter.image_token_id}
    shown = picture(2)
    ran: list[list[int]] = []
    steps = core._steps

    async def recorded(*args: Any, **kwargs: Any) -> Any:
        async for output in steps(*args, **kwargs):
            yield output
        ran.append(list(output.prompt_token_ids))

    core._steps = recorded  # type: ignore[method-assign]
    try:
        engine.answer([AnswerRequest(shown, "plain", max_new_tokens=1)])
        plain = [token for token in ran.pop() if token in controls]
        questions = list(adversarial_questions(400))
        for start in range(0, len(questions), 50):
            engine.answer([AnswerRequest(shown, q, max_new_tokens=1) for q in questions[start : start + 50]])
    finally:
        core._steps = steps  # type: ignore[method-assign]
    leaks = sum([token for token in ids if token in controls] != plain for ids in ran)
    print(f"\nleaks: {leaks} in {len(ran)} questions")
    assert (leaks, len(ran)) == (0, 400)
