"""What the hardware would allow: attainable FLOP/s and bytes/s measured, a request's FLOPs and bytes counted.

FLOPs are those of the matrix products, convolutions and attention that really run (torch's counter around the
engine, shape by shape). Bytes are the weights that a pass must read once and the keys and values that a step
reads; activations are left out, and so is everything that is not arithmetic: decoding images, HTTP, Python.
The least time is the larger of the two, as if both ran perfectly side by side. Models that fit into a
processor's cache can be faster than the measured memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from secondglance_server.engine.prefix import PrefixEngine
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, Picture
from secondglance_server.engine.stepping.steps import StepRecorder

REPEATS = 5
COUNTED_STEPS = 4


@dataclass(frozen=True, slots=True)
class Machine:
    """The best of several runs, in the model's precision."""

    flops_per_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Cost:
    """One request: its prompt's pass and each decode step. `shared` bytes are read once for a whole batch."""

    prefill_flops: float
    prefill_shared_bytes: float
    step_flops: float
    step_shared_bytes: float
    step_own_bytes: float

    def least_seconds(self, machine: Machine, *, steps: float, batch: int) -> float:
        """A request's share of the device's time when `batch` of them run together."""
        prefill = max(
            self.prefill_flops / machine.flops_per_s,
            self.prefill_shared_bytes / batch / machine.bytes_per_s,
        )
        step_bytes = self.step_shared_bytes / batch + self.step_own_bytes
        step = max(self.step_flops / machine.flops_per_s, step_bytes / machine.bytes_per_s)
        return prefill + steps * step


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """Square matrix products of several sizes, and products of a matrix too large for any cache with a
    vector: what prefill and decoding are made of."""
    on_cpu = device.type == "cpu"
    flops = []
    for side in (512, 1024, 2048) if on_cpu else (4096, 8192):
        one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        flops.append(2 * side**3 / _best_seconds(lambda one=one, other=other: one @ other))
    rows, width = (16384, 4096) if on_cpu else (131072, 8192)
    matrix = torch.ones(rows, width, device=device, dtype=dtype)
    vector = torch.ones(width, device=device, dtype=dtype)
    return Machine(max(flops), matrix.nbytes / _best_seconds(lambda: matrix @ vector))


def count_costs(engine: PrefixEngine, question: str, picture: Picture, patch: Picture) -> dict[str, Cost]:
    """Of a first question, a second stage and a follow-up question on a cached prefix.

    Changes the engine: steps run eagerly, where they can be counted, and end tokens do not end an answer.
    """
    engine.adapter.end_ids = frozenset({-1})
    engine.steps = StepRecorder(engine.adapter, is_recording=False)
    text, vision = _weight_bytes(engine)
    costs = {}
    for kind, request in (
        ("first", AnswerRequest(picture, question)),
        ("stage2", AnswerRequest(picture, question, patch)),
        ("follow_up", AnswerRequest(picture, question)),
    ):
        is_first = kind == "first"
        prefill, prompt = _flops(engine, request, new_tokens=1, forget=is_first)
        whole, _ = _flops(engine, request, new_tokens=1 + COUNTED_STEPS, forget=is_first)
        costs[kind] = Cost(
            prefill_flops=prefill,
            prefill_shared_bytes=text + (0 if kind == "follow_up" else vision),
            step_flops=(whole - prefill) / COUNTED_STEPS,
            step_shared_bytes=text,
            step_own_bytes=prompt * _bytes_per_token(engine, picture),
        )
    return costs


def _flops(
    engine: PrefixEngine, request: AnswerRequest, *, new_tokens: int, forget: bool
) -> tuple[float, int]:
    """FLOPs and prompt tokens of one request; `forget` empties the cache before it."""
    if forget:
        engine.prefixes.clear()
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={attention: _attention_flops}) as counter:
        (result,) = engine.answer([replace(request, max_new_tokens=new_tokens)])
    if not isinstance(result, AnswerResult):
        raise result
    return float(counter.get_total_flops()), result.prompt_tokens


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _weight_bytes(engine: PrefixEngine) -> tuple[float, float]:
    """Of the text model with its head, and of everything else; the embedding table is looked up, not read."""
    model = engine.adapter.model
    sizes = {id(p): p.nbytes for p in model.parameters()}
    table = {id(p) for p in model.get_input_embeddings().parameters()}
    head = {id(p) for p in model.get_output_embeddings().parameters()}
    layers = {id(p) for p in model.get_decoder().parameters()} - table
    text = layers | head
    return sum(sizes[i] for i in text), sum(sizes[i] for i in sizes.keys() - text - table)


def _bytes_per_token(engine: PrefixEngine, picture: Picture) -> float:
    """Of keys and values."""
    held = engine.prefixes.get(picture.key)
    assert held is not None, "the prefix does not fit the cache"
    return held.states.n_bytes / held.states.capacity


def _best_seconds(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)
