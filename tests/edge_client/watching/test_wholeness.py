"""A file's end is missed wherever its format has one."""

from __future__ import annotations

from typing import Any

import pytest

from secondglance.watching.wholeness import looks_whole


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_a_file_without_its_last_bytes_is_not_whole(pictures: Any, kind: str) -> None:
    data = pictures.encode(pictures.noise((40, 30)), kind)
    assert looks_whole(data)
    assert not looks_whole(data[:-20])
    assert not looks_whole(data[: len(data) // 2])


def test_padding_after_a_jpeg_is_no_harm(pictures: Any) -> None:
    assert looks_whole(pictures.photo((40, 30)) + bytes(30))


def test_formats_without_an_end_are_taken_as_they_are_and_nothing_is_nothing() -> None:
    assert looks_whole(b"II*\0 some TIFF")
    assert not looks_whole(b"")
