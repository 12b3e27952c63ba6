"""Ids equal the processor's for tokenizers that treat text differently at the start and after a control
token."""

from __future__ import annotations

import pathlib
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from secondglance_server.engine.adapters.protocol import ImageLayout
from secondglance_server.engine.prompt import PromptBuilder
from tests.engine.tiny.llava import TEMPLATE
from tests.engine.tiny.parts import byte_tokenizer

LAYOUT = ImageLayout(text="<image>", run=7, rows=2, cols=3, grid_start=1)


def sentencepiece(*, legacy: bool) -> PreTrainedTokenizerFast:
    """Llama's two ways: a space before every stretch of text (legacy), or before the first one only."""
    letters = ["<unk>", "▁", "\n", *sorted(set("abcdefghijklmnopqrstuvwxyzABCDEHINSRTUW?:.,!<>/_|'"))]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={c: i for i, c in enumerate(letters)}, merges=[], unk_token="<unk>", byte_fallback=False
        )
    )
    if legacy:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(Regex(" "), "▁")]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<s>", "</s>", "<pad>", "<image>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


TOKENIZERS = {
    "bytes": lambda: byte_tokenizer(["<image>"], bos="<s>", eos="</s>", pad="<pad>"),
    "legacy": lambda: sentencepiece(legacy=True),
    "metaspace": lambda: sentencepiece(legacy=False),
}


@pytest.fixture(params=sorted(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


def builder(tokenizer: Any, template: str = TEMPLATE) -> PromptBuilder:
    adapter: Any = SimpleNamespace(
        tokenizer=tokenizer,
        chat_template=template,
        placeholder="<image>",
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return PromptBuilder(adapter)


@pytest.mark.parametrize("count", [1, 2])
def test_writing_the_run_as_ids_equals_writing_it_as_text(tokenizer: Any, count: int) -> None:
    prompt = builder(tokenizer).build("What is written here?", [LAYOUT] * count)
    text = "USER: " + ("<image>" * 7 + "\n") * count + "What is written here? ASSISTANT:"
    assert prompt.ids == tokenizer(text).input_ids


def test_one_and_two_images_share_the_prefix_and_the_grid_lies_in_it(tokenizer: Any) -> None:
    one, two = (builder(tokenizer).build("Where?", [LAYOUT] * count) for count in (1, 2))
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert one.ids[: one.prefix] == two.ids[: two.prefix]
    assert one.ids[: one.prefix].count(image) == 7
    assert one.ids[one.prefix - 1] == image
    assert (one.grid.stop, one.grid.stop - one.grid.start) == (one.prefix, 6)


@pytest.mark.parametrize("control", ["<image>", "</s>", "<s>", "<pad>"])
@pytest.mark.parametrize("form", ["{0}", "a {0} b", "{0}{0}{0}", "<im{0}age>", "{0} \n {0}"])
def test_control_tokens_in_a_question_are_text(tokenizer: Any, control: str, form: str) -> None:
    build = builder(tokenizer).build
    controls = set(tokenizer.convert_tokens_to_ids(["<image>", "</s>", "<s>", "<pad>"]))
    plain = [t for t in build("x", [LAYOUT]).ids if t in controls]
    assert [t for t in build(form.format(control), [LAYOUT]).ids if t in controls] == plain


def test_a_control_token_that_survives_being_broken_up_is_taken_out() -> None:
    """Some tokenizers' normalisers put together what a space took apart."""
    tokenizer = byte_tokenizer(["<image>"], bos="<s>", eos="</s>", pad="<pad>")
    prompts = builder(tokenizer)
    prompts.harmless = lambda question: question  # type: ignore[method-assign]
    image = tokenizer.convert_tokens_to_ids("<image>")
    prompt = prompts.build("What is <image> here?", [LAYOUT])
    assert prompt.ids.count(image) == 7
    assert "What is" in tokenizer.decode(prompt.ids[prompt.prefix :])


def test_white_space_around_a_question_does_not_count(tokenizer: Any) -> None:
    build = builder(tokenizer).build
    assert build("  Where?\n", [LAYOUT]).ids == build("Where?", [LAYOUT]).ids


def test_a_template_without_a_place_for_images_is_refused() -> None:
    tokenizer = TOKENIZERS["bytes"]()
    template = "{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}"
    with pytest.raises(ValueError, match="does not place 1 images"):
        builder(tokenizer, template)


def test_the_tree_of_tiny_models_covers_every_adapter_file() -> None:
    here = pathlib.Path(__file__).parent
    adapters = here.parents[1] / "server" / "secondglance_server" / "engine" / "adapters"
    families = {p.stem for p in adapters.glob("*.py")} - {"__init__", "base", "protocol", "plain_prompts"}
    assert (here / "test_reader.py").is_file()  # it builds a small twin of its own: that family is ours alone
    families -= {"reader"}
    assert families <= {p.stem for p in (here / "tiny").glob("*.py")}
