"""Capture gives SDPA's own weights and leaves its result alone."""

from __future__ import annotations

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from secondglance_server.engine import attention
from secondglance_server.engine.attention import last_row, recording, register_capture


class Layer(torch.nn.Module):
    layer_idx = 3
    num_key_value_groups = 2
    is_causal = True


def states() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 5, 8, generator=generator)
    key, value = (torch.randn(2, 2, 9, 8, generator=generator) for _ in range(2))
    return query, key, value


def test_recording_does_not_change_the_result() -> None:
    query, key, value = states()
    mask = torch.ones(2, 1, 5, 9, dtype=torch.bool).tril(4)
    stock = ALL_ATTENTION_FUNCTIONS["sdpa"](Layer(), query, key, value, mask, scaling=0.3)[0]
    ours = ALL_ATTENTION_FUNCTIONS[register_capture("sdpa")]
    with recording((3,), slice(0, 4)) as recorder:
        recorded = ours(Layer(), query, key, value, mask, scaling=0.3)[0]
    assert torch.equal(stock, recorded)
    assert recorder.mean().shape == (2, 4)


def test_nothing_is_computed_while_no_recorder_is_active(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("computed a row that nobody asked for")

    monkeypatch.setattr(attention, "last_row", fail)
    ours = ALL_ATTENTION_FUNCTIONS[register_capture("sdpa")]
    query, key, value = states()
    ours(Layer(), query, key, value, None, scaling=0.3)
    with recording((2,), slice(0, 4)):  # another layer's
        ours(Layer(), query, key, value, None, scaling=0.3)
    with recording((3,), slice(0, 4)), pytest.raises(AssertionError):
        ours(Layer(), query, key, value, None, scaling=0.3)


@pytest.mark.parametrize("kind", ["none", "bool", "additive", "padding"])
def test_the_last_row_is_the_softmax_over_visible_keys(kind: str) -> None:
    query, key, _ = states()
    hidden = torch.zeros(2, 9, dtype=torch.bool)
    hidden[1, 4:6] = kind != "none"
    visible = ~hidden[:, None, None].expand(2, 1, 5, 9)
    mask = {
        "none": None,
        "bool": visible,
        "additive": torch.zeros(visible.shape).masked_fill(~visible, float("-inf")),
        "padding": (~hidden).long(),
    }[kind]
    weights = last_row(query, key, mask, 0.3)
    scores = torch.einsum("bhd,bhkd->bhk", query[:, :, -1], key.repeat_interleave(2, dim=1)) * 0.3
    expected = scores.masked_fill(hidden[:, None], float("-inf")).softmax(-1)
    torch.testing.assert_close(weights, expected)


def test_layers_and_heads_are_averaged() -> None:
    with recording((0, 1), slice(1, 3)) as recorder:
        recorder.add(torch.tensor([[[0.1, 0.2, 0.3, 0.4], [0.3, 0.4, 0.1, 0.2]]]))
        recorder.add(torch.tensor([[[0.5, 0.5, 0.0, 0.0], [0.5, 0.1, 0.4, 0.0]]]))
    torch.testing.assert_close(recorder.mean(), torch.tensor([[0.3, 0.2]]))
