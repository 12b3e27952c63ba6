"""What training ends in: a directory that transformers loads as its own, equal to the trained parts."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from secondglance_server.engine.embedded.tower import Tower, TowerConfig
from training import export as export_module
from training.decoder_stage import decoder_config, frame
from training.export import export
from training.packing import Packer, prompt_after_images
from training.projector import Projector
from training.tokenizer import build_tokenizer
from training.tower_stage import to_pixels

QUESTION = "What is written on the red sign?"


@dataclass(frozen=True)
class Exported:
    """The parts, rounded to float16 as the files are, and the directory made of them."""

    tower: Tower
    projector: Projector
    decoder: LlamaForCausalLM
    directory: pathlib.Path
    size: int


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    checkpoints, target = tmp_path_factory.mktemp("checkpoints"), tmp_path_factory.mktemp("model")
    tower, projector = Tower(TowerConfig()), Projector()
    decoder = LlamaForCausalLM(decoder_config(len(build_tokenizer())))
    with torch.no_grad():
        tower.features(torch.randn(2, 3, 224, 224))  # statistics that are not their initial values
        tower.positions.normal_()
    for part in (tower, projector, decoder):
        part.eval().half().float()
    torch.save({"tower": tower.state_dict()}, checkpoints / "tower.pt")
    joint = {"projector": projector.state_dict(), "model": decoder.state_dict()}
    torch.save(joint, checkpoints / "joint.pt")
    return Exported(tower, projector, decoder, target, export(checkpoints, target))


@pytest.fixture(scope="module")
def loaded(exported: Exported) -> LlavaForConditionalGeneration:
    model = AutoModelForImageTextToText.from_pretrained(
        exported.directory, trust_remote_code=False, dtype=torch.float32
    )
    assert isinstance(model, LlavaForConditionalGeneration)
    return model.eval()


@pytest.fixture(scope="module")
def processor(exported: Exported) -> LlavaProcessor:
    processor = AutoProcessor.from_pretrained(exported.directory, trust_remote_code=False, use_fast=False)
    assert isinstance(processor, LlavaProcessor)
    return processor


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)) for _ in range(count)]


def prompt(processor: LlavaProcessor, images: int) -> str:
    content = [{"type": "image"}] * images + [{"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert isinstance(text, str)
    return text


def test_the_directory_is_small_and_counts_itself(exported: Exported) -> None:
    assert exported.size == sum(path.stat().st_size for path in exported.directory.iterdir())
    assert exported.size < 16_000_000
    names = {path.name for path in exported.directory.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json"} <= names
    assert not [name for name in names if name.endswith((".py", ".bin", ".pt"))]


def test_a_model_that_is_too_large_is_refused(
    exported: Exported, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"tower": exported.tower.state_dict()}, tmp_path / "tower.pt")
    joint = {"projector": exported.projector.state_dict(), "model": exported.decoder.state_dict()}
    torch.save(joint, tmp_path / "joint.pt")
    monkeypatch.setattr(export_module, "MOST_BYTES", 1_000_000)
    with pytest.raises(ValueError, match="more than 1000000"):
        export(tmp_path, tmp_path / "model")


def test_every_weight_is_a_parts_weight(exported: Exported, loaded: LlavaForConditionalGeneration) -> None:
    def equal(one: nn.Module, other: nn.Module) -> bool:
        wanted, found = one.state_dict(), other.state_dict()
        return wanted.keys() == found.keys() and all(torch.equal(wanted[n], found[n]) for n in wanted)

    assert equal(exported.tower, loaded.model.vision_tower)
    assert equal(exported.projector, loaded.model.multi_modal_projector)
    assert equal(exported.decoder.model, loaded.model.language_model)
    assert torch.equal(exported.decoder.lm_head.weight, loaded.lm_head.weight)


@pytest.mark.parametrize("images", [1, 2])
@torch.no_grad()
def test_logits_equal_tower_projector_and_decoder_put_together_by_training(
    exported: Exported, loaded: LlavaForConditionalGeneration, processor: LlavaProcessor, images: int
) -> None:
    shown = pictures(images)
    inputs = processor(images=shown, text=prompt(processor, images), return_tensors="pt")
    logits = loaded(**inputs).logits[0, -1]

    packer = Packer(build_tokenizer())
    pixels = to_pixels(torch.from_numpy(np.stack([np.asarray(image) for image in shown])))
    cells = exported.projector(exported.tower.features(pixels)[0]).reshape(1, images * 196, -1)
    start = frame(exported.decoder, packer, cells, images)
    asked = torch.tensor([packer.tokens(prompt_after_images(QUESTION))])
    text = exported.decoder.get_input_embeddings()(asked)
    wanted = exported.decoder(inputs_embeds=torch.cat([start, text], dim=1)).logits[0, -1]
    assert inputs["input_ids"].shape[1] == start.shape[1] + asked.shape[1]
    assert (logits - wanted).abs().max() < 1e-4
    blank = exported.decoder(inputs_embeds=torch.cat([torch.zeros_like(start), text], dim=1)).logits[0, -1]
    assert (logits - blank).abs().max() > 1e-2  # the picture counts


@pytest.mark.parametrize("images", [1, 2])
def test_the_saved_processor_writes_the_prompt_that_training_used(
    processor: LlavaProcessor, images: int
) -> None:
    expected = "<s>USER: " + "<image>\n" * images + f"{QUESTION} ASSISTANT:"
    assert prompt(processor, images) == expected


def test_it_generates_greedily_and_ends_at_the_end_token(loaded: LlavaForConditionalGeneration) -> None:
    settings = loaded.generation_config
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (1, 2, 0)
    assert settings.do_sample is False
