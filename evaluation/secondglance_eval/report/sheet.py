"""The contact sheet: each case's picture with the region that was asked for and the true place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from secondglance_eval.judging.cases import Case, crop_file, picture_file
from secondglance_eval.report.theme import GREEN, ORANGE, Theme, drawing
from secondglance_protocol.wire import PixelBox

_CROP_SIDE = 200
_GAP = 8


def case_picture(case: Case, folder: Path) -> Image.Image:
    """Return the small picture with its boxes, and beside it the region at full detail."""
    record = case.record
    with Image.open(picture_file(record, folder)) as opened:
        picture = opened.convert("RGB")
    scale = picture.width / record.width
    pen = ImageDraw.Draw(picture)
    for box, color in ((record.box, GREEN), (record.roi, ORANGE)):
        if box is not None:
            pen.rectangle(_scaled(box, scale), outline=color, width=4)
    if not crop_file(record, folder).exists():
        return picture
    with Image.open(crop_file(record, folder)) as opened:
        crop = opened.convert("RGB")
    crop = crop.resize(_fitted(crop.size), Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (picture.width + _GAP + _CROP_SIDE, max(picture.height, crop.height)), "#808080")
    sheet.paste(picture, (0, 0))
    sheet.paste(crop, (picture.width + _GAP, 0))
    return sheet


def caption(case: Case) -> list[str]:
    """Return question, answers and truth, as lines."""
    record = case.record
    truth = " / ".join(record.answers)
    return [
        record.question,
        f"first “{record.draft_answer}”, then “{record.answer}”, true “{truth}”",
        case.what,
    ]


def draw_sheet(cases: Sequence[Case], folder: Path, path: Path, theme: Theme) -> None:
    """Draw all cases in rows of three."""
    rows = max(1, -(-len(cases) // 3))
    with drawing(theme, width=13.5, height=4.0 * rows) as (figure, whole):
        whole.remove()
        for number, case in enumerate(cases, start=1):
            axes = figure.add_subplot(rows, 3, number)
            axes.imshow(case_picture(case, folder))
            axes.set_axis_off()
            axes.set_title("\n".join(caption(case)), fontsize=9, loc="left")
        figure.savefig(path, dpi=80)


def _scaled(box: PixelBox, scale: float) -> tuple[float, float, float, float]:
    return box.left * scale, box.top * scale, box.right * scale, box.bottom * scale


def _fitted(size: tuple[int, int]) -> tuple[int, int]:
    scale = _CROP_SIDE / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
