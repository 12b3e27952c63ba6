"""An adapter for any model type: the processor writes the prompt, the model's own functions do the rest.

Encoded pictures go into the model's own forward pass as `mm_encoder_outputs`, so that features of several
layers, masks and token types are its business; positions on several axes come from its `get_rope_index`. The
grid of a picture is what `probe` has found, one row of all its tokens until then. What does not hold for a
model (another kind of cache, a prefix that looks at the question) raises or differs, and `probe` sees it.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from math import isqrt
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from secondglance_server.engine.adapters.base import TransformersAdapter
from secondglance_server.engine.adapters.protocol import Chunk, ImageLayout, Pixels, VisualFeatures
from secondglance_server.engine.generic.grids import ContentRule, Grid, Rule, Seen, whole
from secondglance_server.engine.kv_cache import full_layers
from secondglance_server.engine.protocol import EncoderBudget

TOKENS_PER_PICTURE = 576  # as many as LLaVA-1.5 spends on one
_MAX_SIDE = 4096
_CHANNELS = 3
_SIDES = (16, 28, 56, 112, 168, 224, 280, 336, 384, 448, 560, 672, 784, 896, 1024)
_TYPE_INPUTS = ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
_TEXT_INPUTS = ("input_ids", "attention_mask", "position_ids", *_TYPE_INPUTS)
_VIEW_SETTINGS = ("image_seq_length", "image_seq_len", "num_image_tokens", "mm_tokens_per_image")
_USUAL_PLACEHOLDERS = ("<image>", "<|image|>", "<|image_pad|>")  # where a processor names none that it takes
_SEES_ALL = ("full_attention", "attention", "indexed_attention")  # the last may choose among all tokens
_FREE_BASE_SIDE = 224  # ViCrop's base window where pictures keep their ratio


@dataclass(frozen=True, slots=True, eq=False)
class ReadLayout(ImageLayout):
    """`inputs`: the model's inputs for a picture of that size, without its pixels."""

    inputs: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPicture(VisualFeatures):
    """`outputs`: all that the model's encoder returned."""

    outputs: Any = None


class GenericAdapter(TransformersAdapter):
    """What a model and its processor say about themselves."""

    def __init__(self, model: Any, processor: Any, chat_template: str) -> None:
        self.processor = processor
        self.placeholder = placeholder_of(processor)  # type: ignore[misc]  # each model's own
        self.grid_rule: Rule | None = None
        self.content_rule: ContentRule = whole
        self.type_inputs: tuple[str, ...] = ()
        self.layout = lru_cache(maxsize=256)(self._layout)  # type: ignore[method-assign]  # runs the processor
        inner = getattr(model, "model", model)
        self._get_features = _first_method("get_image_features", inner, model)
        self._encoder_inputs = frozenset(inspect.signature(self._get_features).parameters)
        self._rope_index = getattr(inner, "get_rope_index", None)
        self._reading = threading.Lock()  # a tokenizer is set for each call; the prompts have their own
        super().__init__(model, deepcopy(processor.tokenizer), processor.image_processor, chat_template)

    def use_grid(self, rule: Rule, content: ContentRule) -> None:
        """Lay pictures out by these rules from now on."""
        self.grid_rule, self.content_rule = rule, content
        self.layout = lru_cache(maxsize=256)(self._layout)  # type: ignore[method-assign]

    @property
    def can_cut_back(self) -> bool:
        """Whether the model keeps keys and values only, a row for each token, and no other state."""
        try:
            full_layers(self.text_config)
        except ValueError:
            return False
        return True

    def find_full_layers(self) -> tuple[int, ...]:
        """Return the layers that see the whole context, for models with another kind of state too."""
        try:
            return full_layers(self.text_config)
        except ValueError:
            kinds = getattr(self.text_config, "layer_types", None) or ()
            return tuple(i for i, kind in enumerate(kinds) if kind in _SEES_ALL)

    def find_image_token(self) -> int:
        """Return the id that stands where features go."""
        for owner in (self.config, self.processor):
            for name in ("image_token_id", "image_token_index"):
                value = getattr(owner, name, None)
                if isinstance(value, int):
                    return value
        raise ValueError(f"model_type {self.config.model_type!r} names no image token")

    def budget(self) -> EncoderBudget:
        """Return the size beyond which a picture shows the encoder no more, or brings too many tokens.

        Many sizes bring as many tokens where views are resized: of those, the one that needs no resizing.
        """
        sides = sorted({*_SIDES, *self._view_side()})
        tokens = {side: n for side in sides if (n := self._tokens_at(side)) is not None}
        if not tokens:
            raise ValueError("the processor takes no picture of a usual size")
        most = max(TOKENS_PER_PICTURE, min(tokens.values()))
        used = max(n for n in tokens.values() if n <= most)
        alike = [side for side, n in tokens.items() if n == used]
        side = min(max(self._seen_side(alike[-1]), alike[0]), alike[-1])
        fixed = self._processed_size() if len(set(tokens.values())) == 1 else None
        return EncoderBudget(*fixed) if fixed else EncoderBudget(_MAX_SIDE, _MAX_SIDE, side**2)

    def _view_side(self) -> tuple[int, ...]:
        """Return the side of the encoder's view in pixels, if its config names one."""
        size = getattr(getattr(self.config, "vision_config", None), "image_size", None)
        return (size,) if isinstance(size, int) and 0 < size <= _MAX_SIDE else ()

    def _seen_side(self, side: int) -> int:
        """Return the side of a square with as many pixels as reach the encoder of one with that side."""
        pixels = self.read(grey(side, side))[1].get("pixel_values")
        if pixels is None:
            return side
        frames = getattr(self.processor.image_processor, "temporal_patch_size", None) or 1
        return isqrt(pixels.numel() // (_CHANNELS * frames))

    def _tokens_at(self, side: int) -> int | None:
        try:
            return self.layout(side, side).run
        except ValueError:  # a size that the processor refuses
            return None

    def base_side(self) -> int:
        budget = self.budget()
        return _FREE_BASE_SIDE if budget.max_pixels is not None else max(budget.max_width, budget.max_height)

    def _processed_size(self) -> tuple[int, int] | None:
        """Return the encoder's input (width, height), None where the processor's output does not show it."""
        pixels = self.read(grey(_SIDES[-1], _SIDES[-1]))[1].get("pixel_values")
        if pixels is not None and pixels.dim() >= 4:
            return int(pixels.shape[-1]), int(pixels.shape[-2])
        return None

    def read(self, image: Image.Image) -> tuple[str, dict[str, Tensor]]:
        """Return what the processor writes for a picture, and the model's inputs for it.

        Raises ValueError where the processor does not say what it writes.
        """
        with self._reading:
            read = dict(
                self.processor(
                    text=[self.placeholder],
                    images=[image],
                    return_tensors="pt",
                    return_text_replacement_offsets=True,
                )
            )
        offsets = read.pop("text_replacement_offsets", None)
        if not offsets or not offsets[0]:
            raise ValueError(f"{type(self.processor).__name__} does not say what it writes for a picture")
        self.type_inputs = tuple(name for name in _TYPE_INPUTS if name in read)
        return offsets[0][0]["replacement"], {k: v for k, v in read.items() if k not in _TEXT_INPUTS}

    def read_inputs(self, width: int, height: int) -> Mapping[str, Tensor]:
        """Return the model's inputs for a picture of that size, without its pixels."""
        layout = self.layout(width, height)
        assert isinstance(layout, ReadLayout)
        return layout.inputs

    def _layout(self, width: int, height: int) -> ImageLayout:
        text, inputs = self.read(grey(width, height))
        token = re.escape(self.tokenizer.convert_ids_to_tokens(self.image_token_id))
        stretches = tuple(len(found[0]) for found in re.finditer(f"(?:{token})+", text))
        stretches = tuple(length // len(re.sub(r"\\(.)", r"\1", token)) for length in stretches)
        if not stretches:
            raise ValueError("the processor writes no image token for a picture")
        grid = self.find_grid(width, height, stretches, inputs)
        return ReadLayout(
            text=re.sub(f"(?:{token})+", lambda found: found[0][: len(re.sub(r"\\(.)", r"\1", token))], text),
            run=sum(stretches),
            rows=grid.rows,
            cols=grid.cols,
            cells=grid.cells,
            stretches=stretches,
            tail=self._tail(re.split(token, text)[-1]),
            content=self.content_rule(width, height),
            inputs={k: v for k, v in inputs.items() if k not in ("pixel_values", "pixel_attention_mask")},
        )

    def _tail(self, text: str) -> int:
        """Return how many control tokens a picture ends in; models fill some of them as they fill images."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids if text else []
        return len(ids) if all(i in self.tokenizer.added_tokens_decoder for i in ids) else 0

    def find_grid(
        self, width: int, height: int, stretches: tuple[int, ...], inputs: Mapping[str, Tensor]
    ) -> Grid:
        """Return the grid by the rule that holds for this model, or one row of all tokens.

        Raises ValueError for a size at which the rule does not hold.
        """
        run = sum(stretches)
        if self.grid_rule is None:
            return Grid(1, run, tuple(range(run)))
        grid = self.grid_rule(self.seen(width, height, stretches, inputs))
        if grid is None:
            raise ValueError(f"no grid for a picture of {width}x{height} pixels")
        return grid

    def seen(self, width: int, height: int, stretches: tuple[int, ...], inputs: Mapping[str, Tensor]) -> Seen:
        return Seen(width, height, stretches, inputs, views=self._views())

    def _views(self) -> tuple[int, ...]:
        """Return the square numbers of tokens that a view may have, by its settings."""
        found: list[int] = []
        for owner in (self.processor, self.config):
            found += [n for name in _VIEW_SETTINGS if isinstance(n := getattr(owner, name, None), int)]
        vision = getattr(self.config, "vision_config", None)
        size, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
        if isinstance(size, int) and isinstance(patch, int):
            found.append((size // patch) ** 2)
        return tuple(dict.fromkeys(n for n in found if n > 1 and isqrt(n) ** 2 == n))

    def pixels(self, rgb: Any) -> Pixels:
        return {k: v for k, v in self.read(self.as_image(rgb))[1].items() if k in self._encoder_inputs}

    def encode(self, pictures: Sequence[Pixels]) -> list[VisualFeatures]:
        """Encode pictures one by one: each keeps all that the encoder returns for it."""
        return [self._encode(picture) for picture in pictures]

    def _encode(self, picture: Pixels) -> EncodedPicture:
        uploaded = {k: self.upload(v) if isinstance(v, Tensor) else v for k, v in picture.items()}
        outputs = self._get_features(**uploaded, return_dict=True)
        features = outputs.pooler_output
        if features is None:
            raise ValueError("its encoder gives no features of a last layer")
        parts = [features] if isinstance(features, Tensor) else list(features)
        return EncodedPicture(torch.cat([p.reshape(-1, p.shape[-1]) for p in parts]), outputs=outputs)

    def positions(self, ids: Sequence[int], layouts: Sequence[ImageLayout]) -> Tensor:
        """Return the model's own positions, [axes, tokens]."""
        if self._rope_index is None:
            return torch.arange(len(ids))[None]
        wanted = inspect.signature(self._rope_index).parameters
        inputs: dict[str, Tensor] = {}
        read = [layout.inputs for layout in layouts if isinstance(layout, ReadLayout)]
        for name in read[0]:
            if name in wanted:
                inputs[name] = torch.cat([one[name] for one in read])
        if "mm_token_type_ids" in wanted:
            inputs["mm_token_type_ids"] = torch.tensor(self.processor.create_mm_token_type_ids([list(ids)]))
        positions: Tensor = self._rope_index(torch.tensor([list(ids)]), **inputs)[0]
        return positions.reshape(-1, len(ids))

    def embed(self, ids: Tensor) -> Tensor:
        # the image token may lie outside the vocabulary
        embedded: Tensor = self.embeddings(ids.masked_fill(ids >= self.embeddings.num_embeddings, 0))
        return embedded

    def forward(self, chunk: Chunk, cache: Any) -> Tensor:
        inputs: dict[str, Any] = {
            "attention_mask": self._mask(chunk),
            "position_ids": chunk.positions[0] if len(chunk.positions) == 1 else chunk.positions,
            "cache": cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        if chunk.ids is None:
            inputs["inputs_embeds"] = chunk.embeddings
        else:
            inputs["input_ids"] = chunk.ids
        if chunk.features and chunk.ids is not None:
            inputs["mm_encoder_outputs"] = {"image": joined([f.outputs for f in chunk.features])}  # type: ignore[attr-defined]
        if chunk.ids is not None and chunk.ids.shape[1] > 1:
            inputs |= self._types(chunk.ids, has_pictures=bool(chunk.features))
        logits: Tensor = self.model(**inputs).logits[:, -1]
        return logits

    def _types(self, ids: Tensor, *, has_pictures: bool) -> dict[str, Tensor]:
        """Return the tokens' types [B, S] by input, those that say something.

        A model whose experts depend on them counts the tokens around a picture too, wherever they stand.
        """
        found: dict[str, Tensor] = {}
        listed = ids.tolist() if self.type_inputs else []
        for name in self.type_inputs:
            own = getattr(self.processor, f"create_{name}", None) if name.startswith("moe_") else None
            types = torch.tensor((own or self.processor.create_mm_token_type_ids)(listed), device=ids.device)
            if has_pictures or (own is not None and bool(types.any())):
                found[name] = types
        return found


def _first_method(name: str, *owners: Any) -> Any:
    for owner in owners:
        if hasattr(owner, name):
            return getattr(owner, name)
    raise ValueError(f"{type(owners[-1]).__name__} does not give the features of a picture")


def placeholder_of(processor: Any) -> str:
    """Return what a chat template writes for a picture. Raises ValueError where there is no such token."""
    named = getattr(processor, "image_token", None)
    for token in dict.fromkeys([getattr(named, "content", named), *_USUAL_PLACEHOLDERS]):
        if isinstance(token, str) and _takes(processor, token):
            return token
    lacks = "has no token for a picture" if named is None else "does not say what it writes for a picture"
    raise ValueError(f"{type(processor).__name__} {lacks}")


def _takes(processor: Any, placeholder: str) -> bool:
    try:
        read = processor(
            text=[placeholder],
            images=[grey(64, 64)],
            return_tensors="pt",
            return_text_replacement_offsets=True,
        )
    except Exception:  # whatever it is: it does not take it
        return False
    return bool((read.get("text_replacement_offsets") or [[]])[0])


def joined(outputs: Sequence[Any]) -> Any:
    """Return the encoder's outputs for several pictures as it would return them for all at once."""
    if len(outputs) == 1:
        return outputs[0]
    result = copy(outputs[0])
    result["pooler_output"] = _concatenated([o.pooler_output for o in outputs])
    deep = [o["deepstack_features"] for o in outputs if "deepstack_features" in o]
    if deep:
        result["deepstack_features"] = [_concatenated(list(layer)) for layer in zip(*deep, strict=True)]
    return result


def _concatenated(values: Sequence[Any]) -> Any:
    if all(isinstance(value, Tensor) for value in values):
        return torch.cat(list(values)) if len({v.shape[1:] for v in values}) == 1 else list(values)
    return [part for value in values for part in value]


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (128, 128, 128))
