"""The package that reads inside vLLM's workers, on made-up caches and batches: no vLLM is needed."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from secondglance_server.engine.attention import last_row
from secondglance_server.engine.stepping.uncertainty import uncertainty
from secondglance_vllm_capture import ASKED_BY
from secondglance_vllm_capture.attention import AttentionCapture
from secondglance_vllm_capture.keys import UnsupportedBackendError, read_cpu, read_flash, reader_of
from secondglance_vllm_capture.store import BoundedStore
from secondglance_vllm_capture.uncertainty import wrap_sampler

BLOCK, HEADS, KEY_HEADS, WIDTH = 16, 6, 2, 8


def paged(keys: torch.Tensor, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a cache with `keys` [tokens, heads, width] in blocks that lie anywhere, and their numbers."""
    needed = -(-len(keys) // BLOCK)
    cache = torch.full((needed + 5, KEY_HEADS, BLOCK, 2 * WIDTH), 1e3)
    blocks = torch.randperm(needed + 5)[:needed]
    for number, block in enumerate(blocks):
        part = keys[number * BLOCK : (number + 1) * BLOCK].transpose(0, 1)  # [heads, tokens, width]
        if layout == "FLASH_ATTN":
            cache[block, :, : part.shape[1], :WIDTH] = part
        else:
            whole = torch.full((KEY_HEADS, WIDTH, BLOCK), 1e3)
            whole[:, :, : part.shape[1]] = part.transpose(1, 2)
            cache.view(-1, KEY_HEADS, 2 * BLOCK, WIDTH)[block, :, :BLOCK] = whole.view(
                KEY_HEADS, BLOCK, WIDTH
            )
    return cache, blocks


def layer_of(backend: str, forward: Any = None, **changes: Any) -> Any:
    impl = {
        "forward": forward,
        "num_heads": HEADS,
        "num_kv_heads": KEY_HEADS,
        "scale": WIDTH**-0.5,
        "logits_soft_cap": 0,
        "sliding_window": -1,
        "alibi_slopes": None,
        "sinks": None,
    }
    return SimpleNamespace(
        attn_backend=SimpleNamespace(get_name=lambda: backend),
        isa=changes.pop("isa", "vec"),
        kv_cache_dtype=changes.pop("kv_cache_dtype", "auto"),
        impl=SimpleNamespace(**impl | changes),
    )


@pytest.mark.parametrize("tokens", [1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK])
@pytest.mark.parametrize(("layout", "read"), [("CPU_ATTN", read_cpu), ("FLASH_ATTN", read_flash)])
def test_keys_come_back_from_scattered_blocks(layout: str, read: Any, tokens: int) -> None:
    keys = torch.randn(tokens, KEY_HEADS, WIDTH)
    cache, blocks = paged(keys, layout)
    torch.testing.assert_close(read(cache, blocks, WIDTH)[:tokens], keys, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("backend", "changes", "says"),
    [
        ("FLASHINFER", {}, "no reader"),
        ("CPU_ATTN", {"isa": "amx"}, "amx"),
        ("FLASH_ATTN", {"kv_cache_dtype": "fp8_e4m3"}, "fp8"),
    ],
)
def test_a_layout_that_nobody_has_read_is_refused(backend: str, changes: dict[str, Any], says: str) -> None:
    """Read in the wrong layout, keys give a map that looks like any other."""
    with pytest.raises(UnsupportedBackendError, match=says):
        reader_of(layer_of(backend, **changes))


@pytest.mark.parametrize("changes", [{"sliding_window": 512}, {"sliding_window": (511, 0)}, {"sinks": 1}])
def test_a_layer_with_a_window_or_sinks_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedBackendError):
        AttentionCapture(None, layer_of("CPU_ATTN", **changes))


class Batch:
    """One step of a worker: requests with some tokens computed before and some in this step."""

    def __init__(self, *requests: dict[str, Any], layout: str = "FLASH_ATTN", softcap: float = 0) -> None:
        torch.manual_seed(0)
        self.keys = [torch.randn(r["prompt"], KEY_HEADS, WIDTH) for r in requests]
        self.values = [torch.randn(r["prompt"], KEY_HEADS, WIDTH) for r in requests]
        new = [r["upto"] - r["before"] for r in requests]
        starts = np.concatenate([[0], np.cumsum(new)])
        self.query = torch.randn(int(starts[-1]) + 3, HEADS, WIDTH)  # rows of padding behind
        caches = [paged(keys, layout) for keys in self.keys]
        first = np.concatenate([[0], np.cumsum([len(cache) for cache, _ in caches])])
        self.cache = torch.cat([cache for cache, _ in caches])
        table = torch.zeros(len(requests), 16, dtype=torch.int32)
        for row, (_, blocks) in enumerate(caches):
            table[row, : len(blocks)] = blocks + int(first[row])
        self.metadata = SimpleNamespace(block_table=table)
        asks = [{ASKED_BY: r["ask"]} if "ask" in r else None for r in requests]
        self.runner = SimpleNamespace(
            input_batch=SimpleNamespace(
                req_ids=[str(n) for n in range(len(requests))],
                num_computed_tokens_cpu=np.array([r["before"] for r in requests]),
            ),
            query_start_loc=SimpleNamespace(np=starts),
            requests={
                str(n): SimpleNamespace(
                    sampling_params=SimpleNamespace(extra_args=asks[n]), num_prompt_tokens=r["prompt"]
                )
                for n, r in enumerate(requests)
            },
        )
        self.ends = [int(end) for end in starts[1:]]
        self.requests = requests
        self.softcap = softcap
        self.capture = AttentionCapture(self.runner, layer_of(layout, self.attend, logits_soft_cap=softcap))

    def expected(self, row: int) -> torch.Tensor:
        """[heads, tokens] by the prefix engine's own function."""
        query, keys = self.query[self.ends[row] - 1], self.keys[row]
        rows = last_row(
            query[None, :, None], keys.transpose(0, 1)[None], None, None, softcap=self.softcap or None
        )
        return rows[0]

    def attend(self, *args: Any, output: torch.Tensor) -> torch.Tensor:
        for row, end in enumerate(self.ends):
            weights = self.expected(row).view(KEY_HEADS, -1, len(self.keys[row]))
            output[end - 1] = torch.einsum("kgt,tkd->kgd", weights, self.values[row]).reshape(-1)
        return output

    def run(self) -> None:
        key, value = (torch.zeros(len(self.query), KEY_HEADS, WIDTH) for _ in range(2))
        for row, request in enumerate(self.requests):
            begin = self.ends[row] - (request["upto"] - request["before"])
            key[begin : self.ends[row]] = self.keys[row][request["before"] : request["upto"]]
            value[begin : self.ends[row]] = self.values[row][request["before"] : request["upto"]]
        output = torch.zeros(len(self.query), HEADS * WIDTH)
        self.capture._impl.forward(None, self.query, key, value, self.cache, self.metadata, output=output)
        assert self.capture.failure is None


def ask(key: str, start: int = 1, stop: int = 10, **more: Any) -> dict[str, Any]:
    return {"key": key, "start": start, "stop": stop, **more}


@pytest.mark.parametrize("layout", ["CPU_ATTN", "FLASH_ATTN"])
@pytest.mark.parametrize("softcap", [0, 5.0])
def test_maps_of_a_mixed_batch_are_those_of_the_prefix_engine(layout: str, softcap: float) -> None:
    """Whole prompts, ones with cached tokens, ones that end in this step; unasked rows between."""
    batch = Batch(
        {"prompt": 40, "before": 0, "upto": 40, "ask": ask("whole")},
        {"prompt": 20, "before": 0, "upto": 20},
        {"prompt": 50, "before": 48, "upto": 50, "ask": ask("cached", 5, 45)},
        {"prompt": 33, "before": 32, "upto": 33, "ask": ask("single")},
        {"prompt": 60, "before": 0, "upto": 30, "ask": ask("first chunk")},
        layout=layout,
        softcap=softcap,
    )
    batch.run()
    for row, (key, grid) in {0: ("whole", (1, 10)), 2: ("cached", (5, 45)), 3: ("single", (1, 10))}.items():
        taken = batch.capture.maps.take(key)
        assert taken is not None
        expected = batch.expected(row)[:, grid[0] : grid[1]].mean(dim=0)
        torch.testing.assert_close(torch.tensor(taken), expected, rtol=1e-5, atol=1e-7)
    assert batch.capture.maps.take("first chunk") is None
    assert len(batch.capture.maps) == 0, "nothing that nobody asked for"


def test_cells_that_do_not_follow_each_other_are_read_in_their_order() -> None:
    """Families with row breaks and tiles name their grid's cells one by one."""
    cells = [30, 3, 17]
    batch = Batch({"prompt": 40, "before": 0, "upto": 40, "ask": {"key": "k", "cells": cells}})
    batch.run()
    expected = batch.expected(0)[:, cells].mean(dim=0)
    torch.testing.assert_close(torch.tensor(batch.capture.maps.take("k")), expected)


def test_the_check_passes_what_is_right() -> None:
    batch = Batch({"prompt": 40, "before": 0, "upto": 40, "ask": ask("k", check=True)})
    batch.run()
    check = batch.capture.checks.take("k")
    assert check is not None
    assert check.keys < 1e-6
    assert check.output < 1e-5


def test_the_check_finds_keys_in_another_layout() -> None:
    batch = Batch({"prompt": 40, "before": 0, "upto": 40, "ask": ask("k", check=True)}, layout="CPU_ATTN")
    batch.capture._read_keys = read_flash
    batch.run()
    check = batch.capture.checks.take("k")
    assert check is not None
    assert check.keys > 1e-3


def test_the_check_finds_a_scale_that_the_layer_does_not_use() -> None:
    """Both rows would be wrong in the same way; only what the layer gave back can tell."""
    batch = Batch({"prompt": 40, "before": 0, "upto": 40, "ask": ask("k", check=True)})
    batch.capture._impl.scale *= 2
    batch.run()
    check = batch.capture.checks.take("k")
    assert check is not None
    assert check.output > 1e-2


def test_a_prompt_that_was_not_seen_whole_is_not_called_checked() -> None:
    batch = Batch({"prompt": 40, "before": 16, "upto": 40, "ask": ask("k", check=True)})
    batch.run()
    check = batch.capture.checks.take("k")
    assert check is not None
    assert np.isnan([check.keys, check.output]).all()


def test_a_failure_of_the_capture_leaves_the_layer_alone() -> None:
    """vLLM ends at any exception of a worker: one request's map must not take all others along."""
    batch = Batch(
        {"prompt": 40, "before": 0, "upto": 40, "ask": {"key": "no grid"}},
        {"prompt": 40, "before": 0, "upto": 40, "ask": ask("good")},
    )
    with pytest.raises(AssertionError, match="KeyError"):  # `run` looks for failures: this one was noted
        batch.run()
    assert batch.capture.maps.take("no grid") is None
    assert batch.capture.maps.take("good") is not None


def test_uncertainty_is_the_prefix_engines() -> None:
    logits = torch.randn(7, 100) * 5
    logits[3, 50:] = float("-inf")
    _, expected = uncertainty(logits)
    best = logits.log_softmax(-1).topk(2)
    carried = SimpleNamespace(
        logprobs=torch.zeros(7, 3), logprob_token_ids=torch.zeros(7, 3, dtype=torch.int)
    )
    carried.logprobs[:, 0], carried.logprob_token_ids[:, 0] = best.values[:, 0], best.indices[:, 0]
    carried.logprob_token_ids[:, 1:] = best.indices

    def sample(logits: torch.Tensor) -> Any:
        logits.fill_(0)  # as a sampler may
        return SimpleNamespace(logprobs_tensors=carried)

    measured = wrap_sampler(sample)(logits).logprobs_tensors.logprobs
    torch.testing.assert_close(measured * torch.tensor([-1.0, 1, 1]), expected, rtol=0, atol=1e-5)
    ids = carried.logprob_token_ids
    assert torch.equal(ids[:, 0].long(), best.indices[:, 0])
    assert [len(set(row)) for row in ids.tolist()] == [3] * 7  # vLLM keeps one number for each id


@pytest.mark.parametrize("carried", [None, SimpleNamespace(logprobs=torch.zeros(2, 1))])
def test_a_batch_without_log_probabilities_is_left_as_it_is(carried: Any) -> None:
    output = SimpleNamespace(logprobs_tensors=carried)
    assert wrap_sampler(lambda _: output)(torch.randn(2, 9)) is output
    if carried is not None:
        assert not carried.logprobs.any()


def test_the_store_is_bounded_and_forgets_the_oldest() -> None:
    """A client that leaves between two messages may leave its map."""
    store: BoundedStore[int] = BoundedStore(3)
    for number in range(10):
        store.put(str(number), number)
    assert [store.take(str(number)) for number in range(10)] == [None] * 7 + [7, 8, 9]
    assert len(store) == 0


def test_importing_the_package_loads_neither_torch_nor_vllm() -> None:
    """The server asks it for the tested versions before it decides to load either."""
    script = "import sys, secondglance_vllm_capture; print({'torch', 'vllm'} & set(sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd="vllm_capture"
    )
    assert ran.stdout.strip() == "set()"
