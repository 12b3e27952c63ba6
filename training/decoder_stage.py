"""Stage 2: the decoder learns the language of the task on symbolic pictures, without any vision.

A symbolic cell is the sum of a colour vector, a centre vector and, for each of four slots, the mean of the
character vectors under a posterior: sharp for legible text, flat for illegible. The true text is drawn first
and the posterior follows from noisy evidence (Bayes), so the decoder learns honest uncertainty. First
questions end with the colour ("written red"), which makes binding emerge at once; full wordings follow, then
the full grid, then pairs of pictures.
"""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from scenes.generator import random_text
from scenes.questions import WORDINGS
from scenes.signs import CHARACTERS, COLORS
from training.journal import Journal, cosine, load_checkpoint, pick_device, save_checkpoint
from training.muon import Optimizers
from training.packing import Packed, Packer, attention_mask, position_ids, prompt_after_images
from training.pictures.views import SLOTS
from training.tokenizer import build_tokenizer

CODES = len(CHARACTERS) + 1
WIDTH = 192
MOST_SIGNS = 5


def decoder_config(vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


class Symbols(nn.Module):
    """Vectors that a cell is the sum of; also the target that the projector is fitted to."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.color = nn.Parameter(torch.randn(len(COLORS) + 1, width) * 0.5)
        self.anchor = nn.Parameter(torch.randn(width) * 0.5)
        self.slots = nn.Parameter(torch.randn(SLOTS, CODES, width) * 0.4)

    def forward(self, color: Tensor, anchor: Tensor, posterior: Tensor) -> Tensor:
        """Probabilities color [B, N, 9], anchor [B, N], posterior [B, N, 4, codes] -> cells [B, N, width]."""
        cells = color @ self.color + anchor.unsqueeze(-1) * self.anchor
        on_sign = 1 - color[..., :1]
        return cells + on_sign * torch.einsum("bnsc,scw->bnw", posterior, self.slots)


@dataclass(slots=True, eq=False)
class Grid:
    """A symbolic picture: `sign` [rows * cols] index of the sign or -1; `centers` the signs' centre cells."""

    sign: np.ndarray
    centers: list[int]


def draw_grid(rng: np.random.Generator, side: int, extents: list[tuple[int, int]]) -> Grid:
    """Signs of the given (width, height) in cells at random places; none covers another's centre."""
    grid = np.full((side, side), -1)
    centers: list[int] = []
    for index, (width, height) in enumerate(extents):
        for _ in range(30):
            row, col = int(rng.integers(side)), int(rng.integers(side))
            top, left = row - height // 2, col - width // 2
            rows, cols = slice(max(top, 0), top + height), slice(max(left, 0), left + width)
            if (grid[rows, cols] == -1).all():
                break
        else:
            rows, cols = slice(row, row + 1), slice(col, col + 1)
            if grid[row, col] >= 0 and row * side + col in centers:
                continue
        grid[rows, cols] = index
        grid[row, col] = index
        centers.append(row * side + col)
    return Grid(grid.reshape(-1), centers)


def draw_crop(rng: np.random.Generator, side: int, target: int | None, others: list[int]) -> Grid:
    """The picture of a crop: the target large in the middle, or elsewhere; perhaps a neighbour at the rim."""
    grid = np.full((side, side), -1)
    centers = []
    if others and rng.random() < 0.3:
        row, col = int(rng.integers(side)), int(rng.choice((0, side - 1)))
        grid[max(row - 2, 0) : row + 2, max(col - 2, 0) : col + 2] = int(rng.choice(others))
        if rng.random() < 0.5:
            centers.append(row * side + col)
    if target is not None:
        width, height = int(rng.integers(3, 12)), int(rng.integers(2, 8))
        row, col = (int(np.clip(rng.normal(side / 2, 1.2), 2, side - 3)) for _ in range(2))
        grid[
            max(row - height // 2, 0) : row - height // 2 + height,
            max(col - width // 2, 0) : col - width // 2 + width,
        ] = target
        centers.append(row * side + col)
    return Grid(grid.reshape(-1), centers)


def evidence(rng: np.random.Generator, codes: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Posterior [signs, 4, codes] of the codes [signs, 4] seen through noise of that strength [signs]."""
    strength = strength[:, None, None]
    seen = strength * np.eye(CODES)[codes] + rng.normal(size=(*codes.shape, CODES))
    logits = strength * seen
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


@dataclass(slots=True, eq=False)
class Batch:
    """Arrays [B, pictures * N, ...] and the questions for each row."""

    color: Tensor
    anchor: Tensor
    posterior: Tensor
    rows: list[list[tuple[str, str]]]


def _questions(
    rng: np.random.Generator, texts: list[str], colors: list[str], target: int, *, count: int, short: float
) -> list[tuple[str, str]]:
    pairs = []
    for number in range(count):
        index = target if number < 2 else int(rng.integers(len(texts)))
        color, kind = (
            colors[index],
            str(rng.choice(("read", "count", "presence", "color"), p=(0.5, 0.15, 0.2, 0.15))),
        )
        if number < 2:
            kind = "read"
        answer = texts[index]
        if kind == "count":
            answer = str(len(texts))
        elif kind == "presence":
            present = rng.random() < 0.5
            color = color if present else str(rng.choice([c for c in COLORS if c not in colors]))
            answer = "yes" if present else "no"
        elif kind == "color":
            answer = color
        if rng.random() < short and kind in ("read", "presence"):
            prompt = f"\n{'written' if kind == 'read' else 'there'} {color}"
        else:
            wording = str(rng.choice(WORDINGS[kind]))  # type: ignore[index]
            prompt = prompt_after_images(
                wording.format(color=color, text=texts[index], a="an" if color == "orange" else "a")
            )
        pairs.append((prompt, answer))
    return pairs


def draw_batch(
    rng: np.random.Generator, size: int, *, side: int, pairs: bool, short: float, count: int = 5
) -> Batch:
    cells = side * side
    views = 2 if pairs else 1
    color = np.zeros((size, views * cells, len(COLORS) + 1), np.float32)
    anchor = np.zeros((size, views * cells), np.float32)
    posterior = np.zeros((size, views * cells, SLOTS, CODES), np.float32)
    rows = []
    for row in range(size):
        widest = 2 if side < 10 else 5
        extents = [
            (int(rng.integers(1, widest + 1)), int(rng.integers(1, max(widest // 2, 1) + 1)))
            for _ in range(int(rng.integers(2, 6)))
        ]
        grid = draw_grid(rng, side, extents)
        present = sorted({int(i) for i in grid.sign if i >= 0})
        names = [str(c) for c in rng.permutation(COLORS)[: len(extents)]]
        texts = [random_text(rng) for _ in extents]
        codes = np.array(
            [[CHARACTERS.index(c) + 1 for c in text] + [0] * (SLOTS - len(text)) for text in texts]
        )
        strength = np.where(rng.random(len(texts)) < 0.5, 7.0, rng.uniform(0, 4, len(texts)))
        target = int(rng.choice(present))
        grids = [(grid, evidence(rng, codes, strength))]
        if pairs:
            missed = rng.random() < 0.12
            crop = draw_crop(rng, side, None if missed else target, [i for i in present if i != target])
            grids.append(
                (
                    crop,
                    evidence(
                        rng,
                        codes,
                        np.where(rng.random(len(texts)) < 0.85, 7.0, rng.uniform(1.5, 5, len(texts))),
                    ),
                )
            )
        for view, (picture, belief) in enumerate(grids):
            for cell, sign in enumerate(picture.sign):
                place = view * cells + cell
                color[row, place, 0 if sign < 0 else COLORS.index(names[sign]) + 1] = 1
                if sign >= 0:
                    posterior[row, place] = belief[sign]
            anchor[row, [view * cells + c for c in picture.centers]] = 1
        kept_texts, kept_names = [texts[i] for i in present], [names[i] for i in present]
        rows.append(_questions(rng, kept_texts, kept_names, present.index(target), count=count, short=short))
    return Batch(torch.from_numpy(color), torch.from_numpy(anchor), torch.from_numpy(posterior), rows)


def frame(model: LlamaForCausalLM, packer: Packer, cells: Tensor, views: int) -> Tensor:
    """The prompt's start around the image tokens: `<s>USER: ` images, a newline between two of them."""
    embed = model.get_input_embeddings()
    start = embed(torch.tensor(packer.tokens("<s>USER: "), device=cells.device)).expand(len(cells), -1, -1)
    if views == 1:
        return torch.cat([start, cells], dim=1)
    newline = embed(torch.tensor(packer.tokens("\n"), device=cells.device)).expand(len(cells), -1, -1)
    first, second = cells.chunk(2, dim=1)
    return torch.cat([start, first, newline, second], dim=1)


class Answers(NamedTuple):
    """Logits [M, V] where an answer token is predicted, the tokens [M], and which begin an answer [M].

    `packed` and `allowed` (bool [B, 1, L, L]) are the sequence they come from.
    """

    logits: Tensor
    truth: Tensor
    first: Tensor
    packed: Packed
    allowed: Tensor


def answer_logits(
    model: LlamaForCausalLM, packer: Packer, cells: Tensor, rows: list[list[tuple[str, str]]], views: int
) -> Answers:
    packed = packer.pack(rows)
    prefix = frame(model, packer, cells, views)
    text = model.get_input_embeddings()(packed.ids.to(cells.device))
    length = prefix.shape[1]
    inputs = torch.cat([prefix, text.to(prefix.dtype)], dim=1)
    allowed = attention_mask(length, packed).to(cells.device)
    mask = torch.zeros(allowed.shape, dtype=inputs.dtype, device=cells.device)
    mask = mask.masked_fill(~allowed, torch.finfo(torch.float32).min)
    hidden = model.model(
        inputs_embeds=inputs,
        attention_mask=mask,
        position_ids=position_ids(length, packed).to(cells.device),
        use_cache=False,
    )
    wanted = packed.next_ids != -100
    states = hidden.last_hidden_state[:, length:][wanted.to(cells.device)]
    return Answers(
        model.lm_head(states),
        packed.next_ids[wanted].to(cells.device),
        packed.first[wanted].to(cells.device),
        packed,
        allowed,
    )


def whole_answers(logits: Tensor, truth: Tensor, first: Tensor) -> Tensor:
    """Whether every token (the end included) was predicted, bool [answers] in packing order."""
    right = (logits.argmax(-1) == truth).long()
    number = first.long().cumsum(0) - 1
    wrong = torch.zeros(int(first.sum()), dtype=torch.long, device=right.device).index_add_(
        0, number, 1 - right
    )
    return wrong == 0


PHASES = (  # (up to this step, grid side, pairs, share of short questions)
    (700, 4, False, 0.9),
    (1680, 6, False, 0.3),
    (2240, 6, True, 0.1),
    (2250, 14, False, 0.0),
)
STEPS = PHASES[-1][0]
SCHEDULE_STEPS = 2800  # the learning rate's cosine would end there; the joint stage takes over before


def phase_at(step: int) -> tuple[int, bool, float]:
    """Grid side, pairs, share of short questions."""
    return next(rest for end, *rest in PHASES if step < end)  # type: ignore[return-value]


def train(
    root: pathlib.Path,
    *,
    steps: int = STEPS,
    batch: int = 16,
    peak: float = 2e-3,
    matrix_lr: float = 0.02,
    seed: int = 2,
) -> None:
    device, autocast, reason = pick_device()
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    packer = Packer(tokenizer)
    model, symbols = LlamaForCausalLM(decoder_config(len(tokenizer))).to(device), Symbols().to(device)
    both = nn.ModuleList([model, symbols])
    optimizer = Optimizers(model, rest=[*symbols.parameters()], matrix_lr=matrix_lr, lr=peak)
    checkpoint = root / "decoder.pt"
    first_step = load_checkpoint(checkpoint, {"model": model, "symbols": symbols}, optimizer)
    journal = Journal(root, "decoder", steps, first_step=first_step)
    journal.write("start", first_step, device=reason, steps=steps, batch=batch, seed=seed)
    rng = np.random.default_rng([seed, first_step])
    right: dict[str, list[float]] = {}
    for step in range(first_step, steps):
        side, pairs, short = phase_at(step)
        data = draw_batch(rng, batch, side=side, pairs=pairs, short=short)
        optimizer.scale(cosine(step, SCHEDULE_STEPS, peak=1.0))
        cells = symbols(data.color.to(device), data.anchor.to(device), data.posterior.to(device))
        cells = cells + 0.1 * torch.randn_like(cells)
        with torch.autocast(device.type, autocast):
            logits, truth, starts, *_ = answer_logits(model, packer, cells, data.rows, 2 if pairs else 1)
        loss = functional.cross_entropy(logits.float(), truth)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        kinds = [
            "read" if a not in ("yes", "no", *COLORS) else ("presence" if a in ("yes", "no") else "color")
            for row in data.rows
            for _, a in row
        ]
        for kind, good in zip(kinds, whole_answers(logits, truth, starts).tolist(), strict=True):
            right.setdefault(kind, []).append(good)
        if (step + 1) % 50 == 0 or step + 1 == steps:
            scores = {kind: float(np.mean(values)) for kind, values in sorted(right.items())}
            right.clear()
            journal.progress(step + 1, loss=loss.item(), side=side, **scores)
            if (step + 1) % 250 == 0 or step + 1 == steps:
                save_checkpoint(checkpoint, step + 1, {"model": model, "symbols": symbols}, optimizer)
                journal.write("evaluation", step + 1, loss=loss.item(), **scores)
