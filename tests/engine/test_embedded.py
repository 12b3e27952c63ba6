"""The model that ships: loaded by its name, it asks and answers as it was trained to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from secondglance_server.engine.loader import EMBEDDED_WEIGHTS, load_engine
from secondglance_server.engine.model_defaults import read_model_defaults
from secondglance_server.engine.prefix import PrefixEngine
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, Picture
from tests.engine.tiny.parts import picture

QUESTION = "What is written on the red sign?"


@pytest.fixture(scope="module")
def engine() -> PrefixEngine:
    engine = load_engine("embedded", device="cpu")
    assert isinstance(engine, PrefixEngine)
    return engine


@pytest.mark.parametrize("count", [1, 2])
def test_prompts_are_those_of_its_training(engine: PrefixEngine, count: int) -> None:
    prompt = engine.prompts.build(QUESTION, [engine.adapter.layout(224, 168)] * count)
    cells = 14 * 14
    images = ("<image>" * cells + "\n") * count
    tokenizer = engine.adapter.tokenizer
    assert (
        prompt.ids == tokenizer(f"<s>USER: {images}{QUESTION} ASSISTANT:", add_special_tokens=False).input_ids
    )
    assert prompt.prefix == 3 + cells  # start, role, space


def test_its_calibration_is_read(engine: PrefixEngine) -> None:
    measured = read_model_defaults(EMBEDDED_WEIGHTS)
    assert engine.info.name == "embedded"
    assert engine.info.gate == measured.gate_defaults()
    assert engine.layers == tuple(measured.localization.layers)
    assert engine.info.dtype == "float32"  # stored in half precision, computed in single on a CPU


def test_both_stages_answer_and_the_map_covers_the_padded_grid(engine: PrefixEngine) -> None:
    rgb, patch = picture(126, 224), picture(200, 200)
    requests = [
        AnswerRequest(Picture("a", rgb), QUESTION, max_new_tokens=8),
        AnswerRequest(Picture("a", rgb), QUESTION, patch=Picture("b", patch), max_new_tokens=8),
    ]
    first, second = engine.answer(requests)
    assert isinstance(first, AnswerResult)
    assert isinstance(second, AnswerResult)
    assert first.attention is not None
    assert first.attention.weights.shape == (14, 14)
    assert first.attention.content == (0.0, 49 / 224, 1.0, 175 / 224)
    assert second.cached_tokens == 3 + 196
    for result in (first, second):
        assert "".join(token.text for token in result.tokens).strip() == result.text
        assert all(np.isfinite([t.min_entropy, t.shannon, t.margin]).all() for t in result.tokens)


def test_pixels_are_scaled_as_in_training(engine: PrefixEngine) -> None:
    """To [-1, 1], without resampling where the picture has the encoder's size already."""
    rgb = picture(224, 224)
    pixels = engine.adapter.pixels(rgb)["pixel_values"][0]
    expected = torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=0)
