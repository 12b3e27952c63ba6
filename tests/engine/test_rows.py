"""Rows of different lengths in one buffer: they come, go, and leave nothing behind."""

from __future__ import annotations

import torch

from secondglance_server.engine.kv_cache import empty_cache, keep_prefix, resume
from secondglance_server.engine.stepping.rows import Rows, SlotLayer

LAYERS = 2


def rows_of(length: int, *fills: float, new_tokens: int = 4) -> Rows:
    """Rows of `length` tokens whose keys and values are all `fill`."""
    cache = empty_cache(LAYERS, length + new_tokens)
    states = torch.tensor(fills)[:, None, None, None].expand(-1, 2, length, 3)
    for layer in range(LAYERS):
        cache.update(states, -states, layer)
    positions = torch.full((1, len(fills), 1), length)
    return Rows.of(cache, visible=None, positions=positions, new_tokens=[new_tokens] * len(fills))


def shown(rows: Rows) -> list[list[float]]:
    """Each row's visible keys, one number a token."""
    _, _, visible, *states = rows.inputs
    assert all(torch.equal(keys, -values) for keys, values in zip(states[::2], states[1::2], strict=True))
    assert all(torch.equal(states[0], keys) for keys in states[::2])
    return [states[0][row, 0, visible[row], 0].tolist() for row in range(len(rows))]


def test_rows_of_other_lengths_join_and_the_last_takes_the_place_of_one_that_goes() -> None:
    rows = rows_of(3, 1.0, 2.0)
    rows.append(rows_of(5, 3.0))
    rows.append(rows_of(2, 4.0))
    assert shown(rows) == [[1.0] * 3, [2.0] * 3, [3.0] * 5, [4.0] * 2]
    rows.remove(1)
    assert shown(rows) == [[1.0] * 3, [4.0] * 2, [3.0] * 5]
    assert (rows.lengths, rows.ends) == ([3, 2, 5], [7, 6, 9])
    assert rows.slots.tolist() == rows.positions[0, :, 0].tolist() == rows.lengths
    rows.append(rows_of(200, 5.0))  # more than there is room for
    assert shown(rows)[1:] == [[4.0] * 2, [3.0] * 5, [5.0] * 200]
    for _ in range(4):
        rows.remove(0)
    assert len(rows) == 0


def test_each_row_is_written_at_its_own_slot() -> None:
    rows = rows_of(3, 1.0)
    rows.append(rows_of(5, 2.0))
    _, slots, visible, keys, values, *_ = rows.inputs
    layer = SlotLayer(keys, values, slots, 6)
    new = torch.tensor([7.0, 8.0])[:, None, None, None].expand(-1, 2, 1, 3)
    seen, _ = layer.update(new, -new)
    assert seen.shape[2] == 6
    assert [seen[row, 1, slot, 2].item() for row, slot in enumerate((3, 5))] == [7.0, 8.0]
    assert visible.sum().item() == 8
    assert layer.get_seq_length() == 5


def test_what_a_row_left_behind_does_not_spread_to_the_next() -> None:
    """A mask hides it, but nothing times garbage is garbage: one answer's NaN must not reach another."""
    rows = rows_of(3, 1.0)
    rows.append(rows_of(9, float("nan")))
    rows.remove(1)
    rows.append(rows_of(2, 2.0))
    assert all(torch.isfinite(state[: len(rows)]).all() for state in rows.states)


def test_rows_say_whose_buffer_they_are_in_until_they_have_moved() -> None:
    cache = empty_cache(LAYERS, 40)
    states = torch.ones(1, 2, 5, 3)
    for layer in range(LAYERS):
        cache.update(states, -states, layer)
    prefix = keep_prefix(cache, 0, 3)
    rows = Rows.of(cache, visible=None, positions=torch.full((1, 1, 1), 5), new_tokens=[4])
    assert rows.is_in(prefix.layers[0][0])
    copied = resume([prefix], 4, in_place=False)
    assert copied.layers[0].keys is not prefix.layers[0][0]
    rows.append(rows_of(2, 2.0))
    assert not rows.is_in(prefix.layers[0][0])
