"""An answer on stdout while it is being made: as text, or as a JSON object for each token."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from secondglance.text import printable

if TYPE_CHECKING:
    from secondglance.conversation.steps import Token


class TokenPrinter:
    """Prints the draft's tokens, and on lines of their own those of each look after it."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._look = (0, 0)  # stage and look
        self._shown = ""

    def token(self, token: Token) -> None:
        """Print the next token, safe for a terminal."""
        if self._as_json:
            facts = {"stage": token.stage, "text": token.text, "min_entropy": token.min_entropy}
            if token.look > 1:
                facts["look"] = token.look
            print(json.dumps({"token": facts}), flush=True)
            return
        if (token.stage, token.look) != self._look:
            self._end_line()
            self._look = (token.stage, token.look)
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
