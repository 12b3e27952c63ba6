"""What a run over many pictures has come to."""

from __future__ import annotations

from dataclasses import dataclass

from secondglance.reply import Reply
from secondglance.text import readable_bytes


@dataclass(slots=True)
class Tally:
    """Counts questions. Bytes are those of the answered ones, an original's once however much is asked."""

    answered: int = 0
    doubtful: int = 0
    failed: int = 0
    skipped: int = 0
    uplink_bytes: int = 0
    original_bytes: int = 0

    def add(self, reply: Reply, *, is_first: bool) -> None:
        """Count an answer; `is_first` is the first about its picture."""
        self.answered += 1
        self.doubtful += reply.doubtful
        self.uplink_bytes += reply.receipt.uplink_bytes
        if is_first:
            self.original_bytes += reply.receipt.original_bytes or 0

    def __str__(self) -> str:
        words = [f"{self.answered} answered"]
        if self.doubtful:
            words[0] += f" ({self.doubtful} not sure)"
        if self.failed:
            words.append(f"{self.failed} failed")
        if self.skipped:
            words.append(f"{self.skipped} had been answered before")
        if self.original_bytes:
            saved = readable_bytes(max(0, self.original_bytes - self.uplink_bytes))
            words.append(f"{readable_bytes(self.uplink_bytes)} up, {saved} saved")
        return ", ".join(words)
