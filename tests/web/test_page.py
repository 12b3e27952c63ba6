"""The page in a browser: what people see of both stages, of hard pictures, of failures; on any screen."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import io
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lab.relay.faults import RateLimit, Schedule
from lab.relay.relay import relaying
from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.original import Original
from secondglance_server.keys import ApiKey, hash_key
from secondglance_server.testing import serving
from tests.web.conftest import CHROMIUM, FLAGS, PHOTO, ROOT, TRUTH, Opener, Visit

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
AWAY = r"Failed to load resource: net::ERR_"


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 92, **options})
    return buffer.getvalue()


def holds_the_sign(visit: Visit) -> bool:
    left, top, right, bottom = visit.region
    x0, y0, x1, y1 = TRUTH["box"]
    width, height = TRUTH["width"], TRUTH["height"]
    slack = 0.004  # a pixel of the screen
    return (
        left <= x0 / width + slack
        and top <= y0 / height + slack
        and right >= x1 / width - slack
        and bottom >= y1 / height - slack
    )


def test_both_answers_the_region_and_the_bytes_are_shown(visit: Opener) -> None:
    page = visit()
    page.choose(PHOTO)
    page.ask()
    assert page.text("#second .answer") == TRUTH["answer"]
    assert page.text("#second .verdict") == "Sure."
    assert page.text("#first .verdict").startswith("Not sure: the server asks")
    assert page.text("#first .answer") not in ("", TRUTH["answer"])
    assert holds_the_sign(page)
    rows = [row.split("\t") for row in page.text("#bytes tbody").splitlines()]
    question = len(page.questions[0])
    picture, region = (len(body) for _, body in page.bodies)
    total = question + picture + region
    counts = [[int(cell.replace(",", "")) if cell else None for cell in row[1:3]] for row in rows]
    assert counts == [
        [PHOTO.stat().st_size, None],
        [question, None],
        [picture, picture],
        [region, region],
        [total, None],
    ]
    assert total * 100 < PHOTO.stat().st_size
    assert f"{total:,} bytes sent" in page.text("#history")


def test_a_question_that_makes_a_long_header_goes_with_the_picture(visit: Opener) -> None:
    """Headers carry ASCII only: in many scripts a question takes six bytes for a letter."""
    page = visit()
    page.choose(PHOTO)
    page.ask("\u4f55" * 60)
    assert page.answer
    assert page.questions[0] == ""
    assert b'name="request"' in page.bodies[0][1]
    rows = page.text("#bytes tbody").splitlines()
    size = f"{len(page.bodies[0][1]):,}"
    assert rows[1].split("\t")[:3] == ["Small copy and question", size, size]
    page.ask("\u4f55" * 61)
    assert "Question\t" in page.text("#bytes tbody"), "about a picture that the server holds"


def test_a_second_question_about_the_photo_sends_no_picture(visit: Opener, url: str) -> None:
    """Unless the server has forgotten it: then it is sent after all."""
    page = visit(expected="410")
    page.choose(PHOTO)
    page.ask(TRUTH["coarse_question"])
    page.ask()
    assert page.answer == TRUTH["answer"]
    sizes = [len(body) for _, body in page.bodies]
    assert sizes[1] == 0 < sizes[0]
    assert page.text("#bytes tbody").splitlines()[1].startswith("Question\t")

    for name in set(page.page.evaluate("window.inferences")):
        address = f"{url}/v1/inferences/{name}"
        urllib.request.urlopen(urllib.request.Request(address, method="DELETE")).close()
    page.ask()
    assert page.answer == TRUTH["answer"]
    assert [len(body) > 0 for _, body in page.bodies[3:5]] == [False, True]


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


def test_it_asks_on_plain_http_of_another_machine(playwright: Any, visit: Opener, url: str) -> None:
    """A phone in the same network gets no secure context: no camera, no service worker, no randomUUID."""
    port = url.rpartition(":")[2]
    rule = "--host-resolver-rules=MAP camera.example 127.0.0.1"
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, rule])
    try:
        page = visit(browser=browser, at=f"http://camera.example:{port}", expected="Opener-Policy")
        assert page.page.evaluate("[isSecureContext, typeof navigator.mediaDevices]") == [False, "undefined"]
        page.page.on("filechooser", lambda chooser: chooser.set_files(PHOTO))
        page.page.wait_for_timeout(300)
        page.page.click("#take")
        page.page.wait_for_selector("#frame:not([hidden])")
        page.ask()
        assert page.answer == TRUTH["answer"]
        page.page.context.close()
    finally:
        browser.close()


def test_a_plain_question_gets_one_answer(visit: Opener) -> None:
    page = visit()
    page.choose(PHOTO)
    page.ask(TRUTH["coarse_question"])
    assert (page.answer, page.text("#first .verdict")) == (TRUTH["coarse_answer"], "Sure.")
    assert not page.page.is_visible("#second")
    assert not page.page.is_visible("#region")


def test_an_answer_that_may_be_wrong_is_not_called_sure(visit: Opener) -> None:
    page = visit()
    page.choose(PHOTO)
    page.ask("How old is the king of France?")
    words = page.text("#second .verdict") or page.text("#first .verdict")
    assert words.startswith("Not sure")
    assert "Not sure" in page.text("#history")


def test_a_question_that_the_model_does_not_know_is_said_so(visit: Opener) -> None:
    """The embedded model cannot tell, so its reply is changed on its way into that of a model that can."""
    page = visit()

    def change(route: Any) -> None:
        reply = route.fetch()
        told = {"off_domain": True, "doubtful": True, "reason": "off_domain"}
        route.fulfill(response=reply, json={**reply.json(), **told})

    page.page.route("**/v1/inferences", change)
    page.choose(PHOTO)
    page.ask(TRUTH["coarse_question"])
    words = page.text("#first .verdict")
    assert words.startswith(
        "Not sure: the model does not know this kind of question. It answers questions about"
    )


def test_the_terms_of_the_options_are_sent(visit: Opener) -> None:
    page = visit()
    page.choose(PHOTO)
    page.page.click("summary")
    page.page.select_option("#mode", "answer_only")
    page.ask()
    assert [method for method, _ in page.bodies] == ["POST"]
    page.page.select_option("#mode", "auto")
    page.page.fill("#threshold", "1000")
    page.ask()
    assert '"gate":{"threshold":1000}' in page.questions[-1]
    assert [method for method, _ in page.bodies] == ["POST", "POST"]


def test_further_regions_are_sent_while_the_answer_stays_doubtful(visit: Opener) -> None:
    page = visit()
    page.choose(PHOTO)
    page.page.click("summary")
    page.page.fill("#rounds", "3")
    page.ask("How old is the king of France?")
    assert '"max_rounds":3' in page.questions[0]
    rows = [row.split("\t") for row in page.text("#bytes tbody").splitlines()]
    assert [row[0] for row in rows[3:-1]] == ["Region", "Region 2", "Region 3"]
    assert all(row[1] == row[2] for row in rows[3:-1]), "as the server counts"
    assert [method for method, _ in page.bodies] == ["POST", "PUT", "PUT", "PUT"]
    assert page.text("#second .verdict").startswith("Not sure")


def test_a_picture_of_48_megapixels_is_read(visit: Opener) -> None:
    large = Image.open(PHOTO).resize((8000, 6000), Image.Resampling.BICUBIC)
    page = visit()
    page.choose(jpeg(large, quality=85))
    page.ask(timeout_s=60)
    assert page.answer == TRUTH["answer"]
    assert holds_the_sign(page)
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
        assert holds_the_sign(page), orientation
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


def test_a_server_that_goes_between_the_stages_leaves_the_first_answer(visit: Opener, url: str) -> None:
    port = int(url.rpartition(":")[2])
    with contextlib.ExitStack() as running:
        relay = running.enter_context(relaying("127.0.0.1", port))
        page = visit(at=f"http://127.0.0.1:{relay.port}", expected=AWAY)

        def leave(route: Any) -> None:
            running.close()
            route.continue_()

        page.page.route("**/patch", leave)
        page.choose(PHOTO)
        page.ask()
    assert page.text("#first .answer") not in ("", TRUTH["answer"])
    words = page.text("#first .verdict")
    assert words.startswith("Not sure: the second look failed (The server cannot be reached")
    assert words.endswith("This is the first answer.")
    assert page.page.is_visible("#region")


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


def test_a_server_that_is_away_is_said_so(visit: Opener, url: str) -> None:
    page = visit(expected=AWAY)
    page.choose(PHOTO)
    page.page.route("**/v1/**", lambda route: route.abort("connectionrefused"))
    page.ask()
    assert page.text("#error").startswith("The server cannot be reached.")
    page.page.unroute("**/v1/**")
    page.ask(TRUTH["coarse_question"])
    assert (page.answer, page.text("#error")) == (TRUTH["coarse_answer"], "")


@pytest.mark.parametrize(("bytes_per_s", "moves"), [(8_000, 2), (2_000, 10)])
def test_the_bar_moves_and_is_not_full_before_the_reply(
    visit: Opener, url: str, bytes_per_s: int, moves: int
) -> None:
    """64 and 16 kbit/s: a browser says 100 % when the last byte is in a buffer, seconds before it leaves."""
    schedule = Schedule((RateLimit(bytes_per_s, "up"),))
    with relaying("127.0.0.1", int(url.rpartition(":")[2]), schedule=schedule) as relay:
        page = visit(at=f"http://127.0.0.1:{relay.port}")
        page.choose(PHOTO)
        page.page.evaluate(
            """() => { window.seen = []; const bar = document.querySelector('#bar');
            const look = () => { if (!document.querySelector('#work').hidden)
              window.seen.push([document.querySelector('#doing').textContent, bar.value]);
              requestAnimationFrame(look); }; look(); }"""
        )
        page.ask()
        assert page.answer == TRUTH["answer"]
        seen = page.page.evaluate("window.seen")
    for stage in ("the small copy", "the region"):
        values = [value for words, value in seen if words.startswith("Sending") and stage in words]
        assert values == sorted(values), stage
        assert len(set(values)) > moves, stage
        assert max(values) < 100


@pytest.fixture
def guarded() -> Iterator[str]:
    """A server that wants a key."""
    entry = ApiKey(tenant="me", sha256=hash_key("right-key")).model_dump_json(exclude_defaults=True)
    with serving("--page", environment={"SECONDGLANCE_SERVER_KEYS": f"[{entry}]"}) as url:
        yield url


def test_a_refused_key_is_said_and_asked_for(visit: Opener, guarded: str) -> None:
    page = visit(at=guarded, expected="401")
    page.choose(PHOTO)
    page.ask(TRUTH["coarse_question"])
    assert page.text("#error").startswith("The server wants a key, or does not know this one.")
    assert page.page.evaluate("document.activeElement.id") == "key"
    page.page.fill("#key", "wrong-key")
    page.ask(TRUTH["coarse_question"])
    assert "does not know this one" in page.text("#error")
    page.page.fill("#key", "right-key")
    page.ask(TRUTH["coarse_question"])
    assert (page.answer, page.text("#error")) == (TRUTH["coarse_answer"], "")


def test_a_key_is_kept_only_if_the_user_says_so(visit: Opener, guarded: str) -> None:
    page = visit(at=guarded)
    tab = page.page
    tab.click("summary")
    tab.fill("#key", "right-key")
    tab.reload()
    assert (tab.input_value("#key"), tab.evaluate("localStorage.length")) == ("", 0)
    tab.click("summary")
    tab.fill("#key", "right-key")
    tab.check("#remember")
    tab.reload()
    assert tab.input_value("#key") == "right-key"
    tab.click("summary")
    tab.uncheck("#remember")
    tab.reload()
    assert (tab.input_value("#key"), tab.evaluate("localStorage.length")) == ("", 0)


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_screen_shows_it_all_and_axe_finds_nothing(visit: Opener, width: int, scheme: str) -> None:
    page = visit(viewport={"width": width, "height": 740}, color_scheme=scheme)
    found = page.axe()
    page.choose(PHOTO)
    page.page.click("summary")
    page.ask()
    found += page.axe()
    page.page.evaluate("document.querySelector('#error').hidden = false")
    page.page.evaluate("document.querySelector('#error').textContent = 'The server cannot be reached.'")
    found += page.axe()
    assert found == []
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 300) == (scheme == "dark")


def test_it_works_with_the_keyboard_alone(visit: Opener) -> None:
    page = visit()
    tab = page.page
    tab.on("filechooser", lambda chooser: chooser.set_files(PHOTO))  # from the start: it takes a moment
    order = []
    for _ in range(5):
        tab.keyboard.press("Tab")
        order.append(tab.evaluate("document.activeElement.id || document.activeElement.localName"))
    assert order == ["choose", "take", "question", "ask", "summary"]
    tab.focus("#choose")
    tab.keyboard.press("Enter")
    page.until("document.activeElement.id === 'question'")
    tab.keyboard.type(TRUTH["question"])
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#second .verdict:visible")
    assert page.answer == TRUTH["answer"]


def test_what_happens_is_announced(visit: Opener) -> None:
    page = visit()
    tab = page.page
    assert tab.get_by_role("status", include_hidden=True).count() == 1
    assert tab.locator("#answers").get_attribute("aria-live") == "polite"
    assert tab.get_by_role("textbox", name="Question about the photo").count() == 1
    page.choose(ROOT / "LICENSE")
    assert "cannot open" in tab.get_by_role("alert").inner_text()
    page.choose(PHOTO)
    assert tab.get_by_role("img", name="The photo: photo.jpg").count() == 1


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_photo_comes_by_drop_and_by_paste(visit: Opener, way: str) -> None:
    page = visit()
    page.page.evaluate(
        """async (way) => {
          const blob = await (await fetch("icon-512.png")).blob();
          const transfer = new DataTransfer();
          transfer.items.add(new File([blob], "dropped.png", { type: "image/png" }));
          const event = way === "drop"
            ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
          document.querySelector("main").dispatchEvent(event);
        }""",
        way,
    )
    page.page.wait_for_selector("#frame:not([hidden])")
    assert page.text("#caption").startswith("dropped.png: 512 \u00d7 512 pixels")


def test_text_is_pasted_into_the_question(visit: Opener) -> None:
    page = visit()
    page.page.evaluate(
        """() => { const transfer = new DataTransfer(); transfer.setData("text/plain", "a word");
        document.querySelector("#question").dispatchEvent(
          new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true })); }"""
    )
    assert page.text("#error") == ""


@pytest.mark.parametrize("allowed", [True, False])
def test_the_camera_gives_its_largest_still_or_says_why_not(
    playwright: Any, visit: Opener, allowed: bool
) -> None:
    fake = "--use-fake-device-for-media-stream"
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, fake])
    try:
        page = visit(browser=browser, permissions=["camera"] if allowed else [])
        tab = page.page
        tab.click("#take")
        if allowed:
            page.until("document.querySelector('#finder').videoWidth > 0")
            tab.click("#shoot")
            tab.wait_for_selector("#frame:not([hidden])")
            assert "3840 \u00d7 2160 pixels" in page.text("#caption")
            assert not tab.is_visible("#camera")
            assert tab.evaluate("document.querySelector('#finder').srcObject") is None
        else:
            tab.wait_for_selector("#error:not([hidden])")
            assert page.text("#error").startswith("This page may not use the camera.")
        page.page.context.close()
    finally:
        browser.close()


def test_a_browser_without_a_camera_says_so(visit: Opener) -> None:
    page = visit(permissions=["camera"])
    page.page.click("#take")
    page.page.wait_for_selector("#error:not([hidden])")
    assert page.text("#error") == "No camera was found. Choose a photo instead."


def test_it_opens_without_a_network_and_asks_later(visit: Opener) -> None:
    page = visit(expected="ERR_INTERNET_DISCONNECTED")
    tab = page.page
    tab.evaluate("navigator.serviceWorker.ready.then(() => 0)")
    page.until("navigator.serviceWorker.controller !== null")
    tab.context.set_offline(True)
    tab.reload()
    page.choose(PHOTO)
    page.ask()
    assert page.text("#error") == "No network. The photo and the question stay here: ask again later."
    tab.context.set_offline(False)
    page.ask()
    assert page.answer == TRUTH["answer"]


def test_it_can_be_installed(visit: Opener) -> None:
    page = visit()
    session = page.page.context.new_cdp_session(page.page)
    assert session.send("Page.getAppManifest")["errors"] == []
    page.page.evaluate("navigator.serviceWorker.ready.then(() => 0)")
    found = session.send("Page.getInstallabilityErrors")["installabilityErrors"]
    assert [each["errorId"] for each in found if each["errorId"] != "in-incognito"] == []


def test_a_visit_is_remembered_until_it_is_forgotten(visit: Opener) -> None:
    page = visit()
    page.choose(PHOTO)
    page.ask(TRUTH["coarse_question"])
    page.ask()
    asked = page.page.locator("#history li p:first-child").all_inner_texts()
    assert asked == [TRUTH["question"], TRUTH["coarse_question"]]
    page.page.click("#forget")
    assert not page.page.is_visible("#history")
    page.page.reload()
    assert not page.page.is_visible("#history")


def test_a_question_can_be_cancelled(visit: Opener) -> None:
    page = visit(expected="net::ERR_FAILED")
    page.choose(PHOTO)
    page.page.route("**/v1/inferences", lambda route: None)  # for ever
    page.page.fill("#question", TRUTH["question"])
    page.page.press("#question", "Enter")
    page.page.click("#cancel")
    page.page.wait_for_selector("#work", state="hidden")
    assert page.text("#error") == ""
    page.page.unroute("**/v1/inferences")
    page.ask()
    assert page.answer == TRUTH["answer"]


def test_fifty_questions_leave_the_heap_flat(visit: Opener) -> None:
    page = visit()
    page.choose(PHOTO)
    session = page.page.context.new_cdp_session(page.page)
    session.send("Performance.enable")

    def heap() -> float:
        session.send("HeapProfiler.collectGarbage")
        metrics = session.send("Performance.getMetrics")["metrics"]
        return float(next(each["value"] for each in metrics if each["name"] == "JSHeapUsedSize"))

    for _ in range(5):
        page.ask()
    before = heap()
    for _ in range(50):
        page.ask()
    grown = heap() - before
    print(f"the heap grew by {grown / 1024:.0f} KiB in 50 questions")
    assert grown < 512 * 1024


@contextlib.contextmanager
def static_host(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def end_headers(self) -> None:
            self.send_header("Access-Control-Allow-Origin", "*")  # as hosts of libraries do
            super().end_headers()

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("is_named", [True, False])
def test_a_copy_on_another_origin_asks_if_the_server_names_the_origin(
    visit: Opener, tmp_path: Path, is_named: bool
) -> None:
    shutil.copytree(ROOT / "edge_web" / "page", tmp_path / "site")
    shutil.copytree(ROOT / "edge_web" / "src", tmp_path / "site" / "src")
    with static_host(tmp_path / "site") as site:
        origin = site if is_named else "https://app.example.com"
        with serving("--cors-origin", origin) as server:
            index = tmp_path / "site" / "index.html"
            empty = 'name="second-glance-server" content=""'
            assert empty in index.read_text()
            index.write_text(index.read_text().replace(empty, empty[:-1] + f'{server}"'))
            page = visit(at=site, path="/", expected="(?!)" if is_named else "CORS policy|ERR_FAILED")
            page.choose(PHOTO)
            page.ask()
            if is_named:
                assert page.answer == TRUTH["answer"]
            else:
                assert page.text("#error").startswith("The server cannot be reached.")


@pytest.mark.parametrize("is_beside", [True, False])
def test_the_example_of_a_page_asks_from_its_own_host(visit: Opener, tmp_path: Path, is_beside: bool) -> None:
    """Its library lies beside it, or on a third origin, from where browsers start no worker."""
    site = tmp_path / "site"
    site.mkdir()
    index = (ROOT / "examples" / "web_page" / "index.html").read_text()
    library = site / "second-glance" if is_beside else tmp_path / "third" / "second-glance"
    shutil.copytree(ROOT / "edge_web" / "src", library)
    with (
        static_host(site) as host,
        static_host(library.parent) as third,
        serving("--cors-origin", host) as server,
    ):
        assert index.count('"http://localhost:8000"') == 1
        index = index.replace("http://localhost:8000", server)
        (site / "index.html").write_text(
            index if is_beside else index.replace('"./second-glance', f'"{third}/second-glance')
        )
        page = visit(at=host, path="/", expected="favicon|404").page
        page.set_input_files("[name=photo]", PHOTO)
        page.click("button")
        page.get_by_text("bytes sent of").wait_for(timeout=30_000)
        said = page.locator("output").inner_text()
        assert said.startswith(f"{TRUTH['answer']}: ")
        sent, whole = (int(word) for word in re.findall(r"\d+", said)[-2:])
        assert (whole, sent * 100 < whole) == (PHOTO.stat().st_size, True)
        assert len(page.workers) == is_beside


def test_the_gateway_shows_the_page_and_asks_for_it(visit: Opener, url: str) -> None:
    command = [sys.executable, "-m", "secondglance.cli", "gateway", "--url", url, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            gateway = process.stderr.readline().split()[1].removesuffix("/v1")
            page = visit(at=gateway)
            page.choose(PHOTO)
            page.ask()
            assert page.answer == TRUTH["answer"]
        finally:
            process.terminate()
            process.communicate(timeout=30)
