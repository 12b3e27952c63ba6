"""A prefix stays where it is while suffixes come and go."""

from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import Cache

from secondglance_server.engine.kv_cache import SLACK_TOKENS, RoomyLayer, empty_cache, keep_prefix, resume


def tokens(batch: int, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(batch, 2, count, 4, generator=generator) for _ in range(2))
    return keys, values


def test_a_suffix_is_written_behind_the_prefix_without_copying_it() -> None:
    cache = empty_cache(1, 20 + SLACK_TOKENS)
    keys, values = tokens(1, 20)
    cache.update(keys, values, 0)
    prefix = keep_prefix(cache, 0, 12)
    resumed = resume([prefix], 8)
    more, more_values = tokens(1, 8, seed=1)
    seen, _ = resumed.update(more, more_values, 0)
    assert seen.data_ptr() == prefix.layers[0][0].data_ptr()
    torch.testing.assert_close(seen, torch.cat([keys[:, :, :12], more], dim=2))
    again, _ = resume([prefix], 8).update(more, more_values, 0)  # went back to the prefix
    assert again.shape[2] == 20


def test_a_suffix_that_is_too_long_for_the_slack_goes_into_a_copy() -> None:
    cache = empty_cache(1, 20 + SLACK_TOKENS)
    cache.update(*tokens(1, 20), 0)
    prefix = keep_prefix(cache, 0, 20)
    before = prefix.layers[0][0].clone()
    resumed = resume([prefix], 4 * SLACK_TOKENS)
    seen, _ = resumed.update(*tokens(1, 4 * SLACK_TOKENS, seed=1), 0)
    assert seen.data_ptr() != prefix.layers[0][0].data_ptr()
    assert torch.equal(prefix.layers[0][0][:, :, :20], before[:, :, :20])


def test_rows_of_a_batch_are_kept_apart() -> None:
    cache = empty_cache(2, 30)
    keys = [tokens(3, 10, seed=layer) for layer in range(2)]
    for layer, (k, v) in enumerate(keys):
        cache.update(k, v, layer)
    prefixes = [keep_prefix(cache, row, 6) for row in range(3)]
    assert prefixes[0].capacity >= 6 + SLACK_TOKENS
    assert prefixes[0].n_bytes == 2 * 2 * prefixes[0].capacity * 2 * 4 * 4  # one row's, not the batch's
    batch = resume([prefixes[2], prefixes[0]], 5)
    seen, _ = batch.update(*tokens(2, 1), 1)
    torch.testing.assert_close(seen[0, :, :6], keys[1][0][2, :, :6])
    torch.testing.assert_close(seen[1, :, :6], keys[1][0][0, :, :6])


def test_what_lies_behind_the_length_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask hides it from attention, which still multiplies it by zero."""

    def garbage(tensor: torch.Tensor, *shape: int) -> torch.Tensor:
        return torch.full(shape, float("nan"), dtype=tensor.dtype)

    monkeypatch.setattr(torch.Tensor, "new_empty", garbage)
    cache = empty_cache(1, 20)
    cache.update(*tokens(2, 10), 0)
    prefixes = [keep_prefix(cache, row, 6) for row in range(2)]
    for buffer in (cache.layers[0].keys, prefixes[1].layers[0][1], resume(prefixes, 5).layers[0].values):
        assert buffer is not None
        assert torch.isfinite(buffer).all()


def test_capacities_are_few() -> None:
    """What is prepared for the shape of one question serves the next, a few tokens longer."""
    prefixes = [keep_prefix(_filled(20 + SLACK_TOKENS + suffix), 0, 20) for suffix in (1, 9)]
    assert prefixes[0].capacity == prefixes[1].capacity


def _filled(capacity: int) -> Cache:
    cache = empty_cache(1, capacity)
    cache.update(*tokens(1, 20), 0)
    return cache


def test_more_tokens_than_room_is_a_broken_invariant() -> None:
    layer = RoomyLayer(4)
    with pytest.raises(AssertionError, match="5 tokens in a cache of 4"):
        layer.update(*tokens(1, 5))
