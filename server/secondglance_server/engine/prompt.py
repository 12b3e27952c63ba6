"""From a question to token ids: chat template, image expansions, and the line between prefix and suffix.

The question is text: control tokens that it spells are broken up before tokenising, and if some still come
out, the question is tokenised apart and they are taken out. Otherwise text and template are tokenised
together, so that ids equal those of the family's own processor. Knows no pixels and no device.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from secondglance_server.engine.adapters.protocol import Adapter, ImageLayout

_QUESTION = "\x02question\x03"  # no template contains it


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """`ids`: the whole prompt. `prefix`: how many of them the first picture alone decides (up to its last
    image token).

    `grid`: the first picture's grid in `ids`.
    """

    ids: list[int]
    prefix: int
    grid: slice


class PromptBuilder:
    """Renders a chat template once for each number of images and fills in pictures and questions
    afterwards."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._tokenizer = adapter.tokenizer
        self._templates = _rendered(adapter.tokenizer, adapter.chat_template, adapter.placeholder)
        self._control_ids, self._control = self._control_tokens()
        self._controls_written: dict[str, int] = {}  # by prompt without its question

    @property
    def starts_with_the_picture(self) -> bool:
        """Whether what comes before the first picture is always the same; only then prompts share a
        prefix."""
        heads = {parts[0] for parts in self._templates.values()}
        return len(heads) == 1 and _QUESTION not in heads.pop()

    def build(self, question: str, layouts: Sequence[ImageLayout]) -> Prompt:
        """The prompt for one or two pictures."""
        parts = self._templates[len(layouts)]
        text = parts[0]
        for layout, part in zip(layouts, parts[1:], strict=True):
            text += layout.text + part
        question = self.harmless(question.strip())
        ids = self._tokenize(text.replace(_QUESTION, question))
        if self._count_controls(ids) != self._expected_controls(text):
            ids = self._tokenize_apart(text, question)
        return self._expand(ids, layouts)

    def harmless(self, question: str) -> str:
        """The question with a space in every control token that it spells."""
        return self._control.sub(lambda match: match[0][0] + " " + match[0][1:], question)

    def _control_tokens(self) -> tuple[set[int], re.Pattern[str]]:
        added = self._tokenizer.added_tokens_decoder
        ids = {token_id for token_id, token in added.items() if token.special}
        ids |= {*self._tokenizer.all_special_ids, self._adapter.image_token_id}
        ids.discard(self._tokenizer.unk_token_id)  # stands for text
        texts = {self._tokenizer.convert_ids_to_tokens(i) for i in ids} | {self._adapter.placeholder}
        longest_first = sorted(texts, key=len, reverse=True)
        return ids, re.compile("|".join(re.escape(text) for text in longest_first))

    def _tokenize(self, text: str, **options: bool) -> list[int]:
        start = self._tokenizer.bos_token
        options.setdefault("add_special_tokens", not (start and text.startswith(start)))
        ids: list[int] = self._tokenizer(text, **options).input_ids
        return ids

    def _tokenize_apart(self, text: str, question: str) -> list[int]:
        before, after = text.split(_QUESTION)
        asked = self._tokenize(question, add_special_tokens=False, split_special_tokens=True)
        asked = [token for token in asked if token not in self._control_ids]
        return self._tokenize(before) + asked + self._tokenize(after, add_special_tokens=False)

    def _count_controls(self, ids: Sequence[int]) -> int:
        return sum(token in self._control_ids for token in ids)

    def _expected_controls(self, text: str) -> int:
        if text not in self._controls_written:
            self._controls_written[text] = self._count_controls(self._tokenize(text))
        return self._controls_written[text]

    def _expand(self, ids: list[int], layouts: Sequence[ImageLayout]) -> Prompt:
        """Writes each image token as often as the model wants it; up to the first image's last is the
        prefix."""
        image = self._adapter.image_token_id
        places = [i for i, token in enumerate(ids) if token == image]
        assert len(places) == len(layouts), f"{len(places)} image tokens for {len(layouts)} pictures"
        whole: list[int] = []
        done = 0
        for place, layout in zip(places, layouts, strict=True):
            whole += ids[done:place] + [image] * layout.run
            done = place + 1
        first, start = layouts[0], places[0] + layouts[0].grid_start
        return Prompt(
            ids=whole + ids[done:],
            prefix=places[0] + first.run if self.starts_with_the_picture else 0,
            grid=slice(start, start + first.rows * first.cols),
        )


def first_that_places_pictures(
    tokenizer: Any, candidates: Sequence[tuple[str, str]], placeholder: str
) -> tuple[str, str]:
    """Return the first (name, chat template) that has a place for one and for two pictures.

    Raises ValueError that says what is wrong with each.
    """
    complaints: list[str] = []
    for name, template in candidates:
        try:
            _rendered(tokenizer, template, placeholder)
        except ValueError as exc:
            complaints.append(f"{name}: {exc}")
        else:
            return name, template
    raise ValueError("; ".join(complaints) or "the model comes without a chat template")


def _rendered(tokenizer: Any, template: str, placeholder: str) -> dict[int, list[str]]:
    """Return the template's text for one and for two pictures, cut at the pictures. Raises ValueError."""
    return {count: _cut_at_pictures(tokenizer, template, placeholder, count) for count in (1, 2)}


def _cut_at_pictures(tokenizer: Any, template: str, placeholder: str, count: int) -> list[str]:
    content = [{"type": "image"}] * count + [{"type": "text", "text": _QUESTION}]
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
        )
    except Exception as exc:  # a template is a program of somebody else's
        raise ValueError(f"the chat template fails: {type(exc).__name__}: {exc}") from exc
    parts: list[str] = text.split(placeholder)
    if len(parts) != count + 1 or text.count(_QUESTION) != 1:
        raise ValueError(f"the chat template does not place {count} images and a question: {text!r}")
    return parts
