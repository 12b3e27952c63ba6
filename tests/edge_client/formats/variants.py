"""One picture in very many files: format x mode x depth x alpha x profile x its name x orientation.

A variant knows the pixels that a viewer shows, computed from the definitions of its colour space, its
transparency and its orientation: no decoder and no colour engine has a part in them. `make(number)` gives the
same variant for the same number for ever.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image

from tests.edge_client.formats import icc

Floats = NDArray[np.float64]

BLOCK = 8  # pixels: lossy codecs keep blocks of this size
COLUMNS, ROWS = 6, 4
SIZE = (COLUMNS * BLOCK, ROWS * BLOCK)
ORIENTATION_XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'

Curve = Callable[[Floats], Floats]
SPACES: dict[str, tuple[Any, Curve]] = {
    "srgb": (icc.SRGB, icc.srgb_to_linear),
    "p3": (icc.DISPLAY_P3, icc.srgb_to_linear),
    "adobe": (icc.ADOBE_RGB, lambda value: value**2.2),
    "linear": (icc.SRGB, lambda value: value),
    "dark": (icc.SRGB, lambda value: value**1.4),
}
NAMES = ("sRGB IEC61966-2.1", "sRGB", "Display P3", "camera", "not sRGB at all")
_PROFILES: dict[tuple[str, str, bool], bytes] = {}

FORMATS = ("PNG", "PNG", "PNG", "JPEG", "JPEG", "WEBP", "TIFF", "TIFF", "GIF", "BMP", "PPM", "AVIF", "HEIC")
ON_SERVER = {"PNG", "JPEG", "WEBP"}
LOSSY = {"JPEG", "AVIF", "HEIC"}


@dataclass(slots=True)
class Variant:
    """A file, and what it shows: `shown` is RGB in levels [height, width, 3], upright."""

    format: str
    traits: tuple[Any, ...]
    data: bytes
    shown: Floats
    is_turned: bool = False
    tolerance: float = 1.6  # root mean square, in levels


@dataclass(slots=True)
class Plan:
    """The choices of one variant, and its stored samples in [0, 1]."""

    rng: random.Random
    is_grey: bool = False
    space: str | None = None
    name: str = ""
    carrier: str = "none"
    orientation: int = 1
    samples: Floats = field(default_factory=lambda: np.zeros(0))
    alpha: Floats | None = None

    @property
    def exif(self) -> bytes:
        """EXIF with the orientation that counts; empty if there is none."""
        if self.carrier not in ("exif", "both"):
            return b""
        tags = Image.Exif()
        tags[0x0112] = self.orientation
        return tags.tobytes()

    @property
    def has_xmp(self) -> bool:
        return self.carrier in ("xmp", "both")

    @property
    def profile(self) -> bytes | None:
        if self.space is None:
            return None
        if self.space == "junk":
            return b"sRGB " * 50
        if self.space == "other kind":
            return _profile("linear", self.name, not self.is_grey) if not self.is_grey else b"\0" * 128
        return _profile(self.space, self.name, self.is_grey)


def _profile(space: str, name: str, is_grey: bool) -> bytes:
    key = (space, name, is_grey)
    if key not in _PROFILES:
        primaries, curve = SPACES[space]
        _PROFILES[key] = (
            icc.grey_profile(curve, name) if is_grey else icc.matrix_profile(primaries, curve, name)
        )
    return _PROFILES[key]


def make(number: int) -> Variant:
    """Return variant `number`."""
    rng = random.Random(number)
    return _MAKERS[rng.choice(FORMATS)](rng)


def shown(plan: Plan) -> Floats:
    """Return what a viewer shows of the stored samples, turned upright."""
    colors = plan.samples if plan.samples.ndim == 3 else np.repeat(plan.samples[..., None], 3, axis=-1)
    if plan.space in SPACES:
        primaries, curve = SPACES[plan.space]
        linear = np.asarray(curve(colors))
        if not plan.is_grey:
            linear = linear @ icc.to_d50(primaries).T @ np.linalg.inv(icc.to_d50(icc.SRGB)).T
        colors = icc.linear_to_srgb(linear)
    if plan.alpha is not None:
        colors = colors * plan.alpha[..., None] + (1 - plan.alpha[..., None])
    return 255 * turned(colors, plan.orientation if plan.carrier in ("exif", "both", "container") else 1)


def turned(pixels: Floats, orientation: int) -> Floats:
    """Return stored pixels as EXIF's definition shows them."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _blocks(values: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(np.repeat(values, BLOCK, axis=0), BLOCK, axis=1)


def _plan(
    rng: random.Random,
    *,
    is_grey: bool,
    carriers: tuple[str, ...],
    levels: int = 256,
    has_profile: bool = True,
) -> Plan:
    """Choose side data, and samples of `levels` levels with colours well inside every space."""
    plan = Plan(rng, is_grey=is_grey)
    if has_profile:
        plan.space = rng.choice((None, None, *SPACES, "junk", "other kind"))
        plan.name = rng.choice(NAMES)
    plan.carrier = rng.choice(("none", *carriers))
    plan.orientation = rng.randint(1, 8)
    seed = np.random.default_rng(rng.randrange(2**32))
    shape = (ROWS, COLUMNS) if is_grey else (ROWS, COLUMNS, 3)
    grid = seed.integers(0, levels, shape) if is_grey else 255 * seed.uniform(0.35, 0.75, shape)
    plan.samples = _blocks(np.rint(grid) / (levels - 1 if is_grey else 255))
    return plan


def _alpha(plan: Plan) -> Floats:
    seed = np.random.default_rng(plan.rng.randrange(2**32))
    alpha: Floats = _blocks(seed.choice([0, 85, 170, 255], (ROWS, COLUMNS)) / 255)
    return alpha


def _bytes(values: Floats) -> NDArray[np.uint8]:
    return np.rint(values * 255).astype(np.uint8)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(
        buffer, kind, **{key: value for key, value in options.items() if value is not None and value != b""}
    )
    return buffer.getvalue()


def _variant(kind: str, plan: Plan, data: bytes, *traits: Any, tolerance: float = 1.6) -> Variant:
    names = (kind, *traits, plan.space, plan.name if plan.space else "", plan.carrier, plan.orientation)
    is_turned = plan.carrier in ("exif", "both") and plan.orientation != 1
    if plan.space == "linear" and plan.is_grey:  # its shadows have few levels, 13 apart in sRGB
        tolerance = max(tolerance, 5.0)
    return Variant(kind, names, data, shown(plan), is_turned, tolerance)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, color: int, lines: list[bytes], *extra: bytes) -> bytes:
    """Return a PNG of packed lines; `extra` chunks stand before the pixels."""
    header = struct.pack(">2I5B", width, height, depth, color, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + line for line in lines))
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *extra, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    )


def packed(values: NDArray[Any], depth: int) -> list[bytes]:
    """Return rows of samples, `depth` bits each, most significant first."""
    if depth == 16:
        return [row.astype(">u2").tobytes() for row in values]
    if depth == 12:
        rows = values.reshape(len(values), -1, 2).astype(int)
        first, second = rows[..., 0], rows[..., 1]
        triples = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1)
        return [row.astype(np.uint8).tobytes() for row in triples]
    bits = (values.reshape(len(values), -1, 1).astype(np.uint8) >> np.arange(depth)[::-1]) & 1
    return [np.packbits(row.ravel()).tobytes() for row in bits.astype(np.uint8)]


_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_TIFF_KINDS = (
    *((0, 1), (0, 4), (0, 8), (0, 16)),  # zero is white
    *((1, 1), (1, 4), (1, 8), (1, 12), (1, 16)),
    *((2, 8), (2, 16)),
)


def _png(rng: random.Random) -> Variant:
    color, depths = rng.choice(
        [(0, (1, 2, 4, 8, 16)), (2, (8, 16)), (3, (1, 2, 4, 8)), (4, (8, 16)), (6, (8, 16))]
    )
    depth = rng.choice(depths)
    most = (1 << depth) - 1
    is_grey = color in (0, 4)
    plan = _plan(
        rng,
        is_grey=is_grey,
        carriers=("exif", "xmp", "both", "raw profile"),
        levels=most + 1 if color == 0 else 256,
    )
    extra: list[bytes] = []
    if profile := plan.profile:
        extra.append(chunk(b"iCCP", b"anything\0\0" + zlib.compress(profile)))
    if plan.exif:
        extra.append(chunk(b"eXIf", plan.exif.removeprefix(b"Exif\0\0")))
    if plan.has_xmp:
        extra.append(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + ORIENTATION_XMP.encode()))
    if plan.carrier == "raw profile":
        tags = Image.Exif()
        tags[0x0112] = 6
        lines = tags.tobytes().hex()
        text = f"\nexif\n{len(lines) // 2}\n{lines}\n".encode()
        extra.append(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)))
    is_keyed = color in (0, 2, 3) and rng.random() < 0.5
    if color == 3:
        stored = _palette(plan, depth, extra, is_keyed=is_keyed)
    else:
        stored = np.rint(plan.samples * most).astype(int)
        if is_keyed:
            _key(plan, stored, depth, extra)
        if color in (4, 6):
            plan.alpha = _alpha(plan)
            colors = stored.reshape(*plan.samples.shape[:2], -1)
            alpha = np.rint(plan.alpha * most).astype(int)[..., None]
            stored = np.concatenate([colors, alpha], axis=-1)
    lines_ = packed(stored, depth)
    return _variant("PNG", plan, png(*SIZE, depth, color, lines_, *extra), color, depth, is_keyed)


def _palette(plan: Plan, depth: int, extra: list[bytes], *, is_keyed: bool) -> NDArray[Any]:
    """Reduce the samples to a palette, with alpha for some entries; return the indices."""
    n_colors = min(1 << depth, 256)
    seed = np.random.default_rng(plan.rng.randrange(2**32))
    colors = seed.integers(90, 190, (n_colors, 3))
    indices = _blocks(seed.integers(0, n_colors, (ROWS, COLUMNS)))
    plan.samples = colors[indices] / 255
    extra.append(chunk(b"PLTE", colors.astype(np.uint8).tobytes()))
    if is_keyed:
        alphas = np.array(([0, 128, 255, 64] * n_colors)[:n_colors])
        plan.alpha = alphas[indices] / 255
        extra.append(chunk(b"tRNS", alphas.astype(np.uint8).tobytes()))
    return indices


def _key(plan: Plan, stored: NDArray[Any], depth: int, extra: list[bytes]) -> None:
    """Make one stored colour transparent, and a neighbour of it that differs in its lowest bit not."""
    key = stored[0, 0]
    if depth == 16:
        stored[BLOCK : 2 * BLOCK, :BLOCK] = key ^ 1
        plan.samples = stored / 65_535
    samples = np.atleast_1d(key)
    is_key = (stored.reshape(*stored.shape[:2], -1) == samples).all(axis=-1)
    plan.alpha = np.where(is_key, 0.0, 1.0)
    extra.append(chunk(b"tRNS", samples.astype(">u2").tobytes()))


def _jpeg(rng: random.Random) -> Variant:
    mode = rng.choice(("L", "RGB", "RGB", "CMYK"))
    is_grey = mode == "L"
    plan = _plan(rng, is_grey=is_grey, carriers=("exif", "xmp", "both"), has_profile=mode != "CMYK")
    image = Image.fromarray(_bytes(plan.samples))
    if mode == "CMYK":
        image = Image.merge(
            "CMYK", (*(band.point(lambda v: 255 - v) for band in image.split()), Image.new("L", SIZE))
        )
    is_progressive = rng.random() < 0.5
    options = {"progressive": is_progressive, "xmp": ORIENTATION_XMP.encode() if plan.has_xmp else None}
    if not is_grey:
        options["subsampling"] = "4:4:4"
    data = _saved(image, "JPEG", quality=97, exif=plan.exif, icc_profile=plan.profile, **options)
    is_whole = rng.random() < 0.8
    return _variant(
        "JPEG", plan, data if is_whole else data[:-2], mode, is_progressive, is_whole, tolerance=4.0
    )


def _webp(rng: random.Random) -> Variant:
    plan = _plan(rng, is_grey=False, carriers=("exif", "xmp", "both"))
    image = Image.fromarray(_bytes(plan.samples))
    has_alpha = rng.random() < 0.5
    if has_alpha:
        plan.alpha = _alpha(plan)
        image.putalpha(Image.fromarray(_bytes(plan.alpha)))
    data = _saved(
        image,
        "WEBP",
        lossless=True,
        exact=True,
        exif=plan.exif,
        xmp=ORIENTATION_XMP.encode() if plan.has_xmp else None,
        icc_profile=plan.profile,
    )
    return _variant("WEBP", plan, data, has_alpha)


def tiff(width: int, height: int, pixels: bytes, entries: dict[int, tuple[int, Any]]) -> bytes:
    """Return a little-endian TIFF of one strip; entries are (type, integers or bytes) by tag."""
    table = {256: (4, [width]), 257: (4, [height]), 259: (3, [1]), 273: (4, [8]), 278: (4, [height])}
    table |= {279: (4, [len(pixels)])} | entries
    body, directory = b"", struct.pack("<H", len(table))
    start = 8 + len(pixels)
    for tag, (kind, values) in sorted(table.items()):
        code = {1: "B", 3: "H", 4: "I", 7: "B"}[kind]
        raw = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{code}", *values)
        if len(raw) > 4:
            place = struct.pack("<I", start + len(body))
            body += raw + bytes(len(raw) % 2)
        else:
            place = raw.ljust(4, b"\0")
        directory += struct.pack("<HHI", tag, kind, len(raw) // struct.calcsize(code)) + place
    at = start + len(body)
    return b"II*\0" + struct.pack("<I", at) + pixels + body + directory + bytes(4)


def _tiff(rng: random.Random) -> Variant:
    photometric, depth = rng.choice(
        [(0, 1), (0, 4), (0, 8), (0, 16), (1, 1), (1, 4), (1, 8), (1, 12), (1, 16), (2, 8), (2, 16)]
    )
    most = (1 << depth) - 1
    is_grey = photometric != 2
    plan = _plan(rng, is_grey=is_grey, carriers=("exif", "xmp", "both"), levels=most + 1 if is_grey else 256)
    stored = np.rint(plan.samples * most).astype(int)
    if photometric == 0:
        stored = most - stored
    n_samples = 1 if is_grey else 3
    pixels = b"".join(packed(stored, depth))
    if depth == 16:
        pixels = np.frombuffer(pixels, ">u2").astype("<u2").tobytes()
    entries: dict[int, tuple[int, Any]] = {
        258: (3, [depth] * n_samples),
        262: (3, [photometric]),
        277: (3, [n_samples]),
    }
    if plan.exif:
        entries[274] = (3, [plan.orientation])
    if plan.has_xmp:
        entries[700] = (1, ORIENTATION_XMP.encode())
    if profile := plan.profile:
        entries[34675] = (7, profile)
    return _variant("TIFF", plan, tiff(*SIZE, pixels, entries), photometric, depth)


def _gif(rng: random.Random) -> Variant:
    plan = _plan(rng, is_grey=False, carriers=(), has_profile=False)
    image = Image.fromarray(_bytes(plan.samples)).quantize(256)
    plan.samples = np.asarray(image.convert("RGB")) / 255
    options: dict[str, Any] = {}
    is_keyed = rng.random() < 0.5
    if is_keyed:
        indices = np.asarray(image)
        options["transparency"] = int(indices[0, 0])
        plan.alpha = np.where(indices == indices[0, 0], 0.0, 1.0)
    return _variant("GIF", plan, _saved(image, "GIF", optimize=False, **options), is_keyed, tolerance=2.0)


def _bare(kind: str, is_grey_possible: bool) -> Callable[[random.Random], Variant]:
    def maker(rng: random.Random) -> Variant:
        is_grey = is_grey_possible and rng.random() < 0.5
        plan = _plan(rng, is_grey=is_grey, carriers=(), has_profile=False)
        return _variant(kind, plan, _saved(Image.fromarray(_bytes(plan.samples)), kind), is_grey)

    return maker


def _avif(rng: random.Random) -> Variant:
    plan = _plan(rng, is_grey=False, carriers=("exif", "xmp", "both"))
    image = Image.fromarray(_bytes(plan.samples))
    data = _saved(
        image,
        "AVIF",
        quality=97,
        subsampling="4:4:4",
        exif=plan.exif,  # which Pillow writes as a transform of the container
        xmp=ORIENTATION_XMP.encode() if plan.has_xmp else None,
        icc_profile=plan.profile,
    )
    return _variant("AVIF", plan, data, tolerance=4.0)


def _heic(rng: random.Random) -> Variant:
    plan = _plan(rng, is_grey=False, carriers=("exif",))  # written as a transform of the container
    heif = pillow_heif.from_pillow(Image.fromarray(_bytes(plan.samples)))
    options: dict[str, Any] = {"exif": plan.exif} if plan.exif else {}
    if profile := plan.profile:
        options["icc_profile"] = profile
        heif.info["icc_profile"] = profile
    buffer = io.BytesIO()
    heif.save(buffer, quality=97, chroma=444, **options)
    return _variant("HEIC", plan, buffer.getvalue(), tolerance=4.0)


_MAKERS: dict[str, Callable[[random.Random], Variant]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "WEBP": _webp,
    "TIFF": _tiff,
    "GIF": _gif,
    "BMP": _bare("BMP", True),
    "PPM": _bare("PPM", True),
    "AVIF": _avif,
    "HEIC": _heic,
}
