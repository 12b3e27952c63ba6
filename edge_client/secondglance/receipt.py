"""What a conversation cost: bytes on the socket, requests, time; per stage and in all."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StageReceipt:
    """`elapsed_ms` runs from preparing the picture to the reply; `requests` includes `retries`."""

    uplink_bytes: int = 0
    downlink_bytes: int = 0
    elapsed_ms: float = 0.0
    requests: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Receipt:
    """Everything HTTP put on the socket, both ways; `setup` is asking the server what it takes.

    `original_bytes` is the encoded original's size, None for a picture that came decoded. A transport of the
    caller's own counts nothing, so its byte counts are 0.
    """

    setup: StageReceipt
    stage1: StageReceipt
    stage2: StageReceipt | None
    original_bytes: int | None

    @property
    def stages(self) -> tuple[StageReceipt, ...]:
        """The stages that took place, setup first."""
        return tuple(stage for stage in (self.setup, self.stage1, self.stage2) if stage is not None)

    @property
    def uplink_bytes(self) -> int:
        return sum(stage.uplink_bytes for stage in self.stages)

    @property
    def downlink_bytes(self) -> int:
        return sum(stage.downlink_bytes for stage in self.stages)

    @property
    def elapsed_ms(self) -> float:
        return sum(stage.elapsed_ms for stage in self.stages)

    @property
    def requests(self) -> int:
        return sum(stage.requests for stage in self.stages)

    @property
    def retries(self) -> int:
        return sum(stage.retries for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Totals and stages, ready for JSON."""
        return {
            "uplink_bytes": self.uplink_bytes,
            "downlink_bytes": self.downlink_bytes,
            "elapsed_ms": round(self.elapsed_ms, 3),
            "requests": self.requests,
            "retries": self.retries,
            **asdict(self),
        }
