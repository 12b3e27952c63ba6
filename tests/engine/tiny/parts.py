"""What the tiny models of all families are made of: a byte-level tokenizer with a family's control tokens,
pictures."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

RGB = NDArray[np.uint8]

# small, yet with logits far enough apart that rounding does not change the greedy token
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.25,
}
SIGLIP = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


MIXING = (
    "out_proj",
    "attn.proj.",
    "attention.projection_layer",
    "blocks.0.out.",
)  # where attention's result joins the residual


@dataclass(frozen=True)
class Tiny:
    """A family on disk, beside the stock model and processor that the engine is compared with.

    `stock_inputs`: what the family's own processor makes of (question, pictures). `controls`:
    control tokens that a question may try to spell.
    """

    name: str
    directory: pathlib.Path
    model: Any  # eager attention, from the same files
    stock_inputs: Callable[[str, Sequence[RGB]], dict[str, Any]]
    controls: tuple[str, ...]


def byte_tokenizer(
    controls: Sequence[str], *, bos: str | None, eos: str, pad: str, named: dict[str, str] | None = None
) -> PreTrainedTokenizerFast:
    """One token for each byte, then the control tokens; `named` are attributes such as `image_token`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*([bos] if bos else []), eos, pad, *controls])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        extra_special_tokens=named or list(controls),
        clean_up_tokenization_spaces=False,
    )


def save_and_reload(model: Any, directory: pathlib.Path) -> Any:
    """The model from its files, with eager attention: the stock side of every comparison."""
    spread_out(model)
    keep_local(model)
    model.save_pretrained(directory)
    return type(model).from_pretrained(directory, attn_implementation="eager").eval()


def spread_out(model: Any) -> None:
    """Zero-initialised parts (biases, projections of some encoders) would hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() == 1 or float(parameter.std()) == 0.0:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def keep_local(model: Any) -> None:
    """Untrained attention and overlapping convolutions carry a change all over the picture; a trained
    encoder's leave most of it in place."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
                own = slice(1, 2) if module.stride == (1, 1) else slice(1, 3)  # a cell's own pixels
                kept = module.weight[:, :, own, own].clone()
                module.weight *= 0.1
                module.weight[:, :, own, own] = kept
        for name, parameter in model.named_parameters():
            is_encoder = "vision" in name or "visual" in name
            if is_encoder and any(part in name for part in MIXING):
                parameter *= 0.1


def picture(height: int, width: int, seed: int = 0) -> RGB:
    """Smooth noise: neighbouring cells differ, and resizing does not average everything to grey."""
    rng = np.random.default_rng([seed, height, width])
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8))[:height, :width]


def pictures_only(processor_class: Any) -> Any:
    """The stock processor, made without a video processor: those need torchvision."""

    class PicturesOnly(processor_class):  # type: ignore[misc]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == "video_processor":
                return type(None)
            return super().check_argument_for_proper_class(argument_name, argument)

    return PicturesOnly


def chat(processor: Any, **images_options: Any) -> Callable[[str, Sequence[RGB]], dict[str, Any]]:
    """The stock way from a question and pictures to a model's inputs."""

    def stock_inputs(question: str, pictures: Sequence[RGB]) -> dict[str, Any]:
        content = [{"type": "image"}] * len(pictures) + [{"type": "text", "text": question}]
        prompt = processor.tokenizer.apply_chat_template(  # SmolVLM's own wants a video processor
            [{"role": "user", "content": content}],
            chat_template=processor.chat_template,
            add_generation_prompt=True,
            tokenize=False,
        )
        start = processor.tokenizer.bos_token
        return dict(
            processor(
                text=prompt,
                images=[Image.fromarray(rgb) for rgb in pictures],
                add_special_tokens=not (start and prompt.startswith(start)),
                return_tensors="pt",
                **images_options,
            )
        )

    return stock_inputs
