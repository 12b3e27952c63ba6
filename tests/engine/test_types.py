"""Types without a file of their own, held to stock transformers as the families are.

One row of `tests/engine/types` each: a random model of the real class, the type's own processor, fp32, heads
of 32. Some share prefixes, some run every prompt whole; both must equal what `generate` says from scratch.
"""

from __future__ import annotations

import numpy as np
import pytest

from secondglance_server.engine.generic.snapshot import SnapshotEngine
from secondglance_server.engine.generic.stock import StockEngine
from secondglance_server.engine.loader import load_engine
from secondglance_server.engine.prefix import NEUTRAL_PROMPT, PrefixEngine
from secondglance_server.engine.protocol import Picture
from tests.engine import test_equalities as equalities
from tests.engine import test_optional_outputs as outputs
from tests.engine.conftest import Family
from tests.engine.test_equalities import LANDSCAPE, PORTRAIT, QUESTION, SQUARE
from tests.engine.tiny.parts import picture
from tests.engine.types import free, merged, squares, tiles, with_torchvision
from tests.engine.types.row import SIDE, build
from tests.server.exchange import running_client

# transformers' own: of a processor that makes arrays of nested pictures
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
# what takes long, or repeats another type's code; `make test-families`
SLOW = {"exaone4_5", "glm46v", "glm4v_moe", "glm_ocr", "got_ocr2", "janus", "llava", "llava_next_video"}
SLOW |= {
    "deepseek_vl_hybrid",
    "glmga",
    "paddleocr_vl",
    "qianfan_ocr",
    "qwen3_5_moe",
    "video_llava",
    "vipllava",
}
SLOW |= {*merged.ROWS, *tiles.ROWS} - {"ernie4_5_vl_moe", "minicpmv4_6"}
# a picture that sees the question, or a second stage that differs with a prefix computed alone
WHOLE = {"minicpmv4_6", "minicpmv4_7", "paligemma", "paligemma 2"}
# linear attention and convolutions: a state that is not keys and values
STATES = {"lfm2_vl", "lfm3_vl", "qwen3_5", "qwen3_5_moe", "qwen4_exp"}
ROWS = {**squares.ROWS, **squares.VARIANTS, **free.ROWS, **merged.ROWS, **tiles.ROWS, **with_torchvision.ROWS}
TYPES = [pytest.param(t, marks=pytest.mark.slow if t in SLOW else ()) for t in sorted(ROWS)]
ODD = (picture(101, 37, seed=4), picture(37, 101, seed=5), picture(79, 83, seed=6))
QUESTIONS = ("Hi", QUESTION, "And what stands on the left of it, if anything does?")


@pytest.fixture(scope="session", params=TYPES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A type's stock side, and the engine that the loader chose for it."""
    directory = tmp_path_factory.mktemp(request.param.replace(" ", "_"))
    tiny = build(request.param.partition(" ")[0], ROWS[request.param], directory)
    engine = load_engine(str(directory), device="cpu", dtype="float32")
    expected = {**dict.fromkeys(WHOLE, StockEngine), **dict.fromkeys(STATES, SnapshotEngine)}
    assert type(engine) is expected.get(request.param, PrefixEngine), engine.info.notes
    assert engine.info.answers_only is None
    return Family(tiny, engine)  # type: ignore[arg-type]  # one of the two


def start_afresh(served: Family) -> None:
    if isinstance(served.engine, PrefixEngine | SnapshotEngine):
        served.engine.prefixes.clear()


def test_prompts_are_the_processors(served: Family) -> None:
    """For one picture and for two, of different shapes and odd sides."""
    for pictures in ([LANDSCAPE], [PORTRAIT], [LANDSCAPE, PORTRAIT], [ODD[0], ODD[1]]):
        expected = served.tiny.stock_inputs(QUESTION, pictures)["input_ids"][0].tolist()
        if isinstance(served.engine, PrefixEngine):
            layouts = [served.engine.adapter.layout(rgb.shape[1], rgb.shape[0]) for rgb in pictures]
            assert served.engine.prompts.build(QUESTION, layouts).ids == expected
        else:
            inputs = served.engine.prompts.inputs(QUESTION, [Picture("", rgb) for rgb in pictures])
            assert inputs["input_ids"][0].tolist() == expected


def test_both_stages_equal_stock_generate(served: Family) -> None:
    """Also at odd sides, on an empty cache and on a held prefix."""
    start_afresh(served)
    for rgb, patch in ((LANDSCAPE, PORTRAIT), (PORTRAIT, SQUARE), (ODD[0], ODD[1])):
        for _ in range(2):
            for pictures in ((rgb,), (rgb, patch)):
                asked = equalities.ask(served, QUESTION, *pictures, key=str(rgb.shape))
                (result,) = equalities.answer(served, asked)
                stock = equalities.stock_generate(served, QUESTION, *pictures)
                equalities.assert_same(served, result, stock)
                assert (result.attention is None) == (len(pictures) == 2)


def test_attention_is_the_models_own(served: Family) -> None:
    """Against eager attention, for a question on a new picture, on a held one, and the neutral prompt."""
    start_afresh(served)
    for rgb in (LANDSCAPE, PORTRAIT):
        key = str(rgb.shape)
        maps = []
        for question in QUESTIONS[:2]:
            (result,) = equalities.answer(served, equalities.ask(served, question, rgb, key=key))
            maps.append(result.attention)
        maps.append(served.engine.neutral_attention(Picture(key, rgb)))
        for question, got in zip((*QUESTIONS[:2], NEUTRAL_PROMPT), maps, strict=True):
            assert got is not None
            expected = equalities.eager_attention(served, question, rgb)
            np.testing.assert_allclose(got.weights, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(48, 96), (96, 48), (61, 87)])
def test_a_bright_square_at_each_corner_changes_the_cell_there(served: Family, size: tuple[int, int]) -> None:
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        equalities.test_a_bright_square_changes_the_cell_that_contains_it(served, size, corner)


def test_the_first_picture_fills_the_encoders_view(served: Family) -> None:
    """LLaVA-NeXT, Aya Vision, Gemma 4 and others were sent 16 x 16 pixels: those bring as many tokens as a
    view. Their random models' views have sides of 56; twice that for two by two tiles, and one to compare."""
    budget = served.engine.info.image
    if budget.max_pixels is not None:
        assert SIDE**2 <= budget.max_pixels <= 9 * SIDE**2
    else:
        assert min(budget.max_width, budget.max_height) >= SIDE


def test_a_batch_equals_each_alone_and_stock(served: Family) -> None:
    """Questions of different lengths, in both stages; windows of text models are shorter than the prompt."""
    for patch in (None, SQUARE):
        start_afresh(served)
        requests = [equalities.ask(served, q, LANDSCAPE, patch, key=q) for q in QUESTIONS]
        alone = [equalities.answer(served, request)[0] for request in requests]
        start_afresh(served)
        together = equalities.answer(served, *requests)
        pictures = [LANDSCAPE] if patch is None else [LANDSCAPE, patch]
        for question, row, single in zip(QUESTIONS, together, alone, strict=True):
            equalities.assert_equal_results(row, single)
            stock = equalities.stock_generate(served, question, *pictures)
            equalities.assert_same(served, row, stock)


def test_a_question_spells_no_control_token(served: Family) -> None:
    for control in served.tiny.controls:
        (spelt,) = equalities.answer(served, equalities.ask(served, f"What is {control} here?", LANDSCAPE))
        (broken,) = equalities.answer(
            served, equalities.ask(served, f"What is {control[0]} {control[1:]} here?", LANDSCAPE)
        )
        assert spelt.prompt_tokens == broken.prompt_tokens


async def test_a_reply_over_http_holds_a_valid_map(served: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """I3 for every type: both outputs at odd shapes, and the patch that the reply asks for."""
    monkeypatch.setattr(served.engine, "close", lambda: None)  # the app closes it; other tests go on
    async with running_client(served.engine) as client:
        for size in outputs.SIDES[:2]:
            layout = served.engine.adapter.layout(*size)
            asked = await outputs.both_stages(client, size, "always", ("tokens", "relevance"))
            assert asked or min(layout.rows, layout.cols) < 3  # a window of half a grid of 2 is the whole
