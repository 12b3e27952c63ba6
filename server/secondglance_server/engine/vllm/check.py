"""The check at the start: is what was captured what the layer computed?

One picture is asked about before any client's. Inside each worker the captured row, over keys from the paged
cache, is compared with the row over the keys that the layer was given, and that row applied to the values
with what the layer returned (`secondglance_vllm_capture.attention.Check`). Then the same prompt is asked
again, on top of what is cached of it, and both maps are compared. Maps that fail are not used: the model
answers without regions. Numbers of uncertainty that contradict each other stop the start: the gate would be
blind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from secondglance_server.engine.protocol import (
    AnswerRequest,
    AttentionMap,
    EncoderBudget,
    Picture,
    TokenStats,
)
from secondglance_server.engine.vllm.core import VllmCore

# (rows over both sets of keys, row applied to values, two maps): largest differences by precision
_TOLERANCES = {"float32": (1e-6, 1e-4, 1e-5), "float16": (1e-4, 1e-2, 1e-2), "bfloat16": (1e-3, 5e-2, 5e-2)}
_QUESTION = "What is this?"
_NEW_TOKENS = 4
_CHECK = "check"


class UncertaintyError(Exception):
    """The numbers that the gate reads contradict each other."""


async def why_no_regions(core: VllmCore, layer: int) -> str | None:
    """Install the capture and return what is wrong with it, None if nothing is.

    Raises UncertaintyError, and what the engine raises.
    """
    workers = await core.call_workers("capture_install", layer)
    problems = [worker["problem"] for worker in workers if worker["problem"]]
    if problems:
        return f"attention cannot be read: {problems[0]}"
    request = AnswerRequest(_noise(core.info.image), _QUESTION, max_new_tokens=_NEW_TOKENS)
    first, _ = await core.answer(request, check=_CHECK)
    _check_uncertainty(first.tokens)
    checks = await core.call_workers("capture_check", _CHECK)
    again, _ = await core.answer(request)
    if again.cached_tokens == 0:
        return "attention was not checked: nothing of a second prompt was cached"
    found = [check for check in checks if check is not None]
    if not found or first.attention is None or again.attention is None:
        states = await core.call_workers("capture_state")
        return f"attention was not captured: {[state['failure'] for state in states if state['failure']]}"
    return _complaint(found, first.attention, again.attention, core.info.dtype)


def _complaint(
    checks: Sequence[Sequence[float]], first: AttentionMap, again: AttentionMap, dtype: str
) -> str | None:
    keys, output, maps = _TOLERANCES[dtype]
    differ = float(np.abs(first.weights - again.weights).max() / first.weights.max())
    measured = {
        "rows over cached keys": (max(check[0] for check in checks), keys),
        "the layer's output": (max(check[1] for check in checks), output),
        "a map over a cached prompt": (differ, maps),
    }
    for what, (value, most) in measured.items():
        if not value <= most:  # NaN, too
            return f"captured attention failed its check: {what} differ by {value:.1e}, at most {most:.0e}"
    return None


def _check_uncertainty(tokens: Sequence[TokenStats]) -> None:
    """Shannon entropy is never below min-entropy, and the second token is never above the first."""
    slack = 1e-3
    for token in tokens:
        best = math.exp(-token.min_entropy)
        second = best - (1 - token.margin)
        if not (token.shannon >= token.min_entropy * best - slack and -slack <= second <= best + slack):
            raise UncertaintyError(f"uncertainty of a token contradicts itself: {token}")


def _noise(budget: EncoderBudget) -> Picture:
    """As large a picture as the encoder uses; noise, so that no two keys are alike."""
    width, height = budget.max_width, budget.max_height
    if budget.max_pixels is not None:
        width = height = int(min(budget.max_pixels**0.5, width, height))
    rng = np.random.default_rng(0)
    return Picture("self-check", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
