"""Leave for pages of other origins to ask (CORS): exactly the origins that the settings name.

No cookies are involved: a page sends its key itself. Preflights are answered here, before keys, quotas and
metrics; a browser sends them without the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from secondglance_protocol.protocol import (
    API_KEY_HEADER,
    DEADLINE_HEADER,
    IDEMPOTENCY_KEY_HEADER,
    QUESTION_HEADER,
    REQUEST_ID_HEADER,
    TRACEPARENT_HEADER,
)
from secondglance_server.http.streaming import REPLAYED_HEADER
from secondglance_server.telemetry.tracing import TRACERESPONSE_HEADER

PREFLIGHT_S: Final = 600  # for which a browser need not ask again

_SENT: Final = (
    API_KEY_HEADER,
    "Content-Type",
    DEADLINE_HEADER,
    IDEMPOTENCY_KEY_HEADER,
    QUESTION_HEADER,
    REQUEST_ID_HEADER,
    TRACEPARENT_HEADER,
)
_READ: Final = ("Retry-After", REQUEST_ID_HEADER, REPLAYED_HEADER, TRACERESPONSE_HEADER)


def cors_options(origins: Sequence[str]) -> dict[str, Any]:
    """Return the options of starlette's `CORSMiddleware` for these origins."""
    return {
        "allow_origins": list(origins),
        "allow_methods": ["GET", "POST", "PUT", "DELETE"],
        "allow_headers": list(_SENT),
        "expose_headers": list(_READ),
        "max_age": PREFLIGHT_S,
    }
