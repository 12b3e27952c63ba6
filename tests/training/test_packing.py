"""Several questions in one sequence are several sequences: nothing leaks, nothing shifts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.decoder_stage import answer_logits, frame, whole_answers
from training.packing import Packer, attention_mask, position_ids, prompt_after_images

ROWS = [
    [
        (prompt_after_images("What is written on the red sign?"), "A7K"),
        (prompt_after_images("Read it."), "9"),
    ],
    [
        (prompt_after_images("How many signs are there?"), "3"),
        (prompt_after_images("Is there a blue sign?"), "yes"),
        (prompt_after_images("What color is the sign that says A7?"), "orange"),
    ],
]
PREFIX = 4


@pytest.fixture(scope="module")
def packer(tokenizer: PreTrainedTokenizerFast) -> Packer:
    return Packer(tokenizer)


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        initializer_range=0.4,  # large: a token that leaks in changes the logits visibly
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def test_a_question_sees_the_picture_and_itself_only(packer: Packer) -> None:
    packed = packer.pack(ROWS)
    mask = attention_mask(PREFIX, packed)
    total = PREFIX + packed.ids.shape[1]
    assert mask.shape == (2, 1, total, total)
    for row in range(2):
        for query in range(total):
            for key in range(total):
                owner = -2 if key < PREFIX else int(packed.question[row, key - PREFIX])
                asking = -2 if query < PREFIX else int(packed.question[row, query - PREFIX])
                allowed = key <= query and (owner == -2 or owner == asking)
                assert bool(mask[row, 0, query, key]) == allowed


def test_every_question_starts_right_behind_the_picture(packer: Packer) -> None:
    packed = packer.pack(ROWS)
    places = position_ids(PREFIX, packed)
    assert places[:, :PREFIX].tolist() == [[0, 1, 2, 3]] * 2
    for row, questions in enumerate(ROWS):
        for number, (prompt, answer) in enumerate(questions):
            mine = places[row, PREFIX:][packed.question[row] == number].tolist()
            length = len(packer.tokens(prompt)) + len(packer.tokens(answer))
            assert mine == list(range(PREFIX, PREFIX + length))


def test_what_is_to_be_predicted_is_the_answer_and_the_end(packer: Packer) -> None:
    packed = packer.pack(ROWS)
    for row, questions in enumerate(ROWS):
        for number, (prompt, answer) in enumerate(questions):
            mine = packed.question[row] == number
            following = packed.next_ids[row][mine]
            wanted = [*packer.tokens(answer), packer.end]
            assert following[following != -100].tolist() == wanted
            first = packed.first[row][mine].nonzero().flatten().tolist()
            assert first == [len(packer.tokens(prompt)) - 1]


def test_padding_predicts_nothing_and_belongs_to_no_question(packer: Packer) -> None:
    packed = packer.pack(ROWS)
    padding = packed.question == -1
    assert int(padding.sum()) > 0
    assert (packed.ids[padding] == packer.pad).all()
    assert (packed.next_ids[padding] == -100).all()
    assert not packed.first[padding].any()


def one_by_one(model: LlamaForCausalLM, packer: Packer, cells: Tensor, views: int) -> Tensor:
    """The same logits from plain causal sequences: picture, question, answer."""
    logits = []
    for row, questions in enumerate(ROWS):
        for prompt, answer in questions:
            asked, answered = packer.tokens(prompt), packer.tokens(answer)
            text = model.get_input_embeddings()(torch.tensor([asked + answered]))
            start = frame(model, packer, cells[row : row + 1], views)
            out = model(inputs_embeds=torch.cat([start, text], dim=1)).logits[0]
            logits.append(out[start.shape[1] + len(asked) - 1 :])
    return torch.cat(logits)


@pytest.mark.parametrize("views", [1, 2])
@torch.no_grad()
def test_packed_logits_equal_those_of_one_question_at_a_time(
    model: LlamaForCausalLM, packer: Packer, views: int
) -> None:
    cells = torch.randn(2, 6 * views, 32, generator=torch.Generator().manual_seed(1))
    packed, truth, first, *_ = answer_logits(model, packer, cells, ROWS, views)
    alone = one_by_one(model, packer, cells, views)
    assert packed.shape == alone.shape == (len(truth), len(packer._tokenizer))
    assert (packed - alone).abs().max() < 1e-4
    assert alone.std() > 0.5  # not so small that everything is equal
    assert int(first.sum()) == sum(len(questions) for questions in ROWS)


@torch.no_grad()
def test_another_question_in_the_row_changes_nothing(model: LlamaForCausalLM, packer: Packer) -> None:
    cells = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(2))
    asked = ROWS[1][0]
    alone, *_ = answer_logits(model, packer, cells, [[asked]], 1)
    for other in ROWS[0]:
        beside, *_ = answer_logits(model, packer, cells, [[other, asked]], 1)
        assert (beside[-len(alone) :] - alone).abs().max() < 1e-5


def test_an_answer_is_whole_only_if_all_its_tokens_are_right() -> None:
    truth = torch.tensor([4, 5, 2, 7, 2, 8, 9, 2])
    first = torch.tensor([True, False, False, True, False, True, False, False])
    guess = torch.tensor([4, 5, 2, 7, 3, 1, 9, 2])  # right; no end; a wrong beginning
    logits = torch.nn.functional.one_hot(guess, 10).float()
    assert whole_answers(logits, truth, first).tolist() == [True, False, False]


def test_two_pictures_are_parted_by_a_newline(
    model: LlamaForCausalLM, packer: Packer, tokenizer: PreTrainedTokenizerFast
) -> None:
    embed = model.get_input_embeddings().weight
    cells = torch.zeros(1, 6, 32)
    framed = frame(model, packer, cells, 2)[0]
    shown = ["".join(tokenizer.decode(i) for i in (embed == vector).all(-1).nonzero()) for vector in framed]
    is_cell = [bool((vector == 0).all()) for vector in framed]
    start = len(packer.tokens("<s>USER: "))
    assert is_cell == [False] * start + [True] * 3 + [False] + [True] * 3
    assert "".join(text for text, cell in zip(shown, is_cell, strict=True) if not cell) == "<s>USER: \n"
