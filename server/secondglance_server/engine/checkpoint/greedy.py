"""Settings of a checkpoint's generation_config that change a greedy answer. The prefix engine honours none.

Used by the loader, which says so, and by the probe of types without a file, which compares plain answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Each with the values that change nothing, the first of them to set.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (None, 1.0),
    "encoder_repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None, []),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "sequence_bias": (None, {}),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (None, 1.0),
    "num_beams": (None, 1),
    "penalty_alpha": (None, 0.0),
}


def ignored_settings(generation_config: Any) -> list[str]:
    """Return "name=value" of each setting that would change a greedy answer and is not honoured here."""
    names = [name for name in _NEUTRAL if hasattr(generation_config, name)]
    given = {name: getattr(generation_config, name) for name in names}
    return [f"{name}={value!r}" for name, value in given.items() if value not in _NEUTRAL[name]]


def note_of(ignored: list[str]) -> str:
    """Return the words for an engine's notes."""
    return f"generation_config's {', '.join(ignored)} is not applied: answers are plain greedy"


@contextmanager
def plain_greedy(generation_config: Any) -> Iterator[None]:
    """Let the model's own `generate` answer plainly inside the block."""
    given = {name: getattr(generation_config, name) for name in _NEUTRAL if hasattr(generation_config, name)}
    try:
        for name in given:
            setattr(generation_config, name, _NEUTRAL[name][0])
        yield
    finally:
        for name, value in given.items():
            setattr(generation_config, name, value)
