"""What `secondglance-server fleet-status` prints: how each server of a fleet is, asked one by one.

All servers are asked at the same time, each for `/readyz`, `/v1/model` and `/metrics`. A server that does not
answer, or does not let us in, is a line like the others. Not covered: the proxy in front, and Redis behind.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

_MAX_REPLY_BYTES: Final = 4 * 1024 * 1024
_AT_A_TIME: Final = 32  # servers; each is asked for three documents in turn

_KEY_VARIABLES: Final = {"/v1/model": "SECONDGLANCE_API_KEY", "/metrics": "SECONDGLANCE_METRICS_KEY"}

_NUMBERS: Final = {
    "queue_depth": "secondglance_queue_depth",
    "queue_limit": "secondglance_queue_limit",
    "sessions": "secondglance_sessions",
    "sessions_limit": "secondglance_sessions_limit",
    "in_flight": "secondglance_requests_in_flight",
    "inferences": "secondglance_inferences_total",
    "rejections": "secondglance_rejections_total",
    "memory_bytes": "process_resident_memory_bytes",
}
"""Each server's numbers and the metrics that they are summed from."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server's answer. `tag`, `version` and `numbers` come from its metrics, `model` from `/v1/model`.

    None means that the server did not say; `reason` has the first complaint, empty if there was none.
    """

    url: str
    is_ready: bool
    reason: str
    tag: str | None
    version: str | None
    model: str | None
    numbers: dict[str, float] | None


@dataclass(frozen=True, slots=True)
class _Answer:
    body: str = ""
    complaint: str = ""


def ask_all(urls: Sequence[str], *, timeout_s: float) -> list[ServerStatus]:
    """Return the status of each server, in the order of `urls`; keys come from the environment."""
    with ThreadPoolExecutor(min(_AT_A_TIME, len(urls))) as pool:
        return list(pool.map(lambda url: _ask(url.rstrip("/"), timeout_s), urls))


def _ask(url: str, timeout_s: float) -> ServerStatus:
    ready, model, metrics = (_get(url, path, timeout_s) for path in ("/readyz", "/v1/model", "/metrics"))
    state, unready = _field_of(ready, "/readyz", "status")
    name, complaint = _field_of(model, "/v1/model", "name")
    samples = list(_samples_of(metrics.body))
    labels = next((labels for sample, labels, _ in samples if sample == "secondglance_server_info"), {})
    return ServerStatus(
        url=url,
        is_ready=state == "ready",
        reason=unready or complaint or metrics.complaint,
        tag=labels.get("server"),
        version=labels.get("version"),
        model=name,
        numbers=_numbers_of(samples) if samples else None,
    )


def _get(url: str, path: str, timeout_s: float) -> _Answer:
    key = os.environ.get(_KEY_VARIABLES.get(path, ""))
    try:
        request = urllib.request.Request(url + path)
        if key:
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return _Answer(body=response.read(_MAX_REPLY_BYTES).decode(errors="replace"))
    except urllib.error.HTTPError as exc:
        return _Answer(complaint=f"{path}: {exc.code} {_detail_of(exc)}".rstrip())
    except (OSError, http.client.HTTPException, ValueError) as exc:
        return _Answer(complaint=f"{path}: {getattr(exc, 'reason', None) or exc}")


def _detail_of(exc: urllib.error.HTTPError) -> str:
    """Return what the problem document says, on one line; empty if it is none."""
    try:
        document = json.loads(exc.read(_MAX_REPLY_BYTES))
        return " ".join(str(document["detail"]).split())
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _field_of(answer: _Answer, path: str, name: str) -> tuple[str | None, str]:
    """Return the document's field and what is wrong with the answer."""
    if answer.complaint:
        return None, answer.complaint
    try:
        return str(json.loads(answer.body)[name]), ""
    except (ValueError, KeyError, TypeError):
        return None, f"{path}: this is not a Second Glance server"


def _samples_of(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                yield sample.name, sample.labels, sample.value
    except ValueError:  # no metrics: somebody else's page
        return


def _numbers_of(samples: Sequence[tuple[str, dict[str, str], float]]) -> dict[str, float]:
    return {
        name: sum(value for sample, _, value in samples if sample == metric)
        for name, metric in _NUMBERS.items()
    }


def as_document(servers: Sequence[ServerStatus]) -> str:
    """Return one JSON document: `servers`, whether all are `ready`, and `notes`."""
    document: dict[str, Any] = {
        "ready": all(server.is_ready for server in servers),
        "servers": [asdict(server) for server in servers],
        "notes": notes_on(servers),
    }
    return json.dumps(document)


def as_table(servers: Sequence[ServerStatus]) -> str:
    """Return one line for each server below a head, then what the servers disagree about."""
    head = ("server", "tag", "state", "version", "model", "queue", "sessions", "in flight", "asked", "MB")
    rows = [head, *(_row(server) for server in servers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    complaints = [f"{server.url}: {server.reason}" for server in servers if server.reason]
    return "\n".join(_printable(line.rstrip()) for line in (*lines, *complaints, *notes_on(servers)))


def _printable(line: str) -> str:
    """Return the line without what a terminal would obey: it quotes whoever answered."""
    return "".join(character if character.isprintable() else "?" for character in line)


def _row(server: ServerStatus) -> tuple[str, ...]:
    numbers = server.numbers
    known = (server.tag, "ready" if server.is_ready else "NOT READY", server.version, server.model)
    if numbers is None:
        return (server.url, *(text or "-" for text in known), "-", "-", "-", "-", "-")
    return (
        server.url,
        *(text or "-" for text in known),
        f"{numbers['queue_depth']:.0f}/{numbers['queue_limit']:.0f}",
        f"{numbers['sessions']:.0f}/{numbers['sessions_limit']:.0f}",
        f"{numbers['in_flight']:.0f}",
        f"{numbers['inferences']:.0f}",
        f"{numbers['memory_bytes'] / 1e6:.0f}",
    )


def notes_on(servers: Sequence[ServerStatus]) -> list[str]:
    """Return what is wrong with the servers as a fleet: models or versions that differ, a tag used twice."""
    notes = []
    for what in ("model", "version"):
        found = sorted({getattr(server, what) for server in servers} - {None})
        if len(found) > 1:
            notes.append(f"the servers differ in {what}: {', '.join(found)}")
    tags = [server.tag for server in servers if server.tag]
    for tag in sorted({tag for tag in tags if tags.count(tag) > 1}):
        notes.append(f"the tag {tag} is used by {tags.count(tag)} servers")
    return notes
