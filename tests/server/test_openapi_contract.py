"""What `/openapi.json` promises is what the server does.

Schemathesis sends what the schema allows and what it forbids, and checks statuses, bodies and headers of
the replies.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.openapi.loaders import from_asgi
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from secondglance_server.app import create_app
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.settings import ServerSettings
from tests.server.exchange import encode

for name, format_name in (("jpeg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")):
    schemathesis.openapi.media_type(f"image/{name}", st.just(encode(64, 48, format_name)))


app = create_app(ServerSettings(), FakeEngine())


async def without_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """The app started once, below; schemathesis would start and stop it for every request."""
    if scope["type"] != "lifespan":
        await app(scope, receive, send)


# A schema cannot say that an image's bytes decode, that an image_id is held, or that one of the two is there.
BEYOND_SCHEMA = [positive_data_acceptance]

schema = from_asgi("/openapi.json", without_lifespan)
# A question that is too long may make the whole request too large, which is refused before it is read.
refused = schema.config.checks.negative_data_rejection
refused.expected_statuses = [*refused.expected_statuses, "413"]


@pytest.fixture(scope="module", autouse=True)
def _running_app() -> Iterator[None]:
    with TestClient(app):
        yield


@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_server_keeps_its_schema(case: schemathesis.Case) -> None:
    case.headers.pop("X-Deadline-Ms", None)  # a deadline of a millisecond is kept: 504, as it should be
    case.call_and_validate(excluded_checks=BEYOND_SCHEMA if case.method == "POST" else [])
