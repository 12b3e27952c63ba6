"""One conversation as a web page: a single file that needs nothing from anywhere and reads well on a phone.

Shows the original with the region, what was sent in each stage (the exact bytes), the map behind the region,
each token's doubt, bytes and times. The page holds the whole picture, reduced: keep it where the picture may
be. The template is `report.html.jinja`; every text in it is escaped, and the page has no script.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import jinja2
from PIL import Image

from secondglance.conversation.steps import Send
from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.original import ImageSource, Original
from secondglance.reply import Reply, StageReceipt
from secondglance.text import printable, readable_bytes
from secondglance_protocol.wire import InferenceResponse, RelevanceReport

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
    """Return the page; with `include=("tokens", "relevance")` it shows both. Raises BadImageError."""
    with Original(source, max_pixels=max_original_pixels) as original:
        shown = original.global_image(_SHOWN)
        size = original.size
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=85)
    receipt, relevance = reply.receipt, reply.relevance
    share = None
    if receipt.original_bytes and receipt.uplink_bytes:
        share = min(1.0, receipt.uplink_bytes / receipt.original_bytes)
    return _template().render(
        question=question,
        reply=reply,
        receipt=receipt,
        size=size,
        style=(files("secondglance.show") / "report.css").read_text(encoding="utf-8"),
        photo=_data_uri(buffer.getvalue(), "jpeg"),
        heat=_data_uri(_heat(relevance, size), "png") if relevance is not None else None,
        cards=[_card(picture) for picture in sent],
        glances=list(_glances(reply)),
        share=share,
        stages=list(_stages(reply)),
        server_times=_server_times(reply),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        keep_trailing_newline=True,
    )
    environment.filters["bytes"] = readable_bytes
    environment.filters["exp"] = math.exp
    return environment.from_string(
        (files("secondglance.show") / "report.html.jinja").read_text(encoding="utf-8")
    )


def _shown(value: object) -> object:
    """Return plain text without controls and text directions of its own; markup and numbers as they are."""
    return printable(value, keep_lines=True) if type(value) is str else value


def _heat(relevance: RelevanceReport, size: tuple[int, int]) -> bytes:
    """Return the map over the picture's own area as a PNG: the more was looked, the stronger the colour."""
    rows, columns = len(relevance.weights), len(relevance.weights[0])
    peak = max(max(row) for row in relevance.weights) or 1.0
    values = bytes(round(255 * (weight / peak)) for row in relevance.weights for weight in row)
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


def _card(sent: Sent) -> dict[str, Any]:
    kind = sent.name.rpartition(".")[2].replace("jpg", "jpeg")
    with Image.open(io.BytesIO(sent.data)) as image:
        width, height = image.size
    return {
        "stage": "First: the whole, small" if sent.stage == "stage1" else "Then: the region, in full",
        "kind": kind,
        "source": _data_uri(sent.data, kind),
        "bytes": len(sent.data),
        "width": width,
        "height": height,
        "sha256": hashlib.sha256(sent.data).hexdigest(),
    }


def _glances(reply: Reply) -> Iterator[tuple[str, InferenceResponse]]:
    yield "First glance", reply.first
    before_last = [look.reply for look in reply.looks[:-1]]
    for number, second in enumerate([*before_last, reply.second], 1):
        if second is not None:
            yield "Second glance" if number == 1 else f"Look {number}", second


def _stages(reply: Reply) -> Iterator[tuple[str, StageReceipt]]:
    receipt = reply.receipt
    named = (("Setup", receipt.setup), ("First stage", receipt.stage1), ("Second stage", receipt.stage2))
    for name, stage in named:
        if stage is not None and stage.requests:
            yield name, stage
    for number, look in enumerate(receipt.further_looks, 2):
        yield f"Look {number}", look


def _server_times(reply: Reply) -> list[tuple[str, float]]:
    """Return what the server spent on what, of both stages together, in milliseconds."""
    spent: dict[str, float] = {}
    for _, answered in _glances(reply):
        for name, value in answered.timing_ms.model_dump().items():
            spent[name] = spent.get(name, 0.0) + value
    return list(spent.items())


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
