"""Whether a file that looks finished is: cheap checks of the ends that formats have, no decoding."""

from __future__ import annotations


def looks_whole(data: bytes) -> bool:
    """False where the format has an end and it is missing. Formats without one are taken as they are.

    A false alarm is possible: some cameras append to a JPEG what no standard knows.
    """
    if data.startswith(b"\xff\xd8"):
        return data[-64:].rstrip(b"\0").endswith(b"\xff\xd9")
    if data.startswith(b"\x89PNG"):
        return b"IEND" in data[-64:]
    if data.startswith(b"GIF8"):
        return data.endswith(b";")
    if data.startswith(b"RIFF"):
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    if data.startswith(b"BM"):
        return len(data) >= int.from_bytes(data[2:6], "little")
    return bool(data)
