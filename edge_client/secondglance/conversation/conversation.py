"""One question, both stages, without any I/O: what to send, what to make of the reply, when to try again.

`Conversation.run` is a generator of steps (see `steps`); a driver performs them. Decided here and nowhere
else: retries, the deadline, the uplink budget, sending the picture again when the server has forgotten it,
further looks, and what happens if stage two fails: the answer that there is is returned with `degraded`,
unless `strict`. Where the budget ends before a further look, that look is left out. With `early_region` the
server may ask for the region before its draft has ended: the patch is sent at once.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

from PIL import Image

from secondglance.conversation.failures import Failure, failure_of
from secondglance.conversation.known_server import KnownServer
from secondglance.conversation.ledger import Ledger
from secondglance.conversation.replies import image_budget, parse_inference, parse_model, patch_budget
from secondglance.conversation.requests import (
    Ask,
    first_request,
    header_room,
    model_request,
    most_rounds,
    patch_request,
    streamed,
    traced,
)
from secondglance.conversation.steps import (
    Answered,
    Arrived,
    Compute,
    ExchangeResult,
    Pause,
    Send,
    Step,
    Token,
    TokenTeller,
)
from secondglance.conversation.tracing import (
    TRACERESPONSE_HEADER,
    Trace,
    trace_of_caller,
    traced_by_server,
)
from secondglance.doubt import note_of_doubt
from secondglance.errors import (
    BadImageError,
    EdgeError,
    ExpiredError,
    ProtocolError,
    TimedOutError,
    UplinkBudgetError,
    UsageError,
)
from secondglance.link.encoding_choice import EncodingChoice
from secondglance.pictures.encoding import Encoded, Recipe, encode
from secondglance.pictures.original import ImageSource, Opener, Original
from secondglance.reply import Look, Reply
from secondglance.settings import EdgeSettings
from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.protocol import QUESTION_HEADER, MediaType
from secondglance_protocol.wire import InferenceResponse, ModelResponse, PatchOffer, Roi, TimingMs

T = TypeVar("T")
Steps: TypeAlias = Generator[Step, Any, T]

_HEAD_BYTES = 512  # of a request around its body, with a key
_LENGTH_DIGITS = 7  # of a Content-Length, where the body is not known yet; without one it is a digit


def _tell_nobody(_: Token) -> None:
    """For who wants a stream and no tokens."""


def _no_picture() -> Encoded:
    """Return what stands for a picture in a request that is weighed before there is one."""
    return Encoded(b"", "image/jpeg", (1, 1), None)


def typical_size(request: Send) -> int:
    """Return the bytes that `request` takes on the wire with a usual head: a guess where nobody sends it."""
    return _HEAD_BYTES + len(request.headers.get(QUESTION_HEADER, "")) + len(request.body)


class Conversation:
    """Asks one question about one picture. Use once."""

    def __init__(
        self,
        source: ImageSource,
        ask: Ask,
        *,
        known: KnownServer,
        settings: EdgeSettings,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
        size_on_wire: Callable[[Send], int] = typical_size,
        on_token: Callable[[Token], None] | None = None,
    ) -> None:
        """`size_on_wire` is how many bytes a request puts on the wire, its head and TLS included.

        With `on_token`, answers are asked for as streams; with the setting `early_region`, the draft.
        """
        self._source = source
        self._ask = ask
        self._known = known
        self._settings = settings
        self._clock = clock
        self._draw = draw
        self._on_token = on_token
        self._is_draft_cut = False
        self._trace = trace_of_caller() or (Trace.begun() if settings.trace else None)
        self._rounds = 1
        self._trace_id = "" if self._trace is None else self._trace.trace_id
        self._encodings = EncodingChoice(settings, known.link)
        self._deadline = None if ask.timeout_s is None else clock() + ask.timeout_s
        self._ledger = Ledger(clock, max_uplink_bytes=ask.max_uplink_bytes, size_on_wire=size_on_wire)

    def run(self) -> Steps[Reply]:
        """Raises EdgeError; once stage one has answered, only if `strict`."""
        opener = Opener(self._source, self._settings.max_original_pixels)
        try:
            with self._ledger.stage("setup"):
                original: Original = yield Compute(opener, "opening the picture")
            model = yield from self.fetch_model()
            self._encodings = EncodingChoice(self._settings, self._known.link, model.recipes)
            self._rounds = most_rounds(self._ask, model)
            first = yield from self._first_stage(original, model)
            looks, degraded = yield from self._second_opinion(original, first)
            second = looks[-1].reply if looks else None
            if self._is_draft_cut and second is None:
                first = yield from self._whole_draft(original, first, model)
            receipt = self._ledger.receipt(original.encoded_bytes)
            doubt = note_of_doubt(second or first)
            notes = original.notes if doubt is None else (*original.notes, doubt)
            return Reply(first, second, receipt, degraded, notes, self._trace_id, looks)
        finally:
            opener.close()

    def fetch_model(self) -> Steps[ModelResponse]:
        """What the server takes; asked once for each client."""
        if self._known.model is None:
            with self._ledger.stage("setup"):
                arrived = yield from self._call(model_request(self._deadline))
            model = parse_model(arrived)
            self._learn(arrived)
            self._known.model = model
        return self._known.model

    def _first_stage(self, original: Original, model: ModelResponse) -> Steps[InferenceResponse]:
        with self._ledger.stage("stage1"):
            key: str | None = yield Compute(original.content_key, "naming the picture")
            arrived = yield from self._ask_for_rounds(original, key, model)
            first = parse_inference(arrived, stage=1, size=original.size)
            self._learn(arrived, first.timing_ms)
            self._is_draft_cut = arrived.is_cut
            self._known.remember_image(key, first.image_id)
            self._trace_id = self._trace_id or traced_by_server(arrived.headers.get(TRACERESPONSE_HEADER, ""))
            yield Answered(first)
            return first

    def _ask_for_rounds(self, original: Original, key: str | None, model: ModelResponse) -> Steps[Arrived]:
        """Ask for as many looks as the server knows; for one if it turns out to know no more."""
        try:
            return (yield from self._ask_first(original, key, model))
        except UsageError as exc:
            if exc.code != ErrorCode.INVALID_REQUEST or self._rounds == 1:
                raise
            # An older server has taken the place of the one that was asked what it takes.
            self._known.model = None
            self._rounds = 1
            return (yield from self._ask_first(original, key, model))

    def _ask_first(self, original: Original, key: str | None, model: ModelResponse) -> Steps[Arrived]:
        arrived = yield from self._ask_about_held_image(original, key, model)
        if arrived is None:
            arrived = yield from self._ask_with_image(original, model)
        return arrived

    def _ask_about_held_image(
        self, original: Original, key: str | None, model: ModelResponse
    ) -> Steps[Arrived | None]:
        """Ask without an upload if the server was sent this picture before; None if it no longer has it."""
        image_id = self._known.image_id(key)
        if image_id is None:
            return None
        try:
            return (yield from self._call(self._first_request(original, image_id, model)))
        except ExpiredError:
            self._known.forget_image(key)
            return None

    def _ask_with_image(self, original: Original, model: ModelResponse) -> Steps[Arrived]:
        picture = yield from self._global_image(original, model)
        try:
            return (yield from self._call(self._first_request(original, picture, model)))
        except BadImageError:
            self._known.model = None  # its budget was obeyed and refused: it may have another model now
            raise

    def _second_opinion(
        self, original: Original, first: InferenceResponse
    ) -> Steps[tuple[tuple[Look, ...], str | None]]:
        """The looks at regions that the server asked for, and why there are no more if that is a failure."""
        looks: list[Look] = []
        sent: set[bytes] = set()  # SHA-256 of the patches
        latest = first
        while latest.status == "needs_patch" and len(looks) < self._rounds:
            try:
                with self._ledger.stage("stage2", len(looks) + 1):
                    look = yield from self._look(original, latest, looks, sent)
            except EdgeError as exc:
                if looks and isinstance(exc, UplinkBudgetError):
                    break  # the answer that there is is what the budget pays for
                if self._ask.strict:
                    raise
                return tuple(looks), str(exc)
            if look is None:
                break
            looks.append(look)
            latest = look.reply
        return tuple(looks), None

    def _whole_draft(
        self, original: Original, first: InferenceResponse, model: ModelResponse
    ) -> Steps[InferenceResponse]:
        """Ask once more for a draft that was not waited for, by the picture's id.

        The draft stays as it is if that fails.
        """
        ask = replace(self._ask, mode="answer_only")
        request = first_request(
            ask, original.size, first.image_id, deadline=self._deadline, header_room=header_room(model)
        )
        self._on_token = None  # its beginning has been told
        try:
            with self._ledger.stage("stage1"):
                arrived = yield from self._call(request)
                whole = parse_inference(arrived, stage=1, size=original.size)
        except EdgeError:
            return first
        asked = {"id": first.id, "status": first.status, "roi": first.roi, "patch": first.patch}
        return whole.model_copy(update=asked)

    def _look(
        self, original: Original, latest: InferenceResponse, looks: Sequence[Look], sent: set[bytes]
    ) -> Steps[Look | None]:
        """Send the region that `latest` asks for; None if its bytes were sent before and show nothing new."""
        if latest.roi is None or latest.patch is None:
            raise ProtocolError("the server wants a patch but names no box in the picture, or no address")
        is_sharper = bool(looks) and latest.roi == looks[-1].roi
        request = yield from self._patch_in_time(
            original, latest, latest.roi, latest.patch, len(looks) + 1, is_sharper=is_sharper
        )
        digest = hashlib.sha256(request.body).digest()
        if digest in sent:
            return None
        sent.add(digest)
        arrived = yield from self._call(request)
        reply = parse_inference(arrived, stage=2, size=original.size)
        self._learn(arrived, reply.timing_ms)
        if reply.status != "answered" and len(looks) + 1 == self._rounds:
            raise ProtocolError("the server took the patch but did not answer")
        yield Answered(reply)
        return Look(latest.roi, reply)

    def _patch_in_time(
        self,
        original: Original,
        latest: InferenceResponse,
        roi: Roi,
        offer: PatchOffer,
        look: int,
        *,
        is_sharper: bool,
    ) -> Steps[Send]:
        """The patch as the link deserves; smaller if it would be late; declined if late even then."""
        late_s = 0.0
        scale = 1.0 if is_sharper else self._encodings.patch_scale
        for recipe in self._encodings.for_patch(is_further=look > 1, is_sharper=is_sharper):
            patch = yield from self._patch(original, roi, offer, recipe, scale)
            request = patch_request(offer.url, patch, deadline=self._deadline, look=look)
            late_s = self._late_s(request, latest.timing_ms)
            if late_s <= 0:
                return request
        raise TimedOutError(
            f"declined: the region ({len(request.body)} bytes) would be answered {late_s:.1f} s "
            f"after the deadline on this link"
        )

    def _late_s(self, request: Send, served: TimingMs) -> float:
        """Seconds after the deadline at which `request` is expected to be answered; 0 if nothing is known.

        The server needs at least what it needed for the first answer: the second has a picture more.
        """
        on_the_way_s = self._known.link.seconds_for(typical_size(request))
        if self._deadline is None or on_the_way_s is None:
            return 0.0
        server_s = (served.decode_image + served.prefill + served.generate) / 1000
        return self._clock() + on_the_way_s + server_s - self._deadline

    def _learn(self, arrived: Arrived, served: TimingMs | None = None) -> None:
        """What this request said about the link."""
        if arrived.waited_s is not None:
            # A stream begins with the first token, which the prompt's own pass gives.
            later = {"generate", "localize"} if arrived.is_streamed else set()
            server_s = sum(served.model_dump(exclude=later).values()) / 1000 if served else None
            self._known.link.add(arrived.uplink_bytes, arrived.waited_s, server_s)

    def _first_request(self, original: Original, picture: Encoded | str, model: ModelResponse) -> Send:
        return first_request(
            self._ask,
            original.size,
            picture,
            deadline=self._deadline,
            header_room=header_room(model),
            max_rounds=self._rounds,
        )

    def _global_image(self, original: Original, model: ModelResponse) -> Steps[Encoded]:
        budget = image_budget(model)
        recipe, scale = self._encodings.for_image()
        bare = self._first_request(original, _no_picture(), model)
        return (
            yield from self._encode(
                lambda: original.global_image(budget.scaled(scale)),
                recipe,
                accepted=model.image.formats,
                max_bytes=min(model.image.max_bytes, model.limits.max_image_bytes - len(bare.body)),
                bare=bare,
                what="picture",
            )
        )

    def _patch(
        self, original: Original, roi: Roi, offer: PatchOffer, recipe: Recipe, scale: float
    ) -> Steps[Encoded]:
        pixels = (roi.pixels.left, roi.pixels.top, roi.pixels.right, roi.pixels.bottom)
        budget = patch_budget(offer).scaled(scale)
        return (
            yield from self._encode(
                lambda: original.patch(pixels, budget),
                recipe,
                accepted=offer.formats,
                max_bytes=offer.max_bytes,
                bare=patch_request(offer.url, _no_picture(), deadline=self._deadline),
                what="patch",
            )
        )

    def _encode(
        self,
        prepare: Callable[[], Image.Image],
        recipe: Recipe,
        *,
        accepted: Collection[MediaType],
        max_bytes: int,
        bare: Send,
        what: str,
    ) -> Steps[Encoded]:
        """Prepare and encode within the server's limit and what the caller's budget leaves beside `bare`."""
        room = self._ledger.room_in(self._dressed(bare))
        allowed = max_bytes if room is None else min(max_bytes, room - _LENGTH_DIGITS)
        encoded: Encoded = yield Compute(
            lambda: encode(prepare(), recipe, accepted=accepted, max_bytes=allowed), f"preparing the {what}"
        )
        if len(encoded.data) > max_bytes:
            raise BadImageError(
                f"the {what} does not fit the server's limit of {max_bytes} bytes at any quality"
            )
        return encoded  # `_call` refuses what the budget does not carry

    def _dressed(self, request: Send) -> Send:
        """Return `request` with its place in a trace and, if tokens are wanted, the wish for a stream."""
        if self._trace is not None:
            request = traced(request, self._trace)
        is_early = request.stage == "stage1" and self._settings.early_region and not self._is_draft_cut
        if request.stage == "setup" or (self._on_token is None and not is_early):
            return request
        tell = self._on_token or _tell_nobody
        teller = TokenTeller(1 if request.stage == "stage1" else 2, tell, request.look)
        return streamed(request, teller, is_early=is_early)

    def _call(self, request: Send) -> Steps[Arrived]:
        """Send until it succeeds or trying again makes no sense; raises what went wrong last."""
        request = self._dressed(request)  # once: a retry repeats the exact bytes
        retried = 0
        while True:
            self._ledger.check(request)
            if self._is_late():
                raise TimedOutError(f"no answer within {self._ask.timeout_s:g} s")
            outcome: ExchangeResult = yield request
            self._ledger.add(request, outcome, is_retry=retried > 0)
            failure = failure_of(outcome)
            if isinstance(outcome, Arrived) and failure is None:
                return outcome
            assert failure is not None, "what did not arrive has failed"
            wait_s = self._wait_s(failure, retried, request)
            if wait_s is None and self._is_late():  # whatever broke, it was the caller's patience
                raise TimedOutError(f"no answer within {self._ask.timeout_s:g} s") from failure.error
            if wait_s is None:
                raise failure.error
            yield Pause(wait_s, str(failure.error))
            retried += 1

    def _is_late(self, by_s: float = 0.0) -> bool:
        return self._deadline is not None and self._clock() + by_s >= self._deadline

    def _wait_s(self, failure: Failure, retried: int, request: Send) -> float | None:
        """Seconds until the next attempt; None if there is none: hopeless, too late, or too many bytes."""
        if not failure.retryable or not self._ledger.can_send(request):
            return None
        wait_s = self._settings.retry_policy.wait_s(retried, failure.retry_after_s, self._draw)
        return None if wait_s is None or self._is_late(by_s=wait_s) else wait_s
