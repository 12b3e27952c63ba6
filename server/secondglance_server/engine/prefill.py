"""Runs a batch of prompts up to their last token, on top of what is cached of them.

Rows are padded between prefix and suffix, so that their last tokens, and everything decoded after them, are
aligned. Which tokens, positions and features a model wants is the adapter's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from secondglance_server.engine.adapters.protocol import Adapter, Chunk, VisualFeatures
from secondglance_server.engine.attention import recording
from secondglance_server.engine.jobs import Job
from secondglance_server.engine.kv_cache import SLACK_TOKENS, PrefixStates, empty_cache, keep_prefix, resume
from secondglance_server.engine.protocol import AttentionMap, GridBox
from secondglance_server.engine.stepping.rows import Rows


@dataclass(frozen=True, slots=True, eq=False)
class Prefilled:
    """Prompts that have run. `maps`: attention to the global image, for first stages; `texts` of that image:
    see `AttentionMap`."""

    logits: Tensor  # [B, vocabulary]
    texts: list[tuple[GridBox, ...]]
    maps: list[AttentionMap | None]
    cache: Cache
    visible: Tensor | None  # bool [B, tokens]
    next_positions: Tensor  # [axes, B, 1]

    def prefix(self, row: int, length: int) -> PrefixStates:
        return keep_prefix(self.cache, row, length)

    def rows(self, new_tokens: Sequence[int]) -> Rows:
        """The prompts' rows, each to be continued by so many tokens at most."""
        return Rows.of(self.cache, visible=self.visible, positions=self.next_positions, new_tokens=new_tokens)


def prefill(
    adapter: Adapter, jobs: Sequence[Job], *, layers: tuple[int, ...], new_tokens: int, in_place: bool = True
) -> Prefilled:
    """Runs what is not cached of each prompt, leaving room for `new_tokens`; reads `layers` for first
    stages. `in_place`: whether a single prefix's own buffers may be written behind it."""
    past = jobs[0].past
    longest = max(len(job.prompt.ids) for job in jobs)
    if past:
        prefixes = [job.held.states for job in jobs if job.held]
        cache = resume(prefixes, longest - past + new_tokens, in_place=in_place)
    else:
        cache = empty_cache(adapter.n_layers, longest + max(new_tokens, SLACK_TOKENS))
    chunk = chunk_of(adapter, jobs, past=past, longest=longest)
    texts = texts_of(jobs, chunk.features)
    maps: list[AttentionMap | None] = [None] * len(jobs)
    if jobs[0].is_first_stage:
        with recording(layers, jobs[0].prompt.grid) as recorder:
            logits = adapter.forward(chunk, cache)
        maps = attention_maps(jobs, recorder.mean(), texts)
    else:
        logits = adapter.forward(chunk, cache)
    return Prefilled(logits, texts, maps, cache, chunk.visible, next_positions(chunk.positions))


def next_positions(positions: Tensor) -> Tensor:
    """Return the positions [axes, B, 1] of the tokens that follow prompts of `positions` [axes, B, S]."""
    after = positions[:, :, -1:].amax(dim=0, keepdim=True) + 1
    return after.expand(len(positions), -1, -1)


def chunk_of(adapter: Adapter, jobs: Sequence[Job], *, past: int, longest: int) -> Chunk:
    """Return the batch's uncached tokens with their pictures' features in place."""
    device = adapter.model.device
    filler = min(adapter.end_ids)  # a padding's token: any but the image's
    rows, positions = [], []
    for job in jobs:
        ids, cut = job.prompt.ids, job.prompt.prefix
        pads = longest - len(ids)
        places = adapter.positions(ids, job.layouts)  # [axes, tokens]
        gap = places.new_zeros(len(places), pads)
        rows.append(ids[past:cut] + [filler] * pads + ids[cut:])
        positions.append(torch.cat([places[:, past:cut], gap, places[:, cut:]], dim=1))
    tokens = torch.tensor(rows, device=device)
    embeddings = adapter.embed(tokens)
    features = _features(adapter, jobs)
    is_image = tokens == adapter.image_token_id if features else None
    if is_image is not None:
        image_tokens = torch.cat([f.tokens for f in features]).to(embeddings.dtype)
        embeddings = embeddings.masked_scatter(is_image[..., None], image_tokens)
    return Chunk(
        embeddings=embeddings,
        positions=torch.stack(positions, dim=1).to(device),
        visible=_visible(jobs, longest, device),
        is_image=is_image,
        features=features,
        ids=tokens,
    )


def _visible(jobs: Sequence[Job], longest: int, device: torch.device) -> Tensor | None:
    if all(len(job.prompt.ids) == longest for job in jobs):
        return None
    visible = torch.ones(len(jobs), longest, dtype=torch.bool)
    for row, job in enumerate(jobs):
        cut = job.prompt.prefix
        visible[row, cut : cut + longest - len(job.prompt.ids)] = False
    return visible.to(device)


def _features(adapter: Adapter, jobs: Sequence[Job]) -> list[VisualFeatures]:
    """Features of the pictures whose tokens are in the chunk, row by row; those of like shape in one pass."""
    pixels = [
        job.pixels.get(picture.key) or adapter.pixels(picture.rgb)
        for job in jobs
        for picture in job.pictures_to_encode
    ]
    alike: dict[tuple[torch.Size, ...], list[int]] = {}
    for index, picture in enumerate(pixels):
        alike.setdefault(tuple(values.shape for values in picture.values()), []).append(index)
    features: dict[int, VisualFeatures] = {}
    for indices in alike.values():
        encoded = adapter.encode([pixels[i] for i in indices])
        features.update(zip(indices, encoded, strict=True))
    return [features[i] for i in range(len(pixels))]


def texts_of(jobs: Sequence[Job], features: Sequence[VisualFeatures]) -> list[tuple[GridBox, ...]]:
    """Return what was found in each job's global image. `features`: of the chunk's pictures, row by row."""
    following = iter(features)
    texts = []
    for job in jobs:
        encoded = [next(following) for _ in job.pictures_to_encode]
        texts.append(job.held.texts if job.held else encoded[0].texts)
    return texts


def attention_maps(
    jobs: Sequence[Job], weights: Tensor, texts: Sequence[tuple[GridBox, ...]]
) -> list[AttentionMap | None]:
    rows = weights.cpu().numpy().astype(np.float32)
    grids = [job.layouts[0] for job in jobs]
    return [
        AttentionMap(row.reshape(grid.rows, grid.cols), grid.content, found)
        for row, grid, found in zip(rows, grids, texts, strict=True)
    ]
