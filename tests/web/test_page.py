"""The page itself in a browser: every screen, the keyboard, the camera, without a network."""

from __future__ import annotations

from typing import Any

import pytest

from tests.web.conftest import CHROMIUM, FLAGS, PHOTO, ROOT, TRUTH, Opener


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
