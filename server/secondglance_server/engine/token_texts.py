"""What each token adds to an answer's text. Texts that were given out never change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from secondglance_server.engine.protocol import TokenStats

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # how tokenizers write bytes that are no character yet


class TokenTexts:
    """The tokens of one answer, with texts that are the answer's when they are put together.

    A character of several tokens comes with its last: the tokens before it are held back, and add nothing.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._text = ""
        self._held: list[tuple[float, float, float]] = []

    def add(self, ids: Sequence[int], stats: tuple[float, float, float]) -> tuple[TokenStats, ...]:
        """Return the tokens that can be given out by now. `ids`: the whole answer's, `stats`: of the last."""
        self._held.append(stats)
        text = self._decode(ids)
        return () if text.endswith(_UNFINISHED) else self._release(text)

    def end(self, ids: Sequence[int]) -> tuple[TokenStats, ...]:
        """Return what was held back of an answer that has ended."""
        return self._release(self._decode(ids)) if self._held else ()

    def _release(self, text: str) -> tuple[TokenStats, ...]:
        texts = [""] * (len(self._held) - 1) + [text[len(self._text) :]]
        tokens = tuple(TokenStats(text, *stats) for text, stats in zip(texts, self._held, strict=True))
        self._text, self._held = text, []
        return tokens
