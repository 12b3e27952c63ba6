"""The uncertainty of every token, written where vLLM carries log-probabilities to the front.

A request that asks for two log-probabilities gets three numbers for each token: the chosen token's
log-probability, and the best two. The best two are replaced here by the Shannon entropy (nats) and by
`1 - (p_1st - p_2nd)`, so that all three measures travel with the token, without a call of their own. Nobody
else asks this engine for log-probabilities.

Where the front falls behind, vLLM puts steps together, in a table by token id: so the three ids must differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from secondglance_vllm_capture import N_LOGPROBS


def entropy_and_margin(logits: Tensor) -> Tensor:
    """Return [rows, 2] of logits [rows, vocabulary]: Shannon entropy in nats, margin in [0, 1]."""
    log_p = logits.float().log_softmax(dim=-1)
    p = log_p.topk(2, dim=-1).values.exp()
    # 0 * log 0 is 0: a suppressed token's -inf must not become NaN
    shannon = torch.special.entr(log_p.exp()).sum(dim=-1)
    return torch.stack([shannon, 1 - (p[:, 0] - p[:, 1])], dim=-1)


def wrap_sampler(sample: Callable[..., Any]) -> Callable[..., Any]:
    """Return the sampler's `forward` with our numbers in its output."""

    def sample_and_measure(logits: Tensor, *args: Any, **kwargs: Any) -> Any:
        measured = entropy_and_margin(logits)  # before: sampling may write to the logits
        output = sample(logits, *args, **kwargs)
        carried = output.logprobs_tensors
        if carried is not None and carried.logprobs.shape[-1] == 1 + N_LOGPROBS:
            carried.logprobs[:, 1:] = measured
            for place in range(1, 1 + N_LOGPROBS):
                carried.logprob_token_ids[:, place] = -place  # no token: the best one is the chosen one
        return output

    return sample_and_measure
