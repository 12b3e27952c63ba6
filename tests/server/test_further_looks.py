"""Further looks: while an answer stays doubtful another region is asked for, and the surest answer counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondglance_protocol.geometry import fit_within
from secondglance_protocol.protocol import MAX_ROUNDS
from secondglance_protocol.wire import EncodingRecipe, ImageSize, Recipes
from secondglance_server.engine.fake import FAKE_INFO, FakeEngine, FakeScript
from secondglance_server.engine.protocol import (
    AnswerRequest,
    AnswerResult,
    AttentionMap,
    EngineError,
    LocalizationDefaults,
)
from secondglance_server.inference.localization import further_regions, locate
from tests.server.exchange import ask, assert_problem, encode, patch_for, put_patch, running_client

COLOURS = ("blue", "white", "green", "black")
SURE, DOUBTFUL = 0.01, 2.0  # nats; the gate's threshold is 0.5


@dataclass(frozen=True)
class Says:
    """What the model makes of one look."""

    text: str
    nats: float
    is_off_domain: bool | None = None


class LookingEngine(FakeEngine):
    """Its looks say what they are told to, one after the other; the last one's words stay."""

    def __init__(self, *looks: Says, **options: Any) -> None:
        super().__init__(**options)
        self.looks = looks
        self.n_looks = 0

    def answer(self, requests: Sequence[AnswerRequest]) -> list[AnswerResult | EngineError]:
        if requests[0].patch is not None:
            says = self.looks[min(self.n_looks, len(self.looks) - 1)]
            self.n_looks += 1
            self.script = FakeScript(
                answer=says.text, answer_entropy_nats=says.nats, is_off_domain=says.is_off_domain
            )
        return super().answer(requests)


async def drafted(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    response = await ask(client, **changes)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def looked(
    client: httpx.AsyncClient, draft: dict[str, Any], patches: Sequence[bytes] = ()
) -> list[dict[str, Any]]:
    """Send what is asked for until nothing is; return the replies, the draft first."""
    replies = [draft]
    while replies[-1]["status"] == "needs_patch":
        number = len(replies) - 1
        patch = patches[number] if number < len(patches) else patch_for(replies[-1], COLOURS[number])
        response = await put_patch(client, replies[-1]["patch"]["url"], patch)
        assert response.status_code == 200, response.text
        assert (await client.get(f"/v1/inferences/{draft['id']}")).json() == response.json()
        replies.append(response.json())
    return replies


def boxes_of(replies: Sequence[dict[str, Any]]) -> list[tuple[int, ...]]:
    """The regions that were asked for."""
    return [tuple(reply["roi"]["pixels"].values()) for reply in replies if reply["patch"]]


@pytest.mark.parametrize("asked_for", [{}, {"max_rounds": 1}])
async def test_one_look_is_all_unless_more_are_allowed(asked_for: dict[str, int]) -> None:
    async with running_client(LookingEngine(Says("a", DOUBTFUL))) as client:
        draft, final = await looked(client, await drafted(client, **asked_for))
    assert (final["status"], final["doubtful"], final["roi"]) == ("answered", True, draft["roi"])


@pytest.mark.parametrize("rounds", [2, 3, MAX_ROUNDS])
async def test_while_the_answer_stays_doubtful_other_regions_are_asked_for(rounds: int) -> None:
    engine = LookingEngine(Says("a", DOUBTFUL))
    async with running_client(engine) as client:
        replies = await looked(client, await drafted(client, max_rounds=rounds))
    assert [reply["stage"] for reply in replies] == [1] + [2] * rounds
    assert engine.n_looks == rounds
    boxes = boxes_of(replies)
    assert len(set(boxes)) == len(boxes) == rounds
    assert {reply["id"] for reply in replies} == {replies[0]["id"]}
    assert replies[-1]["status"] == "answered"
    assert replies[-1]["roi"] == replies[0]["roi"], "of equals the first counts"


@pytest.mark.parametrize("sure_at", [0, 1, 2])
async def test_a_sure_answer_ends_it(sure_at: int) -> None:
    looks = [Says("unsure", DOUBTFUL)] * sure_at + [Says("right", SURE)]
    async with running_client(LookingEngine(*looks)) as client:
        replies = await looked(client, await drafted(client, max_rounds=MAX_ROUNDS))
    assert len(replies) == sure_at + 2
    assert (replies[-1]["answer"], replies[-1]["doubtful"]) == ("right", False)
    assert replies[-1]["roi"] == replies[-2]["roi"]


@pytest.mark.parametrize(
    ("looks", "best"),
    [
        ((Says("a", 1.0), Says("b", 0.9), Says("c", 1.1)), 1),
        ((Says("a", 1.0), Says("b", 1.1), Says("c", 0.9)), 2),
        ((Says("a", 1.0), Says("b", 1.0), Says("c", 1.0)), 0),
        ((Says("", 0.0), Says("b", 3.0), Says("c", 4.0)), 1),
        ((Says("a", 3.0), Says("", 0.0), Says("", 0.0)), 0),
    ],
)
async def test_the_surest_answer_counts_with_all_that_is_said_of_it(
    looks: tuple[Says, ...], best: int
) -> None:
    """An answer without text has a gate value of zero, and was the surest of all."""
    async with running_client(LookingEngine(*looks)) as client:
        replies = await looked(client, await drafted(client, max_rounds=3, include=["tokens"]))
    final, asked_before = replies[-1], replies[best]
    assert final["answer"] == looks[best].text
    assert final["roi"] == asked_before["roi"]
    assert final["confidence"]["min_entropy"] == pytest.approx(looks[best].nats)
    assert [token["text"] for token in final["tokens"]] == looks[best].text.split()
    assert final["usage"]["completion_tokens"] == len(looks[-1].text.split()) + 1, "of this look"


async def test_a_crop_with_fewer_pixels_than_the_model_can_see_is_asked_for_again_and_sharper() -> None:
    """Once: who sends the same small crop again is not asked for it for ever."""
    async with running_client(LookingEngine(Says("a", DOUBTFUL))) as client:
        draft = await drafted(client, max_rounds=MAX_ROUNDS)
        pixels = draft["roi"]["pixels"]
        region = ImageSize(width=pixels["right"] - pixels["left"], height=pixels["bottom"] - pixels["top"])
        small = fit_within(region, max_width=100, max_height=100)
        smaller = fit_within(region, max_width=90, max_height=90)
        patches = [encode(small.width, small.height), encode(smaller.width, smaller.height)]
        replies = await looked(client, draft, patches)
    boxes = boxes_of(replies)
    assert boxes[0] == boxes[1]
    assert len(set(boxes)) == len(boxes) - 1 == MAX_ROUNDS - 1


@pytest.mark.parametrize("scale", [0.3, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("sent", [0.3, 0.5, 0.75, 1.0])
async def test_a_region_sent_as_the_recipe_says_is_not_asked_for_again(scale: float, sent: float) -> None:
    """A model that names half the side had every region sent twice: 1.95 times the bytes for 1.4 points."""
    recipe = EncodingRecipe(format="webp", quality=50, scale=scale)
    info = replace(FAKE_INFO, recipes=Recipes(patch=recipe))
    async with running_client(LookingEngine(Says("a", DOUBTFUL), info=info)) as client:
        draft = await drafted(client, max_rounds=2)
        pixels, offer = draft["roi"]["pixels"], draft["patch"]
        size = fit_within(
            ImageSize(width=pixels["right"] - pixels["left"], height=pixels["bottom"] - pixels["top"]),
            max_width=round(offer["max_width"] * sent),
            max_height=round(offer["max_height"] * sent),
        )
        replies = await looked(client, draft, [encode(size.width, size.height)])
    first, second = boxes_of(replies)
    assert (first == second) == (sent < scale), "asked for again where it came smaller than the recipe"


async def test_a_question_outside_the_domain_is_not_looked_at_further() -> None:
    async with running_client(LookingEngine(Says("a", DOUBTFUL, is_off_domain=True))) as client:
        replies = await looked(client, await drafted(client, max_rounds=3))
    assert len(replies) == 2
    assert (replies[-1]["status"], replies[-1]["off_domain"]) == ("answered", True)


async def test_each_patch_is_replayed_while_it_is_the_latest_and_then_a_conflict() -> None:
    engine = LookingEngine(Says("a", DOUBTFUL))
    async with running_client(engine) as client:
        reply = await drafted(client, max_rounds=3)
        url, before = reply["patch"]["url"], b""
        for colour in COLOURS[:3]:
            patch = patch_for(reply, colour)
            reply = (await put_patch(client, url, patch)).json()
            assert (await put_patch(client, url, patch)).json() == reply
            if before:
                assert_problem(await put_patch(client, url, before), 409, "patch_conflict")
            before = patch
    assert engine.n_looks == 3


@pytest.mark.parametrize("rounds", [0, -1, MAX_ROUNDS + 1, 1.0, True, "2", None])
async def test_a_number_of_looks_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, rounds: object
) -> None:
    assert_problem(await ask(client, max_rounds=rounds), 422, "invalid_request")


async def test_the_model_page_says_how_many_looks_there_can_be(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/model")).json()["max_rounds"] == MAX_ROUNDS
    blind = FakeEngine(info=replace(FAKE_INFO, answers_only="it shows no attention"))
    async with running_client(blind) as other:
        assert (await other.get("/v1/model")).json()["max_rounds"] == 1


def test_the_next_region_is_at_the_next_peak_of_the_map() -> None:
    weights = np.full((24, 24), 0.001, np.float32)
    spots = [(3, 4, 1.0), (18, 19, 0.8), (4, 20, 0.6)]
    for row, col, weight in spots:
        weights[row : row + 2, col : col + 2] = weight
    attention = AttentionMap(weights)
    size = ImageSize(width=2400, height=2400)
    how = LocalizationDefaults(window="mass", min_side_cells=2.0, pad_cells=0.25)
    first = locate(attention, size, how)
    for (row, col, _), box in zip(spots, [first, *further_regions(attention, size, first, 2)], strict=True):
        assert box.left <= 100 * (col + 1) <= box.right
        assert box.top <= 100 * (row + 1) <= box.bottom


def test_a_further_region_cuts_no_text_either() -> None:
    weights = np.full((24, 24), 0.001, np.float32)
    weights[3:5, 4:6], weights[18:20, 18:20] = 1.0, 0.8
    attention = AttentionMap(weights, texts=((0.74, 0.77, 0.9, 0.8),))
    size = ImageSize(width=2400, height=2400)
    how = LocalizationDefaults(window="mass", min_side_cells=2.0, pad_cells=0.25)
    first = locate(attention, size, how)
    (second,) = further_regions(attention, size, first, 1)
    plain = further_regions(replace(attention, texts=()), size, first, 1)
    assert plain == [second.model_copy(update={"right": plain[0].right})]
    assert plain[0].right < 0.9 * 2400 < second.right == 0.9 * 2400 + 36  # half of the text's 72 px around it


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(2, 30),
    cols=st.integers(2, 30),
    width=st.integers(2, 20_000),
    height=st.integers(2, 20_000),
    window=st.sampled_from(["mass", "vicrop"]),
    is_empty=st.booleans(),
)
def test_further_regions_of_any_map_are_within_the_original_and_never_the_same_twice(
    seed: int, rows: int, cols: int, width: int, height: int, window: Any, is_empty: bool
) -> None:
    random = np.random.default_rng(seed)
    weights = random.random((rows, cols)).astype(np.float32) * (not is_empty)
    x0, y0 = random.random(2) * 0.2
    attention = AttentionMap(weights, (x0, y0, 1 - x0, 1 - y0))
    size, how = ImageSize(width=width, height=height), LocalizationDefaults(window=window)
    first = locate(attention, size, how)
    found = [first, *further_regions(attention, size, first, 3)]
    assert len(found) <= 4
    assert len({tuple(box.model_dump().values()) for box in found}) == len(found)
    assert all(box.right <= width and box.bottom <= height for box in found)
    assert {(box.width, box.height) for box in found} == {(first.width, first.height)}, "no coarser look"
