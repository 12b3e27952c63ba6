"""Small ICC profiles from their definitions, so that fixtures need no file whose licence would be unclear."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

D50 = np.array([0.9642, 1.0, 0.8249])
D65 = np.array([0.95047, 1.0, 1.08883])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))


def to_d50(primaries: tuple[tuple[float, float], ...]) -> Floats:
    """3x3: linear RGB (white D65) to XYZ adapted to D50."""
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in primaries]).T
    matrix = columns * np.linalg.solve(columns, D65)
    cones = (_BRADFORD @ D50) / (_BRADFORD @ D65)
    adapt: Floats = np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD
    return np.asarray(adapt @ matrix)


def srgb_to_linear(value: Floats) -> Floats:
    return np.asarray(np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4))


def linear_to_srgb(value: Floats) -> Floats:
    value = np.clip(value, 0, 1)
    return np.asarray(np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055))


def matrix_profile(
    primaries: tuple[tuple[float, float], ...], to_linear: Callable[[Floats], Floats], name: str
) -> bytes:
    """A display profile: three colorants and one curve."""
    colorants = to_d50(primaries).T
    curve = _curve(to_linear)
    tags = [(b"desc", _description(name)), (b"wtpt", _xyz(D50)), (b"cprt", _text("no rights reserved"))]
    tags += [(tag, _xyz(xyz)) for tag, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=True)]
    tags += [(tag, curve) for tag in (b"rTRC", b"gTRC", b"bTRC")]
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(to_linear: Callable[[Floats], Floats], name: str) -> bytes:
    tags = [(b"desc", _description(name)), (b"wtpt", _xyz(D50)), (b"cprt", _text("no rights reserved"))]
    return _profile(b"mntr", b"GRAY", b"XYZ ", [*tags, (b"kTRC", _curve(to_linear))])


def cmyk_profile(to_srgb: Callable[[Floats], Floats], name: str, *, points: int = 9) -> bytes:
    """A printer profile: a table from CMYK in [0, 1] to Lab by way of the sRGB values of `to_srgb`."""
    axis = np.linspace(0, 1, points)
    inks = np.stack(np.meshgrid(axis, axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 4)
    xyz = srgb_to_linear(to_srgb(inks)) @ to_d50(SRGB).T
    identity = struct.pack(">2H", 0, 65535)
    table = (
        b"mft2\0\0\0\0"
        + bytes([4, 3, points, 0])
        + struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel().tolist())
        + struct.pack(">2H", 2, 2)
        + identity * 4
        + _lab16(xyz).astype(">u2").tobytes()
        + identity * 3
    )
    tags = [(b"desc", _description(name)), (b"wtpt", _xyz(D50)), (b"cprt", _text("no rights reserved"))]
    return _profile(b"prtr", b"CMYK", b"Lab ", [*tags, (b"A2B0", table)])


def _lab16(xyz: Floats) -> NDArray[np.int64]:
    """ICC version 2's 16-bit Lab: L 0-100 to 0-65280, a and b offset by 128, in steps of 1/256."""
    scaled = xyz / D50
    f = np.where(scaled > 216 / 24389, np.cbrt(scaled), (24389 / 27 * scaled + 16) / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=-1)
    encoded = np.stack([lab[:, 0] * 652.8, (lab[:, 1] + 128) * 256, (lab[:, 2] + 128) * 256], axis=-1)
    return np.clip(np.rint(encoded), 0, 65535).astype(np.int64)


def _curve(to_linear: Callable[[Floats], Floats]) -> bytes:
    values = np.rint(to_linear(np.linspace(0, 1, 1024)) * 65535).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", len(values)) + values.tobytes()


def _xyz(values: Floats) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(value) * 65536) for value in values))


def _text(text: str) -> bytes:
    return b"text\0\0\0\0" + text.encode() + b"\0"


def _description(text: str) -> bytes:
    line = text.encode() + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(line)) + line + bytes(4 + 4 + 2 + 1 + 67)


def _profile(kind: bytes, space: bytes, connection: bytes, tags: list[tuple[bytes, bytes]]) -> bytes:
    table, data = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags:
        table += name + struct.pack(">2I", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    header = struct.pack(
        ">I4s4s4s4s4s6H4s4sI4s4sQI3i4s44x",
        start + len(data),
        b"\0\0\0\0",
        b"\x02\x40\x00\x00",
        kind,
        space,
        connection,
        *(2026, 1, 1, 0, 0, 0),
        b"acsp",
        b"\0\0\0\0",
        0,
        b"\0\0\0\0",
        b"\0\0\0\0",
        0,
        0,
        *(round(value * 65536) for value in D50),
        b"\0\0\0\0",
    )
    return header + struct.pack(">I", len(tags)) + table + data
