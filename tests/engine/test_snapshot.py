"""Models with linear attention or convolutions: a picture's state is computed once and never written into.

Equality with stock `generate` is `test_types.py`'s business.
"""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch

from secondglance_server.engine.adapters.protocol import Chunk
from secondglance_server.engine.generic.snapshot import Snapshot, SnapshotEngine
from secondglance_server.engine.loader import load_engine
from secondglance_server.engine.prefix_store import PrefixStore
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, EngineError, Picture
from tests.engine.test_equalities import LANDSCAPE, PORTRAIT, QUESTION, SQUARE, assert_equal_results
from tests.engine.test_types import QUESTIONS, ROWS
from tests.engine.types.row import build

PATCH = Picture("patch", SQUARE)


@pytest.fixture(scope="module", params=["qwen3_5", "lfm3_vl"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SnapshotEngine:
    directory: pathlib.Path = tmp_path_factory.mktemp(request.param)
    build(request.param, ROWS[request.param], directory)
    engine = load_engine(str(directory), device="cpu", dtype="float32")
    assert isinstance(engine, SnapshotEngine), engine.info.notes
    return engine


@pytest.fixture
def engine(loaded: SnapshotEngine) -> SnapshotEngine:
    loaded.prefixes.clear()
    loaded._neutral.clear()
    return loaded


def asked(question: str = QUESTION, *, key: str = "a", rgb: Any = LANDSCAPE, is_second: bool = False) -> Any:
    return AnswerRequest(Picture(key, rgb), question, PATCH if is_second else None, max_new_tokens=4)


def one(engine: SnapshotEngine, request: AnswerRequest) -> AnswerResult:
    (result,) = engine.answer([request])
    assert isinstance(result, AnswerResult), result
    return result


def test_only_a_pictures_first_question_runs_its_prefix(
    engine: SnapshotEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole prompts took 318 ms where shared ones take 44; counted here: tokens and pictures that run."""
    adapter = engine.adapter
    assert adapter is not None
    ran: list[int] = []  # tokens of each pass
    seen: list[int] = []  # pictures
    forward, encode = adapter.forward, adapter.encode

    def counted_forward(chunk: Chunk, cache: Any) -> Any:
        ran.append(chunk.embeddings.shape[1])
        return forward(chunk, cache)

    def counted_encode(pictures: Any) -> Any:
        seen.append(len(pictures))
        return encode(pictures)

    monkeypatch.setattr(adapter, "forward", counted_forward)
    monkeypatch.setattr(adapter, "encode", counted_encode)
    first = one(engine, asked())
    assert first.cached_tokens == 0
    prefix = ran[0]
    assert sum(n for n in ran if n > 1) == first.prompt_tokens
    ran.clear()
    for request in (asked(QUESTIONS[2]), asked(is_second=True)):
        result = one(engine, request)
        assert result.cached_tokens == prefix
        assert ran[0] == result.prompt_tokens - prefix
        assert ran[1:] == [1] * len(ran[1:])
        ran.clear()
    engine.neutral_attention(Picture("a", LANDSCAPE))
    assert seen == [1, 1]  # the picture and the patch, once each


def test_questions_leave_a_pictures_state_as_it_was(engine: SnapshotEngine) -> None:
    fresh = one(engine, asked())
    for question in QUESTIONS:
        one(engine, asked(question))
    one(engine, asked(is_second=True))
    assert_equal_results(one(engine, asked()), fresh)


def test_states_count_as_memory_and_leave_when_there_is_none(engine: SnapshotEngine) -> None:
    kept = one(engine, asked())
    of_one = engine.held_bytes
    held = engine.prefixes.get("a")
    assert held is not None
    assert of_one == held.states.n_bytes > 0
    one(engine, asked(key="b", rgb=PORTRAIT))
    assert len(engine.prefixes) == 2
    small: PrefixStore[Snapshot] = PrefixStore(of_one // 2)
    before, engine.prefixes = engine.prefixes, small
    try:
        for _ in range(2):
            again = one(engine, asked())
            assert again.cached_tokens == 0
            assert_equal_results(again, kept)
        assert engine.held_bytes == 0
    finally:
        engine.prefixes = before


@pytest.mark.parametrize("n_failures", [1, 2])
def test_without_memory_states_are_given_up_and_the_question_is_tried_once_more(
    engine: SnapshotEngine, monkeypatch: pytest.MonkeyPatch, n_failures: int
) -> None:
    expected = one(engine, asked())
    one(engine, asked(key="b", rgb=PORTRAIT))
    adapter = engine.adapter
    assert adapter is not None
    left = n_failures
    forward = adapter.forward

    def scarce_forward(chunk: Chunk, cache: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            raise torch.OutOfMemoryError("no memory")
        return forward(chunk, cache)

    monkeypatch.setattr(adapter, "forward", scarce_forward)
    (outcome,) = engine.answer([asked()])
    assert "b" not in engine.prefixes
    if n_failures == 1:
        assert isinstance(outcome, AnswerResult), outcome
        assert_equal_results(outcome, expected)
    else:
        assert isinstance(outcome, EngineError)
        assert "no memory" in str(outcome)
