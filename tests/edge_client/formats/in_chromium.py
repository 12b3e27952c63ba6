"""Whether Chromium shows the generated pictures as their definitions say.

    python -m tests.edge_client.formats.in_chromium

Looks at the first 100 of the metamorphic test's variants in formats that Chromium opens, and ends with one
line of JSON. Needs playwright and Debian's chromium; `make pictures-in-chromium` runs it.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import sys
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.edge_client.formats.variants import Floats, Variant, make

MIME = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "AVIF": "avif"}
SAMPLE = 100


def is_unlike(variant: Variant) -> bool:
    """Return whether Chromium is known to go another way than we do.

    It ignores EXIF inside WebP, opens no AVIF with a broken profile, and leaves the last blocks of a JPEG
    without an end mark grey, though every pixel is there.
    """
    return (
        (variant.format == "WEBP" and variant.is_turned)
        or (variant.format == "AVIF" and variant.traits[1] in ("junk", "other kind"))
        or (variant.format == "JPEG" and variant.traits[3] is False)
    )


def openable() -> Iterator[tuple[int, Variant]]:
    """Yield the variants that Chromium opens as we do, with their numbers."""
    for number in itertools.count():
        variant = make(number)
        if variant.format in MIME and not is_unlike(variant):
            yield number, variant


def difference(shown: Floats, variant: Variant) -> float:
    """Root mean square in levels; infinite for another size."""
    if shown.shape != variant.shown.shape:
        return float("inf")
    return float(np.sqrt(((shown - variant.shown) ** 2).mean()))


def main() -> int:
    from playwright.sync_api import sync_playwright

    worst, wrong = 0.0, []
    with sync_playwright() as playwright:
        flags = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--force-color-profile=srgb",
        ]
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
        page = browser.new_page(viewport={"width": 400, "height": 300})
        for number, variant in itertools.islice(openable(), SAMPLE):
            kind = MIME[variant.format]
            url = f"data:image/{kind};base64,{base64.b64encode(variant.data).decode()}"
            page.set_content(f"<style>*{{margin:0}}</style><img src='{url}'>")
            page.wait_for_function("document.images[0].complete")
            height, width = variant.shown.shape[:2]
            shot = page.screenshot(clip={"x": 0, "y": 0, "width": width, "height": height})
            shown = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(float)
            distance = difference(shown, variant)
            worst = max(worst, distance)
            if distance > variant.tolerance:
                wrong.append(number)
                print(f"{number} {variant.format} {variant.traits}: off by {distance:.1f} levels")
        version = browser.version.partition(".")[0]
        browser.close()
    print(
        json.dumps({"chromium": version, "pictures": SAMPLE, "differ": len(wrong), "worst": round(worst, 2)})
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
