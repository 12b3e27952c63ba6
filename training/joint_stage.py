"""Stage 3: projector and decoder on what the trained tower really sees.

The tower is frozen, so its features are computed once (float16, 75 kB a view). First the projector is fitted
so that features become the symbolic cells that the decoder knows (distillation from the tower's own heads),
then projector and decoder are trained together on questions about scenes: the global view alone, a crop
alone, and pairs (global view, then crop).
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from secondglance_server.engine.embedded.tower import Tower, TowerConfig
from training.beliefs import Beliefs, answer_codes, answer_loss, beliefs_of
from training.decoder_stage import WIDTH, Answers, Symbols, answer_logits, decoder_config, whole_answers
from training.exported import exported_parts
from training.gaze import Gaze
from training.joint_batches import Pairs, Pictures, draw_pictures, load_pairs, signs_asked
from training.journal import Journal, cosine, load_checkpoint, pick_device, save_checkpoint
from training.muon import Optimizers
from training.packing import Packer
from training.projector import Projector, fit_projector, recover_symbols, shipped_cells, start_projector
from training.tokenizer import build_tokenizer
from training.tower_stage import Heads, to_pixels

GAZE_WEIGHT = 0.3
# of an answer's tokens in the loss: one digit for five signs teaches less than the characters of six texts
KIND_WEIGHTS = {"count": 4.0, "color": 3.0, "color_crop": 3.0, "color_other": 5.0, "presence": 4.0}
# up to so many of the cells' standard deviations, another number for every picture. The tower's heads read
# nearly as well at 0.8 as without any (0.970 of legible signs, 0.980), while the lead on scenes that
# the decoder was trained on (0.957 against 0.925) is gone there: noise hides what was learnt by heart
FEATURE_NOISE = 0.9


@torch.no_grad()
def compute_features(root: pathlib.Path, tower: Tower, device: torch.device, autocast: torch.dtype) -> None:
    """Writes `features/NNN.npy` [scenes, 3, 196, width] float16 where missing or older than the tower."""
    tower.eval()
    folder = root / "features"
    folder.mkdir(exist_ok=True)
    tower_age = (root / "tower.pt").stat().st_mtime
    for path in sorted((root / "pairs").glob("[0-9]*.npz")):
        target = folder / f"{path.name.split('.')[0]}.npy"
        if path.name.endswith(".part.npz") or (target.exists() and target.stat().st_mtime > tower_age):
            continue
        with np.load(path) as shard:
            images = torch.from_numpy(shard["images"].reshape(-1, *shard["images"].shape[2:]))
        out = []
        for start in range(0, len(images), 50):
            pixels = to_pixels(images[start : start + 50]).to(device, memory_format=torch.channels_last)
            with torch.autocast(device.type, autocast):
                out.append(tower.features(pixels)[0].to("cpu", torch.float16))
        np.save(target, torch.cat(out).view(-1, 3, *out[0].shape[1:]).numpy())


class Scores:
    """The share of whole answers that were right, by kind of question."""

    def __init__(self) -> None:
        self._right: dict[str, list[bool]] = {}

    def add(self, asked: list[list[tuple[str, str, str]]], good: list[bool]) -> None:
        kinds = [kind for row in asked for kind, _prompt, _answer in row]
        for kind, is_right in zip(kinds, good, strict=True):
            self._right.setdefault(kind, []).append(is_right)

    def take(self) -> dict[str, float]:
        scores = {kind: round(float(np.mean(values)), 4) for kind, values in sorted(self._right.items())}
        self._right.clear()
        return scores


def beliefs_about(pictures: Pictures, heads: Heads, device: torch.device) -> Beliefs:
    """What the tower believes about the questions of the batch that are about one sign."""
    kinds = [kind for row in pictures.asked for kind, _prompt, _answer in row]
    counts = torch.tensor([len(row) for row in pictures.asked])
    return beliefs_of(
        heads,
        pictures.cells.to(device),
        pictures.color.to(device),
        pictures.anchor.to(device),
        pictures.slots.to(device),
        rows=torch.repeat_interleave(torch.arange(len(counts)), counts).to(device),
        labels=signs_asked(pictures).to(device),
        about_color=torch.tensor([kind.startswith("color") for kind in kinds]).to(device),
        views=pictures.count,
    )


def gaze_loss(gaze: Gaze, pictures: Pictures, answers: Answers) -> Tensor:
    """On the latest picture of the prompt: the global view where it is alone, else the crop."""
    device = answers.allowed.device
    cells = pictures.color.shape[1] // pictures.count
    length = answers.allowed.shape[-1] - answers.packed.ids.shape[1]
    rows, offsets = answers.packed.first.nonzero(as_tuple=True)
    labels = signs_asked(pictures)
    wanted = (pictures.color[rows, -cells:].long() == labels.unsqueeze(1)).float()
    image = torch.arange(length - cells, length, device=device)
    places = (offsets + length).to(device)
    return gaze.loss(rows.to(device), places, answers.allowed, image, wanted.to(device))


class Pupil:
    """Projector and decoder, which learn, and the trained tower with its heads, which teach them."""

    def __init__(self, device: torch.device, autocast: torch.dtype) -> None:
        self._device, self._autocast = device, autocast
        tokenizer = build_tokenizer()
        self._packer, self._codes = Packer(tokenizer), answer_codes(tokenizer).to(device)
        self.tower, self.heads = Tower(TowerConfig()).to(device), Heads(WIDTH, 128).to(device)
        self.model = LlamaForCausalLM(decoder_config(len(tokenizer))).to(device)
        self.symbols, self.projector = Symbols().to(device), Projector().to(device)
        self._gaze = Gaze(self.model)

    @property
    def learning(self) -> dict[str, nn.Module]:
        """By the names that checkpoints have for them."""
        return {"model": self.model, "projector": self.projector}

    def load(self, root: pathlib.Path, start: pathlib.Path | None) -> None:
        """What the stages before have made; the decoder of the model directory `start` if there is one."""
        load_checkpoint(root / "tower.pt", {"tower": self.tower, "heads": self.heads})
        if start is None:
            load_checkpoint(root / "decoder.pt", {"model": self.model, "symbols": self.symbols})
        else:
            self.model.load_state_dict(exported_parts(start)["decoder"])
        self.tower.to(memory_format=torch.channels_last)

    def fit_projector(
        self,
        root: pathlib.Path,
        start: pathlib.Path | None,
        shards: Sequence[Pairs],
        journal: Journal,
        seed: int,
    ) -> None:
        """From features to the symbolic cells that the decoder knows."""
        first = shards[0].features
        if start is not None:
            self.projector.load_state_dict(exported_parts(start)["projector"])
            old, new = shipped_cells(root, start, 150, self._device), first[:150].float().to(self._device)
            rest = recover_symbols(self.projector, self.symbols, self.heads, old, new.flatten(0, 1))
            journal.write("symbols", 0, unexplained_share=rest)
        start_projector(self.projector, self.symbols, self.heads, first[:40].float().to(self._device))
        features = [shard.features for shard in shards]
        ratio = fit_projector(self.projector, self.symbols, self.heads, features, steps=1500, seed=seed)
        journal.write("projector", 0, unexplained_share=ratio)

    def losses(self, pictures: Pictures, tally: Scores) -> tuple[Tensor, Tensor]:
        """Of the answers and of the gaze; noise is added where gradients are wanted."""
        rows = [[(prompt, answer) for _kind, prompt, answer in row] for row in pictures.asked]
        with torch.autocast(self._device.type, self._autocast):
            seen = pictures.cells.to(self._device)
            if torch.is_grad_enabled():
                strength = FEATURE_NOISE * torch.rand(len(seen), 1, 1, device=self._device)
                seen = seen + strength * seen.std() * torch.randn_like(seen)
            answers = answer_logits(self.model, self._packer, self.projector(seen), rows, pictures.count)
        logits, truth, starts, *_ = answers
        tally.add(pictures.asked, whole_answers(logits, truth, starts).tolist())
        kinds = torch.tensor([KIND_WEIGHTS.get(q[0], 1.0) for row in pictures.asked for q in row])
        weight = kinds.to(self._device)[starts.long().cumsum(0) - 1]  # of each answer's tokens
        beliefs = beliefs_about(pictures, self.heads, self._device)
        losses = answer_loss(logits.float(), truth, starts, beliefs, self._codes)
        return (weight * losses).sum() / weight.sum(), gaze_loss(self._gaze, pictures, answers)

    @torch.no_grad()
    def look(self, held_out: Pairs, batch: int) -> dict[str, float]:
        """The share of right answers on the same 24 batches every time."""
        tally, fixed = Scores(), np.random.default_rng(7)
        for _ in range(24):
            self.losses(draw_pictures(fixed, held_out, batch), tally)
        return tally.take()


def train(
    root: pathlib.Path,
    *,
    steps: int = 4400,
    batch: int = 16,
    peak: float = 1e-3,
    matrix_lr: float = 0.004,
    seed: int = 3,
    start: pathlib.Path | None = None,
) -> None:
    """`start`: a model directory whose decoder is trained on, instead of the decoder stage's."""
    device, autocast, reason = pick_device()
    torch.manual_seed(seed)
    pupil = Pupil(device, autocast)
    pupil.load(root, start)
    compute_features(root, pupil.tower, device, autocast)
    *shards, held_out = load_pairs(root)  # the last shard is for looking only
    trained = nn.ModuleList(pupil.learning.values())
    optimizer = Optimizers(pupil.model, rest=[*pupil.projector.parameters()], matrix_lr=matrix_lr, lr=peak)
    checkpoint = root / "joint.pt"
    first_step = load_checkpoint(checkpoint, pupil.learning, optimizer)
    journal = Journal(root, "joint", steps, first_step=first_step)
    scenes = sum(len(shard.records) for shard in shards)
    journal.write("start", first_step, device=reason, steps=steps, batch=batch, seed=seed, scenes=scenes)
    if first_step == 0:
        pupil.fit_projector(root, start, shards, journal, seed)
    rng, scores = np.random.default_rng([seed, first_step]), Scores()
    for step in range(first_step, steps):
        shard = shards[int(rng.integers(len(shards)))]
        optimizer.scale(cosine(step, steps, peak=1.0))
        loss, looking = pupil.losses(draw_pictures(rng, shard, batch), scores)
        optimizer.zero_grad()
        (loss + GAZE_WEIGHT * looking).backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            journal.progress(step + 1, loss=loss.item(), gaze=looking.item(), **scores.take())
        if (step + 1) % 200 == 0 or step + 1 == steps:
            save_checkpoint(checkpoint, step + 1, pupil.learning, optimizer)
            looked = pupil.look(held_out, batch)
            journal.write("evaluation", step + 1, loss=loss.item(), held_out_scenes=looked)
