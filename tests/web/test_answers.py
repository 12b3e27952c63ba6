"""What people see of both stages: answers, regions, bytes, and the questions after them."""

from __future__ import annotations

import urllib.request
from typing import Any

from tests.web.conftest import CHROMIUM, FLAGS, PHOTO, TRUTH, Opener


def test_both_answers_the_region_and_the_bytes_are_shown(visit: Opener) -> None:
    page = visit()
    page.choose(PHOTO)
    page.ask()
    assert page.text("#second .answer") == TRUTH["answer"]
    assert page.text("#second .verdict") == "Sure."
    assert page.text("#first .verdict").startswith("Not sure: the server asks")
    assert page.text("#first .answer") not in ("", TRUTH["answer"])
    assert page.shows_the_sign
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
