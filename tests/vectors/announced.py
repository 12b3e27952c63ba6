"""What happens where a server announces more than older ones: the raw form, recipes, further looks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.vectors.exchanges import (
    Exchange,
    draft,
    final,
    lost,
    model,
    of,
    offer,
    page,
    problem,
    roi,
    sure,
)
from tests.vectors.playing import Scenario


def raw_form() -> Iterator[Scenario]:
    """Servers that take the picture as the body and the request as a header, where that is shorter."""
    raw = model(raw_image=True)
    both = (raw, draft(), final())
    yield of("raw: both stages", *both)
    yield of("raw: a server that does not", model(raw_image=False), draft(), final())
    terms = {"mode": "always", "threshold": 0.25, "max_new_tokens": 7, "include": ["tokens"]}
    yield of("raw: other terms", *both, **terms)
    yield of("raw: a held picture has no body", *both, sure(), asks=[{}, {}])
    expired = problem("image_expired")
    yield of(
        "raw: a held picture has expired", *both, expired, draft(image_id="img-2"), final(), asks=[{}] * 2
    )
    yield of("raw: a key of the caller's", *both, sure(), asks=[{"idempotency_key": "frame 7"}] * 2)
    yield of("raw: a key about scripts", *both, question="ß", idempotency_key="frame 7")
    yield of("raw: a retry", raw, lost("network"), page(502), sure())
    yield of("raw: a picture that holds a boundary", *both, picture={"start": "--0\r\n--1 "})
    yield of("raw: JPEG by choice", *both, settings={"format": "jpeg"})
    for name, question in {
        "some scripts": 'Was "steht" dort? ß \u4f55 \U0001f642\u2028\t\\',
        "controls": "a\x1f\x7f\x80\r\nX-Other: b",
        "a script that a header makes long": "\u4f55" * 60,
        "as long as parts": "é" * 22 + "\u4f55" * 3,
        "a byte longer than parts": "é" * 20 + "\u4f55" * 6,
    }.items():
        yield of(f"raw: {name}", raw, sure(), question=question)
    around = len('{"question":"","image":{"width":4000,"height":3000}}')
    yield of("raw: the longest header", raw, sure(), question="x" * (4096 - around))
    yield of("raw: a header too long", raw, sure(), question="x" * (4097 - around))
    small = {"limits": {"max_header_bytes": 241}}
    yield of(
        "raw: half of what heads may have",
        model(raw_image=True, **small),
        sure(),
        question="x" * (120 - around),
    )
    yield of(
        "raw: more than half of it", model(raw_image=True, **small), sure(), question="x" * (121 - around)
    )
    yield of("raw: a server of no headers", model(raw_image=True, limits={"max_header_bytes": 0}), sure())
    yield of("raw: a body that holds little", model(raw_image=True, limits={"max_image_bytes": 150}), sure())
    yield of(
        "raw: a budget that lowers the quality",
        raw,
        sure(),
        max_uplink_bytes=1350,
        picture={"divisor": 20_000},
    )
    yield of("raw: a budget below the region", raw, draft(), max_uplink_bytes=1800)
    for value in (None, "perhaps", {}):
        yield of(f"raw: neither yes nor no but {value!r}", model(raw_image=value))


def recipes() -> Iterator[Scenario]:
    """Encodings that a server names as best for its model."""
    image = {"format": "webp", "quality": 64, "scale": 0.7}
    region = {"format": "jpeg", "quality": 50, "scale": 0.5}

    def named(**changes: Any) -> Exchange:
        return model(recipes={"image": image, "patch": region, **changes})

    yield of("recipes of both", named(), draft(), final())
    yield of("recipes of pictures only", named(patch=None), draft(), final())
    yield of("recipes of regions only", model(recipes={"patch": region}), draft(), final())
    yield of("recipes of neither", model(recipes={}), draft(), final())
    yield of("recipes of no size", named(image={"format": "jpeg", "quality": 70}), sure())
    yield of("recipes that lose nothing", named(image={"format": "png", "quality": 1}), sure())
    yield of(
        "recipes of a format that the server refuses",
        named(),
        draft(patch=offer(formats=["image/png"])),
        final(),
    )
    yield of("recipes below the least quality", named(image={**image, "quality": 20}), sure())
    tight = {"max_bytes": 100}
    yield of("recipes that do not fit", model(recipes={"image": image}, image=tight), sure())
    yield of(
        "recipes and a pixel budget", model(recipes={"image": image}, image={"max_pixels": 49_591}), sure()
    )
    for side, share in ((45, 0.5), (47, 0.5), (333, 0.15)):
        sides = {"max_width": side, "max_height": side}
        yield of(
            f"recipes: {share} of {side}",
            model(recipes={"image": {**image, "scale": share}}, image=sides),
            sure(),
        )
    yield of("recipes and a thin picture", named(), sure(), picture={"width": 3000, "height": 3})
    tenth = model(recipes={"image": {**image, "scale": 0.1}}, limits={"min_side_pixels": 100})
    yield of("recipes below the least side", tenth, sure())
    for setting in ({"format": "webp"}, {"image_quality": 40}, {"patch_quality": 85}):
        yield of(
            f"recipes beside the setting {next(iter(setting))}", named(), draft(), final(), settings=setting
        )
    yield of(
        "recipes beside other settings", named(), draft(), final(), settings={"min_quality": 45, "retries": 1}
    )
    for name, value in {"scale": 0.05, "quality": 0, "format": "tiff"}.items():
        yield of(f"recipes of {name} {value}", named(image={**image, name: value}))
    yield of("recipes of half a quality", named(image={**image, "quality": 40.5}))
    yield of("recipes of more quality than there is", named(image={**image, "quality": 101}))
    yield of("recipes of no scale", named(image={**image, "scale": None}))
    yield of("recipes without a format", named(image={"quality": 40}))
    yield of("recipes that are a list", model(recipes=[]))
    yield of("recipes of a newer server", named(image={**image, "effort": 6}, second=region), sure())


def further_looks() -> Iterator[Scenario]:
    """Regions one after the other, while the answer stays doubtful."""
    many = model(max_rounds=3)

    def more(answer: str = "second", left: int = 1000, value: float = 0.625, **changes: Any) -> Exchange:
        """Return a reply to a region that wants another one."""
        confidence = {**sure()["json"]["confidence"], "value": value}
        wanted = {
            "status": "needs_patch",
            "roi": roi(left, 200, left + 600, 500),
            "patch": offer(),
            "doubtful": True,
        }
        return final(answer=answer, confidence=confidence, **{**wanted, **changes})

    three = (many, draft(), more(), more("third", 2000), final())
    yield of("looks: as many as wanted", *three, max_rounds=3)
    yield of("looks: nobody wants more than one", many, draft(), final())
    yield of("looks: one is enough", many, draft(), final(), max_rounds=3)
    yield of("looks: none is needed", many, sure(), max_rounds=3)
    yield of("looks: fewer than the server knows", *three[:3], final(), max_rounds=2)
    two = model(max_rounds=2)
    yield of("looks: more than the server knows", two, draft(), more(), final(), max_rounds=4)
    lots = [more(str(number), 1000 + 600 * number) for number in range(3)]
    yield of("looks: more than this edge knows", model(max_rounds=9), draft(), *lots, final(), max_rounds=9)
    yield of("looks: an older server", model(), draft(), final(), max_rounds=3)
    yield of("looks: no server asks for more than was said", two, draft(), more(), more(), max_rounds=2)
    yield of("looks: and not in vain if strict", two, draft(), more(), more(), max_rounds=2, strict=True)
    raw = model(max_rounds=3, raw_image=True)
    terms = {"max_rounds": 2, "max_new_tokens": 7, "include": ["tokens"]}
    yield of("looks: in a header", raw, draft(), more(), final(), **terms)
    yield of("looks: tokens as they come", *three, max_rounds=3, streams=True)
    key = {"idempotency_key": "frame 7"}
    yield of(
        "looks: a key of the caller's",
        many,
        draft(),
        more(),
        final(),
        sure(),
        asks=[{**key, "max_rounds": 2}, key],
    )
    yield of("looks: at a held picture", *three, draft(), more(), final(), asks=[{"max_rounds": 3}] * 2)

    small = {"format": "webp", "quality": 50, "scale": 0.5}
    named = model(max_rounds=3, recipes={"patch": small})
    same = {"left": 100}
    yield of("looks: the same region, sharper", named, draft(), more(**same), final(), max_rounds=3)
    yield of("looks: another region, as named", named, draft(), more(), final(), max_rounds=3)
    yield of(
        "looks: the same region, which is as sharp as it gets", many, draft(), more(**same), max_rounds=3
    )
    yield of(
        "looks: the region before the last", many, draft(), more(), more("third", 100), final(), max_rounds=3
    )
    few = model(max_rounds=3, recipes={"patch": {**small, "quality": 45}})
    yield of("looks: another region, named below its quality", few, draft(), more(), final(), max_rounds=3)
    yield of("looks: another region, by settings", *three, max_rounds=3, settings={"patch_quality": 85})
    yield of(
        "looks: the region before the last, as named",
        named,
        draft(),
        more(),
        more("third", 100),
        max_rounds=3,
    )
    yield of(
        "looks: the same region twice", named, draft(), more(**same), more("third", **same), max_rounds=3
    )
    end = {"status": "answered", "roi": None, "patch": None}
    as_sure, doubtful = more("draft", value=0.75), more("draft", 2000, 0.75)
    yield of(
        "looks: the same answer, as sure",
        many,
        draft(),
        as_sure,
        doubtful,
        more("draft", value=0.75, **end),
        max_rounds=3,
    )
    yield of(
        "looks: the same answer, surer",
        many,
        draft(),
        as_sure,
        more("draft", 2000, 0.5),
        more("draft", value=0.5, **end),
        max_rounds=3,
    )
    yield of(
        "looks: the last look was the surest",
        many,
        draft(),
        as_sure,
        doubtful,
        more("other", value=0.75, **end),
        max_rounds=3,
    )

    once = (many, draft(), more())
    yield of("looks: a further look is tried again", *once, page(502), final(), max_rounds=3)
    for strict in (False, True):
        words = ", strict" if strict else ""
        yield of(
            f"looks: a further look breaks{words}", *once, *[lost("network")] * 3, max_rounds=3, strict=strict
        )
        yield of(
            f"looks: a further look has expired{words}",
            *once,
            problem("inference_expired"),
            max_rounds=3,
            strict=strict,
        )
        yield of(
            f"looks: a further look names no region{words}",
            many,
            draft(),
            more(roi=None),
            max_rounds=3,
            strict=strict,
        )
        yield of(f"looks: the budget ends{words}", *once, max_rounds=3, strict=strict, max_uplink_bytes=2400)
        yield of(
            f"looks: time ends{words}",
            *once[:2],
            {**once[2], "after_s": 9.5},
            max_rounds=3,
            strict=strict,
            timeout_s=10.0,
        )
        yield of(
            f"looks: the budget ends before the first{words}",
            *once[:2],
            max_rounds=3,
            strict=strict,
            max_uplink_bytes=1500,
        )
    yield of("looks: a region outside of the picture", many, draft(), more(roi=roi(right=4001)), max_rounds=3)
    yield of(
        "looks: an address elsewhere", many, draft(), more(patch=offer(url="//elsewhere.test")), max_rounds=3
    )

    refusal = problem("invalid_request")
    yield of(
        "looks: a server that knows them no more",
        many,
        refusal,
        draft(),
        final(),
        model(),
        sure(),
        asks=[{"max_rounds": 3}] * 2,
    )
    yield of("looks: a server that refuses all", many, refusal, refusal, max_rounds=3)
    yield of("looks: a server that refuses one look", many, refusal)
    held = {"max_rounds": 3}
    yield of("looks: refused about a held picture", many, sure(), refusal, sure(), asks=[{}, held])
    yield of("looks: other refusals stand", many, problem("forbidden"), max_rounds=3)
    for rounds in (0, -1, 1.5):
        yield of(f"looks: {rounds} of them", many, max_rounds=rounds)
    for value in (0, "many", None, 1.5):
        yield of(f"looks: a server of {value!r}", model(max_rounds=value))
