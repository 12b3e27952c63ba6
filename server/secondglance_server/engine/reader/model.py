"""The model that reads, as transformers knows it: LLaVA's class with a tower that reads in place of CLIP.

Importing this module registers `secondglance_reader` with the Auto classes.
"""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

import secondglance_server.engine.reader.tower  # noqa: F401  # registers its encoder


class ReaderConfig(LlavaConfig):  # type: ignore[no-untyped-call]  # transformers' hook is unannotated
    """LLaVA's configuration under a name of its own: its pictures come with slots."""

    model_type = "secondglance_reader"


class ReaderForConditionalGeneration(LlavaForConditionalGeneration):  # type: ignore[no-untyped-call]  # as above
    """LLaVA's class; nothing is overridden."""

    config_class: Any = ReaderConfig


AutoConfig.register(ReaderConfig.model_type, ReaderConfig)
AutoModelForImageTextToText.register(ReaderConfig, ReaderForConditionalGeneration)
