"""Questions about a picture whose truth is known, with what a right answer reads and where it looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from training.reader import foreign
from training.reader import wordings as w
from training.reader.drawing.placards import ALL_COLORS
from training.reader.drawing.words import random_word
from training.reader.records import TrueLine, TrueSign

# How often each maker of `Asker.ask` is drawn, in its order: colour, only, size, place, kind, presence,
# colour of a text, count, says, any text.
WEIGHTS = (0.27, 0.1, 0.08, 0.08, 0.1, 0.08, 0.25, 0.1, 0.05, 0.02)
MISNAMED = 0.15  # of the questions for a colour: people and nets see a near one, and mean the largest sign
NEAR = {
    "red": ("orange", "brown", "purple"),
    "orange": ("red", "yellow", "brown"),
    "yellow": ("orange", "white", "green"),
    "green": ("blue", "yellow", "grey"),
    "blue": ("purple", "green", "black"),
    "purple": ("blue", "red", "black"),
    "brown": ("red", "orange", "black"),
    "grey": ("white", "black", "blue"),
    "white": ("grey", "yellow"),
    "black": ("grey", "brown", "blue"),
}
Expected = Literal["sign", "line", "word", "nothing", "cannot"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and what is right.

    `expected` "sign" or "line": read `sign` (all of it, or its line `line`); "word": `answer`.

    `kind` groups questions for tables. `sign` says where to look, also where nothing is read.
    """

    kind: str
    text: str
    expected: Expected
    answer: str = ""
    sign: int | None = None
    line: int | None = None


class Asker:
    """Draws questions. `short`: the share of short forms with the selector last.

    `asks_of_parts`: also for the colour of "8" beside "48", as training does; the sets that measure keep
    the questions that they have.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        *,
        short: float = 0.0,
        off_domain: float = 0.1,
        asks_of_parts: bool = False,
    ) -> None:
        self._rng = rng
        self._short = short
        self._off = off_domain
        self._asks_of_parts = asks_of_parts

    def ask(self, signs: Sequence[TrueSign], count: int) -> list[Asked]:
        """Return `count` questions about the signs of one picture."""
        makers = (
            self._color,
            self._only,
            self._size,
            self._place,
            self._kind,
            self._presence,
            self._color_of,
            self._count,
            self._says,
            self._any,
        )
        weights = np.array(WEIGHTS) / sum(WEIGHTS)
        result: list[Asked] = []
        for _ in range(count * 6):
            if len(result) >= count:
                break
            if self._rng.random() < self._off:
                result.append(off_domain(self._rng))
                continue
            asked = makers[int(self._rng.choice(len(makers), p=weights))](signs)
            if asked is not None:
                result.append(asked)
        while len(result) < count:
            result.append(off_domain(self._rng))
        return result

    def _pick(self, options: Sequence[str]) -> str:
        return options[int(self._rng.integers(len(options)))]

    def _wording(self, short: Sequence[str], full: Sequence[str], **values: str) -> str:
        chosen = self._pick(short if short and self._rng.random() < self._short else full)
        noun = self._pick(w.NOUNS) if self._rng.random() < 0.7 else random_word(self._rng, "train").lower()
        return chosen.format(**{"n": noun, **values})

    def _color(self, signs: Sequence[TrueSign]) -> Asked | None:
        absent = [c for c in ALL_COLORS if all(s.color != c for s in signs)]
        if not signs:
            text = self._wording(w.SHORT_COLOR, w.READ_COLOR, c=self._pick(absent))
            return Asked("nothing", text, "nothing")
        if absent and self._rng.random() < MISNAMED:
            meant = dominant(signs)
            if meant is None:
                return None
            own = signs[meant].color
            near = [c for c in absent if own is None or c in NEAR[own]]
            if not near:
                return None
            return self._read(w.SHORT_COLOR, w.READ_COLOR, "misnamed", signs, meant, self._pick(near))
        colored = [i for i, s in enumerate(signs) if s.color and _unique(signs, s.color)]
        if not colored:
            return None
        index = int(self._rng.choice(colored))
        return self._read(w.SHORT_COLOR, w.READ_COLOR, "color", signs, index, str(signs[index].color))

    def _read(
        self,
        short: Sequence[str],
        full: Sequence[str],
        kind: str,
        signs: Sequence[TrueSign],
        index: int | None,
        color: str = "",
    ) -> Asked | None:
        """Return a question for all that a sign says, or, where it asks for a name, for its largest line."""
        if index is None:
            return None
        text = self._wording(short, full, c=color)
        lines = signs[index].lines
        if len(lines) > 1 and " name " in text:
            line = int(np.argmax([line_height(each) for each in lines]))
            return Asked(kind, text, "line", sign=index, line=line)
        return Asked(kind, text, "sign", sign=index)

    def _only(self, signs: Sequence[TrueSign]) -> Asked | None:
        if not signs:
            return Asked("nothing", self._wording(w.SHORT_ONLY, w.READ_ONLY), "nothing")
        return self._read(w.SHORT_ONLY, w.READ_ONLY, "only", signs, dominant(signs))

    def _size(self, signs: Sequence[TrueSign]) -> Asked | None:
        lines = [(line_height(line), i, k) for i, s in enumerate(signs) for k, line in enumerate(s.lines)]
        if not lines:
            return None
        lines.sort(reverse=True)
        if len(lines) > 1 and self._rng.random() < 0.3:
            lines.reverse()
            if lines[1][0] < 1.3 * lines[0][0]:
                return None
            text = self._wording(w.SHORT_SMALLEST, w.READ_SMALLEST)
        else:
            if len(lines) > 1 and lines[0][0] < 1.3 * lines[1][0]:
                return None
            text = self._wording(w.SHORT_LARGEST, w.READ_LARGEST)
        _, sign, line = lines[0]
        return Asked("size", text, "line", sign=sign, line=line)

    def _place(self, signs: Sequence[TrueSign]) -> Asked | None:
        options = [(i, place) for place in w.PLACES if (i := at_place(signs, place)) is not None]
        if not options or (len(signs) < 2 and self._rng.random() < 0.7):
            return None
        index, place = options[int(self._rng.integers(len(options)))]
        where = self._pick(w.PLACES[place])
        return Asked("place", self._wording(w.SHORT_PLACE, w.READ_PLACE, p=where), "sign", sign=index)

    def _kind(self, signs: Sequence[TrueSign]) -> Asked | None:
        found: dict[str, list[tuple[int, int]]] = {}
        for i, sign in enumerate(signs):
            for k, line in enumerate(sign.lines):
                found.setdefault(_kind_of(line), []).append((i, k))
        unique = [kind for kind, where in found.items() if len(where) == 1 and kind in w.KIND_NAMES]
        if not unique or self._rng.random() < 0.05:
            absent = [kind for kind in ("price", "plate", "phone", "percent", "time") if kind not in found]
            if not absent or self._rng.random() < 0.7:
                return None
            return Asked("nothing", self._kind_text(self._pick(absent), None), "nothing")
        kind = self._pick(unique)
        sign, line = found[kind][0]
        return Asked(kind, self._kind_text(kind, signs[sign].color), "line", sign=sign, line=line)

    def _kind_text(self, kind: str, color: str | None) -> str:
        name = self._pick(w.KIND_NAMES[kind])
        if kind == "price" and self._rng.random() < 0.25:
            return self._wording((), w.COST)
        full = w.READ_KIND if color else [text for text in w.READ_KIND if "{c}" not in text]
        return self._wording(w.SHORT_KIND, full, k=name, c=color or "")

    def _presence(self, signs: Sequence[TrueSign]) -> Asked | None:
        shown = sorted({s.color for s in signs if s.color})
        absent = [c for c in ALL_COLORS if c not in shown]
        is_there = bool(shown) and self._rng.random() < 0.5
        color = self._pick(shown if is_there else absent)
        index = next(i for i, s in enumerate(signs) if s.color == color) if is_there else None
        article = "an" if color[0] in "o" else "a"
        text = self._wording((), w.PRESENCE, c=color, a=article)
        return Asked("presence", text, "word", "yes" if is_there else "no", index)

    def _count(self, signs: Sequence[TrueSign]) -> Asked | None:
        if any(s.color is None for s in signs):
            return None
        return Asked("count", self._wording((), w.COUNT), "word", str(len(signs)))

    def _color_of(self, signs: Sequence[TrueSign]) -> Asked | None:
        colored = [i for i, s in enumerate(signs) if s.color]
        if not colored:
            return None
        index = int(self._rng.choice(colored))
        sign = signs[index]
        line = int(self._rng.integers(len(sign.lines)))
        text = sign.lines[line].text
        if any(self._says_too(other, text) for i, other in enumerate(signs) if i != index):
            return None
        return Asked("color_of", self._wording((), w.COLOR_OF, t=text), "word", str(sign.color), index, line)

    def _says_too(self, other: TrueSign, text: str) -> bool:
        """Return whether a question for what says `text` could mean another sign as well."""
        if self._asks_of_parts:
            return any(line.text.lower() == text.lower() for line in other.lines)
        return text in other.text

    def _says(self, signs: Sequence[TrueSign]) -> Asked | None:
        everything = " ".join(s.text for s in signs).lower()
        index = int(self._rng.integers(len(signs))) if signs else None
        if index is not None and self._rng.random() < 0.5:
            lines = signs[index].lines
            word, answer = self._pick([line.text for line in lines]), "yes"
        else:
            word, answer, index = random_word(self._rng, "train"), "no", None
            if word.lower() in everything:
                return None
            word = word.upper() if self._rng.random() < 0.5 else word
        return Asked("says", self._wording((), w.SAYS, t=word), "word", answer, index)

    def _any(self, signs: Sequence[TrueSign]) -> Asked | None:
        return Asked("any_text", self._wording((), w.ANY_TEXT), "word", "yes" if signs else "no")


def off_domain(rng: np.random.Generator) -> Asked:
    """Return a question that no text answers, with nouns that may be unknown."""

    def noun() -> str:
        if rng.random() < 0.6:
            return foreign.OFF_NOUNS[int(rng.integers(len(foreign.OFF_NOUNS)))]
        return random_word(rng, "train").lower()

    draw = rng.random()
    if draw < 0.15:
        adjective = str(rng.choice(ALL_COLORS))
    elif draw < 0.7:
        adjective = str(rng.choice(foreign.OFF_ADJECTIVES))
    else:
        adjective = random_word(rng, "train").lower()
    if rng.random() < 0.4:
        return Asked("cannot", _invented(rng, noun, adjective), "cannot")
    template = foreign.OFF_DOMAIN[int(rng.integers(len(foreign.OFF_DOMAIN)))]
    return Asked("cannot", template.format(o=noun(), o2=noun(), j=adjective), "cannot")


def _invented(rng: np.random.Generator, noun: Callable[[], str], adjective: str) -> str:
    """Return a question of random words in the order that English questions have."""

    def one(words: Sequence[str]) -> str:
        return str(words[int(rng.integers(len(words)))])

    verb = random_word(rng, "train").lower()
    if rng.random() < 0.15:  # the question word is the subject
        where = f"{one(foreign.PREPOSITIONS)} {one(foreign.DETERMINERS)} {noun()}"
        how = where if rng.random() < 0.7 else adjective
        return f"{one(foreign.QUESTION_WORDS[:2])} {noun()} {verb}s {how}?"
    start = f"{one(foreign.AUXILIARIES)} {one(foreign.DETERMINERS)} {noun()}"
    if rng.random() < 0.5:
        asks = one(foreign.QUESTION_WORDS)
        asked = f" {noun()}" if rng.random() < 0.4 else ""
        start = f"{asks}{asked} {start[0].lower()}{start[1:]}"
    rest = adjective if rng.random() < 0.5 else verb
    tail = f" {one(foreign.PREPOSITIONS)} the {noun()}" if rng.random() < 0.4 else ""
    return f"{start} {rest}{tail}" + ("?" if rng.random() < 0.9 else "")


def _kind_of(line: TrueLine) -> str:
    if line.text.isdigit() and line.kind in ("number", "code"):
        return "number"
    return line.kind


def _unique(signs: Sequence[TrueSign], color: str) -> bool:
    return sum(s.color == color for s in signs) == 1


def line_height(line: TrueLine) -> float:
    """Return the height of a line's box, per side of the picture."""
    return line.box[3] - line.box[1]


def dominant(signs: Sequence[TrueSign]) -> int | None:
    """Return the sign that "the sign" means: the only one, or the one clearly larger than all others."""
    sizes = [max(line_height(line) for line in s.lines) * (s.box[2] - s.box[0]) for s in signs]
    order = np.argsort(sizes)[::-1]
    if len(order) == 1 or sizes[order[0]] > 2.0 * sizes[order[1]]:
        return int(order[0])
    return None


def at_place(signs: Sequence[TrueSign], place: str) -> int | None:
    """Return the sign that alone is at a place, with some room before the next."""
    if not signs:
        return None
    centers = np.array([((s.box[0] + s.box[2]) / 2, (s.box[1] + s.box[3]) / 2) for s in signs])
    if " " in place:
        vertical, side = place.split()
        xs = centers[:, 0] if side == "left" else 1 - centers[:, 0]
        ys = centers[:, 1] if vertical == "top" else 1 - centers[:, 1]
        inside = np.flatnonzero((xs < 0.42) & (ys < 0.42))
        near = np.flatnonzero((xs < 0.5) & (ys < 0.5))
        return int(inside[0]) if len(inside) == 1 and len(near) == 1 else None
    values = {
        "left": centers[:, 0],
        "right": 1 - centers[:, 0],
        "top": centers[:, 1],
        "bottom": 1 - centers[:, 1],
    }[place]
    order = np.argsort(values)
    if values[order[0]] > 0.5 or (len(order) > 1 and values[order[1]] - values[order[0]] < 0.12):
        return None
    return int(order[0])
