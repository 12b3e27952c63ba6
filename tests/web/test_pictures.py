"""Pictures in the page: their pixels are the Python edge's, hard ones are read or refused in words."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.original import Original
from tests.web.conftest import PHOTO, ROOT, TRUTH, Opener

FORMATS = ROOT / "tests" / "edge_client" / "formats"
KIND_TO_UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 92, **options})
    return buffer.getvalue()


def noisy(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Fine detail everywhere, where filters differ most; from a seed."""
    bands = len(mode)
    coarse = np.random.default_rng(7).integers(0, 256, (height // 5, width // 5, bands), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_sizes_are_the_python_edges(visit: Opener) -> None:
    """Boxes to the pixel begin with sizes to the pixel; hair-thin pictures are thickened on both edges."""
    draw = np.random.default_rng(11)
    sides = [int(each) for each in np.exp(draw.uniform(0, 10.5, 1200))]
    cases = []
    for width, height in zip(sides[::2], sides[1::2], strict=True):
        most = int(draw.integers(2_000, 300_000)) if draw.random() < 0.5 else None
        cases.append((width, height, int(draw.integers(64, 900)), int(draw.integers(64, 900)), most))
    sizes = visit().page.evaluate(
        """async (cases) => {
          const { fit } = await import("/app/src/fit.js");
          const limits = { min_side_pixels: 8, max_aspect_ratio: 16 };
          return cases.map(([width, height, max_width, max_height, max_pixels]) => {
            const size = fit(width, height, { max_width, max_height, max_pixels }, limits);
            return [size.width, size.height];
          });
        }""",
        cases,
    )
    wanted = [
        list(PixelBudget(*budget, min_side=8, max_aspect=16).fit((width, height)))
        for width, height, *budget in cases
    ]
    assert sizes == wanted


def test_a_hair_thin_picture_is_asked_about(visit: Opener) -> None:
    page = visit()
    page.choose(png(noisy(3000, 20)), "thin.png", "image/png")
    page.ask("How many signs are there?")
    assert page.answer
    assert page.text("#error") == ""


RESIZED = """async ([encoded, region, width, height]) => {
  const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
  const { BrowserPicture } = await import("/app/src/browser.js");
  const { resized } = await import("/app/src/resize.js");
  const picture = await BrowserPicture.open(new Blob([bytes]), Infinity);
  const [left, top, right, bottom] = region ?? [0, 0, picture.width, picture.height];
  const made = resized(picture.bitmap, { left, top, right, bottom }, width, height);
  picture.close();
  return Array.from(made.data);
}"""


@pytest.mark.parametrize(
    ("picture", "region"),
    [
        (PHOTO.read_bytes(), None),
        (PHOTO.read_bytes(), (900, 2400, 1500, 3000)),
        (jpeg(noisy(1001, 703)), None),
        (png(noisy(1001, 703)), None),
        (png(noisy(1001, 703)), (3, 5, 701, 606)),
        (png(noisy(900, 1300, "RGBA")), None),
        (png(noisy(450, 337)), None),
    ],
    ids=["photo", "region", "jpeg", "png", "region of a png", "transparent", "hardly smaller"],
)
def test_pixels_are_the_python_edges(visit: Opener, picture: bytes, region: Any) -> None:
    """Before encoding, mean absolute difference in levels; a browser's own filter is off by three."""
    budget = PixelBudget(max_width=448, max_height=336, max_pixels=None)
    with Original(picture) as original:
        made = original.patch(region, budget) if region else original.global_image(budget)
    truth = np.asarray(made.convert("RGB"), float)
    page = visit()
    given = [base64.b64encode(picture).decode(), region, made.width, made.height]
    shown = np.array(page.page.evaluate(RESIZED, given), float).reshape(made.height, made.width, 4)
    off = float(np.abs(shown[..., :3] - truth).mean())
    print(f"off by {off:.3f} levels")
    assert off <= 2


def test_what_is_sent_has_no_colour_profile(visit: Opener) -> None:
    """Canvas puts 456 bytes of profile into each WebP: an eighth of a small copy."""
    page = visit()
    page.choose(PHOTO)
    page.ask()
    for _, body in page.bodies:
        assert b"ICCP" not in body
        assert Image.open(io.BytesIO(body[body.find(b"RIFF") :])).info.get("icc_profile") is None


def test_a_picture_of_48_megapixels_is_read(visit: Opener) -> None:
    large = Image.open(PHOTO).resize((8000, 6000), Image.Resampling.BICUBIC)
    page = visit()
    page.choose(jpeg(large, quality=85))
    page.ask(timeout_s=60)
    assert page.answer == TRUTH["answer"]
    assert page.shows_the_sign
    assert "8000 \u00d7 6000 pixels" in page.text("#caption")


LOOK = """() => {
  window.tasks = [];
  new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((entry) => entry.duration)))
    .observe({ entryTypes: ["longtask"] });
}"""


BUSY = "() => setTimeout(() => { const end = performance.now() + 300; while (performance.now() < end); })"


def test_the_page_stays_responsive_while_48_megapixels_are_prepared(visit: Opener, tmp_path: Path) -> None:
    """On the page's own thread, showing and preparing such a photo held it up for 0.4 to 1.6 s at a time."""
    Image.open(PHOTO).resize((8000, 6000), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=85)
    page = visit()
    page.page.wait_for_timeout(300)
    page.page.evaluate(LOOK)
    page.choose(tmp_path / "large.jpg")
    page.ask(timeout_s=60)
    assert page.answer == TRUTH["answer"]
    page.until("document.querySelector('#history img').naturalWidth === 128")
    longest = max(page.page.evaluate("window.tasks"), default=0)
    print(f"the longest task of the page took {longest:.0f} ms")
    assert len(page.page.workers) == 1
    page.page.evaluate(BUSY)
    page.until("window.tasks.some((each) => each >= 250)")  # so it would be seen
    assert longest < 250


WITHOUT = {
    "nothing": "",
    "workers": "delete window.Worker;",
    "leave for workers": "window.Worker = class { constructor() { throw new DOMException('no'); } };",
    "a worker's file": """const Kept = Worker;
      window.Worker = class { constructor() { return new Kept('/nowhere.js'); } };""",
    "canvases off the page": "delete window.Worker; delete window.OffscreenCanvas;",
}


WRITTEN = """async ([encoded, regions]) => {
  const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
  const { openPicture } = await import("/app/src/pictures.js");
  const picture = await openPicture(new Blob([bytes]), Infinity);
  const written = [picture.width, picture.height, await picture.contentKey()];
  for (const [region, size] of regions) {
    const drawn = await picture.draw(region, size);
    const png = await drawn.write("image/png", null);
    written.push(Array.from(png), await drawn.write("image/tiff", 50));
    drawn.close();
  }
  picture.close();
  return written;
}"""


def test_the_worker_and_the_page_make_the_same_pictures(visit: Opener) -> None:
    """Old browsers, pages of another origin than the library, and strict policies have no worker for us."""
    region = {"left": 30, "top": 50, "right": 330, "bottom": 170}
    regions = [(None, {"width": 224, "height": 168}), (region, {"width": 300, "height": 120})]
    given = [base64.b64encode(jpeg(noisy(1001, 703))).decode(), regions]
    made = []
    for name, script in WITHOUT.items():
        page = visit(expected="404" if name.endswith("file") else "(?!)")
        page.page.evaluate(f"() => {{ {script} }}")
        width, height, key, *pngs = page.page.evaluate(WRITTEN, given)
        assert len(page.page.workers) == (name == "nothing"), name
        assert pngs[1::2] == [None, None], "what no browser writes"
        pictures = [
            np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB")).tolist() for png in pngs[::2]
        ]
        made.append((width, height, key, pictures))
    assert all(each == made[0] for each in made)


def test_the_worker_says_what_is_wrong_and_keeps_no_picture(visit: Opener) -> None:
    page = visit(expected="503")
    page.choose(PHOTO)
    page.ask()
    (worker,) = page.page.workers
    page.until("document.querySelector('#history img').naturalWidth === 128")  # by the worker, too
    worker.evaluate(
        """() => { self.left = 0; const make = self.createImageBitmap;
        self.createImageBitmap = (...given) => make(...given).then((made) => { self.left++; return made; });
        const close = ImageBitmap.prototype.close;
        ImageBitmap.prototype.close = function () { self.left--; close.call(this); }; }"""
    )
    page.ask(TRUTH["coarse_question"])
    page.page.route("**/patch", lambda route: route.fulfill(status=503, headers={"Retry-After": "999"}))
    page.ask()
    assert "the second look failed" in page.text("#first .verdict")
    words = page.page.evaluate(
        """async () => { const { openPicture } = await import("/app/src/pictures.js");
        const why = (error) => `${error.name}: ${error.message}`;
        const wide = new Blob([await (await fetch("/app/icon-512.png")).blob()]);
        return await Promise.all([
          openPicture(new Blob(["no picture"]), 1e9).catch(why), openPicture(wide, 512).catch(why)]); }"""
    )
    assert words[0] == "BadImageError: This browser cannot open the photo."
    assert words[1].startswith("BadImageError: The photo has 512 \u00d7 512 pixels")
    page.page.wait_for_timeout(200)
    assert worker.evaluate("self.left") == 0


def test_every_orientation_of_exif_gives_the_same_answer_and_region(visit: Opener) -> None:
    """Chromium's createImageBitmap with a rectangle gives another region where EXIF turns the picture."""
    upright = Image.open(PHOTO)
    page = visit()
    regions = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = upright.transpose(KIND_TO_UNDO[orientation]) if orientation > 1 else upright
        page.choose(jpeg(turned, exif=exif))
        page.until("document.querySelector('#caption').textContent.includes('4000 \u00d7 3000')")
        page.ask()
        assert (orientation, page.answer) == (orientation, TRUTH["answer"])
        assert page.shows_the_sign, orientation
        regions.append(page.region)
    assert np.ptp(np.array(regions), axis=0).max() < 0.05


def test_what_is_transparent_is_sent_as_white(visit: Opener) -> None:
    image = Image.new("RGBA", (600, 400), (0, 0, 0, 0))
    image.paste((200, 20, 20, 255), (200, 100, 400, 300))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    page = visit()
    page.choose(buffer.getvalue(), "sign.png", "image/png")
    page.ask()
    sent = page.sent_picture()
    assert min(sent.getpixel((2, 2))) > 245  # type: ignore[type-var]
    red = sent.getpixel((sent.width // 2, sent.height // 2))
    assert np.abs(np.subtract(red, (200, 20, 20))).max() < 12


def test_colours_of_a_wide_gamut_are_sent_as_srgb(visit: Opener) -> None:
    page = visit()
    page.choose(FORMATS / "files" / "display-p3.jpg")
    page.ask("How many signs are there?")
    sent = page.sent_picture()
    truth = Image.open(FORMATS / "scene.png").convert("RGB").resize(sent.size, Image.Resampling.BOX)
    raw = (
        Image.open(FORMATS / "files" / "display-p3.jpg")
        .convert("RGB")
        .resize(sent.size, Image.Resampling.BOX)
    )

    def off(image: Image.Image) -> float:
        return float(np.abs(np.asarray(image, float) - np.asarray(sent, float)).mean())

    assert off(truth) < 6
    assert off(truth) < off(raw)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (FORMATS / "files" / "srgb.heic", "cannot open HEIC photos. Save the photo as JPEG"),
        (FORMATS / "files" / "rgb16.tif", "cannot open TIFF pictures. Save it as JPEG"),
        (ROOT / "LICENSE", "cannot open this file as a picture"),
    ],
)
def test_what_the_browser_cannot_open_is_said_with_a_remedy(visit: Opener, file: Path, words: str) -> None:
    page = visit()
    page.choose(file)
    assert words in page.text("#error")
    page.ask()
    assert page.text("#error") == "Choose a photo first."
    page.choose(PHOTO)
    assert page.text("#error") == ""
    page.ask(TRUTH["coarse_question"])
    assert page.answer == TRUTH["coarse_answer"]
    page.choose(file)
    page.page.wait_for_selector("#error:not([hidden])")
    assert words in page.text("#error")
    page.ask(TRUTH["coarse_question"])
    assert page.answer == TRUTH["coarse_answer"], "the photo that is still shown is asked about"


def test_a_region_outside_of_the_photo_is_not_cut(visit: Opener) -> None:
    page = visit()

    def change(route: Any) -> None:
        reply = route.fetch()
        told = reply.json()
        told["roi"]["pixels"] |= {"right": 900_000}
        route.fulfill(response=reply, json=told)

    page.page.route("**/v1/inferences", change)
    page.choose(PHOTO)
    page.ask()
    assert [method for method, _ in page.bodies] == ["POST"]
    assert "names no box in the picture" in page.text("#first .verdict")
    assert not page.page.is_visible("#region")
