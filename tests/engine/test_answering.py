"""Types that answer and say why they ask for no region: stage one equals stock `generate`.

Encoders that end in a few queries, pictures beside the prompt, an answer written by a decoder of its own.
"""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch

from secondglance_server.engine.generic.stock import StockEngine
from secondglance_server.engine.loader import load_engine
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, EngineError, Picture
from tests.engine.test_equalities import LANDSCAPE, PORTRAIT, QUESTION, TOLERANCE
from tests.engine.test_optional_outputs import png
from tests.engine.types import answering, indexed, older, tiles
from tests.engine.types.row import build
from tests.server.exchange import message, parts_of, running_client

# transformers' own, as in test_types.py
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
ROWS = {**answering.ROWS, **indexed.ROWS, **tiles.ANSWERING, **older.ROWS}
SLOW = {*tiles.ANSWERING, *older.ROWS, "dots3_note", "glm5_next", "hy_v4_vl"} | {
    "aria",
    "hunyuan_vl",
    "kosmos-2.5",
    "instructblip",
    "chameleon",
}
TYPES = [pytest.param(t, marks=pytest.mark.slow if t in SLOW else ()) for t in sorted(ROWS)]


@pytest.fixture(scope="module", params=TYPES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> StockEngine:
    directory: pathlib.Path = tmp_path_factory.mktemp(request.param)
    build(request.param, ROWS[request.param], directory)
    loaded = load_engine(str(directory), device="cpu", dtype="float32")
    assert isinstance(loaded, StockEngine)
    return loaded


@pytest.mark.parametrize("rgb", [LANDSCAPE, PORTRAIT])
def test_stage_one_equals_stock_generate(engine: StockEngine, rgb: np.ndarray) -> None:
    """Text, and the statistics of every token, from the scores that `generate` returns."""
    request = AnswerRequest(Picture("picture", rgb), QUESTION, max_new_tokens=5)
    (result,) = engine.answer([request])
    assert isinstance(result, AnswerResult), result
    inputs = engine.prompts.inputs(QUESTION, [request.picture])
    with torch.inference_mode():
        output = engine.model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            max_new_tokens=5,
            output_scores=True,
            return_dict_in_generate=True,
        )
    scores = torch.cat(list(output.scores)).double()
    best = scores.softmax(-1).amax(-1).log().neg().numpy()
    ids = output.sequences[0, -len(scores) :].tolist()
    length = next((i for i, token in enumerate(ids) if token in engine.end_ids), len(ids))
    assert result.text == engine.prompts.tokenizer.decode(ids[:length], skip_special_tokens=True).strip()
    assert result.completion_tokens == length
    np.testing.assert_allclose([t.min_entropy for t in result.tokens], best[:length], atol=TOLERANCE)
    assert result.attention is None


def test_it_says_why_it_asks_for_no_region(engine: StockEngine) -> None:
    why = engine.info.answers_only
    assert why
    assert any(why in note for note in engine.info.notes)
    with pytest.raises(EngineError, match="only answers"):
        engine.neutral_attention(Picture("picture", LANDSCAPE))


async def test_over_http_it_answers_and_readiness_says_why(
    engine: StockEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "close", lambda: None)
    async with running_client(engine) as client:
        assert (await client.get("/readyz")).json()["answers_only"] == engine.info.answers_only
        asked = message(image={"width": 2000, "height": 1000}, mode="always", max_new_tokens=3)
        reply = await client.post("/v1/inferences", files=parts_of(asked, png(101, 37)))
        assert reply.status_code == 200, reply.text
        assert (reply.json()["status"], reply.json()["roi"]) == ("answered", None)
