"""Keeps a conversation's receipt while it runs, and its uplink budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from secondglance.conversation.steps import Arrived, ExchangeResult, Send, StageName
from secondglance.errors import UplinkBudgetError
from secondglance.reply import Receipt, StageReceipt

# Around a body: request line and headers (some 400 bytes with a key), and a TLS handshake (some 800) in case
# the connection is new. TLS adds 22 bytes to every 16 KiB.
_AROUND_BODY_BYTES = 2048
_TLS_SHARE = 500


class Ledger:
    """`max_uplink_bytes` None is no budget."""

    def __init__(self, clock: Callable[[], float], *, max_uplink_bytes: int | None) -> None:
        self._clock = clock
        self._max_uplink_bytes = max_uplink_bytes
        self._stages: dict[StageName, StageReceipt] = {}
        self._spent_bytes = 0

    @contextmanager
    def stage(self, name: StageName) -> Iterator[None]:
        """Time what happens inside, for `name`'s receipt."""
        started = self._clock()
        try:
            yield
        finally:
            spent = self._stages.get(name, StageReceipt())
            elapsed_ms = spent.elapsed_ms + (self._clock() - started) * 1000
            self._stages[name] = replace(spent, elapsed_ms=elapsed_ms)

    def add(self, request: Send, outcome: ExchangeResult, *, is_retry: bool) -> None:
        spent = self._stages.get(request.stage, StageReceipt())
        self._stages[request.stage] = replace(
            spent,
            uplink_bytes=spent.uplink_bytes + outcome.uplink_bytes,
            downlink_bytes=spent.downlink_bytes + outcome.downlink_bytes,
            requests=spent.requests + 1,
            retries=spent.retries + is_retry,
        )
        arrived_bytes = len(request.body) if isinstance(outcome, Arrived) else 0
        self._spent_bytes += max(
            outcome.uplink_bytes, arrived_bytes
        )  # holds for transports that do not count

    def body_bytes_left(self) -> int | None:
        """The largest body that the budget still carries; None without a budget."""
        if self._max_uplink_bytes is None:
            return None
        left = self._max_uplink_bytes - self._spent_bytes - _AROUND_BODY_BYTES
        return left - left // _TLS_SHARE if left > 0 else left

    def can_send(self, request: Send) -> bool:
        left = self.body_bytes_left()
        return left is None or len(request.body) <= left

    def check(self, request: Send) -> None:
        """Raises UplinkBudgetError if `request` might exceed the budget."""
        if not self.can_send(request):
            raise UplinkBudgetError(f"{request} would exceed max_uplink_bytes={self._max_uplink_bytes}")

    def receipt(self, original_bytes: int | None) -> Receipt:
        return Receipt(
            setup=self._stages.get("setup", StageReceipt()),
            stage1=self._stages.get("stage1", StageReceipt()),
            stage2=self._stages.get("stage2"),
            original_bytes=original_bytes,
        )
