"""From a question to token ids: chat template, image expansions, and the line between prefix and suffix.

The question is text: control tokens that it spells are broken up before tokenising, and a prompt in which
more control tokens appear than the template wrote is refused. Text and template are tokenised together, so
ids equal those of the family's own processor. Knows no pixels and no device.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from server.engine.adapters.protocol import Adapter, ImageLayout
from server.engine.protocol import EngineError

_QUESTION = "\x02question\x03"  # no template contains it and no tokenizer's normaliser sees it


class PromptError(EngineError):
    """The question cannot be told from the model's control tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """`ids`: the whole prompt. `prefix`: how many of them the first picture alone decides (up to its last
    image token). `grid`: the first picture's grid in `ids`."""

    ids: list[int]
    prefix: int
    grid: slice


class PromptBuilder:
    """Renders a chat template once for each number of images and fills in pictures and questions
    afterwards."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._tokenizer = adapter.tokenizer
        self._templates = {count: self._render(count) for count in (1, 2)}
        added = self._tokenizer.added_tokens_decoder
        special = {token_id for token_id, token in added.items() if token.special}
        self._control_ids = special | set(self._tokenizer.all_special_ids) | {adapter.image_token_id}
        control = {self._tokenizer.convert_ids_to_tokens(i) for i in self._control_ids} | {
            adapter.placeholder
        }
        self._control = re.compile(
            "|".join(re.escape(text) for text in sorted(control, key=len, reverse=True))
        )

    def build(self, question: str, layouts: Sequence[ImageLayout]) -> Prompt:
        """The prompt for one or two pictures. Raises PromptError."""
        parts, question_first = self._templates[len(layouts)]
        text = parts[0]
        for layout, part in zip(layouts, parts[1:], strict=True):
            text += layout.text + part
        asked = text.replace(_QUESTION, self.harmless(question.strip()))
        ids = self._tokenize(asked)
        if self._count_controls(ids) != self._count_controls(self._tokenize(text)):
            raise PromptError("the question spells control tokens of the model")
        return self._expand(ids, layouts, question_first=question_first)

    def harmless(self, question: str) -> str:
        """The question with a space in every control token that it spells."""
        while self._control.search(question):
            question = self._control.sub(lambda match: match[0][0] + " " + match[0][1:], question)
        return question

    def _render(self, count: int) -> tuple[list[str], bool]:
        """The template's text cut at the images, and whether the question comes before the first of them."""
        content = [{"type": "image"}] * count + [{"type": "text", "text": _QUESTION}]
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self._adapter.chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )
        parts = text.split(self._adapter.placeholder)
        if len(parts) != count + 1 or text.count(_QUESTION) != 1:
            raise ValueError(f"the chat template does not place {count} images and a question: {text!r}")
        return parts, _QUESTION in parts[0]

    def _tokenize(self, text: str) -> list[int]:
        start = self._tokenizer.bos_token
        has_start = bool(start) and text.startswith(start)
        ids: list[int] = self._tokenizer(text, add_special_tokens=not has_start).input_ids
        return ids

    def _count_controls(self, ids: Sequence[int]) -> int:
        return sum(token in self._control_ids for token in ids)

    def _expand(self, ids: list[int], layouts: Sequence[ImageLayout], *, question_first: bool) -> Prompt:
        """Writes each image token as often as the model wants it; everything up to the first image's last
        is the prefix."""
        image = self._adapter.image_token_id
        places = [i for i, token in enumerate(ids) if token == image]
        if len(places) != len(layouts):
            raise PromptError(f"{len(places)} image tokens for {len(layouts)} pictures")
        whole: list[int] = []
        done = 0
        for place, layout in zip(places, layouts, strict=True):
            whole += ids[done:place] + [image] * layout.run
            done = place + 1
        first, start = layouts[0], places[0] + layouts[0].grid_start
        return Prompt(
            ids=whole + ids[done:],
            prefix=0 if question_first else places[0] + first.run,
            grid=slice(start, start + first.rows * first.cols),
        )
