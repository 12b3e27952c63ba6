"""Reads the parts of an exported model directory back, so that a shipped model can be trained further."""

from __future__ import annotations

import pathlib

from safetensors.torch import load_file
from torch import Tensor, nn

from secondglance_server.engine.convolution import ResidualBlock
from secondglance_server.engine.embedded.tower import AttentionBlock, Tower

PREFIXES = {
    "tower": "vision_tower.",
    "projector": "multi_modal_projector.",
    "decoder": "language_model.",
}


def exported_parts(folder: pathlib.Path) -> dict[str, dict[str, Tensor]]:
    """State dicts of `tower`, `projector` and `decoder` (a `LlamaForCausalLM`), float32.

    Raises FileNotFoundError without `model.safetensors` there, ValueError if a part has no weights in it.
    """
    weights = load_file(folder / "model.safetensors")
    parts: dict[str, dict[str, Tensor]] = {}
    for part, prefix in PREFIXES.items():
        parts[part] = {
            name.removeprefix(prefix): value.float() if value.is_floating_point() else value
            for name, value in weights.items()
            if name.startswith(prefix)
        }
        if not parts[part]:
            raise ValueError(f"{folder} holds no weights under {prefix}")
    parts["decoder"]["lm_head.weight"] = parts["decoder"]["model.embed_tokens.weight"]  # tied
    return parts


def load_tower(tower: Tower, weights: dict[str, Tensor]) -> None:
    """Loads weights of a tower with as many blocks or fewer: the blocks it lacks start as identities."""
    missing, unexpected = tower.load_state_dict(weights, strict=False)
    new = {
        name: block
        for name, block in tower.named_modules()
        if isinstance(block, ResidualBlock | AttentionBlock) and f"{name}." not in _block_prefixes(weights)
    }
    strange = [name for name in missing if not name.startswith(tuple(f"{block}." for block in new))]
    if strange or unexpected:
        raise ValueError(f"not a tower of this kind: {strange + unexpected}")
    for block in new.values():
        last = [block.second[1]] if isinstance(block, ResidualBlock) else [block.out, block.mlp[2]]
        for layer in last:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


def _block_prefixes(weights: dict[str, Tensor]) -> set[str]:
    """`coarse.1.`, `blocks.0.`, ..."""
    return {".".join(name.split(".")[:2]) + "." for name in weights}
