"""A store forgets by age, count and bytes, and knows what it forgot."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from secondglance_server.inference.stores.expiring import ExpiringStore
from tests.server.exchange import Clock


def store(clock: Clock, **limits: int) -> ExpiringStore[str, bytes]:
    return ExpiringStore(
        ttl_s=10, clock=clock, bytes_of=len, **({"max_items": 100, "max_tombstones": 100} | limits)
    )


def test_a_value_lives_for_its_time(clock: Clock) -> None:
    held = store(clock)
    held.put("a", b"1")
    clock.advance(9.9)
    assert held.get("a") == b"1"
    clock.advance(0.2)
    assert held.get("a") is None
    assert held.has_forgotten("a")


def test_putting_renews_and_reading_does_not(clock: Clock) -> None:
    held = store(clock)
    held.put("a", b"1")
    held.put("b", b"1")
    clock.advance(6)
    held.put("a", b"1")
    held.get("b")
    clock.advance(6)
    assert held.get("a") == b"1"
    assert held.get("b") is None


def test_the_oldest_make_room_by_count(clock: Clock) -> None:
    held = store(clock, max_items=2)
    for key in "abc":
        held.put(key, b"1")
    assert [held.get(key) for key in "abc"] == [None, b"1", b"1"]
    assert held.has_forgotten("a")


def test_the_oldest_make_room_by_bytes_and_the_newest_always_stays(clock: Clock) -> None:
    held = store(clock, max_bytes=10)
    held.put("a", bytes(6))
    held.put("b", bytes(6))
    assert (held.get("a"), held.n_bytes) == (None, 6)
    held.put("c", bytes(100))
    assert held.get("c") == bytes(100)


def test_what_was_removed_on_request_is_unknown(clock: Clock) -> None:
    held = store(clock)
    held.put("a", b"1")
    assert held.remove("a") == b"1"
    assert not held.has_forgotten("a")


def test_tombstones_are_bounded(clock: Clock) -> None:
    held = store(clock, max_items=1, max_tombstones=2)
    for key in "abcd":
        held.put(key, b"1")
    assert [held.has_forgotten(key) for key in "abcd"] == [False, True, True, False]


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 9), st.integers(0, 6)), max_size=60))
def test_the_count_of_bytes_is_that_of_what_is_held(steps: list[tuple[str, int, int]]) -> None:
    clock = Clock()
    held = store(clock, max_bytes=20, max_items=3)
    for key, size, wait in steps:
        clock.advance(wait)
        held.put(key, bytes(size)) if size else held.remove(key)
        values = [held.get(name) for name in "abcde"]
        assert held.n_bytes == sum(len(value) for value in values if value is not None)
        assert len(held) == sum(value is not None for value in values) <= 3


def shared(clock: Clock, **limits: int) -> ExpiringStore[tuple[str, int], bytes]:
    """Keys are an owner and a number."""
    return ExpiringStore(
        ttl_s=10,
        clock=clock,
        bytes_of=len,
        owner_of=lambda key: key[0],
        **({"max_items": 100, "max_tombstones": 100} | limits),
    )


def test_who_holds_most_makes_room_by_count(clock: Clock) -> None:
    held = shared(clock, max_items=4)
    held.put(("few", 0), b"1")
    for number in range(9):
        held.put(("many", number), b"1")
    assert held.get(("few", 0)) == b"1"
    assert [held.get(("many", number)) is not None for number in range(9)] == [False] * 6 + [True] * 3
    held.put(("few", 1), b"1")
    assert held.has_forgotten(("many", 6))


def test_who_holds_most_makes_room_by_bytes(clock: Clock) -> None:
    held = shared(clock, max_bytes=10)
    held.put(("small", 0), bytes(2))
    held.put(("large", 0), bytes(7))
    held.put(("large", 1), bytes(7))
    assert (held.get(("small", 0)), held.get(("large", 0))) == (bytes(2), None)
    held.put(("small", 1), bytes(2))
    assert held.has_forgotten(("large", 1)), "the owner of most bytes, though of fewer keys"


def test_tombstones_are_shared_likewise(clock: Clock) -> None:
    held = shared(clock, max_items=1, max_tombstones=3)
    held.put(("few", 0), b"1")
    for number in range(9):
        held.put(("many", number), b"1")
    assert held.has_forgotten(("few", 0))
    assert [held.has_forgotten(("many", number)) for number in range(9)] == [False] * 6 + [True] * 2 + [False]


OWNERS = "abc"
PUTS = st.lists(st.tuples(st.sampled_from(OWNERS), st.integers(0, 40), st.integers(0, 5)), max_size=80)


@given(PUTS)
def test_nobody_within_a_fair_share_loses_anything(puts: list[tuple[str, int, int]]) -> None:
    """Whatever others put: a third of the keys and, less the largest value, of the bytes is safe."""
    max_items, max_bytes = 12, 30
    held = shared(Clock(), max_items=max_items, max_bytes=max_bytes)
    mine: dict[tuple[str, int], bytes] = {}
    for owner, number, size in puts:
        key, value = (owner, number), bytes(size)
        fits = len(mine.keys() | {key}) <= max_items // len(OWNERS)
        fits &= sum(len(each) for each in (mine | {key: value}).values()) <= max_bytes // len(OWNERS) - 5
        if owner == "a" and not fits:
            continue
        held.put(key, value)
        if owner == "a":
            mine[key] = value
        assert {key: held.get(key) for key in mine} == mine
        assert len(held) <= max_items
        assert held.n_bytes <= max_bytes
