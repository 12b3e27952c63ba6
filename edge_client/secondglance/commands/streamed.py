"""An answer on stdout while it is being made: as text, or as a JSON object for each token."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from secondglance.text import printable

if TYPE_CHECKING:
    from secondglance.conversation.steps import Token


class TokenPrinter:
    """Prints the draft's tokens, and on a line of its own the second answer's."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._stage = 0
        self._shown = ""

    def token(self, token: Token) -> None:
        """Print the next token, safe for a terminal."""
        if self._as_json:
            facts = {"stage": token.stage, "text": token.text, "min_entropy": token.min_entropy}
            print(json.dumps({"token": facts}), flush=True)
            return
        if token.stage != self._stage:
            self._end_line()
            self._stage = token.stage
        text = token.text if self._shown else token.text.lstrip()
        print(printable(text, keep_lines=True), end="", flush=True)
        self._shown += text

    def end(self, answer: str) -> bool:
        """End the line; return whether `answer` is what it shows."""
        is_shown = bool(self._shown) and self._shown.strip() == answer.strip()
        self._end_line()
        return is_shown

    def _end_line(self) -> None:
        if self._shown:
            print(flush=True)
        self._shown = ""
