"""Several questions about one picture in one sequence: each sees the picture and itself, none sees another.

The picture's tokens come first; every question starts at the position right after them, as it does when it is
asked alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """All [B, T]. `ids`: questions and answers; `question`: which one, -1 padding; `offset`: place in it.

    `next_ids`: the answer token to predict there, -100 elsewhere; `first`: True where an answer's first token
    is predicted.
    """

    ids: Tensor
    question: Tensor
    offset: Tensor
    next_ids: Tensor
    first: Tensor


class Packer:
    """Tokenises and packs; the tokens of a text are looked up once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}
        self.pad, self.end = int(tokenizer.pad_token_id), int(tokenizer.eos_token_id)

    def tokens(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = self._tokenizer(text, add_special_tokens=False).input_ids
        return self._cache[text]

    def pack(self, rows: list[list[tuple[str, str]]]) -> Packed:
        """`rows`: for each picture its (prompt after the image tokens, answer) pairs."""
        built = []
        for row in rows:
            ids, question, offset, following, first = [], [], [], [], []
            for number, (prompt, answer) in enumerate(row):
                asked, answered = self.tokens(prompt), [*self.tokens(answer), self.end]
                whole = asked + answered[:-1]
                ids += whole
                question += [number] * len(whole)
                offset += list(range(len(whole)))
                following += [-100] * (len(asked) - 1) + answered
                first += [False] * (len(asked) - 1) + [True] + [False] * (len(answered) - 1)
            built.append((ids, question, offset, following, first))
        longest = max(len(ids) for ids, *_ in built)

        def stack(index: int, fill: int) -> Tensor:
            return torch.tensor([list(row[index]) + [fill] * (longest - len(row[index])) for row in built])

        return Packed(stack(0, self.pad), stack(1, -1), stack(2, 0), stack(3, -100), stack(4, 0).bool())


def attention_mask(prefix: int, packed: Packed) -> Tensor:
    """Bool [B, 1, prefix + T, prefix + T]: True where a query may look at a key."""
    batch, length = packed.ids.shape
    question = torch.cat([torch.full((batch, prefix), -2), packed.question], dim=1)
    keys, queries = question[:, None, :], question[:, :, None]
    allowed = (keys == -2) | (keys == queries)
    return (allowed & torch.ones(prefix + length, prefix + length).tril().bool()).unsqueeze(1)


def position_ids(prefix: int, packed: Packed) -> Tensor:
    """[B, prefix + T]."""
    start = torch.arange(prefix).expand(len(packed.ids), prefix)
    return torch.cat([start, packed.offset + prefix], dim=1)


def prompt_after_images(question: str) -> str:
    """What the chat template puts behind the last image token."""
    return f"\n{question} ASSISTANT:"
