"""What several edge tests share: pictures to ask about."""

from __future__ import annotations

import io
import random
from typing import Any

import pytest
from PIL import Image


class Pictures:
    """Pictures noisy enough that a shift by one pixel shows."""

    @staticmethod
    def noise(size: tuple[int, int], *, mode: str = "RGB", seed: int = 0) -> Image.Image:
        """Blocky noise that survives JPEG: no two neighbouring blocks alike."""
        coarse = (max(1, size[0] // 3), max(1, size[1] // 3))
        bands = len(Image.new(mode, (1, 1)).getbands())
        data = random.Random(seed).randbytes(coarse[0] * coarse[1] * bands)
        return Image.frombytes(mode, coarse, data).resize(size, Image.Resampling.BICUBIC)

    @staticmethod
    def encode(
        image: Image.Image, kind: str = "JPEG", *, orientation: int | None = None, **options: Any
    ) -> bytes:
        """The picture as a file's bytes, with an EXIF orientation if one is given."""
        if orientation is not None:
            exif = Image.Exif()
            exif[0x0112] = orientation
            options["exif"] = exif
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    @classmethod
    def photo(cls, size: tuple[int, int] = (640, 480), *, seed: int = 0, **options: Any) -> bytes:
        """A JPEG file."""
        return cls.encode(cls.noise(size, seed=seed), "JPEG", **options)


@pytest.fixture(scope="session")
def pictures() -> type[Pictures]:
    return Pictures
