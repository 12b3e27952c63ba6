"""Recorded decode steps: when they are made, when they are refused, and that they are given back."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable

import pytest
import torch

from secondglance_server.engine.adapters.protocol import Chunk
from secondglance_server.engine.loader import load_engine
from secondglance_server.engine.prefix import PrefixEngine
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, Picture
from secondglance_server.engine.stepping import steps
from secondglance_server.engine.stepping.rows import Rows
from tests.engine.tiny import llava
from tests.engine.tiny.parts import picture

QUESTION = "What number is on the red sign?"
RGB = picture(40, 72)
NEW_TOKENS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("model")
    llava.build(directory)
    return directory


def load(model: pathlib.Path, decode: str = "recorded") -> PrefixEngine:
    engine = load_engine(str(model), device="cpu", decode=decode)
    assert isinstance(engine, PrefixEngine)
    engine.steps.clear()  # what the warm-up recorded
    engine.steps.patience = NEW_TOKENS - 1  # steps of one answer: the second of a shape is recorded
    return engine


def ask(engine: PrefixEngine, *keys: str) -> list[AnswerResult]:
    requests = [AnswerRequest(Picture(key, RGB), QUESTION, max_new_tokens=NEW_TOKENS) for key in keys]
    results = engine.answer(requests)
    for result in results:
        assert isinstance(result, AnswerResult)
    return results  # type: ignore[return-value]


def facts(result: AnswerResult) -> list[tuple[str, float, float]]:
    return [
        (t.text, pytest.approx(t.min_entropy, abs=1e-4), pytest.approx(t.shannon, abs=1e-4))
        for t in result.tokens
    ]


def test_a_shape_is_recorded_once_it_has_run_often_enough(model: pathlib.Path) -> None:
    engine = load(model)
    counts = []
    for keys in (["a"], ["b"], ["c"], ["a", "b"], ["a", "c"]):
        ask(engine, *keys)
        counts.append(len(engine.steps))
    assert counts == [0, 1, 1, 1, 2]


def test_the_warm_up_has_recorded_the_usual_shapes(model: pathlib.Path) -> None:
    """The first client does not wait for a recording."""
    engine = load_engine(str(model), device="cpu", decode="recorded")
    assert isinstance(engine, PrefixEngine)
    assert len(engine.steps) > 0
    engine.steps.patience = 0  # would record every shape that is new
    before = len(engine.steps)
    ask(engine, "a")
    ask(engine, "a")
    assert len(engine.steps) == before


def test_a_rare_shape_is_not_recorded(model: pathlib.Path) -> None:
    """Recording costs more than a few steps save."""
    engine = load(model)
    engine.steps.patience = steps.STEPS_BEFORE_RECORDING
    for _ in range(5):
        ask(engine, "a")
    assert len(engine.steps) == 0


def test_recorded_and_eager_answers_are_equal(model: pathlib.Path) -> None:
    eager, recorded = load(model, "eager"), load(model)
    for _ in range(3):
        (expected,) = ask(eager, "a")
        (got,) = ask(recorded, "a")
        assert [(t.text, t.min_entropy, t.shannon) for t in got.tokens] == facts(expected)
    assert len(recorded.steps) == 1
    assert len(eager.steps) == 0


def test_a_recording_that_computes_something_else_is_not_used(
    model: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Here what Python decides, a recording would repeat for ever: the parity of the position."""
    engine = load(model)
    forward = engine.adapter.forward

    def odd_steps_differ(chunk: Chunk, cache: object) -> torch.Tensor:
        logits = forward(chunk, cache)
        return -logits if chunk.embeddings.shape[1] == 1 and int(chunk.positions.max()) % 2 else logits

    monkeypatch.setattr(engine.adapter, "forward", odd_steps_differ)
    with caplog.at_level(logging.WARNING, "secondglance_server.engine"):
        answers = [ask(engine, "a")[0] for _ in range(3)]
    assert len(engine.steps) == 0
    assert {answer.text for answer in answers} == {answers[0].text}
    assert [record.reason for record in caplog.records] == ["it computes something else"]  # type: ignore[attr-defined]


def test_a_step_that_cannot_be_recorded_is_run_eagerly(
    model: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = load(model)

    def fail(*_: object) -> None:
        raise RuntimeError("no tracer")

    monkeypatch.setattr(steps, "_trace", fail)
    with caplog.at_level(logging.WARNING, "secondglance_server.engine"):
        answers = [ask(engine, "a")[0] for _ in range(3)]
    assert {answer.text for answer in answers} == {answers[0].text}
    assert [record.reason for record in caplog.records] == ["no tracer"]  # type: ignore[attr-defined]  # once


def test_the_number_of_recordings_is_bounded(model: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_MOST_RECORDINGS", 1)
    engine = load(model)
    for keys in (["a"], ["a"], ["a", "b"], ["a", "b"]):
        ask(engine, *keys)
    assert len(engine.steps) == 1
    engine.close()
    assert len(engine.steps) == 0


def test_recording_leaves_the_rows_as_they_were(model: pathlib.Path) -> None:
    """The check of a recording works on copies: the live rows are as the step before left them."""
    engine = load(model)
    record = engine.steps._record
    seen: list[bool] = []

    def spy(rows: Rows) -> Callable[..., torch.Tensor] | None:
        before, lengths = [values.clone() for values in rows.inputs], list(rows.lengths)
        recorded = record(rows)
        seen.extend(torch.equal(one, other) for one, other in zip(before, rows.inputs, strict=True))
        seen.append(lengths == rows.lengths)
        return recorded

    engine.steps._record = spy  # type: ignore[method-assign]
    ask(engine, "a")
    ask(engine, "a")
    assert len(seen) > 3
    assert all(seen)
    assert len(engine.steps) == 1
