"""The model's tokens: characters, words of questions, marks of lines, and answers of one token.

Questions are known words and, for all else, single characters, so that no question holds an unknown token. An
answer that is read starts with the line or the block that it is read from, then come its characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from secondglance_server.engine.reader.alphabet import CHARACTERS, OTHER
from secondglance_server.engine.reader.ocr import MOST_LINES

PAD, BOS, EOS, IMAGE, ASK, NEXT_LINE, END = "<pad>", "<s>", "</s>", "<image>", "<ask>", "<nl>", "<end>"
# A question outside the domain and a text that is not there have two answers each, trained to be equally
# likely: a refusal is unsure by construction.
CANNOT = ("<cannot>", "<can't>")
NOTHING = ("<nothing>", "<no-text>")
SPECIAL = (PAD, BOS, EOS, IMAGE, ASK)
VIEWS = 2
SYMBOLS = (*CHARACTERS, NEXT_LINE, END)  # what a slot of a line can hold
COLORS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black", "brown", "grey")


def block_token(view: int, line: int) -> str:
    return f"<b{view}.{line}>"


def line_token(view: int, line: int) -> str:
    return f"<l{view}.{line}>"


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """Tokens in the order of their ids; `first_symbol`: the id of SYMBOLS[0]."""

    tokens: tuple[str, ...]
    ids: dict[str, int]
    pattern: re.Pattern[str]

    @classmethod
    def of(cls, words: Sequence[str]) -> Vocabulary:
        marks = [
            mark(view, line)
            for mark in (block_token, line_token)
            for view in range(VIEWS)
            for line in range(MOST_LINES)
        ]
        known = sorted({*words, *COLORS, "yes", "no"})
        tokens = (*SPECIAL, *SYMBOLS, *CANNOT, *NOTHING, *marks, *known)
        return cls(
            tokens, {token: index for index, token in enumerate(tokens)}, re.compile(question_pattern(known))
        )

    @property
    def first_symbol(self) -> int:
        return len(SPECIAL)

    def question(self, text: str) -> list[int]:
        """Return a question's ids, without template."""
        other = self.ids[OTHER]
        pieces = (match.group() for match in self.pattern.finditer(text))
        return [self.ids.get(piece.removeprefix(" ") or piece, other) for piece in pieces]

    def question_spelled_at(self, text: str, is_spelled: Callable[[], bool]) -> list[int]:
        """Return a question's ids with the known words that `is_spelled` picks in characters (training)."""
        ids: list[int] = []
        for match in self.pattern.finditer(text):
            piece = match.group()
            ids += self.spelled(piece) if len(piece) > 1 and is_spelled() else self.question(piece)
        return ids

    def spelled(self, text: str) -> list[int]:
        """Return a text's ids, one a character."""
        return [self.ids.get(character, self.ids[OTHER]) for character in text]


def question_pattern(words: Sequence[str]) -> str:
    """Return the regular expression that cuts a question: a known word with the space before it, else any
    character."""
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    return rf" ?(?<![A-Za-z])(?:{'|'.join(map(re.escape, longest_first))})(?![A-Za-z])|[\s\S]"
