"""A store forgets by age, count and bytes, and knows what it forgot."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.expiring import ExpiringStore
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
