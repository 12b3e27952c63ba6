"""The last prompt token's attention to the picture, computed beside one layer of a running vLLM worker.

The layer itself computes what it did before. For each request of the step that asks for it and whose last
prompt token runs in this step, the softmax of that token's row is computed over all keys of the prompt, read
from the paged cache: those that another request left there are among them. A request asks in
`SamplingParams.extra_args["secondglance"]`:

    key    name under which the map is fetched; unique
    start  first prompt token of the picture's grid
    stop   one past the last
    cells  instead of both: the prompt tokens of a grid that do not follow each other, in its order
    check  True: also compare with what the layer was given and gave back (`Check`)

A failure here is noted and leaves a map out; it never reaches the engine, which any exception would end. Not
covered: layers with a window, sinks or biases by position, and prompts that are spread over several devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from secondglance_vllm_capture import ASKED_BY
from secondglance_vllm_capture.keys import UnsupportedBackendError, reader_of
from secondglance_vllm_capture.store import BoundedStore

_MOST_MAPS = 1024  # kept until fetched; a map of LLaVA-1.5 has 2.3 kB
_MOST_CHECKS = 4


@dataclass(frozen=True, slots=True)
class Check:
    """How the captured row compares with the layer's own view of the same prompt.

    `keys`: largest difference between the rows over the cache's keys and over the keys that the layer was
    given. `output`: largest difference between that row applied to the values and what the layer returned, as
    a share of the largest number in it. Both are NaN for a prompt that was not seen whole.
    """

    keys: float
    output: float


@dataclass(slots=True)
class _Seen:
    """Keys and values of a prompt that is being checked, step by step [tokens, heads, head size]."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Row:
    """A request's tokens in this step: rows `begin` to `end` of the batch, after which it has `length`."""

    index: int
    begin: int
    end: int
    length: int
    prompt: int
    ask: Mapping[str, Any]

    @property
    def ends_the_prompt(self) -> bool:
        return self.length == self.prompt


class AttentionCapture:
    """Wraps the layer's `impl.forward` while it lives."""

    def __init__(self, runner: Any, layer: Any) -> None:
        """Raises UnsupportedBackendError for a layer that cannot be read."""
        _refuse_what_is_not_covered(layer)
        self.maps: BoundedStore[list[float]] = BoundedStore(_MOST_MAPS)
        self.checks: BoundedStore[Check] = BoundedStore(_MOST_CHECKS)
        self.failure: str | None = None  # the last one, in words
        self._runner = runner
        self._layer = layer
        self._impl = layer.impl
        self._read_keys = reader_of(layer)
        self._seen: dict[str, _Seen] = {}
        self._attend: Callable[..., Any] = self._impl.forward
        self._impl.forward = self._forward

    def _forward(
        self,
        layer: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        attn_metadata: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        result = self._attend(layer, query, key, value, kv_cache, attn_metadata, *args, **kwargs)
        if attn_metadata is not None:  # None: vLLM measures its memory
            output = kwargs["output"] if "output" in kwargs else args[0]
            for row in self._rows():
                try:
                    self._capture(row, query, key, value, kv_cache, attn_metadata, output)
                except Exception as exc:  # see above: vLLM ends at any exception
                    self.failure = f"{type(exc).__name__}: {exc}"
        return result

    def _rows(self) -> Iterator[_Row]:
        """The requests of this step that ask for a map and are still in their prompt."""
        batch = self._runner.input_batch
        starts = self._runner.query_start_loc.np
        for index, request_id in enumerate(batch.req_ids):
            request = self._runner.requests[request_id]
            params = request.sampling_params
            ask = (params.extra_args or {}).get(ASKED_BY) if params is not None else None
            begin, end = int(starts[index]), int(starts[index + 1])
            length = int(batch.num_computed_tokens_cpu[index]) + end - begin
            if ask and begin < end and length <= request.num_prompt_tokens:
                yield _Row(index, begin, end, length, int(request.num_prompt_tokens), ask)

    def _capture(
        self,
        row: _Row,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        metadata: Any,
        output: Tensor,
    ) -> None:
        name = str(row.ask["key"])
        if row.ask.get("check"):
            seen = self._seen.setdefault(name, _Seen())
            seen.keys.append(key[row.begin : row.end].clone())
            seen.values.append(value[row.begin : row.end].clone())
        if not row.ends_the_prompt:
            return
        last = query[row.end - 1].view(self._impl.num_heads, -1)
        block_size = kv_cache.shape[2]
        blocks = metadata.block_table[row.index, : -(-row.prompt // block_size)].long()
        keys = self._read_keys(kv_cache, blocks, last.shape[-1])[: row.prompt]
        weights = self._weights(last, keys)
        if row.ask.get("check"):
            self.checks.put(name, self._compare(self._seen.pop(name), weights, last, output[row.end - 1]))
        cells = row.ask.get("cells") or slice(int(row.ask["start"]), int(row.ask["stop"]))
        self.maps.put(name, weights[:, cells].mean(dim=0).tolist())

    def _weights(self, last: Tensor, keys: Tensor) -> Tensor:
        """Return softmax(q K^T * scale) [heads, tokens] float32; heads of a group share a key head."""
        heads, width = last.shape
        key_heads = keys.shape[1]
        grouped = last.float().view(key_heads, heads // key_heads, width)
        scores = torch.einsum("kgd,tkd->kgt", grouped, keys.float()).reshape(heads, -1) * self._impl.scale
        cap = self._impl.logits_soft_cap
        if cap:
            scores = torch.tanh(scores / cap) * cap
        weights: Tensor = scores.softmax(dim=-1)
        return weights

    def _compare(self, seen: _Seen, weights: Tensor, last: Tensor, returned: Tensor) -> Check:
        keys, values = torch.cat(seen.keys), torch.cat(seen.values)
        if len(keys) != weights.shape[-1]:  # some of them were cached before
            return Check(float("nan"), float("nan"))
        given = self._weights(last, keys.view(len(keys), self._impl.num_kv_heads, -1))
        heads, key_heads = len(given), self._impl.num_kv_heads
        values = values.view(len(values), key_heads, -1).float()
        shares = given.view(key_heads, heads // key_heads, -1)
        attended = torch.einsum("kgt,tkd->kgd", shares, values).reshape(-1)
        returned = returned.reshape(-1).float()
        return Check(
            keys=float((weights - given).abs().max()),
            output=float((attended - returned).abs().max() / attended.abs().max()),
        )


def _refuse_what_is_not_covered(layer: Any) -> None:
    impl = layer.impl
    window = getattr(impl, "sliding_window", None)
    if window not in (None, -1, (-1, -1), [-1, -1]):
        raise UnsupportedBackendError(f"the layer sees a window only: {window}")
    if getattr(impl, "alibi_slopes", None) is not None or getattr(impl, "sinks", None) is not None:
        raise UnsupportedBackendError("the layer has attention sinks or biases by position")
