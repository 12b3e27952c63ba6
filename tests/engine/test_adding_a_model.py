"""`docs/adding-a-model.md` is followed to the letter: its file, a model of a class that is not supported,
stock answers."""

from __future__ import annotations

import pathlib
import re

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaProcessor
from transformers import VipLlavaConfig as ToyConfig
from transformers import VipLlavaForConditionalGeneration as ToyModel
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from secondglance_server.engine import adapters
from secondglance_server.engine.loader import load_engine
from secondglance_server.engine.prefix import PrefixEngine
from secondglance_server.engine.protocol import Picture
from tests.engine import test_equalities as equalities
from tests.engine.conftest import Family
from tests.engine.tiny.parts import SIGLIP, TEXT, Tiny, byte_tokenizer, chat, save_and_reload

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "adding-a-model.md"
SIDE, PATCH = 56, 14
PICTURE_FIRST = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %} ASSISTANT:"
)
QUESTION_FIRST = (
    "{% for message in messages %}{% for part in message.content | reverse %}"
    "{% if part.type == 'image' %}\n<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %} ASSISTANT:"
)


def build(directory: pathlib.Path, template: str) -> Tiny:
    torch.manual_seed(0)
    tokenizer = byte_tokenizer(["<image>"], bos="<s>", eos="</s>", pad="<pad>")
    tokenizer.chat_template = template
    config = ToyConfig(
        vision_config=CLIPVisionConfig(**SIGLIP, image_size=SIDE, patch_size=PATCH),
        text_config=LlamaConfig(vocab_size=len(tokenizer), **TEXT, eos_token_id=257, pad_token_id=258),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layers=[-2, -1],
    )
    model = save_and_reload(ToyModel(config), directory)
    images = LlavaImageProcessorPil(do_pad=True, do_center_crop=False, size={"height": SIDE, "width": SIDE})
    images.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    processor.save_pretrained(directory)
    return Tiny("toy", directory, model, chat(processor), ("<image>",))


@pytest.fixture
def followed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The page's file in a folder of its own, seen by the package of adapters as if it lay there."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    folder = tmp_path / "adapters"
    folder.mkdir()
    (folder / "vipllava.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(adapters, "__path__", [*adapters.__path__, str(folder)])
    return tmp_path


@pytest.mark.parametrize("template", [PICTURE_FIRST, QUESTION_FIRST], ids=["picture_first", "question_first"])
def test_the_pages_file_is_all_that_a_new_family_needs(followed: pathlib.Path, template: str) -> None:
    """Also with a prompt that does not start with the picture: no prefix is shared, and the answers are
    right."""
    tiny = build(followed, template)
    engine = load_engine(str(followed), device="cpu", dtype="float32")
    assert isinstance(engine, PrefixEngine)
    family = Family(tiny, engine)
    rgb, patch, question = equalities.LANDSCAPE, equalities.PORTRAIT, equalities.QUESTION
    (first,) = equalities.answer(family, equalities.ask(family, question, rgb))
    equalities.assert_same(family, first, equalities.stock_generate(family, question, rgb))
    (second,) = equalities.answer(family, equalities.ask(family, question, rgb, patch))
    equalities.assert_same(family, second, equalities.stock_generate(family, question, rgb, patch))
    assert engine.neutral_attention(Picture("picture", rgb)).weights.shape == (4, 4)
    says_so = any("no shared prefixes" in note for note in engine.info.notes)
    assert says_so == (template == QUESTION_FIRST)
    assert (second.cached_tokens > 0) == (template == PICTURE_FIRST)


def test_without_its_file_the_family_is_served_like_any_and_says_how_its_grid_is_known(
    tmp_path: pathlib.Path,
) -> None:
    """A page's file is for what the generic path does not find; this type's grid it does."""
    build(tmp_path, PICTURE_FIRST)
    notes = load_engine(str(tmp_path), device="cpu").info.notes
    assert any(note.startswith("picture's grid: ") and note.endswith("(probed)") for note in notes)
