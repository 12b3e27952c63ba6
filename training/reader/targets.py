"""From an asked question to answer tokens: which of the reader's lines hold the truth, and how it is written.

The answer names a block or a line, then spells the *true* text: where the reader is unsure or wrong, the
model learns to be unsure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secondglance_server.engine.reader.alphabet import folded
from secondglance_server.engine.reader.ocr import ReadLine
from secondglance_server.engine.reader.slots import Content, Slots, content_of, lay_out
from secondglance_server.engine.reader.vocabulary import (
    CANNOT,
    END,
    EOS,
    NEXT_LINE,
    NOTHING,
    Vocabulary,
    block_token,
    line_token,
)
from training.reader.asking import Asked
from training.reader.records import TrueSign, View

_LEAST_OVERLAP = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class SeenView:
    """A view with its slots.

    `found[sign][line]`: the numbers of the reader's lines that show it, left to right.
    """

    view: View
    content: Content
    slots: Slots
    found: tuple[tuple[tuple[int, ...], ...], ...]
    number: int  # 0 global, 1 crop


def see(view: View, number: int = 0) -> SeenView:
    content = content_of(*view.size)
    slots = lay_out(view.lines, content)
    return SeenView(view, content, slots, _found(view, slots), number)


def _found(view: View, slots: Slots) -> tuple[tuple[tuple[int, ...], ...], ...]:
    where: dict[tuple[int, int], list[tuple[float, int]]] = {}
    for index, read in enumerate(view.lines):
        number = slots.order[index]
        match = matched(read, view.signs)
        if number >= 0 and match is not None:
            where.setdefault(match, []).append((float(read.corners[:, 0].mean()), number))
    return tuple(
        tuple(tuple(n for _, n in sorted(where.get((i, k), []))) for k in range(len(sign.lines)))
        for i, sign in enumerate(view.signs)
    )


def matched(read: ReadLine, signs: Sequence[TrueSign]) -> tuple[int, int] | None:
    """Return the (sign, line) whose box shares the most of the smaller of both boxes."""
    x0, y0 = read.corners.min(axis=0).tolist()
    x1, y1 = read.corners.max(axis=0).tolist()
    area = max((x1 - x0) * (y1 - y0), 1e-9)
    best, match = _LEAST_OVERLAP, None
    for i, sign in enumerate(signs):
        for k, line in enumerate(sign.lines):
            a0, b0, a1, b1 = line.box
            width, height = min(x1, a1) - max(x0, a0), min(y1, b1) - max(y0, b0)
            if width <= 0 or height <= 0:
                continue
            share = width * height / min(area, max((a1 - a0) * (b1 - b0), 1e-9))
            if share > best:
                best, match = share, (i, k)
    return match


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """`tokens`: the answer with its end; `partner`: the id that is as right as tokens[0], or -1.

    `cells`: the box to look at in the letterboxed square of the first view, or None. `is_part`: the reader
    found only some of the text, so the end that stands before the last token is to be unsure.
    """

    tokens: tuple[int, ...]
    partner: int
    cells: tuple[float, float, float, float] | None
    is_part: bool = False


def target_of(asked: Asked, views: Sequence[SeenView], vocabulary: Vocabulary) -> Target:
    """Return the answer to a question about one view, or about a global view and a crop."""
    cells = _cells(asked, views[0])
    if asked.expected == "cannot":
        return _refusal(CANNOT, vocabulary, None)
    if asked.expected == "word":
        is_word = asked.answer in vocabulary.ids
        ids = [vocabulary.ids[asked.answer]] if is_word else vocabulary.spelled(asked.answer)
        return Target((*_named_line(asked, views, vocabulary), *ids, vocabulary.ids[EOS]), -1, cells)
    if asked.expected != "nothing" and asked.sign is not None:
        readings = [(seen, _reading(asked, seen)) for seen in reversed(views)]
        # the view that holds more of it; the crop, if both hold as much
        seen, read = max(readings, key=lambda each: sum(len(text) for _, text in each[1]))
        if read:
            written = (*_written(read, seen, vocabulary), vocabulary.ids[EOS])
            return Target(written, -1, cells, _is_part(read, asked, seen))
    return _refusal(NOTHING, vocabulary, cells)


def _named_line(asked: Asked, views: Sequence[SeenView], vocabulary: Vocabulary) -> list[int]:
    """Return the token of the line that a colour is asked of, where the reader found it."""
    if asked.sign is None or asked.line is None:
        return []
    for seen in reversed(views):
        numbers = seen.found[asked.sign][asked.line]
        if numbers and (not seen.number or seen.view.signs[asked.sign].shown > 0.85):
            return [vocabulary.ids[line_token(seen.number, numbers[0])]]
    return []


def _refusal(
    pair: tuple[str, str], vocabulary: Vocabulary, cells: tuple[float, float, float, float] | None
) -> Target:
    first, second = (vocabulary.ids[token] for token in pair)
    return Target((first, vocabulary.ids[EOS]), second, cells)


def _cells(asked: Asked, seen: SeenView) -> tuple[float, float, float, float] | None:
    if asked.sign is None:
        return None
    sign = seen.view.signs[asked.sign]
    x0, y0, x1, y1 = sign.lines[asked.line].box if asked.line is not None else sign.box
    left, top, right, bottom = seen.content
    width, height = right - left, bottom - top
    return left + x0 * width, top + y0 * height, left + x1 * width, top + y1 * height


def _reading(asked: Asked, seen: SeenView) -> list[tuple[int, str]]:
    """Return (line number, true text) in order; empty where the view doesn't show the text."""
    assert asked.sign is not None
    sign = seen.view.signs[asked.sign]
    if seen.number and sign.shown < 0.85:
        return []
    lines = range(len(sign.lines)) if asked.line is None else (asked.line,)
    pieces: list[tuple[int, str]] = []
    for k in lines:
        pieces += _cut(folded(sign.lines[k].text), seen.found[asked.sign][k], seen)
    return pieces


def _is_part(pieces: Sequence[tuple[int, str]], asked: Asked, seen: SeenView) -> bool:
    """Return whether pieces are less than the text that is asked for."""
    read = "".join(text for _, text in pieces).replace(" ", "")
    return len(read) < len(folded(expected_text(asked, seen.view.signs)).replace(" ", ""))


def _cut(text: str, numbers: Sequence[int], seen: SeenView) -> list[tuple[int, str]]:
    """Return the text cut at spaces for a line that the reader saw in pieces."""
    if len(numbers) <= 1:
        return [(number, text) for number in numbers]
    sizes = [int((seen.slots.line == n).sum()) for n in numbers]
    words = text.split(" ")
    if len(words) < len(numbers):
        return [(numbers[int(np.argmax(sizes))], text)]
    pieces, done, total = [], 0, len(text)
    for place, number in enumerate(numbers):
        share = sum(sizes[: place + 1]) / sum(sizes) * total
        left_over = len(numbers) - place - 1
        take = [words[done]]
        done += 1
        while done < len(words) - left_over and len(" ".join(words[:done])) < share - 0.5:
            take.append(words[done])
            done += 1
        if not left_over:
            take += words[done:]
        pieces.append((number, " ".join(take)))
    return pieces


def _written(pieces: Sequence[tuple[int, str]], seen: SeenView, vocabulary: Vocabulary) -> list[int]:
    """Return the answer's tokens: a whole block where the pieces are just its lines, else single lines."""
    ids, blocks = vocabulary.ids, seen.slots.blocks
    tokens: list[int] = []
    done = 0
    while done < len(pieces):
        number = pieces[done][0]
        members = [n for n, first in enumerate(blocks) if first == number]
        following = [n for n, _ in pieces[done : done + len(members)]]
        if members and following == members:
            tokens.append(ids[block_token(seen.number, number)])
            for place, (_, text) in enumerate(pieces[done : done + len(members)]):
                tokens += ([ids[NEXT_LINE]] if place else []) + vocabulary.spelled(text)
            done += len(members)
        else:
            tokens += [ids[line_token(seen.number, number)], *vocabulary.spelled(pieces[done][1])]
            done += 1
        tokens.append(ids[END])
    return tokens


def expected_text(asked: Asked, signs: Sequence[TrueSign]) -> str:
    """Return the right answer in words, as a user would compare it."""
    if asked.expected == "word":
        return asked.answer
    if asked.sign is None or asked.expected in ("nothing", "cannot"):
        return ""
    sign = signs[asked.sign]
    return sign.text if asked.line is None else sign.lines[asked.line].text
