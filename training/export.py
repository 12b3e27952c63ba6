"""Makes the trained parts a `LlavaForConditionalGeneration` directory for plain `from_pretrained`."""

from __future__ import annotations

import json
import pathlib
import warnings

import torch
from transformers import GenerationConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from secondglance_server.engine.embedded.tower import TowerConfig
from training.decoder_stage import decoder_config
from training.pictures.views import SIDE
from training.tokenizer import CHAT_TEMPLATE, build_tokenizer

MOST_BYTES = 16_000_000


def export(checkpoints: pathlib.Path, target: pathlib.Path) -> int:
    """Writes config, weights (float16), processor and tokenizer to `target`; returns its size in bytes.

    Raises ValueError if that is more than MOST_BYTES.
    """
    tokenizer = build_tokenizer()
    config = LlavaConfig(
        vision_config=TowerConfig(),
        text_config=decoder_config(len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIDE // TowerConfig().patch_size) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    tower = torch.load(checkpoints / "tower.pt", map_location="cpu", weights_only=True)["tower"]
    joint = torch.load(checkpoints / "joint.pt", map_location="cpu", weights_only=True)
    model.model.vision_tower.load_state_dict(joint.get("tower", tower))
    model.model.multi_modal_projector.load_state_dict(joint["projector"])
    text = joint["model"]
    model.model.language_model.load_state_dict(
        {k.removeprefix("model."): v for k, v in text.items() if k.startswith("model.")}
    )
    model.lm_head.load_state_dict({"weight": text["lm_head.weight"]})
    model.generation_config = GenerationConfig(
        bos_token_id=1, eos_token_id=2, pad_token_id=0, do_sample=False
    )
    target.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(target)
    image_processor = LlavaImageProcessorPil(
        do_pad=True,
        do_center_crop=False,
        size={"height": SIDE, "width": SIDE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    processor = LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=TowerConfig().patch_size,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )
    processor.save_pretrained(target)
    size = sum(path.stat().st_size for path in target.iterdir())
    if size > MOST_BYTES:
        raise ValueError(f"the model takes {size} bytes on disk, more than {MOST_BYTES}")
    return size


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    folder = pathlib.Path("server/secondglance_server/engine/embedded/weights")
    print(json.dumps({"bytes": export(pathlib.Path("out/training"), folder), "folder": str(folder)}))
