"""The one thing in EXIF that changes a picture: its orientation. Both sides read it here, by one rule.

EXIF decides alone; what XMP or a text chunk says about orientation is ignored, as viewers do. Other tags
and broken EXIF are ignored, too.
"""

from __future__ import annotations

_PREFIX = b"Exif\0\0"
_ORIENTATION_TAG = 0x0112
_N_BYTES = {1: 1, 3: 2, 4: 4}  # of the integer types BYTE, SHORT and LONG


def exif_orientation(exif: bytes | None) -> int:
    """Return the orientation, 1 to 8; 1 where EXIF is absent, cannot be read or says something else."""
    data = exif or b""
    while data.startswith(_PREFIX):
        data = data[len(_PREFIX) :]
    order: dict[bytes, str] = {b"II*\0": "little", b"MM\0*": "big"}
    if data[:4] not in order:
        return 1

    def number(at: int, n_bytes: int) -> int:
        return int.from_bytes(data[at : at + n_bytes], "little" if order[data[:4]] == "little" else "big")

    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + 12 * number(directory, 2), 12):
        if entry + 12 > len(data):
            break
        if number(entry, 2) == _ORIENTATION_TAG:
            n_bytes = _N_BYTES.get(number(entry + 2, 2))
            value = number(entry + 8, n_bytes) if n_bytes and number(entry + 4, 4) == 1 else 1
            return value if 1 <= value <= 8 else 1
    return 1
