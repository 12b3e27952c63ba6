"""One page of a PDF as a picture, where the extra `pdf` (pypdfium2) is installed.

`opening.open_file` takes the first page; `secondglance ask --page` takes another one. A page is drawn at 300
dots per inch, the resolution of a good scan; a poster as finely as 64 million pixels allow.
"""

from __future__ import annotations

import math
import threading
from typing import IO

from PIL import Image

from secondglance.errors import BadImageError, MissingExtraError, UsageError

DOTS_PER_INCH = 300
_POINTS_PER_INCH = 72
_MAX_SIDE = 16_384
_MAX_PIXELS = 64_000_000

# PDFium keeps state for the whole process and takes one call at a time.
_one_at_a_time = threading.Lock()


def is_pdf(prefix: bytes) -> bool:
    """Return whether a file that begins with `prefix` is a PDF."""
    return prefix.startswith(b"%PDF-")


def render_page(file: IO[bytes] | str, number: int) -> tuple[Image.Image, int]:
    """Draw page `number` (from 1) on white; return it in RGB, with the number of pages.

    Raises MissingExtraError, UsageError for a page that does not exist, BadImageError for a document that
    cannot be read.
    """
    try:
        import pypdfium2
    except ImportError as exc:
        advice = "pip install 'second-glance[pdf]'"
        raise MissingExtraError(f"this is a PDF, which needs an extra: {advice}") from exc
    with _one_at_a_time:
        try:
            with pypdfium2.PdfDocument(file) as document:
                n_pages = len(document)
                if not 1 <= number <= n_pages:
                    raise UsageError(f"there is no page {number}: the document has {n_pages}")
                page = document[number - 1]
                scale = _scale(*page.get_size())
                return page.render(scale=scale, rev_byteorder=True).to_pil().convert("RGB"), n_pages
        except pypdfium2.PdfiumError as exc:
            raise BadImageError(f"the PDF cannot be read: {exc}") from exc


def _scale(width_pt: float, height_pt: float) -> float:
    """Return dots for each point. Raises BadImageError for a page without an area."""
    if not (0 < width_pt < math.inf and 0 < height_pt < math.inf):
        raise BadImageError(f"the page measures {width_pt:g}x{height_pt:g} points")
    return min(
        DOTS_PER_INCH / _POINTS_PER_INCH,
        (_MAX_SIDE - 1) / max(width_pt, height_pt),
        math.sqrt(_MAX_PIXELS / (width_pt * height_pt)),
    )
