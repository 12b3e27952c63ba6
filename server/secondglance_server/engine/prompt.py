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

QUESTION = "\x02question\x03"  # no template contains it


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """`ids`: the whole prompt. `prefix`: how many of them the first picture alone decides (up to its last
    image token).

    `grid`: the first picture's grid in `ids`.
    """

    ids: list[int]
    prefix: int
    grid: slice | tuple[int, ...]


class PromptBuilder:
    """Renders a chat template once for each number of images and fills in pictures and questions
    afterwards."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._tokenizer = adapter.tokenizer
        self._templates = _rendered(adapter.tokenizer, adapter.chat_template, adapter.placeholder)
        self._control_ids, self._control = control_tokens(
            adapter.tokenizer, adapter.image_token_id, adapter.placeholder
        )
        self._controls_written: dict[str, int] = {}  # by prompt without its question

    @property
    def starts_with_the_picture(self) -> bool:
        """Whether what comes before the first picture is always the same; only then prompts share a
        prefix."""
        heads = {parts[0] for parts in self._templates.values()}
        return len(heads) == 1 and QUESTION not in heads.pop()

    def build(self, question: str, layouts: Sequence[ImageLayout]) -> Prompt:
        """The prompt for one or two pictures."""
        parts = self._templates[len(layouts)]
        text = parts[0]
        for layout, part in zip(layouts, parts[1:], strict=True):
            text += layout.text + part
        question = self.harmless(question.strip())
        ids = self._tokenize(text.replace(QUESTION, question))
        if self._count_controls(ids) != self._expected_controls(text):
            ids = self._tokenize_apart(text, question)
        return self._expand(ids, layouts)

    def text(self, question: str, pictures: int) -> str:
        """Return the prompt as the stock processor takes it, with a placeholder for each picture."""
        text = self._adapter.placeholder.join(self._templates[pictures])
        return text.replace(QUESTION, self.harmless(question.strip()))

    def harmless(self, question: str) -> str:
        """The question with a space in every control token that it spells."""
        return broken_up(question, self._control)

    def _tokenize(self, text: str, **options: bool) -> list[int]:
        start = self._tokenizer.bos_token
        options.setdefault("add_special_tokens", not (start and text.startswith(start)))
        ids: list[int] = self._tokenizer(text, **options).input_ids
        return ids

    def _tokenize_apart(self, text: str, question: str) -> list[int]:
        before, after = text.split(QUESTION)
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
        stretches = [layout.stretches or (layout.run,) for layout in layouts]
        lengths = [length for of_layout in stretches for length in of_layout]
        assert len(places) == len(lengths), f"{len(places)} image tokens for {len(lengths)} stretches"
        whole: list[int] = []
        images: list[int] = []  # where image tokens stand
        done = 0
        for place, length in zip(places, lengths, strict=True):
            whole += ids[done:place]
            images += range(len(whole), len(whole) + length)
            whole += [image] * length
            done = place + 1
        first = layouts[0]
        return Prompt(
            ids=whole + ids[done:],
            prefix=images[first.run - 1] + 1 + first.tail if self.starts_with_the_picture else 0,
            grid=_as_slice([images[cell] for cell in first.cells_of_run()]),
        )


def control_tokens(tokenizer: Any, image_token_id: int, placeholder: str) -> tuple[set[int], re.Pattern[str]]:
    """Return the ids of the tokens that no question may spell, and what finds their texts."""
    added = tokenizer.added_tokens_decoder
    ids = {token_id for token_id, token in added.items() if token.special}
    ids |= {*tokenizer.all_special_ids, image_token_id}
    ids.discard(tokenizer.unk_token_id)  # stands for text
    texts = {tokenizer.convert_ids_to_tokens(i) for i in ids} | {placeholder}
    longest_first = sorted(filter(None, texts), key=len, reverse=True)
    return ids, re.compile("|".join(re.escape(text) for text in longest_first))


def broken_up(question: str, control: re.Pattern[str]) -> str:
    """Return the question with a space in every control token that it spells."""
    return control.sub(lambda match: match[0][0] + " " + match[0][1:], question)


def _as_slice(places: list[int]) -> slice | tuple[int, ...]:
    """Return consecutive places as a slice, which costs less to read; others as they are."""
    start, stop = places[0], places[0] + len(places)
    return slice(start, stop) if places == list(range(start, stop)) else tuple(places)


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
    text = rendered(tokenizer, template, count, QUESTION)
    parts = text.split(placeholder)
    if len(parts) != count + 1 or text.count(QUESTION) != 1:
        raise ValueError(f"the chat template does not place {count} images and a question: {text!r}")
    return parts


def rendered(tokenizer: Any, template: str, pictures: int, question: str) -> str:
    """Return the template's text for some pictures and a question behind them. Raises ValueError."""
    content = [{"type": "image"}] * pictures + [{"type": "text", "text": question}]
    try:
        text: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
        )
    except Exception as exc:  # a template is a program of somebody else's
        raise ValueError(f"the chat template fails: {type(exc).__name__}: {exc}") from exc
    return text
