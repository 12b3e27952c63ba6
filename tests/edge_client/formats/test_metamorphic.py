"""One picture in thousands of files: edge, server and definitions agree, or it is refused clearly.

Found with other people's files (rows I2, I4 to I9 and I11): wrong colours, wrong turns, wrong transparency,
all without a word. `make pictures` looks at 2,000 files; every test run at 250 of them.
"""

from __future__ import annotations

import numpy as np
import pytest

from secondglance import BadImageError
from secondglance.pictures.original import Original
from secondglance_protocol.errors import ErrorCode
from secondglance_server.errors import ProblemError
from secondglance_server.inference.intake import decode, patch_limits
from secondglance_server.settings import ServerSettings
from tests.edge_client.formats.variants import LOSSY, ON_SERVER, Floats, Variant, make

LIMITS = patch_limits(ServerSettings())


def on_edge(data: bytes) -> Floats:
    with Original(data) as original:
        return np.asarray(original.crop((0, 0, *original.size))).astype(float)


def difference(found: Floats, variant: Variant) -> float:
    """Root mean square in levels; infinite for another size."""
    if found.shape != variant.shown.shape:
        return float("inf")
    return float(np.sqrt(((found - variant.shown) ** 2).mean()))


def complaints(number: int) -> list[str]:
    """Return what is wrong with variant `number`: a side that shows something else, or refuses it."""
    variant = make(number)
    found: list[str] = []
    try:
        edge = on_edge(variant.data)
    except BadImageError as error:
        found.append(f"the edge refuses: {error}")
    else:
        if (distance := difference(edge, variant)) > variant.tolerance:
            found.append(f"the edge is off by {distance:.1f}")
    try:
        server = decode(variant.data, LIMITS).astype(float)
    except ProblemError as problem:
        expected = ErrorCode.UNORIENTED_IMAGE if variant.is_turned else None
        if variant.format not in ON_SERVER:
            expected = ErrorCode.UNSUPPORTED_MEDIA_TYPE
        if problem.code != expected:
            found.append(f"the server refuses: {problem}")
    else:
        if (distance := difference(server, variant)) > variant.tolerance:
            found.append(f"the server is off by {distance:.1f}")
        if variant.is_turned:
            found.append("the server takes a turned picture")
    return [f"{number} {variant.traits}: {complaint}" for complaint in found]


@pytest.mark.parametrize("first", range(0, 250, 50))
def test_no_file_is_silently_another_picture(first: int) -> None:
    assert [line for number in range(first, first + 50) for line in complaints(number)] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_none_of_two_thousand_files_is_silently_another_picture() -> None:
    wrong = [line for number in range(2000) for line in complaints(number)]
    print(f"\n2,000 files, {len(wrong)} silent differences")
    assert wrong == []


def test_the_variants_are_many_and_unlike() -> None:
    """The generator covers what it names, and hardly ever makes the same file twice."""
    variants = [make(number) for number in range(250)]
    assert len({variant.data for variant in variants}) > 240
    others = {"TIFF", "GIF", "BMP", "PPM"}
    assert {variant.format for variant in variants} == ON_SERVER | LOSSY | others


def test_a_difference_would_be_found() -> None:
    """The check can fail: the same files, with what they show turned, darkened or shifted by a block."""
    n_found = 0
    for number in range(40):
        variant = make(number)
        right = variant.shown
        for wrong in (right[::-1], 255 * (right / 255) ** 1.4, np.roll(right, 8, axis=1)):
            variant.shown = wrong
            n_found += difference(right, variant) > variant.tolerance
    assert n_found >= 110  # of 120: black and white stay as they are when darkened
