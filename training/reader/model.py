"""The model as training sees it: tower and decoder side by side, several questions to one picture."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from secondglance_server.engine.reader.slots import ASK_POSITION, EMPTY, Slots
from secondglance_server.engine.reader.tower import (
    CLASSES,
    COARSE,
    FINE,
    ReaderTower,
    ReaderTowerConfig,
    Seen,
)
from secondglance_server.engine.reader.vocabulary import (
    ASK,
    BOS,
    CANNOT,
    IMAGE,
    NOTHING,
    SYMBOLS,
    Vocabulary,
)
from training.gaze import Gaze
from training.reader.targets import Target

WIDTH = 192
CELLS = COARSE * COARSE
CHOOSING_WEIGHT = 4.0
DIMMED = 0.33  # of the examples
_PACKED = "secondglance_packed"  # attention's name with transformers
_BLOCK = 256  # tokens: of 64 to 400 the fastest
_SURE_OF_PART = 0.4  # of the end of an answer that is a part of the text: 0.92 nats
Features = NDArray[np.float16] | NDArray[np.float32]  # [values] of one view: all maps of `Seen`, flattened


def _packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float,
    *,
    prefix: int,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of [B, heads, L, d] block by block: the prefix, causal, then the questions.

    Plain matrix products take half the time of torch's fused kernel on a processor with bf16 matrices, and
    what no token of a block may see is left out.
    """
    query, flipped, mask = query * scaling, key.transpose(-1, -2), mask.to(query.dtype)
    edges = [*range(0, prefix, _BLOCK), prefix, query.shape[2]]
    parts = []
    for start, end in itertools.pairwise(edges):
        scores = query[:, :, start:end] @ flipped[..., :end] + mask[:, :, start:end, :end]
        parts.append(scores.softmax(-1) @ value[:, :, :end])
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(_PACKED, _packed_attention)


def decoder_config(vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


class Reader(nn.Module):
    """Tower and decoder; the decoder's embeddings of symbols are what slots are made of."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.tower = ReaderTower(ReaderTowerConfig(hidden_size=WIDTH))
        self.decoder = LlamaForCausalLM(decoder_config(len(vocabulary.tokens)))
        nn.init.normal_(self.decoder.model.embed_tokens.weight, std=0.3)
        nn.init.constant_(self.decoder.model.norm.weight, 0.3)
        self.decoder.model.config._attn_implementation = _PACKED
        self.gaze = Gaze(self.decoder)

    @property
    def symbols(self) -> Tensor:
        first = self.vocabulary.first_symbol
        return self.decoder.model.embed_tokens.weight[first : first + len(SYMBOLS)]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One view for a batch: slots, and what the dense grid saw or, without it, its lines' colours."""

    slots: Slots
    features: Features | None
    colors: NDArray[np.float32] | None = None  # [lines, classes], by the lines' numbers


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One or two views and the questions about them: (ids of the question, target)."""

    views: Sequence[Picture]
    questions: Sequence[tuple[Sequence[int], Target]]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Logits [M, V] where an answer's token is predicted; `truth`, `partner` [M].

    `owner` [M]: which question, counted through the batch; `gaze`: the loss of looking elsewhere. `parted`
    bool [M]: the end of a part of the text. `refusals`: the ids that share what such an end leaves.
    """

    logits: Tensor
    truth: Tensor
    partner: Tensor
    owner: Tensor
    gaze: Tensor
    parted: Tensor
    refusals: Tensor

    def loss(self) -> Tensor:
        """Return cross-entropy, shared between both answers where two are right, and between a part's end
        and the refusals.

        An answer's first two tokens count more: they choose, and there are ten characters to each of them.
        """
        log_p = self.logits.float().log_softmax(-1)
        own = log_p.gather(1, self.truth[:, None]).squeeze(1)
        other = log_p.gather(1, self.partner.clamp(min=0)[:, None]).squeeze(1)
        chosen = torch.where(self.partner >= 0, (own + other) / 2, own)
        refused = log_p[:, self.refusals].mean(1)
        chosen = torch.where(self.parted, _SURE_OF_PART * own + (1 - _SURE_OF_PART) * refused, chosen)
        weights = 1 + (CHOOSING_WEIGHT - 1) * self._chooses().float()
        return -(weights * chosen).sum() / weights.sum()

    def _chooses(self) -> Tensor:
        """Return which tokens are the first two of their answer, bool [M]: line, colour, number."""
        return functional.pad(self.owner, (2, 0), value=-1)[:-2] != self.owner

    def right(self) -> Tensor:
        """Return whether all tokens of each question's answer are the most likely ones, bool [questions]."""
        best = self.logits.argmax(-1)
        good = (best == self.truth) | (best == self.partner)
        wrong = torch.zeros(int(self.owner.max()) + 1).index_add_(0, self.owner, 1 - good.float())
        return wrong == 0


def slot_tensors(slots: Sequence[Slots], length: int) -> dict[str, Tensor]:
    """Return the tower's inputs of several pictures, cut or padded to `length` slots."""

    def stack(name: str, kind: torch.dtype) -> Tensor:
        return torch.from_numpy(np.stack([getattr(s, name)[:length] for s in slots])).to(kind)

    return {
        "slot_ids": stack("ids", torch.long), "slot_probabilities": stack("probabilities", torch.float32),
        "slot_kind": stack("kind", torch.long), "slot_line": stack("line", torch.long),
        "slot_block": stack("block", torch.long), "slot_geometry": stack("geometry", torch.float32),
        "slot_corners": stack("corners", torch.float32),
    }  # fmt: skip


def packed(seen: Seen) -> NDArray[np.float32]:
    """Return [B, values]."""
    return torch.cat([maps.flatten(1) for maps in seen], dim=1).numpy()


def unpacked(rows: Sequence[Features]) -> Seen:
    config = ReaderTowerConfig()
    coarse = config.coarse_channels
    shapes = (
        (config.fine_channels, FINE, FINE), (CLASSES, FINE, FINE), (coarse, COARSE, COARSE),
        (CLASSES, COARSE, COARSE), (coarse, COARSE, COARSE),
    )  # fmt: skip
    values = torch.from_numpy(np.stack(rows)).float()
    parts = values.split([math.prod(shape) for shape in shapes], dim=1)
    return Seen(*(part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)))


def pixel_values(pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Return [B, 3, 384, 384] in [-1, 1]."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _used(slots: Slots) -> int:
    return int((slots.kind != EMPTY).sum())


def known_shares(rng: np.random.Generator, count: int) -> Tensor:
    """Return, for each example, how much of the dense net's view is left: a third see little of it."""
    dim = rng.random(count) < DIMMED
    return torch.from_numpy(np.where(dim, rng.uniform(0, 0.5, count), 1.0).astype(np.float32))


def dimmed(seen: Seen, known: Tensor) -> Seen:
    """Return what was seen as if the net had taken much of it for no sign.

    On photographs of real signs it does, and the decoder has to choose a line without its colour.
    """
    share = known[:, None, None, None]
    nothing = functional.one_hot(torch.tensor(CLASSES - 1), CLASSES).float()[None, :, None, None]
    believed, centered = (beliefs * share + nothing * (1 - share) for beliefs in (seen.colors, seen.centers))
    return Seen(seen.fine * share, believed, seen.coarse * share, centered, seen.joined * share)


def view_tokens(
    model: Reader, pictures: Sequence[Picture], length: int, known: Tensor, *, is_second: bool
) -> tuple[Tensor, Tensor]:
    """Return tokens [B, T, width] and rotary positions [B, T] of one view of each example."""
    slots = slot_tensors([p.slots for p in pictures], length)
    positions = torch.from_numpy(np.stack([p.slots.position[:length] for p in pictures]))
    if pictures[0].features is None:
        colors = [_line_colors(p, length) for p in pictures]
        tokens = model.tower.slots(slots, model.symbols, torch.from_numpy(np.stack(colors)), None)
    else:
        seen = unpacked([p.features for p in pictures if p.features is not None])
        tokens = model.tower.assembled(dimmed(seen, known), slots, model.symbols)
        positions = torch.cat([torch.full((len(pictures), CELLS), ASK_POSITION), positions], dim=1)
    return (tokens + model.tower.second_view if is_second else tokens), positions


def _line_colors(picture: Picture, length: int) -> NDArray[np.float32]:
    assert picture.colors is not None
    if not len(picture.colors):
        return np.zeros((length, picture.colors.shape[1]), np.float32)
    return picture.colors[np.minimum(picture.slots.line[:length], len(picture.colors) - 1)]


def run(
    model: Reader, examples: Sequence[Example], rng: np.random.Generator, known: Tensor | None = None
) -> Outcome:
    """Ask all questions of a batch; all have as many views, all with features or all without.

    `known` [examples]: how much of the dense net's view is left (`known_shares`); all of it by default.
    """
    vocabulary = model.vocabulary
    embed = model.decoder.model.embed_tokens
    parts = [embed(torch.tensor([[vocabulary.ids[BOS]]])).expand(len(examples), -1, -1)]
    places = [torch.zeros(len(examples), 1, dtype=torch.long)]
    known = torch.ones(len(examples)) if known is None else known
    for number in range(len(examples[0].views)):
        pictures = [example.views[number] for example in examples]
        full = len(pictures[0].slots.kind)
        length = min(max(_used(p.slots) for p in pictures) + int(rng.integers(1, 40)), full)
        tokens, positions = view_tokens(model, pictures, length, known, is_second=number > 0)
        parts.append(tokens)
        places.append(positions)
    prefix = torch.cat(parts, dim=1)
    packed = _pack(model, examples)
    length = prefix.shape[1]
    inputs = torch.cat([prefix, embed(packed["ids"])], dim=1)
    positions = torch.cat([*places, packed["positions"]], dim=1)
    allowed = _mask(length, packed["question"])
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    hidden = model.decoder.model(
        inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False, prefix=length
    )
    wanted = packed["next"] >= 0
    logits = model.decoder.lm_head(hidden.last_hidden_state[:, length:][wanted])
    gaze = _gaze(model, examples, packed, allowed, length)
    next_, partner, owner, parted = (packed[name][wanted] for name in ("next", "partner", "owner", "parted"))
    refusals = torch.tensor([vocabulary.ids[token] for token in (*CANNOT, *NOTHING)])
    return Outcome(logits, next_, partner, owner, gaze, parted > 0, refusals)


def _pack(model: Reader, examples: Sequence[Example]) -> dict[str, Tensor]:
    """Return [B, T] tensors by name; `next` is the answer's token to predict, -1 elsewhere."""
    ask = model.vocabulary.ids[ASK]
    rows = []
    owner = -1
    for example in examples:
        ids, question, positions, following, partner, owners, parted = [], [], [], [], [], [], []
        for number, (asked, target) in enumerate(example.questions):
            owner += 1
            answer, partner_id = list(target.tokens), target.partner
            if partner_id >= 0 and owner % 2:  # either comes first equally often: both are seen as input
                answer[0], partner_id = partner_id, answer[0]
            whole = [*asked, ask, *answer[:-1]]
            first = len(asked)
            ids += whole
            question += [number] * len(whole)
            positions += [
                max(ASK_POSITION - first + i, 1) if i < first else ASK_POSITION - first + i
                for i in range(len(whole))
            ]
            following += [-1] * first + answer
            partner += [-1] * first + [partner_id] + [-1] * (len(answer) - 1)
            owners += [owner] * len(whole)
            parted += [0] * (len(whole) - 2) + [int(target.is_part), 0]  # the end's place, then that of EOS
        rows.append((ids, question, positions, following, partner, owners, parted))
    longest = max(len(row[0]) for row in rows)

    def stack(index: int, fill: int) -> Tensor:
        return torch.tensor([list(row[index]) + [fill] * (longest - len(row[index])) for row in rows])

    names = (
        ("ids", 0), ("question", -1), ("positions", 0), ("next", -1), ("partner", -1), ("owner", -1),
        ("parted", 0),
    )  # fmt: skip
    return {name: stack(index, fill) for index, (name, fill) in enumerate(names)}


def _mask(prefix: int, question: Tensor) -> Tensor:
    """Return bool [B, 1, L, L]: the prefix is causal, a question sees the prefix and itself."""
    batch, length = question.shape
    owners = torch.cat([torch.full((batch, prefix), -2), question], dim=1)
    allowed = (owners[:, None, :] == -2) | (owners[:, None, :] == owners[:, :, None])
    return (allowed & torch.ones(prefix + length, prefix + length).tril().bool()).unsqueeze(1)


def _gaze(
    model: Reader, examples: Sequence[Example], packed: dict[str, Tensor], allowed: Tensor, length: int
) -> Tensor:
    """Return the loss of the layer that the server reads: attention belongs on the first view's cells."""
    if examples[0].views[0].features is None:
        return torch.zeros(())
    ask = model.vocabulary.ids[ASK]
    rows, places = (packed["ids"] == ask).nonzero(as_tuple=True)
    wanted = torch.stack([cell_mask(target.cells) for example in examples for _, target in example.questions])
    return model.gaze.loss(rows, places + length, allowed, torch.arange(1, 1 + CELLS), wanted)


def cell_mask(box: tuple[float, float, float, float] | None) -> Tensor:
    """Return [cells]: the share of each cell that the box covers, at least a little where it touches."""
    if box is None:
        return torch.zeros(CELLS)
    edges = torch.arange(COARSE) / COARSE
    x = (
        torch.minimum(edges + 1 / COARSE, torch.tensor(box[2])) - torch.maximum(edges, torch.tensor(box[0]))
    ).clamp(min=0)
    y = (
        torch.minimum(edges + 1 / COARSE, torch.tensor(box[3])) - torch.maximum(edges, torch.tensor(box[1]))
    ).clamp(min=0)
    return (y[:, None] * x[None, :]).flatten() * COARSE * COARSE


def image_token(vocabulary: Vocabulary) -> int:
    return vocabulary.ids[IMAGE]
