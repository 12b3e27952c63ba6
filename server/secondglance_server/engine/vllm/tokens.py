"""An answer's tokens as vLLM sends them: ids, texts and the three measures of uncertainty."""

from __future__ import annotations

from typing import Any

from secondglance_server.engine.protocol import TokenStats
from secondglance_server.engine.token_texts import TokenTexts

_PER_TOKEN = 3  # numbers: the chosen token's log-probability, Shannon entropy, margin


class AnswerTokens:
    """Collects tokens up to the one that ends the answer, which is left out."""

    def __init__(self, tokenizer: Any, end_ids: frozenset[int], limit: int) -> None:
        self.ids: list[int] = []
        self.stats: list[TokenStats] = []
        self._texts = TokenTexts(tokenizer.decode)
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._limit = limit

    @property
    def text(self) -> str:
        return str(self._tokenizer.decode(self.ids, skip_special_tokens=True)).strip()

    def add(self, output: Any) -> list[TokenStats]:
        """Return what can be given out of the tokens that a step of vLLM added."""
        numbers = output.logprobs.logprobs  # flat: `_PER_TOKEN` of each token
        added: list[TokenStats] = []
        for index, token_id in enumerate(output.token_ids):
            if token_id in self._end_ids or len(self.ids) >= self._limit:
                break
            log_p, shannon, margin = numbers[_PER_TOKEN * index : _PER_TOKEN * (index + 1)]
            self.ids.append(token_id)
            added += self._texts.add(self.ids, (abs(log_p), shannon, margin))
        self.stats += added
        return added

    def end(self) -> list[TokenStats]:
        """Return what was held back of an answer that has ended."""
        rest = list(self._texts.end(self.ids))
        self.stats += rest
        return rest
