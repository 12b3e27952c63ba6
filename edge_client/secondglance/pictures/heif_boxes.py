"""The boxes of HEIC and AVIF (ISO 14496-12, ISO 23008-12): what decoders do not tell, and what spoils them.

Reads the `meta` box only. What does not look like such a file has no items, no crop and one picture; that it
is broken is for the decoder to say.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from secondglance.pictures.orientation import Box, Size

_SIDE_DATA = frozenset({b"Exif", b"mime"})  # EXIF, and XMP among others
_PICTURES = frozenset({b"hvc1", b"av01", b"grid", b"iden", b"iovl", b"tmap", b"jpeg", b"avc1", b"unci"})


@dataclass(slots=True)
class _Item:
    kind: bytes
    kind_at: int  # of the four bytes in the file
    is_hidden: bool


@dataclass(slots=True)
class Meta:
    """What the `meta` box says about the items of a file."""

    primary: int = 0
    items: dict[int, _Item] = field(default_factory=dict)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    properties_of: dict[int, list[int]] = field(default_factory=dict)
    parts: set[int] = field(default_factory=set)  # items that belong to another picture

    @property
    def n_pictures(self) -> int:
        """Pictures of their own: neither hidden nor a tile, a thumbnail, a mask or another form of one."""
        own = (
            item.kind in _PICTURES and not item.is_hidden and number not in self.parts
            for number, item in self.items.items()
        )
        return max(1, sum(own))

    def clean_aperture(self, size: Size) -> Box | None:
        """Return what the primary picture's `clap` leaves of its stored `size`; None for all of it.

        A crop that is not whole pixels within the picture is ignored.
        """
        for index in self.properties_of.get(self.primary, ()):
            kind, body = self.properties[index - 1] if 0 < index <= len(self.properties) else (b"", b"")
            if kind == b"clap" and len(body) >= 32:
                return _crop(struct.unpack(">8i", body[:32]), size)
        return None


def read_meta(data: bytes) -> Meta:
    """Return what can be read of the `meta` box of a HEIC or AVIF file."""
    meta = Meta()
    try:
        for kind, start, end in _boxes(data, 0, len(data)):
            if kind == b"meta":
                _read_meta(data, start + 4, end, meta)
                break
    except (IndexError, struct.error):
        pass
    return meta


def without_side_data(data: bytes, meta: Meta) -> bytes:
    """Return the file with its EXIF and XMP items renamed, so that a decoder passes over them."""
    found = [item.kind_at for item in meta.items.values() if item.kind in _SIDE_DATA]
    if not found:
        return data
    changed = bytearray(data)
    for at in found:
        changed[at : at + 4] = b"skip"
    return bytes(changed)


def _crop(values: tuple[int, ...], size: Size) -> Box | None:
    if 0 in values[1::2]:
        return None
    width, height, right_of, below = (Fraction(*values[at : at + 2]) for at in range(0, 8, 2))
    # Offsets are from the picture's centre to the crop's.
    left = (size[0] - width) / 2 + right_of
    top = (size[1] - height) / 2 + below
    sides = (left, top, left + width, top + height)
    if any(side.denominator != 1 for side in sides):
        return None
    box = (int(sides[0]), int(sides[1]), int(sides[2]), int(sides[3]))
    fits = 0 <= box[0] < box[2] <= size[0] and 0 <= box[1] < box[3] <= size[1]
    return box if fits else None


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of the body of each box."""
    while at + 8 <= end:
        size, body = int.from_bytes(data[at : at + 4]), at + 8
        if size == 1:
            size, body = int.from_bytes(data[at + 8 : at + 16]), at + 16
        elif size == 0:
            size = end - at
        if size < body - at:
            return
        yield data[at + 4 : at + 8], body, min(at + size, end)
        at += size


def _read_meta(data: bytes, start: int, end: int, meta: Meta) -> None:
    for kind, body, stop in _boxes(data, start, end):
        version = data[body]
        if kind == b"pitm":
            meta.primary = int.from_bytes(data[body + 4 : body + (6 if version == 0 else 8)])
        elif kind == b"iinf":
            _read_items(data, body + (6 if version == 0 else 8), stop, meta)
        elif kind == b"iref":
            _read_references(data, body + 4, stop, 2 if version == 0 else 4, meta)
        elif kind == b"grpl":
            _read_groups(data, body, stop, meta)
        elif kind == b"iprp":
            for inner, inner_body, inner_stop in _boxes(data, body, stop):
                if inner == b"ipco":
                    meta.properties = [(k, data[s:e]) for k, s, e in _boxes(data, inner_body, inner_stop)]
                elif inner == b"ipma":
                    _read_associations(data, inner_body, inner_stop, meta)


def _read_items(data: bytes, start: int, end: int, meta: Meta) -> None:
    for kind, body, stop in _boxes(data, start, end):
        version = data[body]
        if kind != b"infe" or version < 2:
            continue
        n_bytes = 2 if version == 2 else 4
        number = int.from_bytes(data[body + 4 : body + 4 + n_bytes])
        kind_at = body + 4 + n_bytes + 2
        if kind_at + 4 <= stop:
            meta.items[number] = _Item(data[kind_at : kind_at + 4], kind_at, bool(data[body + 3] & 1))


def _read_references(data: bytes, start: int, end: int, n_bytes: int, meta: Meta) -> None:
    for kind, body, stop in _boxes(data, start, end):
        numbers = [
            int.from_bytes(data[at : at + n_bytes])
            for at in (body, *range(body + n_bytes + 2, stop - n_bytes + 1, n_bytes))
        ]
        if kind in (b"thmb", b"auxl"):  # a thumbnail or a mask of others
            meta.parts.add(numbers[0])
        elif kind in (b"dimg", b"base"):  # made of these
            meta.parts.update(numbers[1:])


def _read_groups(data: bytes, start: int, end: int, meta: Meta) -> None:
    for kind, body, stop in _boxes(data, start, end):
        if kind == b"altr":  # forms of one picture, of which a reader takes one
            numbers = [int.from_bytes(data[at : at + 4]) for at in range(body + 12, stop - 3, 4)]
            meta.parts.update(number for number in numbers if number != meta.primary)


def _read_associations(data: bytes, body: int, end: int, meta: Meta) -> None:
    version, is_wide = data[body], data[body + 3] & 1
    at, n_bytes = body + 8, 2 if version == 0 else 4
    for _ in range(int.from_bytes(data[body + 4 : body + 8])):
        if at + n_bytes >= end:
            return
        number, n_properties = int.from_bytes(data[at : at + n_bytes]), data[at + n_bytes]
        at += n_bytes + 1
        step = 2 if is_wide else 1
        mask = 0x7FFF if is_wide else 0x7F
        stop = at + step * n_properties
        meta.properties_of[number] = [
            int.from_bytes(data[each : each + step]) & mask for each in range(at, stop, step)
        ]
        at = stop
