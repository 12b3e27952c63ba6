"""Single requests of the contract with their bytes counted: what `EdgeClient` sends, one step at a time.

For experiments that the client rightly does not offer, such as a crop from another place. No retries:
a failed request ends the run, which can be resumed. The headers are the client's own.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

import httpx

from secondglance.client import drop_needless, headers_of
from secondglance.conversation.failures import failure_of
from secondglance.conversation.requests import Ask, first_request, header_room, patch_request
from secondglance.conversation.steps import Arrived, Send
from secondglance.errors import ServerUnavailableError
from secondglance.pictures.encoding import Encoded
from secondglance.pictures.orientation import Size
from secondglance.settings import EdgeSettings
from secondglance.wire.counting import CountingTransport, measuring
from secondglance_eval.asking.records import StageCost
from secondglance_protocol.wire import InferenceResponse, ModelResponse, PatchOffer


class SingleRequests:
    """Connections to one server; may be shared by threads."""

    def __init__(self, url: str, settings: EdgeSettings, model: ModelResponse) -> None:
        key = settings.api_key.get_secret_value() if settings.api_key else None
        self._http = httpx.Client(
            base_url=url,
            transport=CountingTransport(),
            headers=headers_of(key),
            timeout=settings.read_timeout_s,
        )
        drop_needless(self._http.headers)
        self._header_room = header_room(model)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def ask(self, ask: Ask, size: Size, picture: Encoded) -> tuple[InferenceResponse, StageCost]:
        """Send stage one, for an original of `size`. Raises EdgeError."""
        return self._exchange(first_request(ask, size, picture, deadline=None, header_room=self._header_room))

    def show(self, offer: PatchOffer, patch: Encoded) -> tuple[InferenceResponse, StageCost]:
        """Send stage two. Raises EdgeError."""
        return self._exchange(patch_request(offer.url, patch, deadline=None))

    def _exchange(self, send: Send) -> tuple[InferenceResponse, StageCost]:
        began = time.perf_counter()
        with measuring() as counted:
            try:
                response = self._http.request(
                    send.method, send.path, headers=dict(send.headers), content=send.body
                )
            except httpx.HTTPError as exc:
                raise ServerUnavailableError(f"{send}: {exc or type(exc).__name__}") from exc
        headers = {name.lower(): value for name, value in response.headers.items()}
        failure = failure_of(Arrived(response.status_code, headers, response.content))
        if failure is not None:
            raise failure.error
        return InferenceResponse.model_validate_json(response.content, extra="ignore"), StageCost(
            uplink_bytes=counted.uplink_bytes,
            downlink_bytes=counted.downlink_bytes,
            elapsed_ms=1000 * (time.perf_counter() - began),
        )
