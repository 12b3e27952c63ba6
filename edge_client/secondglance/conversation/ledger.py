"""Keeps a conversation's receipt while it runs, and its uplink budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from secondglance.conversation.steps import Arrived, ExchangeResult, Send, StageName
from secondglance.errors import UplinkBudgetError
from secondglance.reply import Receipt, StageReceipt


class Ledger:
    """`max_uplink_bytes` None is no budget; `size_on_wire` says what a request costs, head and all."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        max_uplink_bytes: int | None,
        size_on_wire: Callable[[Send], int],
    ) -> None:
        self._clock = clock
        self._size_on_wire = size_on_wire
        self._max_uplink_bytes = max_uplink_bytes
        self._stages: dict[tuple[StageName, int], StageReceipt] = {}  # by stage and look
        self._spent_bytes = 0

    @contextmanager
    def stage(self, name: StageName, look: int = 1) -> Iterator[None]:
        """Time what happens inside, for the receipt of `name`; of stage two for each look."""
        started = self._clock()
        try:
            yield
        finally:
            spent = self._stages.get((name, look), StageReceipt())
            elapsed_ms = spent.elapsed_ms + (self._clock() - started) * 1000
            self._stages[name, look] = replace(spent, elapsed_ms=elapsed_ms)

    def add(self, request: Send, outcome: ExchangeResult, *, is_retry: bool) -> None:
        name = (request.stage, request.look)
        spent = self._stages.get(name, StageReceipt())
        self._stages[name] = replace(
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

    def room_in(self, request: Send) -> int | None:
        """Return how many bytes of body the budget still carries beside those that `request` has.

        Negative if `request` costs too much as it is; None without a budget.
        """
        if self._max_uplink_bytes is None:
            return None
        return self._max_uplink_bytes - self._spent_bytes - self._size_on_wire(request)

    def can_send(self, request: Send) -> bool:
        """Return whether the budget carries `request`."""
        room = self.room_in(request)
        return room is None or room >= 0

    def check(self, request: Send) -> None:
        """Raises UplinkBudgetError if `request` exceeds the budget."""
        if not self.can_send(request):
            raise self.too_small_for(request)

    def too_small_for(self, request: Send) -> UplinkBudgetError:
        """Return the refusal of `request`, with the budget that would carry it."""
        needed = self._spent_bytes + self._size_on_wire(request)
        return UplinkBudgetError(
            f"{request} takes max_uplink_bytes={needed} at the least; it is {self._max_uplink_bytes}"
        )

    def receipt(self, original_bytes: int | None) -> Receipt:
        return Receipt(
            setup=self._stages.get(("setup", 1), StageReceipt()),
            stage1=self._stages.get(("stage1", 1), StageReceipt()),
            stage2=self._stages.get(("stage2", 1)),
            original_bytes=original_bytes,
            further_looks=tuple(
                stage for (_, look), stage in sorted(self._stages.items()) if look > 1 and stage.requests
            ),
        )
