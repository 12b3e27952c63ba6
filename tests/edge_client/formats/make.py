"""Writes the fixtures of this folder: one scene in every format, colour space and orientation.

    python -m tests.edge_client.formats.make            # writes files/ and scene.png
    python -m tests.edge_client.formats.make --look     # and asks Chromium what it shows (needs playwright)

All files show the same scene (grey ones its grey), so the scene itself is the reference; what Chromium shows
of those that it opens is in viewer.json, root mean square in levels of 255.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tests.edge_client.formats import icc

HERE = Path(__file__).parent
FILES = HERE / "files"
SIZE = (96, 64)
SECRET = "SECRET-OF-THE-CAMERA"

Bytes = NDArray[np.uint8]


def scene() -> Image.Image:
    """Colours well inside sRGB and unlike in every corner; soft, so that lossy codecs stay close."""
    x, y = np.meshgrid(np.linspace(0, 1, SIZE[0]), np.linspace(0, 1, SIZE[1]))
    rgb = np.stack([40 + 180 * x, 50 + 150 * y, 200 - 140 * x * y], axis=-1)
    image = Image.fromarray(np.rint(rgb).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for box, colour in (((4, 4, 36, 24), (190, 40, 40)), ((60, 40, 92, 60), (30, 140, 60))):
        draw.rectangle(box, fill=colour)
    draw.text((9, 5), "7F", font=ImageFont.load_default(16), fill=(245, 240, 230))
    return image


def in_space(
    image: Image.Image, primaries: Any, from_linear: Callable[[icc.Floats], icc.Floats]
) -> Image.Image:
    """The same colours in another RGB space's numbers."""
    linear = icc.srgb_to_linear(np.asarray(image) / 255)
    other = linear @ icc.to_d50(icc.SRGB).T @ np.linalg.inv(icc.to_d50(primaries)).T
    return Image.fromarray(np.rint(from_linear(np.clip(other, 0, 1)) * 255).astype(np.uint8))


def exif(orientation: int = 1, *, has_gps: bool = True) -> bytes:
    """With a secret in the camera's name and, but for compressed TIFFs, in the GPS block."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x0110] = SECRET
    if has_gps:
        tags.get_ifd(0x8825)[0x001B] = SECRET.encode()
    return tags.tobytes()


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """As a camera held that way stores it."""
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270, 3: Image.Transpose.ROTATE_180}
    return image.transpose(undo[orientation])


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png16(values: NDArray[np.uint16]) -> bytes:
    """A 16-bit PNG, RGB or grey, which Pillow cannot write."""
    rows, columns = values.shape[:2]
    colour = 2 if values.ndim == 3 else 0
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">2I5B", columns, rows, 16, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines, 9))
        + chunk(b"IEND", b"")
    )


def tiff16(values: NDArray[np.uint16]) -> bytes:
    """An uncompressed little-endian 16-bit RGB TIFF, which Pillow cannot write."""
    rows, columns = values.shape[:2]
    entries = [
        (256, 4, 1, columns),
        (257, 4, 1, rows),
        (258, 3, 3, 8 + 2 + 12 * 9 + 4),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 8 + 2 + 12 * 9 + 4 + 6),
        (277, 3, 1, 3),
        (278, 4, 1, rows),
        (279, 4, 1, values.size * 2),
    ]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    bits = struct.pack("<3H", 16, 16, 16)
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + bits + values.astype("<u2").tobytes()


def with_dot_gain(inks: icc.Floats) -> icc.Floats:
    """sRGB of CMYK inks that print darker than they are named."""
    return np.asarray(((1 - inks[..., :3]) * (1 - inks[..., 3:])) ** 1.6)


def cmyk(image: Image.Image, gain: float) -> Image.Image:
    """Inks with a black of their own, for which `with_dot_gain` (1.6) or none (1.0) gives the scene."""
    rgb = (np.asarray(image) / 255) ** (1 / gain)
    black = 0.7 * (1 - rgb.max(axis=-1, keepdims=True))
    inks = np.concatenate([1 - rgb / (1 - black), black], axis=-1)
    return Image.frombytes("CMYK", image.size, np.rint(np.clip(inks, 0, 1) * 255).astype(np.uint8).tobytes())


def files() -> dict[str, bytes]:
    image = scene()
    grey = image.convert("L")
    other = Image.new("RGB", SIZE, "black")
    wide = np.asarray(image).astype(np.uint16) * 257
    p3 = in_space(image, icc.DISPLAY_P3, icc.linear_to_srgb)
    adobe = in_space(image, icc.ADOBE_RGB, lambda value: value ** (1 / 2.2))
    p3_profile = icc.matrix_profile(icc.DISPLAY_P3, icc.srgb_to_linear, "Display P3 of our own")
    adobe_profile = icc.matrix_profile(icc.ADOBE_RGB, lambda value: value**2.2, "Adobe RGB of our own")
    linear = np.asarray(icc.srgb_to_linear(np.asarray(grey) / 255))
    grey18 = Image.fromarray(np.rint(255 * linear ** (1 / 1.8)).astype(np.uint8))
    grey_profile = icc.grey_profile(lambda value: value**1.8, "grey of gamma 1.8")
    ink_profile = icc.cmyk_profile(with_dot_gain, "ink with dot gain")
    jpeg: dict[str, Any] = {"quality": 95, "subsampling": "4:4:4"}
    rgba = image.copy()
    rgba.putalpha(255)
    palette = image.quantize(256)
    frames: dict[str, Any] = {"save_all": True, "append_images": [other], "duration": 60_000}
    made = {
        "srgb.jpg": saved(image, "JPEG", exif=exif(), comment=SECRET, **jpeg),
        "progressive-420.jpg": saved(image, "JPEG", quality=95, progressive=True),
        "turned-6.jpg": saved(turned(image, 6), "JPEG", exif=exif(6), **jpeg),
        "display-p3.jpg": saved(p3, "JPEG", icc_profile=p3_profile, exif=exif(), **jpeg),
        "adobe-rgb.jpg": saved(adobe, "JPEG", icc_profile=adobe_profile, **jpeg),
        "grey-1.8.jpg": saved(grey18, "JPEG", icc_profile=grey_profile, quality=95),
        "cmyk.jpg": saved(cmyk(image, 1.0), "JPEG", quality=97),
        "cmyk-profile.jpg": saved(cmyk(image, 1.6), "JPEG", icc_profile=ink_profile, quality=97),
        "srgb.png": saved(image, "PNG", exif=exif()),
        "turned-8.png": saved(turned(image, 8), "PNG", exif=exif(8)),
        "display-p3.png": saved(p3, "PNG", icc_profile=p3_profile),
        "rgb16.png": png16(wide),
        "grey16.png": png16(np.asarray(grey).astype(np.uint16) * 257),
        "alpha.png": saved(rgba, "PNG"),
        "palette.png": saved(palette, "PNG"),
        "animated.png": saved(image, "PNG", **frames),
        "lossy.webp": saved(image, "WEBP", quality=95, exif=exif()),
        "lossless-p3.webp": saved(p3, "WEBP", lossless=True, icc_profile=p3_profile),
        "animated.webp": saved(image, "WEBP", lossless=True, **frames),
        "srgb.avif": saved(image, "AVIF", quality=95, subsampling="4:4:4", exif=exif()),
        "turned-6.avif": saved(turned(image, 6), "AVIF", quality=95, subsampling="4:4:4", exif=exif(6)),
        "display-p3.avif": saved(p3, "AVIF", quality=95, subsampling="4:4:4", icc_profile=p3_profile),
        "lzw.tif": saved(image, "TIFF", compression="tiff_lzw", exif=exif(has_gps=False)),
        "turned-3.tif": saved(turned(image, 3), "TIFF", compression="tiff_lzw", exif=exif(3, has_gps=False)),
        "rgb16.tif": tiff16(wide),
        "grey16.tif": saved(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "TIFF"),
        "cmyk.tif": saved(cmyk(image, 1.0), "TIFF", compression="tiff_lzw"),
        "adobe-rgb.tif": saved(adobe, "TIFF", compression="tiff_lzw", icc_profile=adobe_profile),
        "pages.tif": saved(image, "TIFF", compression="tiff_lzw", save_all=True, append_images=[other]),
        "animated.gif": saved(
            palette, "GIF", save_all=True, append_images=[other.quantize(2)], duration=60_000
        ),
    }
    for name, picture, orientation, profile in (
        ("srgb.heic", image, 1, None),
        ("turned-6.heic", turned(image, 6), 6, None),
        ("display-p3.heic", p3, 1, p3_profile),
    ):
        options = {"icc_profile": profile} if profile else {}
        heif = pillow_heif.from_pillow(picture)
        heif.info.update(options)
        buffer = io.BytesIO()
        heif.save(buffer, quality=95, chroma=444, exif=exif(orientation), **options)
        made[name] = buffer.getvalue()
    return made


def look(made: dict[str, bytes]) -> dict[str, float]:
    """How far what Chromium shows is from the scene, for the formats that it opens."""
    from playwright.sync_api import sync_playwright

    reference = np.asarray(scene()).astype(float)
    grey = np.asarray(scene().convert("L").convert("RGB")).astype(float)
    told: dict[str, float] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--force-color-profile=srgb"]
        )
        page = browser.new_page(viewport={"width": 400, "height": 300})
        for name, data in made.items():
            if name.endswith((".tif", ".heic")):
                continue
            kind = {"jpg": "jpeg"}.get(name.rpartition(".")[2], name.rpartition(".")[2])
            url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            page.set_content(f"<style>*{{margin:0}}</style><img src='{url}'>")
            page.wait_for_function("document.images[0].complete && document.images[0].naturalWidth > 0")
            shot = page.screenshot(clip={"x": 0, "y": 0, "width": SIZE[0], "height": SIZE[1]})
            shown = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(float)
            wanted = grey if name.startswith("grey") else reference
            told[name] = round(float(np.sqrt(((shown - wanted) ** 2).mean())), 2)
        told["chromium"] = int(browser.version.partition(".")[0])
        browser.close()
    return told


def main() -> None:
    FILES.mkdir(exist_ok=True)
    made = files()
    for name, data in made.items():
        (FILES / name).write_bytes(data)
    scene().save(HERE / "scene.png")
    print(f"{len(made)} files, {sum(map(len, made.values())):,} bytes")
    if "--look" in sys.argv:
        told = look(made)
        (HERE / "viewer.json").write_text(json.dumps(told, indent=1) + "\n")
        print(json.dumps(told))


if __name__ == "__main__":
    main()
