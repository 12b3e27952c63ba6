"""Correctness is equality: for every family, the engine's increments against stock transformers from scratch.

Real model classes with tiny random weights, the families' own processors, fp32. A stock model runs eager
attention, the engine runs SDPA with capture, so nothing here compares a path with itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from secondglance_server.engine.prefix import NEUTRAL_PROMPT
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, Picture
from tests.engine.conftest import Family
from tests.engine.tiny.parts import RGB, picture

TOLERANCE = 1e-4
QUESTION = "What number is on the red sign?"
NEW_TOKENS = 5
LANDSCAPE, PORTRAIT, SQUARE = picture(40, 72, seed=1), picture(80, 44, seed=2), picture(56, 56, seed=3)


@pytest.fixture(autouse=True)
def empty_cache(family: Family) -> None:
    family.engine.prefixes.clear()


def ask(
    family: Family,
    question: str,
    rgb: RGB,
    patch: RGB | None = None,
    key: str = "picture",
    new_tokens: int = NEW_TOKENS,
) -> AnswerRequest:
    del family
    return AnswerRequest(
        picture=Picture(key, rgb),
        question=question,
        patch=None if patch is None else Picture("patch", patch),
        max_new_tokens=new_tokens,
    )


def answer(family: Family, *requests: AnswerRequest) -> list[AnswerResult]:
    results = family.engine.answer(requests)
    for result in results:
        assert isinstance(result, AnswerResult), result
    return results  # type: ignore[return-value]


def stock_generate(
    family: Family, question: str, *pictures: RGB, new_tokens: int = NEW_TOKENS
) -> tuple[list[int], np.ndarray]:
    """Stock tokens and, for each, (min-entropy, Shannon, margin) from the scores that `generate` returns."""
    inputs = family.tiny.stock_inputs(question, pictures)
    output = family.tiny.model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=new_tokens,
        output_scores=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )
    scores = torch.stack(output.scores)[:, 0].double()  # [tokens, vocabulary]
    p = scores.softmax(-1)
    best = p.topk(2, dim=-1).values
    stats = torch.stack(
        [-best[:, 0].log(), torch.special.entr(p).sum(-1), 1 - (best[:, 0] - best[:, 1])], dim=-1
    )
    ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    ends = family.engine.adapter.end_ids
    length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return ids[:length], stats[:length].numpy()


def assert_same(family: Family, result: AnswerResult, stock: tuple[list[int], np.ndarray]) -> None:
    ids, stats = stock
    tokenizer = family.engine.adapter.tokenizer
    assert result.text == tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert result.completion_tokens == len(ids)
    measured = np.array([[t.min_entropy, t.shannon, t.margin] for t in result.tokens]).reshape(-1, 3)
    np.testing.assert_allclose(measured, stats, atol=TOLERANCE)


def assert_equal_results(one: AnswerResult, other: AnswerResult) -> None:
    assert one.text == other.text
    for left, right in zip(one.tokens, other.tokens, strict=True):
        assert left.text == right.text
        np.testing.assert_allclose(
            [left.min_entropy, left.shannon, left.margin],
            [right.min_entropy, right.shannon, right.margin],
            atol=TOLERANCE,
        )
    assert (one.attention is None) == (other.attention is None)
    if one.attention is not None and other.attention is not None:
        assert one.attention.content == other.attention.content
        np.testing.assert_allclose(one.attention.weights, other.attention.weights, atol=TOLERANCE)


@pytest.mark.parametrize("pictures", [[LANDSCAPE], [PORTRAIT], [LANDSCAPE, PORTRAIT], [PORTRAIT, SQUARE]])
def test_prompt_and_pixels_are_those_of_the_familys_processor(family: Family, pictures: list[RGB]) -> None:
    inputs = family.tiny.stock_inputs(QUESTION, pictures)
    adapter = family.engine.adapter
    layouts = [adapter.layout(rgb.shape[1], rgb.shape[0]) for rgb in pictures]
    prompt = family.engine.prompts.build(QUESTION, layouts)
    assert prompt.ids == inputs["input_ids"][0].tolist()
    ours = torch.cat([adapter.pixels(rgb)["pixel_values"].flatten() for rgb in pictures])
    np.testing.assert_allclose(ours, inputs["pixel_values"].flatten(), atol=1e-6)


@pytest.mark.parametrize("rgb", [LANDSCAPE, PORTRAIT, SQUARE])
def test_stage_one_equals_stock_generate(family: Family, rgb: RGB) -> None:
    (result,) = answer(family, ask(family, QUESTION, rgb))
    assert_same(family, result, stock_generate(family, QUESTION, rgb))
    assert result.cached_tokens == 0


@pytest.mark.parametrize("patch", [None, SQUARE], ids=["stage_one", "stage_two"])
def test_the_last_layers_mlp_works_for_last_tokens_only(family: Family, patch: RGB | None) -> None:
    """Nobody reads what it would say of the others. Stock's forward passes, on the same model, stay whole."""
    mlp = family.engine.adapter.text_model.layers[-1].mlp
    counts: list[int] = []
    seen = mlp.register_forward_hook(lambda _, inputs, output: counts.append(output.shape[1]))
    try:
        answer(family, *(ask(family, q, LANDSCAPE, patch, key=q) for q in ("Hi", QUESTION)))
        ours = counts.copy()
        counts.clear()
        with torch.inference_mode():
            family.engine.adapter.model(**family.tiny.stock_inputs(QUESTION, [LANDSCAPE]))
    finally:
        seen.remove()
    assert ours
    assert set(ours) == {1}
    assert counts[0] > len(QUESTION.split())


@pytest.mark.parametrize("patch", [None, SQUARE], ids=["stage_one", "stage_two"])
def test_recorded_steps_equal_stock_generate(
    family: Family, patch: RGB | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone and in a padded batch, the prefix computed with the answer and held before."""
    engine = family.engine
    engine.steps.clear()
    monkeypatch.setattr(engine.steps, "patience", 0)
    for questions in ((QUESTION,), ("Hi", QUESTION, "What is it?")):
        before = len(engine.steps)
        for _ in range(2):
            results = answer(family, *(ask(family, q, LANDSCAPE, patch, key=q) for q in questions))
        assert (len(engine.steps) > before) == engine.adapter.is_recordable
        pictures = [LANDSCAPE] if patch is None else [LANDSCAPE, patch]
        for question, result in zip(questions, results, strict=True):
            assert_same(family, result, stock_generate(family, question, *pictures))


@pytest.mark.parametrize("rgb", [LANDSCAPE, PORTRAIT])
def test_captured_attention_equals_eager_output_attentions(family: Family, rgb: RGB) -> None:
    """On an empty cache, on a cached prefix, and for the neutral prompt."""
    (cold,) = answer(family, ask(family, "Hello there", rgb))
    (warm,) = answer(family, ask(family, QUESTION, rgb))
    assert warm.cached_tokens > 0
    neutral = family.engine.neutral_attention(Picture("picture", rgb))
    for question, got in (
        ("Hello there", cold.attention),
        (QUESTION, warm.attention),
        (NEUTRAL_PROMPT, neutral),
    ):
        assert got is not None
        np.testing.assert_allclose(got.weights, eager_attention(family, question, rgb), atol=1e-6)


def eager_attention(family: Family, question: str, rgb: RGB) -> np.ndarray:
    inputs = family.tiny.stock_inputs(question, [rgb])
    with torch.no_grad():
        attentions = family.tiny.model(**inputs, output_attentions=True).attentions
    adapter = family.engine.adapter
    attending = range(adapter.n_layers) if len(attentions) == adapter.n_layers else adapter.full_layers
    by_layer = dict(zip(attending, attentions, strict=True))  # recurrent layers have none
    rows = torch.stack([by_layer[layer][0, :, -1].mean(0) for layer in family.engine.layers]).mean(0)
    layout = adapter.layout(rgb.shape[1], rgb.shape[0])
    images = (inputs["input_ids"][0] == adapter.image_token_id).nonzero()[:, 0]
    grid: np.ndarray = rows[images[list(layout.cells_of_run())]].reshape(layout.rows, layout.cols).numpy()
    return grid


@pytest.mark.parametrize(
    ("rgb", "patch"), [(LANDSCAPE, PORTRAIT), (PORTRAIT, LANDSCAPE), (LANDSCAPE, SQUARE)]
)
def test_stage_two_on_the_cached_prefix_equals_the_two_image_prompt(
    family: Family, rgb: RGB, patch: RGB
) -> None:
    answer(family, ask(family, QUESTION, rgb))
    (cached,) = answer(family, ask(family, QUESTION, rgb, patch))
    assert cached.cached_tokens > 0
    assert cached.attention is None
    assert_same(family, cached, stock_generate(family, QUESTION, rgb, patch))


def test_an_evicted_prefix_is_recomputed_to_the_same_answers(family: Family) -> None:
    answer(family, ask(family, QUESTION, LANDSCAPE))
    (cached,) = answer(family, ask(family, QUESTION, LANDSCAPE, PORTRAIT))
    neutral = family.engine.neutral_attention(Picture("picture", LANDSCAPE))
    family.engine.prefixes.clear()
    (fresh,) = answer(family, ask(family, QUESTION, LANDSCAPE, PORTRAIT))
    assert fresh.cached_tokens == 0
    assert_equal_results(cached, fresh)
    family.engine.prefixes.clear()
    again = family.engine.neutral_attention(Picture("picture", LANDSCAPE))
    np.testing.assert_allclose(neutral.weights, again.weights, atol=1e-6)


def test_increments_leave_the_prefix_as_it_was(family: Family) -> None:
    """Suffixes are written behind the prefix and taken off again; the order of questions must not matter."""
    (first,) = answer(family, ask(family, QUESTION, PORTRAIT))
    answer(family, ask(family, "A longer question, of which the prefix must not keep anything?", PORTRAIT))
    answer(family, ask(family, QUESTION, PORTRAIT, LANDSCAPE))
    family.engine.neutral_attention(Picture("picture", PORTRAIT))
    (again,) = answer(family, ask(family, QUESTION, PORTRAIT))
    assert again.cached_tokens > 0
    assert_equal_results(first, again)


def test_a_batch_equals_one_by_one(family: Family) -> None:
    """Both stages, cached and not, two pictures of one key, questions of different lengths, different
    aspects."""
    requests = [
        ask(family, QUESTION, LANDSCAPE, key="a"),
        ask(family, "Hi", LANDSCAPE, key="b"),
        ask(family, "And a second question about the first picture?", LANDSCAPE, key="a"),
        ask(family, QUESTION, PORTRAIT, key="c"),
        ask(family, QUESTION, LANDSCAPE, PORTRAIT, key="a"),
        ask(family, "Hi", LANDSCAPE, SQUARE, key="b"),
        ask(family, "Is it?", PORTRAIT, SQUARE, key="c"),
        ask(family, "Is it so?", PORTRAIT, LANDSCAPE, key="d"),
    ]
    alone = []
    for request in requests:
        family.engine.prefixes.clear()
        alone += answer(family, request)
    family.engine.prefixes.clear()
    for left, right in zip(answer(family, *requests), alone, strict=True):
        assert_equal_results(left, right)
    for left, right in zip(answer(family, *requests), alone, strict=True):  # everything cached now
        assert left.cached_tokens > 0
        assert_equal_results(left, right)


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (96, 48)])
@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5)])
def test_a_bright_square_changes_the_cell_that_contains_it(
    family: Family, size: tuple[int, int], corner: tuple[float, float]
) -> None:
    """`content` and the order of image tokens: through the real processor and encoder, from pixels to the
    grid."""
    height, width = size
    blank = np.full((height, width, 3), 90, np.uint8)
    bright = blank.copy()
    side = 12
    top, left = (round(at * (limit - side)) for at, limit in zip(corner, size, strict=True))
    bright[top : top + side, left : left + side] = 255
    adapter = family.engine.adapter
    layout = adapter.layout(width, height)
    with torch.no_grad():
        dark_cells, bright_cells = (cells(adapter, layout, rgb) for rgb in (blank, bright))
    change = (bright_cells - dark_cells).norm(dim=-1).reshape(layout.rows, layout.cols)
    row, col = np.unravel_index(int(change.argmax()), change.shape)
    x0, y0, x1, y1 = layout.content
    cell_x = np.clip([(col / layout.cols - x0) / (x1 - x0), ((col + 1) / layout.cols - x0) / (x1 - x0)], 0, 1)
    cell_y = np.clip([(row / layout.rows - y0) / (y1 - y0), ((row + 1) / layout.rows - y0) / (y1 - y0)], 0, 1)
    # the cell of the largest change overlaps the square in the picture
    assert cell_x[0] * width < left + side, (row, col)
    assert cell_x[1] * width > left, (row, col)
    assert cell_y[0] * height < top + side, (row, col)
    assert cell_y[1] * height > top, (row, col)


def cells(adapter: Any, layout: Any, rgb: RGB) -> torch.Tensor:
    (features,) = adapter.encode([adapter.pixels(rgb)])
    run: torch.Tensor = features.tokens[list(layout.cells_of_run())]
    return run


def test_a_question_cannot_spell_control_tokens(family: Family) -> None:
    """A prompt that spells an image placeholder once crashed a serving engine (CVE-2026-44222)."""
    adapter = family.engine.adapter
    layouts = [adapter.layout(72, 40)] * 2
    special = {i for i, token in adapter.tokenizer.added_tokens_decoder.items() if token.special}
    plain = family.engine.prompts.build("What?", layouts)
    for control in family.tiny.controls:
        ids = adapter.tokenizer(control, add_special_tokens=False).input_ids
        assert any(token in special for token in ids), f"{control} is no control token of this tokenizer"
        for question in (control, f"What is {control}{control} here?", control[:3] + control + control[3:]):
            prompt = family.engine.prompts.build(question, layouts)
            assert sum(t in special for t in prompt.ids) == sum(t in special for t in plain.ids), question
            (result,) = answer(family, ask(family, question, LANDSCAPE))
            assert result.prompt_tokens > 0


def test_notes_name_the_layers_and_their_origin(family: Family) -> None:
    notes = " ".join(family.engine.info.notes)
    assert str(list(family.engine.layers)) in notes
    assert family.engine.info.localization.origin in notes
