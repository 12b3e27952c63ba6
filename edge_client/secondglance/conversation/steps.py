"""The vocabulary between the conversation, which decides, and the drivers, which act.

A conversation yields a `Step` and is sent what came of it: an `ExchangeResult` for `Send`, the value for
`Compute`, None for `Pause` and `Answered`. An EdgeError that a `Compute` raises is thrown into the
conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from secondglance_protocol.wire import InferenceResponse, TokenEvent

StageName: TypeAlias = Literal["setup", "stage1", "stage2"]


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer that is still being made.

    `stage`: 1 for the draft, 2 for an answer after a second glance; `look` counts those, from 1. The texts of
    one look put together are its answer before blanks around it are cut off. `min_entropy` is in nats; higher
    means less certain.
    """

    stage: Literal[1, 2]
    text: str
    min_entropy: float
    look: int = 1


class TokenTeller:
    """Tells a request's tokens as they come, each once: an attempt after a cut stream begins anew."""

    def __init__(self, stage: Literal[1, 2], on_token: Callable[[Token], None], look: int = 1) -> None:
        self._stage = stage
        self._look = look
        self._on_token = on_token
        self._n_told = 0
        self._n_seen = 0

    def begin(self) -> None:
        """An attempt begins."""
        self._n_seen = 0

    def tell(self, token: TokenEvent) -> None:
        """Tell the next token of this attempt, unless an earlier attempt came as far."""
        self._n_seen += 1
        if self._n_seen > self._n_told:
            self._n_told = self._n_seen
            self._on_token(Token(self._stage, token.text, token.min_entropy, self._look))


@dataclass(frozen=True, slots=True)
class BodyPart:
    """Bytes of a request that mean something by themselves; `name` is a file name for them."""

    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Send:
    """Make one HTTP request and report its outcome. `deadline` is on the monotonic clock; None has none.

    `look` counts the regions that are sent in stage two, from 1.
    """

    stage: StageName
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # one may hold the question
    body: bytes = field(default=b"", repr=False)
    parts: tuple[BodyPart, ...] = ()
    deadline: float | None = None
    teller: TokenTeller | None = field(default=None, repr=False, compare=False)  # if tokens are wanted
    look: int = 1

    def __str__(self) -> str:
        if self.stage == "setup":
            return "asking the server what it takes"
        what = "question and picture" if self.stage == "stage1" else "the region asked for"
        return f"sending {what} ({len(self.body):,} bytes)"


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before a retry."""

    seconds: float
    reason: str

    def __str__(self) -> str:
        return f"{self.reason}; trying again in {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Compute:
    """Work for the processor, long enough to keep off an event loop."""

    work: Callable[[], Any]
    what: str

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True)
class Answered:
    """Nothing to do: a stage has answered, for whoever wants to know before the conversation ends."""

    reply: InferenceResponse

    def __str__(self) -> str:
        return f"stage {self.reply.stage} has answered"


Step: TypeAlias = Send | Pause | Compute | Answered


@dataclass(frozen=True, slots=True)
class Arrived:
    """A complete response; header names are lower case. `waited_s` is None where nothing is timed."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    waited_s: float | None = None  # until the reply's first byte: with a stream, its first token
    is_streamed: bool = False
    is_cut: bool = False  # a draft that goes on: its region was asked for early


@dataclass(frozen=True, slots=True)
class Lost:
    """No complete response: nobody to connect to, no answer in time, the connection broke, or no HTTP."""

    kind: Literal["connect", "timeout", "network", "protocol"]
    detail: str
    uplink_bytes: int = 0
    downlink_bytes: int = 0


ExchangeResult: TypeAlias = Arrived | Lost
