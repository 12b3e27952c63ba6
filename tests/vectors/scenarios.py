"""What happens to a conversation: every kind of reply, failure and limit that an edge may meet."""

from __future__ import annotations

import json
from collections.abc import Iterator

from secondglance_protocol.errors import ERRORS, ErrorCode
from tests.vectors.announced import further_looks, raw_form, recipes
from tests.vectors.exchanges import (
    HOLE,
    draft,
    final,
    long,
    lost,
    model,
    of,
    offer,
    page,
    problem,
    roi,
    said,
    sure,
    without,
)
from tests.vectors.playing import Scenario


def answered() -> Iterator[Scenario]:
    """Nothing goes wrong."""
    both = (model(), draft(), final())
    yield of("one stage", model(), sure())
    yield of("both stages", *both)
    yield of("both stages in time", *both, timeout_s=30.5)
    yield of("other terms", *both, mode="always", threshold=0.25, max_new_tokens=7)
    yield of("answer only", model(), sure(), mode="answer_only")
    yield of("a question in many scripts", *both, question='Was "steht" dort? 何\u2028🙂\t\\')
    tokens = [{"text": "fi", "min_entropy": 0.125, "shannon": 0.25, "margin": 0.375}]
    content = {"x0": 0.0, "y0": 0.125, "x1": 1.0, "y1": 0.875}
    relevance = {"weights": [[0.5, 0.25], [0.125, 0.0]], "content": content}
    yield of(
        "tokens and relevance",
        model(),
        draft(tokens=tokens, relevance=relevance),
        final(tokens=tokens),
        include=["tokens", "relevance"],
    )
    yield of("a second question about the picture", *both, sure(), asks=[{}, {"mode": "answer_only"}])
    ids = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for name, value in {"its trace": f"00-{ids}", "a trace that is none": f"00-{ids}-"}.items():
        yield of(f"a server that names {name}", model(), {**sure(), "headers": {"traceresponse": value}})
    yield of("a picture that came decoded is sent twice", *both, sure(), asks=[{}, {}], picture={"key": None})
    yield of("no picture is remembered", *both, sure(), asks=[{}, {}], settings={"remembered_images": 0})
    yield of(
        "a held picture has expired",
        *both,
        problem("image_expired"),
        draft(image_id="img-2"),
        final(),
        sure(),
        asks=[{}, {}, {}],
    )
    yield of(
        "a held picture has expired, and the picture is refused",
        *both,
        problem("image_expired"),
        problem("unreadable_image"),
        model(),
        sure(),
        asks=[{}, {}, {}],
    )
    yield of("a held picture is busy, then there", *both, problem("busy", "1"), sure(), asks=[{}, {}])
    yield of("a held picture is refused", *both, problem("forbidden"), asks=[{}, {}])
    yield of("a key of the caller's", *both, sure(), asks=[{"idempotency_key": "frame 7"}] * 2)
    yield of("a boundary that the picture holds", *both, picture={"start": "--0\r\n--1 "})
    yield of("a boundary that the picture holds, but not the next", *both, picture={"start": "--0 "})
    yield of("a tall picture", *both, picture={"width": 3000, "height": 4000})
    yield of("a small picture", model(), sure(), picture={"width": 64, "height": 48, "bytes": 900})
    yield of("a thin picture", model(), sure(), picture={"width": 3000, "height": 3})
    yield of("a pixel budget", model(image={"max_pixels": 50_000}), sure())
    yield of("a server that takes anything", model(image={"max_width": 99_999, "max_height": 99_999}), sure())
    yield of(
        "a server that takes anything, and a huge picture",
        model(image={"max_width": 99_999, "max_height": 99_999}),
        sure(),
        picture={"width": 20_000, "height": 15_000, "divisor": 20_000_000},
    )
    yield of("a server that takes JPEG", model(image={"formats": ["image/jpeg", "image/png"]}), sure())
    yield of("a server that takes PNG", model(image={"formats": ["image/png"]}), sure())
    yield of("a server that takes no picture", model(image={"formats": []}))
    yield of("a low quality to fit", model(image={"max_bytes": 150}), sure())
    yield of("no quality fits", model(image={"max_bytes": 20}))
    yield of("a body that holds little", model(limits={"max_image_bytes": 340}), sure())
    yield of("a patch of low quality to fit", model(), draft(patch=offer(max_bytes=160)), final())
    yield of("no patch fits", model(), draft(patch=offer(max_bytes=20)))
    yield of("a patch in its own pixels", model(), draft(roi=roi(10, 20, 110, 70)), final())
    yield of("tokens as they come", *both, sure(), asks=[{}, {}], streams=True)
    yield of("settings of one's own", *both, settings={"image_quality": 64, "patch_quality": 40})
    yield of("JPEG by choice", *both, settings={"format": "jpeg"})


def doubts() -> Iterator[Scenario]:
    """Answers that may be wrong, and what is said of them."""
    yield of("doubtful", model(), sure(doubtful=True))
    yield of("doubtful in both stages", model(), draft(), final(doubtful=True))
    yield of("an older server is unsure", model(), without(sure(), "doubtful"))
    high = {**sure()["json"]["confidence"], "value": 0.625}
    yield of("an older server is unsure of its gate", model(), without(sure(confidence=high), "doubtful"))
    yield of("no answer", model(), sure(answer=" ", doubtful=True, reason="empty_answer"))
    for blank in ("", "\t\x1c\x85\u3000", "\ufeff", "\u200b", "\u180e"):
        yield of(f"an answer of {blank!a}", model(), without(sure(answer=blank), "doubtful"))
    yield of("not its domain", model(), sure(doubtful=True, off_domain=True, reason="off_domain"))
    yield of("no second look", model(), sure(doubtful=True, reason="whole_image"))
    yield of("a reason that only a newer server knows", model(), sure(doubtful=True, reason="new_one"))
    yield of("a reason that is a name of JavaScript", model(), sure(doubtful=True, reason="constructor"))


def retried() -> Iterator[Scenario]:
    """Failures that pass."""
    yield of(
        "each request fails once",
        *[problem("internal_error"), model()],
        *[lost("network"), draft()],
        page(502),
        final(),
    )
    yield of(
        "the dice shorten a wait", model(), problem("internal_error"), lost("connect"), sure(), draw=0.75
    )
    yield of("three failures are too many", model(), *[problem("internal_error")] * 3)
    yield of("nobody is there", *[lost("connect")] * 3)
    yield of("the connection breaks", model(), *[lost("network")] * 3)
    yield of("no answer in time is not asked again", model(), lost("timeout"))
    yield of("no HTTP is not asked again", lost("protocol"))
    yield of("stage two breaks", model(), draft(), *[lost("network")] * 3)
    yield of("stage two breaks, strict", model(), draft(), *[lost("network")] * 3, strict=True)
    yield of("no retries", model(), problem("busy"), settings={"retries": 0})
    waits = {"retries": 6, "retry_wait_s": 1.5, "max_retry_wait_s": 5.0}
    yield of("waits grow to a limit", model(), *[page(500)] * 6, sure(), settings=waits)
    for text, name in {
        "3": "a number",
        " 4 ": "a number in blanks",
        "0": "nothing",
        "119": "long",
        "121": "too long",
        "99999999999999999999": "for ever",
        "-5": "a negative number",
        "1.5": "half a number",
        "5abc": "a number and more",
        "soon": "a word",
        "": "no word",
        "0x10": "a number of programmers",
        "1e1": "a number of scientists",
        "٣": "a number in other digits",
        "Fri, 02 Jan 2026 03:04:35 GMT": "a date",
        "Friday, 02-Jan-26 03:04:25 GMT": "an old date",
        "Fri Jan  2 03:04:15 2026": "a date as C writes it",
        "Fri, 02 Jan 2026 04:04:13 +0100": "a date elsewhere",
        "Fri, 02 Jan 2026 03:00:00 GMT": "a date that is over",
        "Fri, 02 Jan 2026 03:14:05 GMT": "a date too late",
        "Fri, 32 Jan 2026 03:04:35 GMT": "a day that is none",
        "Fri, 02 Jan 2026 25:04:35 GMT": "an hour that is none",
        "Fri, 02 Jxn 2026 03:04:35 GMT": "a month that is none",
        "9" * 400: "more digits than a number has",
    }.items():
        end = (
            ()
            if name in ("too long", "for ever", "a date too late", "more digits than a number has")
            else (sure(),)
        )
        yield of(f"Retry-After: {name}", model(), problem("busy", text), *end, draw=0.5)
    yield of("Retry-After of a proxy", model(), page(503, "2"), sure())
    yield of("Retry-After where no retry helps", model(), problem("forbidden", "2"))


def refused() -> Iterator[Scenario]:
    """Every problem of the table, in stage one and in stage two; pages of proxies."""
    for code, row in ERRORS.items():
        times = 3 if row.retryable else 1
        yield of(f"stage one: {code}", model(), *[problem(code)] * times)
        yield of(f"stage two: {code}", model(), draft(), *[problem(code)] * times)
    for code in (ErrorCode.INFERENCE_EXPIRED, ErrorCode.PATCH_CONFLICT, ErrorCode.STAGE_CONFLICT):
        yield of(f"stage two, strict: {code}", model(), draft(), problem(code), strict=True)
    yield of(
        "a problem that only a newer server knows", model(), problem("new_one", retryable=False, status=418)
    )
    yield of("a problem that is a name of JavaScript", model(), problem("constructor", retryable=False))
    hostile = {"title": "a\x1b[2Jb\u202ec\n", "detail": "\u200d\U000e0001 x" * 2, "request_id": "\x00\x9f"}
    yield of("a problem that would steer a terminal", model(), problem("forbidden", **hostile))
    yield of("a problem without end", model(), long(problem("forbidden", detail=HOLE), "🙂", 1001))
    for status in (301, 400, 401, 403, 404, 413, 418):
        yield of(f"a page of status {status}", page(status))
    for status in (408, 429, 500, 502, 503, 504):
        yield of(f"a page of status {status} again and again", *[page(status)] * 3)
    yield of("a problem without a field", model(), without(problem("forbidden"), "retryable"))
    yield of(
        "a refused picture is another model's",
        model(),
        problem("image_too_large"),
        model(),
        sure(),
        asks=[{}, {}],
    )


def limited() -> Iterator[Scenario]:
    """Budgets and deadlines."""
    both = (model(), draft(), final())
    yield of("a budget that suffices", *both, max_uplink_bytes=4000)
    yield of(
        "a budget that lowers the quality",
        model(),
        sure(),
        max_uplink_bytes=1480,
        picture={"divisor": 20_000},
    )
    yield of("a budget below the first request", max_uplink_bytes=100)
    yield of("a budget below the picture", model(), max_uplink_bytes=1042)
    yield of("a budget below the region", model(), draft(), max_uplink_bytes=1924)
    yield of("a budget below the region, strict", model(), draft(), max_uplink_bytes=1924, strict=True)
    yield of("a budget that a retry would exceed", model(), problem("busy"), max_uplink_bytes=2174)
    yield of(
        "a budget and bytes that were lost", model(), lost("network", uplink_bytes=700), max_uplink_bytes=2012
    )
    yield of(
        "a budget and a request that never left", model(), lost("connect"), sure(), max_uplink_bytes=1412
    )
    yield of("a budget that is met to the byte", model(), sure(), max_uplink_bytes=2 * 512 + 343 + 7)
    yield of("a budget that is missed by a byte", model(), sure(), max_uplink_bytes=2 * 512 + 343 + 6)
    slow = {"after_s": 4.0}
    yield of("time for both stages", *[{**each, "after_s": 3.0} for each in both], timeout_s=10.0)
    yield of(
        "time for the draft", *[{**each, **slow} for each in both[:2]], lost("timeout", 2.0), timeout_s=10.0
    )
    yield of("time for the draft only just", model(), {**draft(), "after_s": 9.75}, timeout_s=10.0)
    yield of("time for the draft, strict", model(), {**draft(), "after_s": 9.75}, timeout_s=10.0, strict=True)
    yield of("no time", {**model(), **slow}, timeout_s=4.0)
    yield of("no time for a wait", model(), problem("busy", "10"), timeout_s=10.0)
    yield of("time for a wait", model(), problem("busy", "5"), sure(), timeout_s=10.0)
    yield of("a failure after the deadline", model(), {**page(500), "after_s": 10.5}, timeout_s=10.0)
    yield of("a lost request after the deadline", model(), lost("network", 10.5), timeout_s=10.0)
    yield of("a question too long", model(), question="x" * 4097)
    yield of("a question too long in bytes", model(), question="ß" * 2049)
    yield of("a question of nothing", model(), question="")
    yield of("a question with half a character", model(), question="a\ud83d")
    yield of("a question with a NUL", model(), question="a\0b")
    yield of("no such mode", model(), mode="never")
    yield of("a threshold below zero", model(), threshold=-0.5)
    yield of("no new tokens", model(), max_new_tokens=0)
    yield of("no such thing to include", model(), include=["pixels"])
    yield of("a picture that is none", picture={"broken": True})
    yield of("a picture with a side too long", model(), picture={"width": 1_000_001, "height": 2})


def senseless() -> Iterator[Scenario]:
    """Replies that are no replies, or that nobody should act on."""
    yield of("a model that is HTML", {"status": 200, "text": [["<html>", 1]]})
    yield of("a model that is a list", {"status": 200, "json": []})
    yield of("a model that is nothing", {"status": 200, "text": []})
    yield of(
        "a model behind a mark of order",
        {"status": 200, "text": [["\ufeff" + json.dumps(model()["json"]), 1]]},
    )
    yield of("a newer protocol", model(protocol_version=2))
    yield of("a model without a name", model(name=""))
    yield of("a model without a budget", without(model(), "image"))
    yield of(
        "fields that a newer server adds",
        said(said(model(), [1], "new"), {}, "limits", "new"),
        said(sure(), 1, "new"),
    )
    yield of("limits that contradict", model(limits={"min_side_pixels": 500}))
    yield of("a limit below zero", model(limits={"max_queue": -1}))
    yield of("an aspect ratio below one", model(limits={"max_aspect_ratio": 0.5}))
    yield of("a limit that is no number", said(model(), "many", "limits", "max_queue"))
    yield of("a budget that no memory holds", model(image={"max_width": 2**40}))
    yield of("a budget of nothing", model(patch={"max_height": 0}))
    yield of("a format that nobody knows", model(image={"formats": ["image/tiff"]}))
    for path, value in {
        "id": "",
        "image_id": "x" * 129,
        "answer": None,
        "status": "perhaps",
        "stage": 2,
        "model": "x" * 257,
        "reason": "Not A Name",
        "doubtful": "maybe",
        "roi": [],
        "tokens": {},
        "confidence": None,
        "confidence.value": -1.5,
        "confidence.metric": "mood",
        "usage.received_bytes": -1,
        "usage.prompt_tokens": 2**60,
        "timing_ms.prefill": 1e10,
    }.items():
        yield of(f"stage one: {path} is {str(value)[:12]!r}", model(), said(sure(), value, *path.split(".")))
    for path in ("id", "roi", "usage.prompt_tokens", "timing_ms.queue", "image_id"):
        yield of(f"stage one: no {path}", model(), without(sure(), *path.split(".")))
    yield of("an answer without end", model(), long(sure(answer=HOLE), "x", 256 * 1024 + 1))
    yield of("an answer with half a character", model(), sure(answer="a\ud83d"))
    yield of("a number that is none", model(), long(sure(usage=HOLE), "", 1))
    for name, weights in {"ragged": [[0.5], [0.5, 0.5]], "empty": [], "of nothing": [[]]}.items():
        content = {"x0": 0.0, "y0": 0.0, "x1": 1.0, "y1": 1.0}
        yield of(f"a map that is {name}", model(), sure(relevance={"weights": weights, "content": content}))
    yield of("a box without area", model(), said(draft(), 0.5, "roi", "box", "x0"))
    yield of("a region without pixels", model(), draft(roi=roi(right=100)))
    yield of("a region outside of the picture", model(), draft(roi=roi(right=4001)))
    yield of("a region outside of the picture, strict", model(), draft(roi=roi(bottom=3001)), strict=True)
    yield of("no region", model(), draft(roi=None))
    yield of("no address", model(), draft(patch=None))
    yield of("a region beside an answer", model(), sure(roi=roi()))
    for url in (
        "https://elsewhere.test/v1/x",
        "//elsewhere.test/v1/x",
        "/v1/../admin",
        "/v1/%2e%2e/admin",
        "/v1/x?y=z",
        "/v1",
        "/v2/inferences/inf-1/patch",
        "/v1/x\n",
        "/v1/it's",
        "/v1/" + "x" * 600,
    ):
        yield of(f"an address that is {url[:32]!r}", model(), draft(patch=offer(url=url)))
    yield of("an address of other segments", model(), draft(patch=offer(url="/v1/a~b/c.d_e")), final())
    yield of("an offer without a zone", model(), draft(patch=offer(expires_at="2026-01-02T03:09:05")))
    yield of("an offer of no moment", model(), draft(patch=offer(expires_at="soon")))
    yield of("stage two says stage one", model(), draft(), sure())
    yield of("stage two wants more", model(), draft(), final(status="needs_patch", roi=roi(), patch=offer()))
    yield of("stage two is HTML", model(), draft(), {"status": 200, "text": [["<html>", 1]]})
    yield of(
        "stage two is HTML, strict", model(), draft(), {"status": 200, "text": [["<html>", 1]]}, strict=True
    )
    yield of("stage two names no image", model(), draft(), final(image_id=""))


GROUPS = {
    each.__name__: each
    for each in (answered, raw_form, recipes, further_looks, doubts, retried, refused, limited, senseless)
}
