"""Take the page's pictures for the documents:  python -m tests.web.screenshots FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lab.relay.faults import RateLimit, Schedule
from lab.relay.relay import relaying
from secondglance_server.testing import serving
from tests.web.conftest import CHROMIUM, FLAGS, PHOTO, ROOT, TRUTH

PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 1}
DESK = {"viewport": {"width": 1280, "height": 800}}
SLOW = Schedule((RateLimit(2_000, "up"),))


def main(folder: Path) -> None:
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    with serving("--page") as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)

        def opened(at: str, **options: Any) -> Any:
            page = browser.new_page(**options)
            page.goto(f"{at}/app/")
            return page

        def shoot(page: Any, name: str) -> None:
            page.wait_for_timeout(300)
            page.screenshot(path=folder / f"{name}.jpg", type="jpeg", quality=75, full_page=True)

        def ask(page: Any, question: str) -> None:
            page.fill("#question", question)
            page.press("#question", "Enter")

        def choose(page: Any, file: Path = PHOTO) -> None:
            page.set_input_files("#file", file)
            page.wait_for_selector("#frame:not([hidden]), #error:not([hidden])")

        shoot(opened(url, **DESK), "empty")

        with relaying("127.0.0.1", int(url.rpartition(":")[2]), schedule=SLOW) as relay:
            page = opened(f"http://127.0.0.1:{relay.port}", **PHONE)
            choose(page)
            ask(page, TRUTH["question"])
            page.get_by_text("the region, in full detail").wait_for()
            shoot(page, "first-answer")
            page.wait_for_selector("#bytes:not([hidden])")
            shoot(page, "final-phone")

        page = opened(url, **DESK)
        choose(page)
        ask(page, TRUTH["question"])
        page.wait_for_selector("#bytes:not([hidden])")
        shoot(page, "final")

        page = opened(url, color_scheme="dark", **PHONE)
        choose(page)
        ask(page, "How old is the king of France?")
        page.wait_for_selector("#bytes:not([hidden])")
        shoot(page, "not-sure")

        page = opened(url, color_scheme="dark", **DESK)
        choose(page, ROOT / "tests" / "edge_client" / "formats" / "files" / "srgb.heic")
        shoot(page, "error")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
