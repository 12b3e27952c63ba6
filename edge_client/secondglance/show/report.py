"""One conversation as a web page: a single file that needs nothing from anywhere and reads well on a phone.

Shows the original with the region, what was sent in each stage (the exact bytes), the map behind the region,
each token's doubt, bytes and times. The page holds the whole picture, reduced: keep it where the picture may
be. Written with the standard library; the page has no script.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files

from PIL import Image

from secondglance.conversation.steps import Send
from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.original import ImageSource, Original
from secondglance.reply import Reply, StageReceipt
from secondglance.show.answer_sheet import readable_bytes
from secondglance_protocol.wire import Confidence, InferenceResponse, RelevanceReport, Roi, TokenReport

_SHOWN = PixelBudget(1280, 1280)
_HEAT = (226, 62, 40)
_HEAT_SIDE = 256  # pixels of the map's longer side; the browser smooths the rest


@dataclass(frozen=True, slots=True)
class Sent:
    """A picture that left, byte for byte; `name` ends in its format."""

    stage: str
    name: str
    data: bytes = field(repr=False)


class SentPictures:
    """Collects what leaves: `Hooks(on_request=sent.note)`. Retries of the same bytes count once."""

    def __init__(self) -> None:
        self.pictures: list[Sent] = []

    def note(self, send: Send) -> None:
        for part in send.parts:
            sent = Sent(send.stage, part.name, part.data)
            if not part.name.endswith(".json") and sent not in self.pictures:
                self.pictures.append(sent)


def report_page(
    source: ImageSource, question: str, reply: Reply, sent: Sequence[Sent], *, max_original_pixels: int
) -> str:
    """The page. Ask with `include=("tokens", "relevance")` to have both in it. Raises BadImageError."""
    with Original(source, max_pixels=max_original_pixels) as original:
        shown = original.global_image(_SHOWN)
        size = original.size
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=85)
    sections = [
        _head(question, reply),
        _picture(buffer.getvalue(), size, reply),
        _sending(sent, reply),
        _doubts(reply),
        _costs(reply),
    ]
    style = (files("secondglance.show") / "report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(question)}</title><style>{style}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def _head(question: str, reply: Reply) -> str:
    glances = "Second glance" if reply.stage == 2 else "First glance"
    lines = [f"<p class=kicker>{glances}</p><h1>{escape(question)}</h1>"]
    lines.append(f"<p class=answer>{escape(reply.answer) or '<i>no answer</i>'}</p>")
    if reply.stage == 2:
        lines.append(f"<p class=draft>The first glance said <b>{escape(reply.draft_answer)}</b>.</p>")
    for remark in (f"No second glance: {reply.degraded}" if reply.degraded else "", *reply.notes):
        if remark:
            lines.append(f"<p class=warning>{escape(remark)}</p>")
    return f"<header>{''.join(lines)}</header>"


def _picture(jpeg: bytes, size: tuple[int, int], reply: Reply) -> str:
    layers = f'<img class=photo alt="the original" src="{_data_uri(jpeg, "jpeg")}">'
    switch = ""
    if reply.relevance is not None:
        layers += f'<img class=heat alt="" src="{_data_uri(_heat(reply.relevance, size), "png")}">'
        switch = (
            "<label class=switch><input type=checkbox id=heat> <span>Where the model looked</span></label>"
        )
    if reply.roi is not None:
        layers += _outline(reply.roi)
    caption = f"{size[0]:,} x {size[1]:,} pixels"
    if reply.roi is not None:
        box = reply.roi.pixels
        caption += f"; the region is {box.width:,} x {box.height:,} at {box.left:,}, {box.top:,}"
    return (
        f"<section><h2>The picture</h2>{switch}<figure class=stack>{layers}</figure>"
        f"<p class=faint>{caption}</p></section>"
    )


def _outline(roi: Roi) -> str:
    box = roi.box
    place = (
        f"left:{100 * box.x0:.3f}%;top:{100 * box.y0:.3f}%;"
        f"width:{100 * (box.x1 - box.x0):.3f}%;height:{100 * (box.y1 - box.y0):.3f}%"
    )
    return f'<div class=box style="{place}"></div>'


def _heat(relevance: RelevanceReport, size: tuple[int, int]) -> bytes:
    """The map over the picture's own area, stronger colour where more was looked; a PNG with alpha."""
    rows, columns = len(relevance.weights), len(relevance.weights[0])
    peak = max(max(row) for row in relevance.weights) or 1.0
    values = bytes(round(255 * weight / peak) for row in relevance.weights for weight in row)
    content = relevance.content
    area = (content.x0 * columns, content.y0 * rows, content.x1 * columns, content.y1 * rows)
    scale = _HEAT_SIDE / max(size)
    target = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    grid = Image.frombytes("L", (columns, rows), values)
    alpha = grid.resize(target, Image.Resampling.BICUBIC, box=area).point(lambda value: value * 0.8)
    heat = Image.new("RGBA", target, _HEAT)
    heat.putalpha(alpha)
    buffer = io.BytesIO()
    heat.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _sending(sent: Iterable[Sent], reply: Reply) -> str:
    cards = "".join(_card(picture) for picture in sent)
    if not cards:
        cards = "<p class=faint>No picture: the server still held it from an earlier question.</p>"
    return f"<section><h2>What was sent</h2><div class=cards>{cards}</div></section>"


def _card(sent: Sent) -> str:
    kind = sent.name.rpartition(".")[2].replace("jpg", "jpeg")
    with Image.open(io.BytesIO(sent.data)) as image:
        width, height = image.size
    stage = "First: the whole, small" if sent.stage == "stage1" else "Then: the region, in full"
    digest = hashlib.sha256(sent.data).hexdigest()
    return (
        f'<figure class=card><img alt="{stage}" src="{_data_uri(sent.data, kind)}">'
        f"<figcaption><b>{stage}</b><br>{readable_bytes(len(sent.data))}, {width} x {height}, {kind.upper()}"
        f"<br><span class=hash>sha256 {digest[:16]}…</span></figcaption></figure>"
    )


def _doubts(reply: Reply) -> str:
    stages = [("First glance", reply.first)]
    if reply.second is not None:
        stages.append(("Second glance", reply.second))
    return f"<section><h2>How sure</h2>{''.join(_doubt(*stage) for stage in stages)}</section>"


def _doubt(name: str, answered: InferenceResponse) -> str:
    confidence = answered.confidence
    tokens = "".join(_token(token) for token in answered.tokens or ())
    line = f"<div class=tokens>{tokens}</div>" if tokens else ""
    return f"<h3>{name}: {escape(answered.answer)}</h3>{line}<p class=faint>{_verdict(confidence)}</p>"


def _token(token: TokenReport) -> str:
    """Its probability as a bar; the darker, the surer."""
    share = math.exp(-token.min_entropy)
    text = escape(token.text.strip()) or "␣"
    return (
        f'<span class=token style="--p:{share:.3f}" title="{token.min_entropy:.3f} nats">'
        f"<b>{text}</b><i></i><small>{share:.0%}</small></span>"
    )


def _verdict(confidence: Confidence) -> str:
    is_doubtful = confidence.value > confidence.threshold
    unit = "" if confidence.metric == "margin" else " nats"
    name = confidence.metric.replace("_", "-")
    relation = "above" if is_doubtful else "at or below"
    meaning = "in doubt" if is_doubtful else "sure enough"
    return f"{name} {confidence.value:.3f}{unit}, {relation} {confidence.threshold:.3f}: {meaning}"


def _costs(reply: Reply) -> str:
    receipt = reply.receipt
    stages: list[tuple[str, StageReceipt | None]] = [
        ("Setup", receipt.setup),
        ("First stage", receipt.stage1),
        ("Second stage", receipt.stage2),
    ]
    rows = "".join(_row(name, stage) for name, stage in stages if stage is not None and stage.requests)
    total = (
        f"<tr class=total><th>In all</th><td>{readable_bytes(receipt.uplink_bytes)}</td>"
        f"<td>{readable_bytes(receipt.downlink_bytes)}</td><td>{receipt.elapsed_ms:,.0f} ms</td></tr>"
    )
    share = ""
    if receipt.original_bytes and receipt.uplink_bytes:
        part = min(1.0, receipt.uplink_bytes / receipt.original_bytes)
        share = (
            f"<p>{part:.2%} of the original's {readable_bytes(receipt.original_bytes)} left this machine.</p>"
            f'<div class=meter><i style="width:{max(0.5, 100 * part):.2f}%"></i></div>'
        )
    return (
        f"<section><h2>What it cost</h2>{share}"
        f"<table><tr><th></th><th>sent</th><th>received</th><th>time</th></tr>{rows}{total}</table>"
        f"<p class=faint>{_server_times(reply)}. Model {escape(reply.model)}, inference {escape(reply.id)}."
        "</p></section>"
    )


def _row(name: str, stage: StageReceipt) -> str:
    again = f" ({stage.retries} tried again)" if stage.retries else ""
    return (
        f"<tr><th>{name}{again}</th><td>{readable_bytes(stage.uplink_bytes)}</td>"
        f"<td>{readable_bytes(stage.downlink_bytes)}</td><td>{stage.elapsed_ms:,.0f} ms</td></tr>"
    )


def _server_times(reply: Reply) -> str:
    spent: dict[str, float] = {}
    for stage in (reply.first, reply.second):
        for name, value in stage.timing_ms.model_dump().items() if stage else ():
            spent[name] = spent.get(name, 0.0) + value
    told = ", ".join(f"{name.replace('_', ' ')} {value:,.0f} ms" for name, value in spent.items())
    return f"On the server: {told}"


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
