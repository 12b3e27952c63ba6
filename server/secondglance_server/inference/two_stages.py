"""The two stages of an inference: draft and gate; then, if worth it, a region, a patch and a second answer.

`ask` and `look_again` are the method, in order; the parts they call know nothing of each other. Failures
leave as `ProblemError`. Not covered: HTTP, and how the engine answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.geometry import has_shape_of, roi_of
from secondglance_protocol.wire import ImageSize, InferenceRequest, InferenceResponse, Roi
from secondglance_server.engine.protocol import (
    AnswerRequest,
    AttentionMap,
    EngineError,
    EngineInfo,
    GateDefaults,
    Picture,
    TokenStats,
)
from secondglance_server.errors import ProblemError, busy, not_ready
from secondglance_server.inference.async_engine import (
    Answered,
    AsyncEngine,
    OnToken,
    QueueClosed,
    QueueFull,
    TooLate,
)
from secondglance_server.inference.decoding import Decoders
from secondglance_server.inference.facts import RequestFacts
from secondglance_server.inference.gate import EarlyGate, is_doubtful, judge, resolve_gate
from secondglance_server.inference.images import EncodedImage, Upload, image_id
from secondglance_server.inference.intake import (
    ImageLimits,
    image_limits,
    patch_limits,
)
from secondglance_server.inference.localization import further_regions, locate, relative_attention
from secondglance_server.inference.replies import Findings, build_reply, patch_offer, with_surer_answer
from secondglance_server.inference.sessions import PendingPatch, Session, further_look, new_inference_id
from secondglance_server.inference.skip import SkipReason, seen_size, skip_before_looking, skip_region
from secondglance_server.inference.stores.expiring import ExpiringStore
from secondglance_server.inference.stores.protocol import ImageStore, PatchClaim, SessionStore
from secondglance_server.inference.ticket import Ticket, deadline_exceeded
from secondglance_server.settings import ServerSettings

Tell: TypeAlias = Callable[[TokenStats | InferenceResponse], None]
"""Is told what there is of a reply that is being made."""

_SHARPER = 1.5  # times the pixels: with fewer more the same region shows nothing new


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """Where to look, or why nowhere."""

    roi: Roi | None = None
    further: tuple[Roi, ...] = ()  # where to look if that leaves doubt
    skip: SkipReason | None = None
    relevance: AttentionMap | None = None
    localize_ms: float = 0.0
    early: InferenceResponse | None = None  # the reply that asked for it while the draft went on


@dataclass(frozen=True, slots=True, eq=False)
class _Asking:
    """A first stage that is being answered."""

    id: str
    request: InferenceRequest
    gate: GateDefaults
    max_new_tokens: int
    image: EncodedImage
    picture: Picture
    n_uploaded_pixels: int
    decode_ms: float
    facts: RequestFacts


class TwoStages:
    """Serves both stages of one loaded model; all methods run on the event loop."""

    def __init__(
        self,
        settings: ServerSettings,
        info: EngineInfo,
        device: AsyncEngine,
        sessions: SessionStore,
        images: ImageStore,
        decoders: Decoders,
    ) -> None:
        self.info = info
        self._settings = settings
        self._device = device
        self._sessions = sessions
        self._images = images
        self._decoders = decoders
        self._pixels: ExpiringStore[str, NDArray[np.uint8]] = ExpiringStore(
            ttl_s=settings.session_ttl_s,
            max_items=settings.max_sessions,
            max_bytes=settings.max_decoded_image_bytes,
            bytes_of=lambda rgb: rgb.nbytes,
        )

    async def ask(
        self,
        request: InferenceRequest,
        upload: Upload | None,
        facts: RequestFacts,
        ticket: Ticket,
        tell: Tell | None = None,
        *,
        is_early: bool = False,
    ) -> InferenceResponse:
        """Stage one. `upload` is the encoded global image, None if the request names one by id.

        `tell` is told each token of the draft as `AsyncEngine.answer` says and, with the early gate
        (`is_early`), the reply as far as it is once a region is wanted. From then on the patch may come, and
        the ticket is superseded.
        """
        with _translated_failures():
            max_new_tokens = self._max_new_tokens(request.max_new_tokens)
            gate = resolve_gate(request.gate, self.info.gate)
            image = await self._image_of(request, upload, facts.tenant)

            began = time.perf_counter()
            with self._device.preparing(1), facts.phase("decode_image"):
                rgb = await self._pixels_of(image, ticket)
            decode_ms = _ms_since(began)
            await self._images.remember(facts.tenant, image)

            n_uploaded = 0 if upload is None else rgb.shape[0] * rgb.shape[1]
            inference_id = new_inference_id(self._settings.server_tag)
            picture = Picture(image.id, rgb)
            asking = _Asking(
                inference_id, request, gate, max_new_tokens, image, picture, n_uploaded, decode_ms, facts
            )
            answered, search = await self._draft(asking, ticket, tell, is_early=is_early)
            if search is None:
                search = await self._search_if_wanted(asking, answered)
        if search.early is None:
            return await self._conclude(asking, answered, search)
        return self._first_reply(asking, answered, search)

    async def _draft(
        self, asking: _Asking, ticket: Ticket, tell: Tell | None, *, is_early: bool
    ) -> tuple[Answered, _Search | None]:
        """Return the draft and, if the early gate began a search, what it found."""
        request = AnswerRequest(asking.picture, asking.request.question, max_new_tokens=asking.max_new_tokens)
        if tell is None or not is_early:
            with asking.facts.phase("answer"):
                return await self._device.answer(request, ticket, tell), None

        async def search(so_far: Answered) -> _Search:
            found = await self._localized(asking, so_far)
            if gate.is_over or found.roi is None:
                return found
            reply = await self._conclude(asking, gate.so_far(), found)
            ticket.is_superseded = asking.facts.is_superseded = True
            tell(reply)
            return replace(found, early=reply)

        def hear(token: TokenStats) -> None:
            tell(token)
            gate.add(token)

        gate = EarlyGate(asking.gate, asking.request.mode, search)
        try:
            with asking.facts.phase("answer"):
                answered = await self._device.answer(request, ticket, hear, gate.open)
            return answered, await gate.found()
        finally:
            gate.stop()

    async def _search_if_wanted(self, asking: _Asking, answered: Answered) -> _Search:
        result, mode = answered.result, asking.request.mode
        is_wanted = mode == "always" or is_doubtful(judge(result.tokens, asking.gate), result.tokens)
        if not is_wanted or mode == "answer_only":
            return _Search()
        if mode == "auto" and result.is_off_domain:
            # The model says that the question is none for it. A closer look would not change that.
            return _Search(skip="off_domain")
        return await self._localized(asking, answered)

    async def _localized(self, asking: _Asking, answered: Answered) -> _Search:
        with asking.facts.phase("localize"):
            return await self._search(
                asking.picture,
                answered.result.attention,
                asking.request.image,
                asking.request.max_rounds - 1,
            )

    async def _conclude(self, asking: _Asking, answered: Answered, search: _Search) -> InferenceResponse:
        """Return the reply to stage one; from here on its patch may come."""
        reply, facts = self._first_reply(asking, answered, search), asking.facts
        pending = None
        if search.roi is not None:
            pending = PendingPatch(
                asking.image,
                asking.request.question,
                asking.gate,
                asking.max_new_tokens,
                asking.request.include,
                search.roi,
                n_further=asking.request.max_rounds - 1,
                regions=search.further,
            )
        await self._sessions.remember(Session(asking.id, facts.tenant, reply, pending))
        return reply

    def _first_reply(self, asking: _Asking, answered: Answered, search: _Search) -> InferenceResponse:
        offer = None
        if search.roi is not None:
            offer = search.early.patch if search.early else patch_offer(asking.id, self.info, self._settings)
        facts = asking.facts
        reply = build_reply(
            Findings(
                inference_id=asking.id,
                stage=1,
                image_id=asking.image.id,
                model=self.info.name,
                answered=answered,
                confidence=judge(answered.result.tokens, asking.gate),
                roi=search.roi,
                patch=offer,
                received_bytes=facts.received_bytes,
                decode_ms=asking.decode_ms,
                localize_ms=search.localize_ms,
                include=asking.request.include,
                gate=asking.gate,
                skip=search.skip,
                relevance=search.relevance,
            )
        )
        facts.skip = search.skip
        facts.pixels.original = asking.request.image.width * asking.request.image.height
        facts.pixels.uploaded = asking.n_uploaded_pixels
        facts.pixels.asked = self._asked_pixels(search.roi) if search.roi else 0
        _note(reply, facts)
        return reply

    async def look_again(
        self,
        inference_id: str,
        patch: Upload,
        facts: RequestFacts,
        ticket: Ticket,
        on_token: OnToken | None = None,
    ) -> InferenceResponse:
        """Stage two. The same bytes again give the same reply; after a failure the session waits again.

        While the answer stays doubtful and the request allows it, the reply asks for a further region.
        """
        claim = await self._sessions.claim(facts.tenant, inference_id, patch.sha256)
        session = claim.session
        facts.inference_id = inference_id  # not before: what names no session is a client's free text
        if claim.outcome != "run":
            reply = _earlier_reply(claim)
            facts.outcome = "replayed"
            return reply
        try:
            with _translated_failures():
                self._device.check_room(2)
                assert session.pending is not None, "a session that may run waits for a patch"
                reply, further = await self._answer_with_patch(
                    session, session.pending, patch, facts, ticket, on_token
                )
        except BaseException:  # a cancelled request, too, leaves the session waiting
            await self._sessions.release(claim)
            raise
        await self._sessions.complete(claim, reply, further)
        _note(reply, facts)
        return reply

    def forget_pixels(self, unwanted: str) -> None:
        """Forget the decoded pixels of the image with this id, if they are held."""
        self._pixels.remove(unwanted)

    async def _answer_with_patch(
        self,
        session: Session,
        pending: PendingPatch,
        patch: Upload,
        facts: RequestFacts,
        ticket: Ticket,
        on_token: OnToken | None,
    ) -> tuple[InferenceResponse, PendingPatch | None]:
        """Return the reply, and what it waits for if it asks for a further region."""
        settings, roi = self._settings, pending.roi

        began = time.perf_counter()
        with self._device.preparing(2), facts.phase("decode_image"):
            local_rgb = await self._decode(
                patch.data, patch_limits(settings), ticket, lambda size: self._check_patch_size(size, roi)
            )
            global_rgb = await self._pixels_of(pending.image, ticket)
        decode_ms = _ms_since(began)
        facts.pixels.uploaded = local_rgb.shape[0] * local_rgb.shape[1]

        with facts.phase("answer"):
            answered = await self._device.answer(
                AnswerRequest(
                    Picture(pending.image.id, global_rgb),
                    pending.question,
                    patch=Picture(image_id(session.tenant, patch.sha256), local_rgb),
                    max_new_tokens=pending.max_new_tokens,
                ),
                ticket,
                on_token,
            )
        look = build_reply(
            Findings(
                inference_id=session.id,
                stage=2,
                image_id=pending.image.id,
                model=self.info.name,
                answered=answered,
                confidence=judge(answered.result.tokens, pending.gate),
                roi=roi,
                received_bytes=facts.received_bytes,
                decode_ms=decode_ms,
                include=pending.include,
                gate=pending.gate,
            )
        )
        can_be_sharper = _SHARPER * facts.pixels.uploaded <= self._usual_pixels(roi)
        reply, further = self._after_look(session, pending, look, can_be_sharper=can_be_sharper)
        facts.pixels.asked = self._asked_pixels(further.roi) if further else 0
        return reply, further

    def _after_look(
        self, session: Session, pending: PendingPatch, look: InferenceResponse, *, can_be_sharper: bool
    ) -> tuple[InferenceResponse, PendingPatch | None]:
        """Return the reply to `look`: the surest answer so far and, if that is doubtful, a further region."""
        reply, surest = look, pending.roi
        if pending.surest is not None:
            reply = with_surer_answer(look, session.reply)
            surest = pending.roi if reply is look else pending.surest
        further = None
        if reply.doubtful and not look.off_domain:
            further = further_look(pending, surest, can_be_sharper=can_be_sharper)
        if further is None:
            return reply.model_copy(update={"roi": surest}), None
        asks = {
            "status": "needs_patch",
            "roi": further.roi,
            "patch": patch_offer(session.id, self.info, self._settings),
        }
        return reply.model_copy(update=asks), further

    async def _search(
        self, picture: Picture, attention: AttentionMap | None, original: ImageSize, n_further: int
    ) -> _Search:
        """Find the region and judge whether its crop can help; and up to `n_further` regions after it."""
        if self.info.answers_only is not None:
            return _Search(skip="answers_only")
        height, width = picture.rgb.shape[:2]
        seen = seen_size(ImageSize(width=width, height=height), self.info.image)
        skip = skip_before_looking(original, seen)
        if skip:
            return _Search(skip=skip)
        if attention is None:
            raise EngineError("the first stage came without attention")
        began = time.perf_counter()
        how = self.info.localization
        if how.attention == "relative":
            attention = relative_attention(attention, await self._device.neutral_attention(picture))
        if not np.isfinite(attention.weights).all() or attention.weights.min() < 0:
            raise EngineError("the attention map is not finite and non-negative")
        region = locate(attention, original, how)
        limits = patch_limits(self._settings)
        skip = skip_region(region, original, seen, self.info.patch, limits)
        further = () if skip else further_regions(attention, original, region, n_further)
        return _Search(
            roi=None if skip else roi_of(region, original),
            further=tuple(
                roi_of(each, original)
                for each in further
                if skip_region(each, original, seen, self.info.patch, limits) is None
            ),
            skip=skip,
            relevance=attention,
            localize_ms=_ms_since(began),
        )

    async def _image_of(self, request: InferenceRequest, upload: Upload | None, tenant: str) -> EncodedImage:
        if (upload is None) == (request.image_id is None):
            raise ProblemError(ErrorCode.INVALID_REQUEST, "send either an image part or an image_id")
        if upload is not None:
            return EncodedImage(image_id(tenant, upload.sha256), upload.data)
        assert request.image_id is not None  # the check above
        return await self._images.recall(tenant, request.image_id)

    def _max_new_tokens(self, asked: int | None) -> int:
        most = self.info.max_new_tokens
        if asked is None:
            return min(self.info.usual_new_tokens or self._settings.default_max_new_tokens, most)
        if asked > most:
            raise ProblemError(ErrorCode.INVALID_REQUEST, f"max_new_tokens: at most {most}")
        return asked

    def _asked_pixels(self, roi: Roi) -> int:
        asked = seen_size(ImageSize(width=roi.pixels.width, height=roi.pixels.height), self.info.patch)
        return asked.width * asked.height

    def _usual_pixels(self, roi: Roi) -> float:
        """Of a region sent as the model's recipe says: sharper was measured not to pay for its bytes."""
        recipe = self.info.recipes and self.info.recipes.patch
        return self._asked_pixels(roi) * (recipe.scale**2 if recipe else 1.0)

    def _check_patch_size(self, size: ImageSize, roi: Roi) -> None:
        asked = ImageSize(width=roi.pixels.width, height=roi.pixels.height)
        given = f"the patch is {size.width}x{size.height}"
        if seen_size(size, self.info.patch) != size:
            budget = self.info.patch
            offered = f"{budget.max_width}x{budget.max_height}"
            if budget.max_pixels is not None:
                offered += f" and {budget.max_pixels} pixels"
            raise ProblemError(ErrorCode.PATCH_SIZE_MISMATCH, f"{given}, more than the offer's {offered}")
        if not has_shape_of(size, asked):
            raise ProblemError(
                ErrorCode.PATCH_SIZE_MISMATCH,
                f"{given}, another shape than the region's {asked.width}x{asked.height}",
            )

    async def _pixels_of(self, image: EncodedImage, ticket: Ticket) -> NDArray[np.uint8]:
        """Decoded once for both stages and further questions, as long as there is room."""
        rgb = self._pixels.get(image.id)
        if rgb is None:
            rgb = await self._decode(image.data, image_limits(self._settings), ticket)
        self._pixels.put(image.id, rgb)
        return rgb

    async def _decode(
        self,
        data: bytes,
        limits: ImageLimits,
        ticket: Ticket,
        check_size: Callable[[ImageSize], None] = lambda _: None,
    ) -> NDArray[np.uint8]:
        return await self._decoders.decode(data, limits, ticket, check_size)


@contextmanager
def _translated_failures() -> Iterator[None]:
    """The one seam where the queue's and the engine's errors become problems."""
    try:
        yield
    except TooLate:
        raise deadline_exceeded() from None
    except QueueFull as exc:
        raise queue_full(exc) from None
    except QueueClosed:
        raise not_ready("the server is shutting down") from None
    except EngineError as exc:
        raise ProblemError(ErrorCode.ENGINE_FAILED, "the failure has been logged", 1.0) from exc


def queue_full(exc: QueueFull) -> ProblemError:
    return busy("the queue is full", retry_after_s=exc.retry_after_s)


def _earlier_reply(claim: PatchClaim) -> InferenceResponse:
    if claim.outcome == "answered":
        raise ProblemError(ErrorCode.STAGE_CONFLICT, "this inference was answered in its first stage")
    if claim.outcome == "conflict":
        raise ProblemError(ErrorCode.PATCH_CONFLICT, "another patch was sent for this region")
    if claim.outcome == "in_progress":
        raise ProblemError(ErrorCode.IDEMPOTENCY_IN_PROGRESS, "this patch is being worked on", 1.0)
    return claim.session.reply


def _note(reply: InferenceResponse, facts: RequestFacts) -> None:
    facts.inference_id = reply.id
    facts.outcome = reply.status
    facts.confidence = reply.confidence
    facts.usage = reply.usage
    facts.timing_ms = reply.timing_ms


def _ms_since(began: float) -> float:
    return 1000 * (time.perf_counter() - began)
