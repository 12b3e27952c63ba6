"""A picture of one conversation: the original with the region that was asked for, and a caption.

Drawn with Pillow and its built-in font alone, so it works wherever the edge does. That font has Latin
letters; others appear as boxes. Long questions and answers are shortened.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from PIL import Image, ImageDraw, ImageFont

from secondglance.doubt import note_of_doubt
from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.orientation import Size
from secondglance.pictures.original import ImageSource, Original
from secondglance.reply import Reply, StageReceipt
from secondglance.text import printable, readable_bytes
from secondglance_protocol.wire import Confidence, Roi

_MAX_SIDE = PixelBudget(1280, 960)
_MIN_WIDTH = 720  # room for the caption
_MARGIN = 24
_INSET = PixelBudget(260, 180)

_MAX_LINE_CHARS = 1000  # more than two lines hold; fitting a text costs its length squared

_PAPER = (250, 249, 246)
_INK = (28, 30, 34)
_FAINT = (112, 116, 124)
_ACCENT = (226, 62, 40)
_BACKDROP = (36, 38, 43)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the caption; sizes in pixels."""

    text: str
    size: int
    colour: tuple[int, int, int]
    gap: int  # pixels above


def draw_picture(
    source: ImageSource, question: str, reply: Reply, *, max_original_pixels: int
) -> Image.Image:
    """RGB, the original reduced to at most 1280x960 with the caption below it. Raises BadImageError."""
    with Original(source, max_pixels=max_original_pixels) as original:
        scene = original.global_image(_MAX_SIDE)
        size = original.size
        inset = _inset(original, reply.roi) if reply.roi else None
    width = max(scene.width, _MIN_WIDTH)
    text_width = width - 2 * _MARGIN - (inset.width + _MARGIN if inset else 0)
    lines = [part for line in caption_lines(question, reply) for part in wrapped(line, text_width)]
    caption_height = (
        max(sum(line.gap + line.size for line in lines), inset.height if inset else 0) + 2 * _MARGIN
    )

    sheet = Image.new("RGB", (width, scene.height + caption_height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((0, 0, width, scene.height - 1), fill=_BACKDROP)
    left = (width - scene.width) // 2
    sheet.paste(scene, (left, 0))
    if reply.roi:
        _outline(draw, reply.roi, size, scene.size, left)
    if inset:
        corner = (width - _MARGIN - inset.width, scene.height + _MARGIN)
        sheet.paste(inset, corner)
        draw.rectangle(
            (*corner, corner[0] + inset.width - 1, corner[1] + inset.height - 1), outline=_ACCENT, width=3
        )
    _write(draw, lines, (_MARGIN, scene.height + _MARGIN))
    return sheet


def _inset(original: Original, roi: Roi) -> Image.Image:
    """The region, enlarged to where it can be read."""
    pixels = roi.pixels
    patch = original.patch((pixels.left, pixels.top, pixels.right, pixels.bottom), _INSET)
    scale = min(_INSET.max_width / patch.width, _INSET.max_height / patch.height)
    size = (max(1, round(patch.width * scale)), max(1, round(patch.height * scale)))
    return patch.resize(size, Image.Resampling.BICUBIC)


def _outline(draw: ImageDraw.ImageDraw, roi: Roi, original: Size, scene: Size, left: int) -> None:
    """The box around the region, light inside dark, so that it shows on any picture."""
    x_scale, y_scale = scene[0] / original[0], scene[1] / original[1]
    box = (
        left + roi.pixels.left * x_scale,
        roi.pixels.top * y_scale,
        left + roi.pixels.right * x_scale - 1,
        roi.pixels.bottom * y_scale - 1,
    )
    for grow, colour, line_width in ((5, (255, 255, 255), 8), (3, _ACCENT, 4)):
        outer = (box[0] - grow, box[1] - grow, box[2] + grow, box[3] + grow)
        draw.rounded_rectangle(outer, radius=6, outline=colour, width=line_width)


def caption_lines(question: str, reply: Reply) -> list[Line]:
    """The question, each glance with its doubt, what it cost; not yet fitted to a width."""
    lines = [Line(question, 22, _INK, 0)]
    if reply.stage == 2:
        lines.append(Line(f"First glance: {reply.draft_answer}", 20, _FAINT, 16))
        lines.append(Line(_doubt(reply.draft_confidence), 15, _FAINT, 5))
        lines.append(Line(f"Second glance: {reply.answer}", 24, _ACCENT, 12))
    else:
        lines.append(Line(f"First glance: {reply.answer}", 24, _INK, 16))
    lines.append(Line(_doubt(reply.confidence), 15, _FAINT, 5))
    if (note := note_of_doubt(reply.final)) is not None:
        lines.append(Line(note, 15, _ACCENT, 8))
    if reply.degraded:
        failed = "No further look" if reply.second else "No second glance"
        lines.append(Line(f"{failed}: {reply.degraded}", 15, _ACCENT, 8))
    lines.append(Line(_cost(reply), 15, _FAINT, 16))
    return lines


def _doubt(confidence: Confidence) -> str:
    verdict = "above" if confidence.value > confidence.threshold else "at or below"
    unit = "" if confidence.metric == "margin" else " nats"
    name = confidence.metric.replace("_", "-")
    return f"{name} {confidence.value:.3f}{unit}, {verdict} the threshold of {confidence.threshold:.3f}"


def _cost(reply: Reply) -> str:
    receipt = reply.receipt
    sent = f"sent {readable_bytes(receipt.uplink_bytes)}"
    if receipt.stage2 is not None:
        looks = " + ".join(_sent(look) for look in (receipt.stage2, *receipt.further_looks))
        sent += f" ({_sent(receipt.stage1)} + {looks})"
    if receipt.original_bytes:
        sent += f" of an original of {readable_bytes(receipt.original_bytes)}"
    return f"{sent}, received {readable_bytes(receipt.downlink_bytes)}, {receipt.elapsed_ms:,.0f} ms"


def _sent(stage: StageReceipt) -> str:
    return readable_bytes(stage.uplink_bytes)


def _write(draw: ImageDraw.ImageDraw, lines: list[Line], corner: Size) -> None:
    x, y = corner
    for line in lines:
        y += line.gap
        draw.text((x, y), line.text, font=ImageFont.load_default(line.size), fill=line.colour)
        y += line.size


def wrapped(line: Line, width: int) -> list[Line]:
    """The same text on at most two lines of `width` pixels, with an ellipsis where something had to go."""
    font = ImageFont.load_default(line.size)
    words, first = printable(line.text, keep_lines=True, max_chars=_MAX_LINE_CHARS).split(), ""
    while words and font.getlength(f"{first} {words[0]}") <= width:
        first = f"{first} {words.pop(0)}".strip()
    if not first:
        return [replace(line, text=_shortened(" ".join(words), font, width))]
    if not words:
        return [replace(line, text=first)]
    return [replace(line, text=first), replace(line, text=_shortened(" ".join(words), font, width), gap=4)]


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."
