"""The parts of an adapter that most families of transformers share.

A family overrides what differs. Nothing here mentions one: names of arguments and submodules are those that
transformers gives to every image-text-to-text model.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from secondglance_server.engine.adapters.protocol import Chunk, ImageLayout, Pixels, VisualFeatures
from secondglance_server.engine.attention import takes_rows
from secondglance_server.engine.kv_cache import full_layers
from secondglance_server.engine.protocol import EncoderBudget, LocalizationDefaults

# Text models, in whichever family, whose last layer adds its MLP's output to its input and does nothing else
# with it.
_ADDING_MLP = frozenset(
    {"gemma3_text", "llama", "mistral", "qwen2", "qwen2_5_vl_text", "qwen3", "qwen3_vl_text"}
)


class TransformersAdapter:
    """Stock behaviour: one fixed grid of image tokens, positions that count up, features put in place of
    embeddings."""

    model_types: ClassVar[tuple[str, ...]] = ()  # of `config.model_type`
    placeholder: ClassVar[str] = "<image>"
    default_chat_template: ClassVar[str | None] = None  # for a model that comes without one
    # (attention layer, number of layers) that was measured best for a model of the family, and by whom
    read_layer: ClassVar[tuple[int, int]] = (14, 32)
    read_layer_origin: ClassVar[str] = "ViCrop's layer for LLaVA-1.5-7B (14 of 32)"
    # Whether answers, maps and boxes on vLLM were compared with the prefix engine's.
    runs_on_vllm: ClassVar[bool] = False
    # Tokens that say, as an answer's first, that the question is none that the model can answer.
    off_domain_ids: frozenset[int] = frozenset()

    localization: LocalizationDefaults
    image: EncoderBudget
    patch: EncoderBudget

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, chat_template: str) -> None:
        self.model, self.tokenizer, self.image_processor = model, tokenizer, image_processor
        self.config = model.config
        self.chat_template = chat_template
        self.text_model = model.get_decoder()
        self.head = model.get_output_embeddings()
        self.embeddings = model.get_input_embeddings()
        self.text_config = self.config.get_text_config()
        self.n_layers = int(self.text_config.num_hidden_layers)
        self.full_layers = self.find_full_layers()
        is_adding = self.text_config.model_type in _ADDING_MLP
        self._last_mlp = self.text_model.layers[-1].mlp if is_adding else None
        self._takes_rows = takes_rows(str(self.text_config._attn_implementation))
        self.image_token_id = self.find_image_token()
        self.end_ids = self._end_ids()
        self.layers, origin = self.default_layers()
        self.localization = LocalizationDefaults(base_side=self.base_side(), origin=origin)
        self.image = self.patch = self.budget()

    @classmethod
    def serves(cls, config: Any) -> bool:
        """Return whether the family's file fits this model of its type; if not, it is served like any."""
        return True

    def find_full_layers(self) -> tuple[int, ...]:
        """Return the layers that see the whole context. Raises ValueError for a state that is not shared."""
        return full_layers(self.text_config)

    def find_image_token(self) -> int:
        """Return the id that stands in a prompt where a picture's features go."""
        return int(self.config.image_token_id)

    @classmethod
    def load_image_processor(cls, source: str, config: Any) -> Any:
        """The family's image processor, in its variant without torchvision."""
        raise NotImplementedError

    def budget(self) -> EncoderBudget:
        """The largest picture that the encoder can use."""
        return EncoderBudget(self.side, self.side)

    @property
    def side(self) -> int:
        """The encoder's input side in pixels."""
        size = self.config.vision_config.image_size
        return int(size[0] if isinstance(size, (list, tuple)) else size)

    @property
    def can_pad(self) -> bool:
        """Whether rows of a batch may be padded between prefix and suffix.

        Windows and chunks count slots of the cache: padding would shorten them, and the answer would differ.
        """
        return len(self.full_layers) == self.n_layers

    @property
    def is_recordable(self) -> bool:
        """Whether a row in four dimensions is all the mask that a single token needs.

        This holds for kernels that take such a row, and where no layer has a window: the row would drop it.
        """
        return self._takes_rows and self.can_pad

    def base_side(self) -> int:
        """ViCrop's base window: the encoder's input side."""
        return self.side

    def default_layers(self) -> tuple[tuple[int, ...], str]:
        """Return the layer to read, and where that number comes from.

        Layers with a window need not see the picture: the nearest one without is read, if there is one.
        """
        layer, of = self.read_layer
        origin = self.read_layer_origin
        if self.n_layers != of:
            layer = min(self.n_layers - 1, round(layer / of * self.n_layers))
            origin = f"same relative depth as {origin}"
        if layer in self.full_layers:
            return (layer,), origin
        if not self.full_layers:
            return (layer,), f"{origin}, which sees the picture through its window only"
        nearest = min(self.full_layers, key=lambda full: abs(full - layer))
        return (nearest,), f"{origin}, the nearest layer without a window"

    def layout(self, width: int, height: int) -> ImageLayout:
        raise NotImplementedError

    def pixels(self, rgb: NDArray[np.uint8]) -> Pixels:
        inputs = self.image_processor(self.as_image(rgb), return_tensors="pt")
        return {"pixel_values": inputs["pixel_values"]}

    @staticmethod
    def as_image(rgb: NDArray[np.uint8]) -> Image.Image:
        """Processors guess the channel axis of arrays, wrongly where a side is 3; of images they need not."""
        return Image.fromarray(rgb)

    def encode(self, pictures: Sequence[Pixels]) -> list[VisualFeatures]:
        inputs = {name: self.upload(torch.cat([p[name] for p in pictures])) for name in pictures[0]}
        features = self.model.get_image_features(**inputs, return_dict=True).pooler_output
        return [VisualFeatures(tokens) for tokens in features]

    def upload(self, values: Tensor) -> Tensor:
        """To the model's device (through pinned memory where there is an accelerator), pixels in the
        model's precision."""
        device = self.model.device
        if values.is_floating_point():
            values = values.to(self.model.dtype)
        if device.type == "cuda":
            return values.pin_memory().to(device, non_blocking=True)
        return values.to(device)

    def positions(self, ids: Sequence[int], layouts: Sequence[ImageLayout]) -> Tensor:
        return torch.arange(len(ids))[None]

    def embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.embeddings(ids)
        return embedded

    def forward(self, chunk: Chunk, cache: Any) -> Tensor:
        inputs = {
            "inputs_embeds": chunk.embeddings,
            "attention_mask": self._mask(chunk),
            "position_ids": chunk.positions[0] if len(chunk.positions) == 1 else chunk.positions,
            "cache": cache,
            "use_cache": True,
        }
        with self._last_layer_for_last_tokens(chunk):
            outputs = self.text_model(**inputs | self.extra_inputs(chunk, cache))
        logits: Tensor = self.head(outputs.last_hidden_state[:, -1])
        return logits

    def _last_layer_for_last_tokens(self, chunk: Chunk) -> AbstractContextManager[Any]:
        """While it lasts, the last layer's MLP works for each prompt's last token and for no other.

        Its output is added to all tokens' states, and only the last one's is read: the keys and values of
        that layer were made before.
        """
        if self._last_mlp is None or chunk.embeddings.shape[1] == 1:
            return nullcontext()
        handle: AbstractContextManager[Any] = self._last_mlp.register_forward_pre_hook(_last_tokens)
        return handle

    def _mask(self, chunk: Chunk) -> Tensor | None:
        """Return the mask as the text model takes it.

        Without windows, a single token's mask is its row: given in four dimensions, transformers asks the
        device nothing, and given as numbers, no layer makes them of booleans. Otherwise transformers makes
        the mask of each kind of layer.
        """
        is_single = chunk.embeddings.shape[1] == 1
        if chunk.visible is None or not is_single or not self.is_recordable:
            return chunk.visible
        hidden = ~chunk.visible[:, None, None]
        return torch.zeros_like(hidden, dtype=chunk.embeddings.dtype).masked_fill_(hidden, -torch.inf)

    def extra_inputs(self, chunk: Chunk, cache: Any) -> dict[str, Any]:
        """Further arguments of the text model; may replace those of `forward`'s."""
        return {}

    def _end_ids(self) -> frozenset[int]:
        generation = getattr(self.model, "generation_config", None)
        candidates = [getattr(generation, "eos_token_id", None), self.text_config.eos_token_id]
        candidates.append(self.tokenizer.eos_token_id)
        ids: set[int] = set()
        for value in candidates:
            ids.update([value] if isinstance(value, int) else value or [])
        return frozenset(ids)


def _last_tokens(_mlp: Any, inputs: tuple[Tensor, ...]) -> Tensor:
    return inputs[0][:, -1:]


def padded_content(width: int, height: int, *, covered: float = 1.0) -> tuple[float, float, float, float]:
    """Where a picture lies in the square that it is padded to, centred as transformers' `pad_to_square` does.

    `covered`: the share of the square's side that whole patches cover, if they do not fill it.
    """
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    x0, y0, x1, y1 = (edge / side / covered for edge in (left, top, left + width, top + height))
    return x0, y0, x1, y1
