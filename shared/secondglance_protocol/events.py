"""A reply as server-sent events, the HTML standard's `text/event-stream`: one side writes, the other reads.

    token     a TokenEvent, for each token of the answer, in order
    region    a RegionEvent, if the server wants a patch; with parameter `region=early` of the media type that
              is accepted, as soon as no later token can change that
    reply     the whole InferenceResponse; the last event
    problem   the problem document, in place of a reply, if something failed after the head was sent

Knows nothing of HTTP. Not covered: ids and reconnection, which a request that is sent once has no use for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

EVENT_STREAM: Final = "text/event-stream"
EARLY_REGION: Final = "region=early"  # a parameter in Accept; servers that do not know it pass it over

EventName = Literal["token", "region", "reply", "problem"]


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `data` is its document, in JSON."""

    name: str
    data: str


def written(name: EventName, data: str) -> bytes:
    """Return an event of a document on one line, as JSON is written."""
    assert "\n" not in data, "each line would need a name"
    assert "\r" not in data, "each line would need a name"
    return f"event: {name}\ndata: {data}\n\n".encode()


class EventReader:
    """Takes a stream's bytes as they come and gives its events; one that is not ended is none."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._name = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that these bytes end. Raises ValueError for what is no UTF-8."""
        searched = len(self._rest)  # a long line in crumbs is searched once
        self._rest += data
        events: list[Event] = []
        while (end := self._rest.find(b"\n", searched)) >= 0:
            line = self._rest[:end].removesuffix(b"\r").decode()
            del self._rest[: end + 1]
            searched = 0
            if (event := self._take(line)) is not None:
                events.append(event)
        return events

    def _take(self, line: str) -> Event | None:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        if line or not self._data:
            return None
        event = Event(self._name or "message", "\n".join(self._data))
        self._name, self._data = "", []
        return event
