"""From a row to a model on disk: config, random weights, tokenizer and the type's own stock processor.

Everything is made on the spot; nothing is downloaded. Rows are data: what differs between types.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.processing_utils import ProcessorMixin

from secondglance_server.engine.adapters.plain_prompts import plain_template
from secondglance_server.engine.generic.processor import made_for_pictures
from tests.engine.tiny.parts import Tiny, byte_tokenizer, chat, save_and_reload

SIDE, PATCH = 56, 14
USER, END, ASSISTANT = "<|user|>", "<|end|>", "<|assistant|>"
# heads of 32; logits far enough apart that rounding does not change the greedy token
TEXT: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.2,
}
VISION: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


class Ids:
    """Ids of a tokenizer's tokens by their text; `size`: of the vocabulary."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.size = len(tokenizer)

    def __call__(self, token: str) -> int:
        found: int = self._tokenizer.convert_tokens_to_ids(token)
        return found

    def text(self, **options: Any) -> dict[str, Any]:
        """Return the text model's settings."""
        special = {"bos_token_id": self("<s>"), "eos_token_id": self(END), "pad_token_id": self("<pad>")}
        return {**TEXT, "vocab_size": self.size, **special, **options}


@dataclass(frozen=True)
class Row:
    """A model type. `image`: what its chat template writes for a picture; `named`: tokens by the attribute
    of the tokenizer that holds them; `template`: False for types that are published without one."""

    config: Callable[[Ids], dict[str, Any]]
    processor: Callable[[Any], Any]
    image: str = "<image>"
    controls: tuple[str, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)
    has_template: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


def template_of(row: Row) -> str:
    return (
        f"{{% for message in messages %}}{USER}{{% for part in message.content %}}"
        f"{{% if part.type == 'image' %}}{row.image}{{% else %}}{{{{ part.text }}}}{{% endif %}}"
        f"{{% endfor %}}{END}{{% endfor %}}{{% if add_generation_prompt %}}{ASSISTANT}{{% endif %}}"
    )


def tokenizer_of(row: Row) -> Any:
    written = re.findall(r"<[^<>]*>|\[[^][]*\]", row.image)
    controls = tuple(dict.fromkeys([USER, END, ASSISTANT, *written, *row.controls, *row.named.values()]))
    tokenizer = byte_tokenizer(controls, bos="<s>", eos=END, pad="<pad>", named=dict(row.named) or None)
    tokenizer.add_bos_token = False
    return tokenizer


def build(model_type: str, row: Row, directory: pathlib.Path) -> Tiny:
    """Write a random model of the type and its processor to `directory`, and return the stock side."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of(row)
    config = AutoConfig.for_model(model_type, **row.config(Ids(tokenizer)))
    processor = row.processor(tokenizer)
    if row.has_template:
        processor.chat_template = template_of(row)
    model = save_and_reload(AutoModelForImageTextToText.from_config(config), directory)
    present = [name for name in processor.get_attributes() if getattr(processor, name) is not None]
    processor.get_attributes = lambda: present  # it cannot be saved without a video processor otherwise
    ProcessorMixin.save_pretrained(processor, directory)  # some override it for a video processor's sake
    processor.chat_template = processor.chat_template or plain_template(model_type, row.image)
    return Tiny(
        model_type,
        directory,
        model,
        chat(processor, **row.options),
        (*re.findall(r"<[^<>]*>|\[[^][]*\]", row.image), END),
    )


def stock(processor_class: Any, **options: Any) -> Callable[[Any], Any]:
    """Return the maker of a stock processor around a tokenizer, without what only videos need."""

    def make(tokenizer: Any) -> Any:
        return made_for_pictures(processor_class, lambda kind: kind.of(tokenizer=tokenizer, **options))

    return make
