"""Logs: one JSON object a line on stderr, one line a request; never a question, file name, key or image.

Modules log through `logging` with `extra=`; `configure_logging` (called by the command line only, so that
programs which embed the app keep their own handlers) turns records into JSON with structlog.
"""

from __future__ import annotations

import logging
import sys
import traceback
import warnings

import structlog
from structlog.types import Processor

from secondglance_server.inference.facts import RequestFacts

_log = logging.getLogger("secondglance_server.requests")


def configure_logging(level: str) -> None:
    """Send everything, uvicorn and warnings included, to stderr as JSON."""
    before: list[Processor] = [
        structlog.stdlib.ExtraAdder(),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # At debug level Pillow writes out the EXIF tags that it reads: descriptions, places, owners.
    logging.getLogger("PIL").setLevel(logging.INFO)
    # The multipart parser warns with bytes of broken bodies; the request's own line says what was wrong.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    # Pillow warns of broken tags of uploads, by number: a client could fill the log with them.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.captureWarnings(True)


def log_request(facts: RequestFacts, *, route: str, method: str, status: int, elapsed_ms: float) -> None:
    """The one line of a request."""
    line: dict[str, object] = {
        "request_id": facts.request_id,
        "trace_id": facts.trace_id,
        "span_id": facts.span_id,
        "tenant": facts.tenant,
        "method": method,
        "route": route,
        "status": status,
        "received_bytes": facts.received_bytes,
        "sent_bytes": facts.sent_bytes,
        "elapsed_ms": round(elapsed_ms, 2),
    }
    for name in ("stage", "outcome", "skip", "error", "inference_id", "image_sha256"):
        value = getattr(facts, name)
        if value is not None:
            line[name] = value
    if facts.first_token_s is not None:
        line["first_token_ms"] = round(1000 * facts.first_token_s, 2)
    if facts.confidence is not None:
        line["confidence"] = facts.confidence.model_dump()
        line["timing_ms"] = facts.timing_ms.model_dump()
    _log.log(logging.ERROR if status == 500 else logging.INFO, "request", extra=line)


def log_failure(facts: RequestFacts, exc: BaseException) -> None:
    """Where something failed: types and code places, without messages, which may quote what a client sent."""
    chain: list[str] = []
    seen: BaseException | None = exc
    while seen is not None:
        frames = traceback.extract_tb(seen.__traceback__)
        place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        chain.append(f"{type(seen).__name__}{place}")
        seen = seen.__cause__ or seen.__context__
    ids = {"request_id": facts.request_id, "trace_id": facts.trace_id}
    _log.error("failure", extra={**ids, "chain": chain})
