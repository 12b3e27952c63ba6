"""Reads the parts of an exported model directory back, so that a shipped model can be trained further."""

from __future__ import annotations

import pathlib

from safetensors.torch import load_file
from torch import Tensor

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
