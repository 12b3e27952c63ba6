"""Puts one question to the server under one method, over HTTP, and writes down what came of it.

`always` and `pair` go through `EdgeClient`; the others, which it rightly does not offer, through single
requests. Every question uploads its picture anew, as if it were asked alone.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from secondglance import EdgeClient, EdgeSettings
from secondglance.conversation.requests import Ask
from secondglance.link.encoding_choice import EncodingChoice
from secondglance.link.uplink import Uplink
from secondglance.pictures.encoding import Encoded, Recipe
from secondglance.reply import StageReceipt
from secondglance_eval.asking.photo import Photo, View
from secondglance_eval.asking.records import Record, StageCost, TokenUncertainty
from secondglance_eval.asking.single_requests import SingleRequests
from secondglance_eval.datasets.example import Example, ScoreRule
from secondglance_protocol.wire import (
    ImageSize,
    InferenceRequest,
    InferenceResponse,
    Mode,
    ModelResponse,
    PixelBox,
    Recipes,
)

CropRule = Callable[[PixelBox, Example], PixelBox]
"""From the region that the server asked for to the one that is sent instead."""


class Asker:
    """One server and one metric; may be shared by threads."""

    def __init__(self, url: str, score: ScoreRule, settings: EdgeSettings | None = None) -> None:
        settings = settings or EdgeSettings()
        # Each question as if asked alone, and every picture in the same encoding, whatever loopback is like.
        self._settings = settings.model_copy(update={"remembered_images": 0, "link_aware": False})
        self._score = score
        self._edge = EdgeClient(url, settings=self._settings)
        self.model: ModelResponse = self._edge.model()
        self._encodings = EncodingChoice(self._settings, Uplink(), self.model.recipes)
        self._wire = SingleRequests(url, self._settings, self.model)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._edge.close()
        self._wire.close()

    @property
    def image_recipe(self) -> Recipe:
        """Return how the edge encodes the whole picture."""
        return self._encodings.for_image()[0]

    @property
    def image_view(self) -> View:
        """Return the whole picture as the edge sends it."""
        return View(*self._encodings.for_image())

    def through_the_edge(self, method: str, photo: Photo, example: Example, mode: Mode) -> Record:
        """Ask the product as it is; with `always` it looks again whatever the gate says."""
        reply = self._edge.ask(photo.data, example.question, mode=mode, include=("tokens",))
        return self._record(
            method,
            photo,
            example,
            mode,
            (reply.first, _cost(reply.receipt.stage1)),
            (reply.second, _cost(reply.receipt.stage2)) if reply.second and reply.receipt.stage2 else None,
            degraded=reply.degraded,
        )

    def with_another_crop(
        self, method: str, photo: Photo, example: Example, mode: Mode, place: CropRule
    ) -> Record:
        """Ask the pair, but cut elsewhere than the server looked."""
        ask = Ask(example.question, mode=mode, include=("tokens",))
        first, cost = self._wire.ask(ask, photo.size, photo.view(self.image_view))
        second = self._shown(photo, first, place, example, self._encodings)
        return self._record(method, photo, example, mode, (first, cost), second)

    def with_recipes(self, method: str, photo: Photo, example: Example, recipes: Recipes) -> Record:
        """Ask the pair as it is, but encode picture and region as `recipes` say."""
        encodings = EncodingChoice(EdgeSettings.model_construct(), Uplink(), recipes)
        ask = Ask(example.question, include=("tokens",))
        first, cost = self._wire.ask(ask, photo.size, photo.view(View(*encodings.for_image())))
        second = self._shown(photo, first, lambda region, _: region, example, encodings)
        return self._record(method, photo, example, "auto", (first, cost), second)

    def _shown(
        self,
        photo: Photo,
        first: InferenceResponse,
        place: CropRule,
        example: Example,
        encodings: EncodingChoice,
    ) -> tuple[InferenceResponse, StageCost] | None:
        """Send the region at `place`, if one is wanted."""
        if first.roi is None or first.patch is None:
            return None
        pixels = place(first.roi.pixels, example)
        crop = photo.patch(pixels, first.patch, next(encodings.for_patch()), encodings.patch_scale)
        return self._wire.show(first.patch, crop)

    def with_one_picture(self, method: str, photo: Photo, example: Example, picture: Encoded) -> Record:
        """Ask with a single picture and no second stage."""
        ask = Ask(example.question, mode="answer_only", include=("tokens",))
        answered = self._wire.ask(ask, photo.size, picture)
        return self._record(method, photo, example, "answer_only", answered, None)

    def _record(
        self,
        method: str,
        photo: Photo,
        example: Example,
        mode: Mode,
        first: tuple[InferenceResponse, StageCost],
        second: tuple[InferenceResponse, StageCost] | None,
        *,
        degraded: str | None = None,
    ) -> Record:
        draft = first[0]
        final = second[0] if second else draft
        return Record(
            example_id=example.id,
            method=method,
            answer=final.answer,
            score=self._score(final.answer, example),
            stage=final.stage,
            asked_again=draft.status == "needs_patch",
            draft_answer=draft.answer,
            draft_score=self._score(draft.answer, example),
            tokens=_uncertainty(draft),
            roi=draft.roi.pixels if draft.roi else None,
            first=_plain(*first, extras=_extras_bytes(example, photo, mode)),
            second=_plain(*second) if second else None,
            original_bytes=len(photo.data),
            image_id=example.image_id,
            question=example.question,
            answers=example.answers,
            kind=example.kind,
            width=example.width,
            height=example.height,
            text_height_px=example.text_height_px,
            box=example.box,
            offer_bytes=_offer_bytes(draft),
            degraded=degraded,
            final_tokens=_uncertainty(second[0]) if second else None,
        )


def _uncertainty(reply: InferenceResponse) -> tuple[TokenUncertainty, ...]:
    return tuple(
        TokenUncertainty(min_entropy=t.min_entropy, shannon=t.shannon, margin=t.margin)
        for t in reply.tokens or ()
    )


def _cost(stage: StageReceipt) -> StageCost:
    return StageCost(
        uplink_bytes=stage.uplink_bytes, downlink_bytes=stage.downlink_bytes, elapsed_ms=stage.elapsed_ms
    )


def _extras_bytes(example: Example, photo: Photo, mode: Mode) -> int:
    """What naming a mode and asking for tokens adds to the request."""
    size = ImageSize(width=photo.size[0], height=photo.size[1])

    def length(**extras: object) -> int:
        request = InferenceRequest.model_validate({"question": example.question, "image": size, **extras})
        return len(request.model_dump_json(exclude_defaults=True))

    return length(mode=mode, include=("tokens",)) - length()


def _plain(reply: InferenceResponse, cost: StageCost, *, extras: int = 0) -> StageCost:
    """The cost without what the evaluation added: `extras` bytes up, the tokens' statistics down."""
    with_tokens = len(reply.model_dump_json(include={"tokens"}))
    without = len(reply.model_copy(update={"tokens": None}).model_dump_json(include={"tokens"}))
    return cost.model_copy(
        update={
            "uplink_bytes": cost.uplink_bytes - extras,
            "downlink_bytes": cost.downlink_bytes - (with_tokens - without),
        }
    )


def _offer_bytes(first: InferenceResponse) -> int:
    """What `needs_patch` adds to a reply."""
    parts = {"status", "roi", "patch"}
    answered = first.model_copy(update={"status": "answered", "roi": None, "patch": None})
    return len(first.model_dump_json(include=parts)) - len(answered.model_dump_json(include=parts))
