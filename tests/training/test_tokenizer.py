"""The tokenizer and the prompt that the model is trained on."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from scenes.questions import WORDINGS
from scenes.signs import CHARACTERS, COLORS
from training.packing import prompt_after_images
from training.tokenizer import SPECIALS, build_tokenizer

QUESTION = "What is written on the red sign?"


def asked(tokenizer: PreTrainedTokenizerFast, images: int) -> str:
    content = [{"type": "image"}] * images + [{"type": "text", "text": QUESTION}]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert isinstance(prompt, str)
    return prompt


@pytest.mark.parametrize("character", CHARACTERS)
def test_each_character_of_a_sign_is_one_token_wherever_it_stands(
    tokenizer: PreTrainedTokenizerFast, character: str
) -> None:
    alone = tokenizer(character, add_special_tokens=False).input_ids
    assert len(alone) == 1
    for text in (f"A{character}", f"{character}7", f"K{character}ZZ"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert len(ids) == len(text)
        assert alone[0] in ids


def test_the_prompt_for_one_image_is_exact(tokenizer: PreTrainedTokenizerFast) -> None:
    assert asked(tokenizer, 1) == f"<s>USER: <image>\n{QUESTION} ASSISTANT:"


def test_the_prompt_for_two_images_is_exact(tokenizer: PreTrainedTokenizerFast) -> None:
    assert asked(tokenizer, 2) == f"<s>USER: <image>\n<image>\n{QUESTION} ASSISTANT:"


def test_training_and_the_template_give_the_same_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    """Training never renders the template: it puts the pieces together itself."""
    whole = tokenizer(asked(tokenizer, 2), add_special_tokens=False).input_ids
    pieces = ["<s>USER: ", "<image>", "\n", "<image>", prompt_after_images(QUESTION)]
    assert whole == [i for piece in pieces for i in tokenizer(piece, add_special_tokens=False).input_ids]


def test_special_tokens_have_the_ids_that_the_decoder_is_configured_with(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert tokenizer.convert_tokens_to_ids(list(SPECIALS)) == list(range(len(SPECIALS)))
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


@pytest.mark.parametrize(
    "text",
    [
        QUESTION,
        "Is there an orange sign? A7",
        "Grüße,  zwei   Leerzeichen\tund\nZeilen",
        "漢字 🚦 ½",
        "don't \\ <b> {x}",
        "",
    ],
)
def test_any_text_comes_back_unchanged(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_words_of_the_questions_and_the_colors_are_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = {*COLORS, "yes", "no"}  # as answers; in a question a word brings its space along
    for wordings in WORDINGS.values():
        for wording in wordings:
            first, *others = wording.format(color="red", text="", a="an").rstrip("?.").split()
            pieces |= {first, *(f" {word}" for word in others), *(f" {color}" for color in COLORS)}
    assert len(pieces) > 50
    assert [p for p in pieces if len(tokenizer(p, add_special_tokens=False).input_ids) > 1] == []


def test_the_vocabulary_is_the_same_every_time(tokenizer: PreTrainedTokenizerFast) -> None:
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()
    assert len(tokenizer) <= 1024
