"""Every format gives the picture that a viewer shows: one scene in 33 files, and what Chromium made of them.

The files come from `make.py` beside this one. `viewer.json` holds how far Chromium's screenshot was from the
scene; the edge may be half a level further away, but not as far as it would be without the colour profile.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from secondglance import BadImageError, EdgeClient, MissingExtraError
from secondglance.cli import app
from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.color import to_srgb
from secondglance.pictures.original import Original
from secondglance_server.engine.fake import FakeEngine
from tests.server.listening import captured_log, lines

HERE = Path(__file__).parent
FILES = sorted((HERE / "files").iterdir())
VIEWER = json.loads((HERE / "viewer.json").read_text())
CODEC = {".tif": 0.6, ".heic": 1.5}  # levels; of formats that Chromium does not open
SECRET = b"SECRET-OF-THE-CAMERA"
SEVERAL = {"animated.gif", "animated.png", "animated.webp", "pages.tif"}

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def scene(path: Path) -> Image.Image:
    with Image.open(HERE / "scene.png") as image:
        return image.convert("L").convert("RGB") if path.name.startswith("grey") else image.convert("RGB")


def distance(first: Image.Image, second: Image.Image) -> float:
    """Root mean square over pixels and channels, in levels of 255."""
    pair = [np.asarray(image).astype(float) for image in (first, second)]
    return float(np.sqrt(((pair[0] - pair[1]) ** 2).mean()))


def tolerance(path: Path) -> float:
    return VIEWER[path.name] + 0.5 if path.name in VIEWER else CODEC[path.suffix]


@each_file
def test_the_picture_is_what_a_viewer_shows(path: Path) -> None:
    with Original(path) as original:
        shown = original.crop((0, 0, *original.size))
    assert shown.mode == "RGB"
    assert distance(shown, scene(path)) <= tolerance(path)


@each_file
def test_the_small_copy_has_the_same_colours(path: Path) -> None:
    """Reduced before or after the colours are converted: half the size, and JPEGs decoded at half scale."""
    with Original(path) as original:
        small = original.global_image(PixelBudget(48, 48))
    reference = scene(path).resize((48, 32), Image.Resampling.LANCZOS)
    assert small.size == (48, 32)
    assert distance(small, reference) <= tolerance(path) + 1.5


@pytest.mark.parametrize(
    "path", [p for p in FILES if "p3" in p.name or "adobe" in p.name], ids=lambda p: p.name
)
def test_without_its_profile_the_picture_would_be_another(path: Path) -> None:
    """The test of colours can fail."""
    with Original(path) as original:
        original._icc_profile = None
        ignored = original.crop((0, 0, *original.size))
    assert distance(ignored, scene(path)) > tolerance(path) + 3


def test_without_its_profile_ink_and_grey_would_be_lighter_or_darker() -> None:
    for name in ("cmyk-profile.jpg", "grey-1.8.jpg"):
        path = HERE / "files" / name
        with Image.open(path) as image:
            assert distance(to_srgb(image), scene(path)) > tolerance(path) + 3


@each_file
def test_of_several_pictures_the_first_is_taken_and_it_is_said(path: Path) -> None:
    with Original(path) as original:
        assert bool(original.notes) == (path.name in SEVERAL)


def test_the_companions_of_an_mpo_are_no_pictures_of_their_own(pictures: Any) -> None:
    photo, depth = pictures.noise((300, 200)), pictures.noise((300, 200), seed=1)
    data = pictures.encode(photo, "MPO", quality=95, save_all=True, append_images=[depth])
    with Original(data) as original:
        assert (original.format, original.notes) == ("MPO", ())
        assert distance(original.crop((0, 0, 300, 200)), photo) < 25


def test_the_note_reaches_reply_json_and_terminal(serve: Any, server: Any, settings: Any) -> None:
    path = HERE / "files" / "animated.gif"
    with EdgeClient(settings=settings, transport=httpx.MockTransport(server)) as client:
        reply = client.with_options(mode="answer_only").ask(path, "What?")
    assert len(reply.notes) == 1
    assert reply.to_dict()["notes"] == list(reply.notes)
    url = serve(FakeEngine()).url
    ran = CliRunner().invoke(app, ["ask", str(path), "What?", "--url", url])
    assert ran.exit_code == 0
    assert reply.notes[0] in ran.stderr


@each_file
def test_no_metadata_leaves(path: Path, server: Any, settings: Any) -> None:
    """Searched for in every byte that was sent, and by opening what was sent."""
    server.pixels = server.pixels.model_copy(update={"left": 10, "top": 10, "right": 60, "bottom": 50})
    server.side = 64
    with EdgeClient(settings=settings, transport=httpx.MockTransport(server)) as client:
        reply = client.ask(path, "What?", mode="always")
    assert (reply.stage, reply.degraded) == (2, None)
    image = server.parts(server.requests["first"][0])["image"]
    patch = server.requests["patch"][0].content
    for data in (server.requests["first"][0].content, patch):
        assert SECRET not in data
    for data in (image, patch):
        with Image.open(io.BytesIO(data)) as sent:
            assert not set(sent.info) & {"exif", "icc_profile", "comment", "xmp", "photoshop"}
            assert dict(sent.getexif()) == {}


def test_the_secret_is_in_the_files() -> None:
    """The test of privacy can fail."""
    assert sum(SECRET in path.read_bytes() for path in FILES) >= 10


@pytest.mark.parametrize("name", ["srgb.jpg", "turned-6.heic", "display-p3.png"])
def test_what_is_saved_is_what_left_and_the_servers_log_has_its_hash(
    serve: Any, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--save-sent` keeps both uploads; their SHA-256 are in the server's two request lines."""
    monkeypatch.setenv("SECONDGLANCE_EDGE_FORMAT", "webp")
    big = tmp_path / "big.png"
    with Original(HERE / "files" / name) as original:
        original.crop((0, 0, *original.size)).resize((1600, 1200)).save(big)
    with captured_log() as log:
        server = serve(FakeEngine())
        command = ["ask", str(big), "What?", "--url", server.url, "--save-sent", str(tmp_path)]
        ran = CliRunner().invoke(app, command)
        server.close()  # a line is written after its reply has left
    assert ran.exit_code == 0, ran.output
    logged = [line["image_sha256"] for line in lines(log) if "image_sha256" in line]
    kept = [tmp_path / "stage1-image.webp", tmp_path / "stage2-patch.webp"]
    assert logged == [hashlib.sha256(path.read_bytes()).hexdigest() for path in kept]


def test_without_the_extra_a_heic_picture_is_refused_with_advice() -> None:
    """In a process whose import of pillow_heif fails, as on an edge that did not install it."""
    script = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from secondglance.pictures.original import Original\n"
        f"Original({str(HERE / 'files' / 'srgb.heic')!r})"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert MissingExtraError.__name__ in ran.stderr
    assert issubclass(MissingExtraError, BadImageError), "a batch goes on with the next picture"
    assert "pip install 'second-glance[heic]'" in ran.stderr


def test_opening_heic_leaves_pillow_as_it_was() -> None:
    with Original(HERE / "files" / "srgb.heic"):
        assert "HEIF" not in Image.OPEN


@pytest.mark.parametrize("cut", [20, 100, 2000])
def test_a_heic_cut_short_is_a_bad_image(cut: int) -> None:
    data = (HERE / "files" / "srgb.heic").read_bytes()[:cut]
    with pytest.raises(BadImageError):
        Original(data).crop((0, 0, 10, 10))
