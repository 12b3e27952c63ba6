"""The budget is in bytes, the oldest use goes first, and nothing is ever an error."""

from __future__ import annotations

import torch

from secondglance_server.engine.kv_cache import PrefixStates
from secondglance_server.engine.prefix_store import PrefixStore, StoredPrefix


def prefix(n_bytes: int) -> StoredPrefix:
    half = torch.zeros(1, 1, n_bytes // 2, 1, dtype=torch.uint8)
    return StoredPrefix([1, 2], PrefixStates(((half, half.clone()),), 2))


def test_least_recently_used_goes_first() -> None:
    store = PrefixStore(300)
    for key in "abc":
        store.put(key, prefix(100))
    assert store.get("a") is not None
    store.put("d", prefix(100))
    assert store.get("b") is None
    assert all(store.get(key) for key in "acd")
    assert store.held_bytes == 300


def test_one_larger_than_the_budget_is_not_kept_and_evicts_nothing() -> None:
    store = PrefixStore(300)
    store.put("a", prefix(100))
    store.put("b", prefix(302))
    assert store.get("a") is not None
    assert store.get("b") is None


def test_replacing_and_clearing_keep_the_count_right() -> None:
    store = PrefixStore(300)
    store.put("a", prefix(200))
    store.put("a", prefix(100))
    assert (store.held_bytes, len(store)) == (100, 1)
    store.clear()
    assert (store.held_bytes, len(store)) == (0, 0)
