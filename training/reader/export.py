"""Makes the trained model a directory that the server loads: config, float16 weights, tokenizer, defaults."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from secondglance_server.engine.reader.model import ReaderConfig, ReaderForConditionalGeneration
from secondglance_server.engine.reader.tower import COARSE, ReaderTowerConfig
from secondglance_server.engine.reader.vocabulary import IMAGE, Vocabulary
from training.journal import load_checkpoint
from training.reader.model import WIDTH, Reader, decoder_config
from training.reader.tokenizer import build_tokenizer
from training.reader.wordings import known_words

MOST_BYTES = 16_000_000
WEIGHTS = pathlib.Path("server/secondglance_server/engine/reader/weights")
DEFAULTS: dict[str, Any] = {
    "domain": "text in photographs: what a sign, plate or label says, its colour, where and how large it is,"
    " whether there is any, how many signs there are",
    "gate": {"metric": "min_entropy", "aggregate": "max", "threshold": 0.07, "doubt_threshold": 0.15},
    "localization": {
        "attention": "plain", "window": "mass", "min_side_cells": 1.6, "pad_cells": 0.5, "layers": [2],
        "origin": "the layer that training taught to look",
    },
    "max_new_tokens": 96,
    "usual_new_tokens": 64,
    "recipes": {  # docs/log/encodings.md, 2026-11-29
        "image": {"format": "webp", "quality": 25, "scale": 1.0},
        "patch": {"format": "webp", "quality": 30, "scale": 1.0},
    },
}  # fmt: skip


def export(checkpoints: pathlib.Path, target: pathlib.Path, name: str = "joint.pt") -> int:
    """Write the model; return its size in bytes. Raises ValueError above MOST_BYTES."""
    model = Reader(Vocabulary.of(known_words()))
    load_checkpoint(checkpoints / name, {"model": model})
    return write(model, target)


def write(model: Reader, target: pathlib.Path) -> int:
    """Write a model as it is."""
    vocabulary = model.vocabulary
    config = ReaderConfig(
        vision_config=ReaderTowerConfig(hidden_size=WIDTH),
        text_config=decoder_config(len(vocabulary.tokens)),
        image_token_index=vocabulary.ids[IMAGE],
        image_seq_length=COARSE * COARSE + ReaderTowerConfig().slots,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        projector_hidden_act="linear",
        multimodal_projector_bias=False,
        tie_word_embeddings=True,
    )
    whole = ReaderForConditionalGeneration(config)
    whole.model.vision_tower.load_state_dict(model.tower.state_dict())
    with torch.no_grad():
        whole.model.vision_tower.symbols.copy_(model.symbols)
        for layer in (whole.model.multi_modal_projector.linear_1, whole.model.multi_modal_projector.linear_2):
            nn.init.eye_(layer.weight)
    whole.model.language_model.load_state_dict(model.decoder.model.state_dict())
    whole.tie_weights()
    whole.generation_config = GenerationConfig(
        bos_token_id=1, eos_token_id=2, pad_token_id=0, do_sample=False
    )
    target.mkdir(parents=True, exist_ok=True)
    whole.half().save_pretrained(target)
    build_tokenizer(vocabulary).save_pretrained(target)
    (target / "secondglance.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n")
    size = sum(path.stat().st_size for path in target.iterdir())
    if size > MOST_BYTES:
        raise ValueError(f"the model takes {size} bytes on disk, more than {MOST_BYTES}")
    return size
