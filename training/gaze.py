"""Teaches one decoder layer to look at the sign that is asked about, where the product reads its attention.

The head-averaged attention from the last prompt token to the image tokens, renormalised over them, is pulled
towards the sign's cells, all alike: then its peak says where the sign is and its spread how large. Without
this the attention of a decoder this small is read from several layers and points nowhere in particular
(docs/log.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

LAYER = 2  # the third of four; `secondglance.json` tells the server to read this one


class Gaze:
    """Remembers what the layer's attention was fed in the latest forward pass."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self._attention: Any = model.model.layers[LAYER].self_attn
        self._heads = int(model.config.num_attention_heads)
        self._inputs: dict[str, Any] = {}
        self._attention.register_forward_pre_hook(self._remember, with_kwargs=True)

    def _remember(self, _module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        self._inputs = kwargs

    def loss(self, rows: Tensor, places: Tensor, mask: Tensor, cells: Tensor, wanted: Tensor) -> Tensor:
        """Cross-entropy to the wanted cells.

        `rows`, `places` [M]: batch index and position of the asking tokens. `mask` bool [B, 1, L, L].
        `cells` [N]: positions of the image tokens. `wanted` [M, N]: 1 on the sign's cells; rows without any
        are left out.
        """
        states = self._inputs["hidden_states"].float()
        cos, sin = (part.float() for part in self._inputs["position_embeddings"])
        batch, length, width = states.shape
        shape = (batch, length, self._heads, width // self._heads)
        with torch.autocast(states.device.type, enabled=False):
            query = self._attention.q_proj(states).view(shape).transpose(1, 2)
            key = self._attention.k_proj(states).view(shape).transpose(1, 2)
            query, key = apply_rotary_pos_emb(query, key, cos, sin)
            asking = query[rows, :, places]  # [M, heads, d]
            scores = torch.einsum("mhd,mhld->mhl", asking, key[rows]) * self._attention.scaling
            allowed = mask[rows, 0, places].unsqueeze(1)
            attention = scores.masked_fill(~allowed, -1e9).softmax(-1).mean(1)[:, cells]  # [M, N]
        has_sign = wanted.sum(1) > 0
        if not bool(has_sign.any()):
            return torch.zeros((), device=states.device)
        share = attention[has_sign] / attention[has_sign].sum(1, keepdim=True)
        target = wanted[has_sign] / wanted[has_sign].sum(1, keepdim=True)
        return -(target * (share + 1e-6).log()).sum(1).mean()
