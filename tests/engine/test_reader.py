"""The model that reads, without its reader: slots, tokenizer, an engine that computes what training does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from secondglance_server.engine.adapters.reader import ReaderAdapter, letterboxed
from secondglance_server.engine.loader import attention_setting, build_engine
from secondglance_server.engine.placement import Placement
from secondglance_server.engine.prefix import PrefixEngine
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, EncoderBudget, Picture
from secondglance_server.engine.reader.alphabet import CHARACTERS, OTHER, folded, folding
from secondglance_server.engine.reader.model import ReaderForConditionalGeneration
from secondglance_server.engine.reader.ocr import ReadLine, peaks
from secondglance_server.engine.reader.slots import BETWEEN, CHARACTER, LAST, START, content_of, lay_out
from secondglance_server.engine.reader.tower import ReaderTowerConfig
from secondglance_server.engine.reader.vocabulary import CANNOT, Vocabulary
from tests.engine.reader_lines import read_line
from training.reader.export import write
from training.reader.model import Example, Reader, packed, pixel_values, run
from training.reader.model import Picture as TrainPicture
from training.reader.records import THUMB_PX
from training.reader.targets import Target
from training.reader.tokenizer import CHAT_TEMPLATE, build_tokenizer
from training.reader.wordings import known_words

VOCABULARY = Vocabulary.of(known_words())
QUESTION = "What does the crimson sign say?"


SIDE_PX = st.integers(1, 1000)


class FakeReader:
    """Sees two lines in every picture."""

    def read(self, rgb: NDArray[np.uint8]) -> list[ReadLine]:
        return [read_line("NO WAY", 0.1, 0.1, 0.6, 0.2), read_line("42", 0.1, 0.6, 0.4, 0.8)]


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.manual_seed(0)
    return Reader(VOCABULARY).eval()


@pytest.fixture(scope="module")
def engine(reader: Reader, tmp_path_factory: pytest.TempPathFactory) -> PrefixEngine:
    folder = tmp_path_factory.mktemp("reader")
    write(reader, folder)
    model = ReaderForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention_setting("sdpa")
    ).eval()
    adapter = ReaderAdapter(model, build_tokenizer(VOCABULARY), FakeReader(), CHAT_TEMPLATE)
    placement = Placement(torch.device("cpu"), torch.float32, "sdpa", False, ())
    return build_engine(adapter, "reader", placement=placement, cache_bytes=10**8)


def picture(key: str, shade: int) -> Picture:
    rgb = np.random.default_rng(shade).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    return Picture(key, rgb)


def training_logits(reader: Reader, pictures: list[Picture]) -> torch.Tensor:
    views = []
    for shown in pictures:
        height, width = shown.rgb.shape[:2]
        slots = lay_out(FakeReader().read(shown.rgb), content_of(width, height))
        pixels = pixel_values([letterboxed(Image.fromarray(shown.rgb), THUMB_PX)])
        with torch.no_grad():
            views.append(TrainPicture(slots, packed(reader.tower.see(pixels))[0]))
    question = VOCABULARY.question(QUESTION), Target((5, 6), -1, None)

    class AllSlots:
        def integers(self, low: int, high: int) -> int:
            return 10**6

    with torch.no_grad():
        return run(reader, [Example(views, [question])], AllSlots()).logits[0].log_softmax(-1)  # type: ignore[arg-type]


def answered(engine: PrefixEngine, request: AnswerRequest) -> AnswerResult:
    (result,) = engine.answer([request])
    assert isinstance(result, AnswerResult), result
    return result


def test_the_engine_computes_what_training_computes(reader: Reader, engine: PrefixEngine) -> None:
    """One picture and two, the first picture's prefix cached and not: the same distribution."""
    reader.half().float()  # what is left of weights in the file
    first, second = picture("a", 1), picture("b", 2)
    alone = answered(engine, AnswerRequest(first, QUESTION, max_new_tokens=1))
    cached = answered(engine, AnswerRequest(first, QUESTION, patch=second, max_new_tokens=1))
    engine.prefixes.clear()
    fresh = answered(engine, AnswerRequest(first, QUESTION, patch=second, max_new_tokens=1))
    assert cached.cached_tokens > 0 == fresh.cached_tokens
    for result, shown in ((alone, [first]), (cached, [first, second]), (fresh, [first, second])):
        expected = -float(training_logits(reader, shown).max())
        assert result.tokens[0].min_entropy == pytest.approx(expected, abs=2e-3)


@given(size=st.tuples(SIDE_PX, SIDE_PX))
@example(size=(448, 300))
@example(size=(100, 60))
@example(size=(30, 90))
@example(size=(1000, 10))
def test_a_picture_fills_the_square_where_its_lines_are_laid_out(size: tuple[int, int]) -> None:
    """Generated: a picture smaller than the square lay in its middle, and its lines as if it filled it."""
    square = letterboxed(Image.new("RGB", size, "white"), THUMB_PX)
    seen = np.argwhere((square == 255).all(axis=2))
    left, top, right, bottom = (THUMB_PX * edge for edge in content_of(*size))
    rows, columns = seen.min(axis=0), seen.max(axis=0) + 1
    assert np.abs(np.array([*rows, *columns]) - (top, left, bottom, right)).max() <= 1


def test_a_region_may_be_larger_than_a_first_picture(engine: PrefixEngine) -> None:
    """Of half a picture, text in a region of the same size is as small as before."""
    vision = ReaderTowerConfig()
    assert engine.info.image == EncoderBudget(vision.view_size, vision.view_size)
    assert engine.info.patch == EncoderBudget(vision.crop_size, vision.crop_size)
    assert vision.crop_size > vision.view_size


def test_attention_lies_on_the_dense_grid(engine: PrefixEngine) -> None:
    result = answered(engine, AnswerRequest(picture("c", 3), QUESTION, max_new_tokens=1))
    assert result.attention is not None
    assert result.attention.weights.shape == (12, 12)
    assert result.attention.content == content_of(80, 60)


def test_every_first_answer_says_where_text_was_found(engine: PrefixEngine) -> None:
    """Of a new picture, of a cached one, and of one whose prefix a second look has computed again.

    The same boxes each time, as the reader gave them, in units of the padded square.
    """
    seen = picture("texts", 5)
    left, top, right, bottom = content_of(80, 60)
    scale = np.array([right - left, bottom - top] * 2)
    expected = [
        np.array([*line.corners.min(axis=0), *line.corners.max(axis=0)]) * scale + [left, top, left, top]
        for line in FakeReader().read(seen.rgb)
    ]
    request = AnswerRequest(seen, QUESTION, max_new_tokens=1)
    results = [answered(engine, request), answered(engine, request)]
    engine.prefixes.clear()
    answered(engine, replace(request, patch=picture("crop", 6)))
    results.append(answered(engine, request))
    assert [result.cached_tokens > 0 for result in results] == [False, True, True]
    for result in results:
        assert result.attention is not None
        np.testing.assert_allclose(result.attention.texts, expected, atol=1e-6)


def test_refusals_are_known_as_off_domain(engine: PrefixEngine) -> None:
    expected = {VOCABULARY.ids[token] for token in CANNOT}
    assert engine.adapter.off_domain_ids == expected


def test_an_answer_says_whether_its_question_is_one_for_the_model(
    engine: PrefixEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """U1. A random model's first token is made a refusal; a model without refusals cannot tell."""
    request = AnswerRequest(picture("d", 4), QUESTION, max_new_tokens=2)
    plain = answered(engine, request)
    assert plain.is_off_domain is False
    first = engine.adapter.tokenizer.convert_tokens_to_ids
    (told,) = {plain.tokens[0].text.strip()}
    refusals = frozenset(i for token, i in VOCABULARY.ids.items() if token == told)
    assert first(told) in refusals
    monkeypatch.setattr(engine.adapter, "off_domain_ids", refusals)
    assert answered(engine, request).is_off_domain is True
    monkeypatch.setattr(engine.adapter, "off_domain_ids", frozenset())
    assert answered(engine, request).is_off_domain is None


@pytest.mark.parametrize(
    "question",
    [
        "What does the sign say?",
        "Is the Zug late, or redbull?",
        'sign "EXIT 2"',
        "two  spaces",
        "é\u4e2d ok?",
        "the",
    ],
)
def test_the_tokenizer_cuts_questions_as_training_does(question: str) -> None:
    tokenizer = build_tokenizer(VOCABULARY)
    assert tokenizer(question, add_special_tokens=False).input_ids == VOCABULARY.question(question)


def test_answers_come_out_as_words() -> None:
    ids = VOCABULARY.ids
    tokens = [
        ids["<b0.3>"],
        *VOCABULARY.spelled("NO"),
        ids["<nl>"],
        *VOCABULARY.spelled("way 1"),
        ids["<end>"],
    ]
    assert build_tokenizer(VOCABULARY).decode(tokens).strip() == "NO way 1"


def test_unknown_words_are_spelled_and_never_unknown() -> None:
    tokens = [VOCABULARY.tokens[i] for i in VOCABULARY.question("the crimson sign")]
    assert tokens == ["the", " ", *"crimson", "sign"]


def test_lines_under_each_other_are_a_block() -> None:
    lines = [
        read_line("LOW", 0.1, 0.9, 0.3, 0.95),
        read_line("TWO", 0.1, 0.32, 0.4, 0.4),
        read_line("ONE", 0.1, 0.2, 0.4, 0.28),
    ]
    slots = lay_out(lines, (0.0, 0.0, 1.0, 1.0))
    assert slots.order == (2, 1, 0)
    assert slots.blocks == (0, 0, 2)
    kinds = slots.kind[:10].tolist()
    assert kinds == [
        START,
        CHARACTER,
        CHARACTER,
        CHARACTER,
        BETWEEN,
        START,
        CHARACTER,
        CHARACTER,
        CHARACTER,
        LAST,
    ]
    # the second line's characters go on counting where the first ended
    assert slots.position[6] - slots.position[4] == 1


@pytest.mark.parametrize("degrees", [-40, -12, 0, 7, 12, 40])
def test_lines_of_a_tilted_sign_are_a_block(degrees: float) -> None:
    """A photo is rarely level; the upright boxes of tilted lines overlap, and their blocks fell apart."""
    wide = [read_line("10% OFF", 0.2, 0.40, 0.5, 0.45), read_line("CATHODIQUE", 0.15, 0.46, 0.55, 0.52)]
    beside = read_line("EXIT", 0.65, 0.46, 0.8, 0.52)
    below = read_line("42", 0.3, 0.62, 0.4, 0.68)
    slots = lay_out([turned(line, degrees) for line in (*wide, beside, below)], (0.0, 0.0, 1.0, 1.0))
    firsts = [slots.blocks[number] for number in slots.order]
    assert firsts[0] == firsts[1]
    assert len({firsts[0], firsts[2], firsts[3]}) == 3


def turned(line: ReadLine, degrees: float) -> ReadLine:
    """The line as it lies in a square picture that is turned about its centre."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return replace(line, corners=((line.corners - 0.5) @ turn + 0.5).astype(np.float32))


def test_the_largest_lines_stay_where_room_is_short() -> None:
    lines = [read_line("SMALL", 0.1, 0.1, 0.5, 0.12), read_line("LARGE", 0.1, 0.5, 0.9, 0.7)]
    slots = lay_out(lines, (0.0, 0.0, 1.0, 1.0), slots=8)
    assert slots.order == (-1, 0)


def test_a_character_is_a_run_of_one_class_at_its_peak() -> None:
    classes = ["blank", "A", "\u0410", "B"]  # the third is a Cyrillic A
    frames = np.array(
        [[0.9, 0.1, 0, 0], [0.1, 0.5, 0.4, 0], [0, 0.7, 0.2, 0.1], [1, 0, 0, 0], [0.2, 0, 0, 0.8]], np.float32
    )
    fold_to = folding([OTHER, *classes[1:]])
    ids, probabilities = peaks(frames, fold_to)
    assert [CHARACTERS[i] for i in ids[:, 0]] == ["A", "B"]
    assert probabilities[0, 0] == pytest.approx(0.9)


def test_accents_and_look_alikes_fold_into_the_alphabet() -> None:
    assert folded("D\u00c9F\u00c9NSE \u0420") == "DEFENSE P"
    assert folded("\u4e2d") == OTHER
