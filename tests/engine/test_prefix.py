"""What the engine does when things go wrong, and what it keeps; equality with stock models is tested
elsewhere."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch

from secondglance_server.engine.protocol import (
    AnswerRequest,
    AnswerResult,
    BrokenDeviceError,
    EngineError,
    Picture,
)
from tests.engine.conftest import Family, load_family
from tests.engine.tiny.parts import picture

RGB = picture(40, 72)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return load_family("llava", tmp_path_factory.mktemp("llava"))


@pytest.fixture(autouse=True)
def empty_cache(family: Family) -> None:
    family.engine.prefixes.clear()


def ask(question: str = "What?", key: str = "a", *, patch: bool = False, tokens: int = 4) -> AnswerRequest:
    crop = Picture("patch", picture(24, 40)) if patch else None
    return AnswerRequest(Picture(key, RGB), question, patch=crop, max_new_tokens=tokens)


def test_one_requests_failure_does_not_touch_the_others(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = family.engine.adapter
    broken = picture(41, 72)
    pixels = adapter.pixels

    def fail_on_one(rgb: np.ndarray) -> object:
        if rgb.shape == broken.shape:
            raise ValueError("no such picture")
        return pixels(rgb)

    (expected,) = family.engine.answer([ask()])
    family.engine.prefixes.clear()
    monkeypatch.setattr(adapter, "pixels", fail_on_one)
    bad = AnswerRequest(Picture("bad", broken), "What?", max_new_tokens=4)
    first, failed, last = family.engine.answer([ask(), bad, ask(key="b")])
    assert isinstance(failed, EngineError)
    assert "no such picture" in str(failed)
    assert isinstance(expected, AnswerResult)
    assert isinstance(first, AnswerResult)
    assert isinstance(last, AnswerResult)
    assert first.text == last.text == expected.text
    with pytest.raises(EngineError, match="no such picture"):
        family.engine.neutral_attention(Picture("bad", broken))


@pytest.mark.parametrize(
    "failure", [IndexError("8"), KeyError("key"), TypeError("no"), AssertionError(), ZeroDivisionError()]
)
@pytest.mark.parametrize("place", ["pixels", "encode", "positions", "layout"])
def test_m2_whatever_one_request_raises_is_its_own(
    family: Family, monkeypatch: pytest.MonkeyPatch, failure: Exception, place: str
) -> None:
    """M2: only three types of exception were a request's own; any other failed its whole batch."""
    adapter = family.engine.adapter
    stock = getattr(adapter, place)
    marked = picture(41, 72)
    is_marked = {"pixels": lambda rgb: rgb.shape == marked.shape, "layout": lambda w, h: h == 41}
    is_marked["positions"] = lambda ids, layouts: layouts[0].content == adapter_layout.content
    is_marked["encode"] = lambda pictures: any(
        torch.equal(p["pixel_values"], marked_pixels["pixel_values"]) for p in pictures
    )
    adapter_layout, marked_pixels = adapter.layout(72, 41), adapter.pixels(marked)

    def fail_on_the_marked(*args: object) -> object:
        if is_marked[place](*args):
            raise failure
        return stock(*args)

    (expected,) = family.engine.answer([ask()])
    family.engine.prefixes.clear()
    monkeypatch.setattr(adapter, place, fail_on_the_marked)
    bad = AnswerRequest(Picture("bad", marked), "What?", max_new_tokens=4)
    first, failed, last = family.engine.answer([ask(), bad, ask(key="b")])
    assert isinstance(failed, EngineError)
    assert isinstance(expected, AnswerResult)
    for result in (first, last):
        assert isinstance(result, AnswerResult)
        assert result.text == expected.text


@pytest.mark.parametrize(
    "failure",
    [
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
    ],
)
def test_m2_a_broken_device_is_no_requests_failure(
    family: Family, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """M2: after a CUDA assert every call fails; the engine says so once instead of retrying each request."""
    calls: list[int] = []

    def fail(*_: object) -> torch.Tensor:
        calls.append(1)
        raise failure

    monkeypatch.setattr(family.engine.adapter, "forward", fail)
    with pytest.raises(BrokenDeviceError, match="CUDA error"):
        family.engine.answer([ask(), ask(key="b")])
    with pytest.raises(BrokenDeviceError, match="CUDA error"):
        family.engine.neutral_attention(Picture("a", RGB))
    assert len(calls) == 2


def test_out_of_memory_gives_the_prefixes_back_and_tries_again(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = family.engine.answer([ask(patch=True)])
    family.engine.answer([ask(key="other")])
    forward, failures = family.engine.adapter.forward, iter([True])

    def fail_once(*args: object) -> torch.Tensor:
        if next(failures, False):
            raise torch.OutOfMemoryError("full")
        return forward(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(family.engine.adapter, "forward", fail_once)
    (result,) = family.engine.answer([ask(patch=True)])
    assert isinstance(result, AnswerResult)
    assert isinstance(expected, AnswerResult)
    assert result.text == expected.text
    assert result.cached_tokens == 0
    assert family.engine.prefixes.get("other") is None


@pytest.mark.parametrize(
    "failure",
    [torch.OutOfMemoryError("full"), MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator")],
)
def test_without_any_memory_the_request_fails_and_the_prefixes_are_gone(
    family: Family, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    family.engine.answer([ask()])

    def fail(*_: object) -> torch.Tensor:
        raise failure

    with monkeypatch.context() as broken:
        broken.setattr(family.engine.adapter, "forward", fail)
        (result,) = family.engine.answer([ask(patch=True)])
        assert isinstance(result, EngineError)
        assert family.engine.prefixes.get("a") is None
    (again,) = family.engine.answer([ask(patch=True)])
    assert isinstance(again, AnswerResult)


def test_a_key_whose_picture_became_another_shape_is_not_answered_from_the_old_one(family: Family) -> None:
    family.engine.answer([ask()])
    family.engine.prefixes.get("a").ids[0] += 1  # type: ignore[union-attr]  # as another layout would
    (result,) = family.engine.answer([ask()])
    assert isinstance(result, AnswerResult)
    assert result.cached_tokens == 0


def test_prompt_cached_and_completion_tokens_are_counted(family: Family) -> None:
    first, second, both = (family.engine.answer([r])[0] for r in (ask(), ask("What else?"), ask(patch=True)))
    assert isinstance(first, AnswerResult)
    assert isinstance(second, AnswerResult)
    assert isinstance(both, AnswerResult)
    run = 16
    assert first.cached_tokens == 0
    assert second.cached_tokens == len("<s>USER: ".replace("<s>", "")) + run
    assert both.cached_tokens == second.cached_tokens
    assert both.prompt_tokens == first.prompt_tokens + run + 1  # and a line break
    assert len(first.tokens) == first.completion_tokens <= 4
    assert first.prefill_ms > 0


def test_the_neutral_map_of_a_picture_is_computed_once(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    family.engine.answer([ask()])
    once = family.engine.neutral_attention(Picture("a", RGB))
    monkeypatch.setattr(family.engine.adapter, "forward", None)
    assert family.engine.neutral_attention(Picture("a", RGB)) is once


def test_prefixes_stay_within_the_budget(family: Family) -> None:
    for number in range(12):
        family.engine.answer([ask(key=str(number))])
    each = family.engine.prefixes.held_bytes // 12
    assert len(family.engine.prefixes) == 12
    assert each < 200_000
    family.engine.prefixes._budget = 3 * each + 1
    try:
        for number in range(20, 26):
            family.engine.answer([ask(key=str(number))])
        assert len(family.engine.prefixes) == 3
        assert family.engine.prefixes.held_bytes <= 3 * each + 1
    finally:
        family.engine.prefixes._budget = 1 << 30


def test_closing_gives_the_weights_back(tmp_path: pathlib.Path) -> None:
    engine = load_family("llava", tmp_path).engine
    engine.answer([ask()])
    engine.close()
    assert len(engine.prefixes) == 0
    assert all(parameter.device.type == "meta" for parameter in engine.adapter.model.parameters())
