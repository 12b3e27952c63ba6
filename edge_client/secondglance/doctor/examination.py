"""Examines this edge, the link and the server, step by step, for people who wonder and for bug reports.

Nothing secret is in a report: of the key only whether there is one, of an address no password. What the
examination sends is said in it: small requests, and random bytes to measure the link with.
"""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeAlias

import httpx
from PIL import Image, features

from secondglance.client import EdgeClient
from secondglance.conversation.dry_run import plan_first_request
from secondglance.conversation.failures import failure_of
from secondglance.conversation.requests import Ask
from secondglance.conversation.steps import Arrived
from secondglance.errors import EdgeError
from secondglance.pictures.original import ImageSource
from secondglance.settings import EdgeSettings
from secondglance.wire.addresses import DEFAULT_PORTS
from secondglance.wire.counting import CountingTransport, measuring
from secondglance.wire.proxies import route_to
from secondglance.wire.reading import NO_COMPRESSION, read_reply
from secondglance_protocol.protocol import API_KEY_HEADER, API_PREFIX, PROTOCOL_VERSION, MediaType
from secondglance_protocol.wire import ModelResponse

Status: TypeAlias = Literal["ok", "warning", "failed", "skipped"]

_LIBRARIES = ("second-glance", "httpx", "httpcore", "pillow", "pillow-heif", "pydantic", "imageio-ffmpeg")
_MAX_SKEW_S = 5.0
_SAMPLE_SIZE = (4000, 3000)
_ROUND_TRIPS = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `exit_code` is the command's if this failed."""

    name: str
    status: Status
    detail: str
    data: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 1

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "status": self.status, "detail": self.detail, "data": self.data}


class Examination:
    """`examine` yields findings as they are made; what depends on something that failed is skipped.

    Raises UsageError for a proxy or certificates of the environment that cannot be used.
    """

    def __init__(
        self, settings: EdgeSettings, *, sample: ImageSource | None = None, probe_bytes: int = 256 * 1024
    ) -> None:
        self._settings = settings
        self._sample = sample
        self._probe_bytes = probe_bytes
        self._url = httpx.URL(settings.url)
        self._route = route_to(self._url)
        self._model: ModelResponse | None = None
        self._round_trip_s = 0.0

    def examine(self) -> Iterator[Finding]:
        yield self._edge()
        yield self._codecs()
        steps = {
            "connection": self._connection,
            "readiness": self._readiness,
            "clock": self._clock,
            "model": self._ask_for_model,
            "formats": self._formats,
            "uplink": self._uplink,
        }
        needs_model = ("formats", "uplink")
        connection_failed = False
        with self._open_http() as http:
            for name, step in steps.items():
                if connection_failed or (name in needs_model and self._model is None):
                    yield Finding(name, "skipped", "after what failed above")
                    continue
                finding = _guarded(name, step, http)
                connection_failed = connection_failed or (name, finding.status) == ("connection", "failed")
                yield finding
        yield _guarded("sample", self._what_would_be_sent, None)

    def _open_http(self) -> httpx.Client:
        headers = {"User-Agent": "second-glance-doctor", **NO_COMPRESSION}
        if self._settings.api_key is not None:
            headers[API_KEY_HEADER] = f"Bearer {self._settings.api_key.get_secret_value()}"
        timeout = httpx.Timeout(self._settings.read_timeout_s, connect=self._settings.connect_timeout_s)
        transport = CountingTransport(ssl_context=self._route.ssl_context, proxy=self._route.proxy)
        return httpx.Client(transport=transport, base_url=self._url, headers=headers, timeout=timeout)

    def _get(self, http: httpx.Client, path: str) -> Arrived:
        with measuring(self._deadline()):
            return _exchanged(http, "GET", path)

    def _deadline(self) -> float:
        return time.monotonic() + self._settings.total_timeout_s

    def _edge(self) -> Finding:
        libraries = {name: found for name in _LIBRARIES if (found := _version_of(name))}
        defaults = EdgeSettings.model_construct()
        changed = {
            name: value
            for name, value in self._settings.model_dump(exclude={"url", "api_key"}).items()
            if value != getattr(defaults, name)
        }
        data = {
            "versions": libraries,
            "protocol": PROTOCOL_VERSION,
            "python": platform.python_version(),
            "system": platform.platform(),
            "processors": os.cpu_count(),
            "url": str(self._url.copy_with(username=None, password=None)),
            "has_api_key": self._settings.api_key is not None,
            "changed_settings": changed,
        }
        words = f"second-glance {libraries.get('second-glance', '?')}, protocol {PROTOCOL_VERSION}"
        return Finding("edge", "ok", f"{words}, Python {platform.python_version()}", data)

    def _codecs(self) -> Finding:
        reads = ["JPEG", "PNG", "TIFF", "GIF", "BMP", "PPM"]
        reads += [name.upper() for name in ("webp", "avif") if features.check(name)]
        reads += ["HEIC"] if _version_of("pillow-heif") else []
        writes = _writable()
        data = {"reads": reads, "writes": list(writes)}
        return Finding("codecs", "ok", f"reads {', '.join(reads)}; writes {', '.join(writes)}", data)

    def _connection(self, http: httpx.Client) -> Finding:
        first = self._route.proxy.url if self._route.proxy else self._url
        host, port = first.host, first.port or DEFAULT_PORTS[first.scheme]
        began = time.perf_counter()
        with socket.create_connection((host, port), self._settings.connect_timeout_s) as connection:
            address = connection.getpeername()[0]
        connect_ms = 1000 * (time.perf_counter() - began)
        trips = []
        for _ in range(_ROUND_TRIPS):
            began = time.perf_counter()
            self._get(http, "/healthz")
            trips.append(time.perf_counter() - began)
        self._round_trip_s = min(trips)
        data = {
            "address": address,
            "port": port,
            "connect_ms": round(connect_ms, 3),
            "round_trip_ms": round(1000 * self._round_trip_s, 3),
        }
        trip = f"round trip {data['round_trip_ms']:.1f} ms"
        there = f"{address} port {port}{', the proxy,' if self._route.proxy else ''} in {connect_ms:.1f} ms"
        return Finding("connection", "ok", f"{there}, {trip}", data)

    def _readiness(self, http: httpx.Client) -> Finding:
        response = self._get(http, "/readyz")
        if 200 <= response.status < 300:
            return Finding("readiness", "ok", "the server is ready")
        return Finding("readiness", "failed", f"not ready: {_reason(response)}", exit_code=75)

    def _clock(self, http: httpx.Client) -> Finding:
        before = time.time()
        response = self._get(http, "/healthz")
        middle = (before + time.time()) / 2
        theirs = _timestamp(response.headers.get("date", ""))
        if theirs is None:
            return Finding("clock", "warning", "the server does not say what time it has")
        skew_s = round(theirs + 0.5 - middle, 1)  # a date has whole seconds, cut off
        here = datetime.fromtimestamp(middle, UTC).isoformat(timespec="seconds")
        data = {"server_ahead_s": skew_s, "accuracy_s": 0.5, "here": here}
        status: Status = "ok" if abs(skew_s) <= _MAX_SKEW_S else "warning"
        where = "ahead of" if skew_s > 0 else "behind"
        return Finding(
            "clock", status, f"the server is {abs(skew_s):.1f} s {where} this clock (±0.5 s)", data
        )

    def _ask_for_model(self, _: httpx.Client) -> Finding:
        """By the client itself, so that key, protocol and reply are judged as for a question."""
        with EdgeClient(settings=self._settings.model_copy(update={"retries": 0})) as client:
            model = client.model()
        self._model = model
        threshold = f"{model.gate.metric} over {model.gate.threshold:g}"
        sides = f"pictures up to {model.image.max_width}x{model.image.max_height}"
        detail = f"{model.name} ({model.family}), protocol {model.protocol_version}, {sides}, {threshold}"
        if model.domain is not None:
            detail += f"; it answers about {model.domain}"
        return Finding("model", "ok", detail, model.model_dump(mode="json"))

    def _formats(self, _: httpx.Client) -> Finding:
        assert self._model is not None, "skipped without a model"
        accepts = self._model.image.formats
        both = [kind for kind in accepts if kind in _writable()]
        data = {"server_accepts": list(accepts), "usable": both, "preferred": self._settings.format}
        if not both:
            return Finding("formats", "failed", "the server takes nothing that this edge can write", data)
        if f"image/{self._settings.format}" not in both:
            detail = f"{self._settings.format} is set but not usable; {', '.join(both)} are"
            return Finding("formats", "warning", detail, data)
        return Finding("formats", "ok", f"sends {self._settings.format}; usable: {', '.join(both)}", data)

    def _uplink(self, http: httpx.Client) -> Finding:
        """Random bytes to a patch that nobody waits for: read, refused, and nothing is inferred."""
        assert self._model is not None, "skipped without a model"
        size = min(self._probe_bytes, self._model.limits.max_patch_bytes)
        if size == 0:
            return Finding("uplink", "skipped", "not asked for")
        with measuring(self._deadline()) as exchange:
            began = time.perf_counter()
            response = _exchanged(
                http,
                "PUT",
                f"{API_PREFIX}/inferences/doctor/patch",
                content=os.urandom(size),
                headers={"Content-Type": "image/jpeg"},
            )
            elapsed_s = time.perf_counter() - began
        if exchange.uplink_bytes < size or response.status not in (404, 410):
            return Finding("uplink", "warning", f"the probe was answered early: {_reason(response)}")
        transfer_s = max(elapsed_s - self._round_trip_s, 1e-6)
        data = {
            "sent_bytes": exchange.uplink_bytes,
            "elapsed_ms": round(1000 * elapsed_s, 3),
            "bits_per_s": round(8 * exchange.uplink_bytes / transfer_s),
        }
        rate = f"{data['bits_per_s'] / 1e6:,.2f} Mbit/s"
        return Finding("uplink", "ok", f"{rate}, measured with {exchange.uplink_bytes:,} random bytes", data)

    def _what_would_be_sent(self, _: object) -> Finding:
        sample = self._sample if self._sample is not None else _drawn_sample()
        question = "What is written on the sign?"
        send = plan_first_request(sample, Ask(question), self._settings, model=self._model)
        image = next(part for part in send.parts if part.name.startswith("image"))
        data: dict[str, Any] = {
            "question": question,
            "body_bytes": len(send.body),
            "image_bytes": len(image.data),
            "original_bytes": Path(sample).stat().st_size if isinstance(sample, (str, Path)) else None,
            "assumed_model": self._model is None,
        }
        whose = (
            "the picture" if self._sample is not None else "a drawn picture of {}x{}".format(*_SAMPLE_SIZE)
        )
        detail = f"{whose}: {len(send.body):,} bytes, then one region if the server is unsure"
        return Finding("sample", "ok", detail, data)


def _guarded(name: str, step: Callable[[Any], Finding], http: httpx.Client | None) -> Finding:
    """What a step finds, or how it failed."""
    try:
        return step(http)
    except EdgeError as exc:
        return Finding(name, "failed", str(exc), exit_code=exc.exit_code)
    except httpx.TimeoutException as exc:
        return Finding(name, "failed", f"no answer in time: {exc}", exit_code=124)
    except (httpx.HTTPError, OSError) as exc:
        return Finding(name, "failed", f"cannot connect: {exc}", exit_code=69)


def _exchanged(http: httpx.Client, method: str, path: str, **content: Any) -> Arrived:
    """Make one request and read its reply whole, within the bounds that hold for every reply."""
    with http.stream(method, path, **content) as response:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Arrived(response.status_code, headers, read_reply(response).body)


def _reason(arrived: Arrived) -> str:
    failure = failure_of(arrived)
    return str(failure.error) if failure is not None else f"HTTP {arrived.status}"


def _timestamp(date: str) -> float | None:
    """Return the seconds since 1970 of an HTTP date; None for what is none."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):  # whatever the parser meets
        return None


def _writable() -> tuple[MediaType, ...]:
    return (
        ("image/jpeg", "image/png", "image/webp") if features.check("webp") else ("image/jpeg", "image/png")
    )


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _drawn_sample() -> Image.Image:
    """A picture as detailed as a photo, so that its size once encoded is like one's."""
    noise = Image.effect_noise((_SAMPLE_SIZE[0] // 8, _SAMPLE_SIZE[1] // 8), 60)
    return noise.resize(_SAMPLE_SIZE, Image.Resampling.BICUBIC).convert("RGB")
