"""The vocabulary as a transformers tokenizer: the same ids as `Vocabulary.question`, and answers in words."""

from __future__ import annotations

import re

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from secondglance_server.engine.reader.alphabet import OTHER
from secondglance_server.engine.reader.vocabulary import (
    ASK,
    BOS,
    CANNOT,
    END,
    EOS,
    IMAGE,
    NEXT_LINE,
    NOTHING,
    PAD,
    Vocabulary,
)

CANNOT_TEXT = "(not a question about text)"
NOTHING_TEXT = "(no readable text)"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}<ask>{% endif %}"
)


def build_tokenizer(vocabulary: Vocabulary) -> PreTrainedTokenizerFast:
    """Return the tokenizer; it is a pure function of the vocabulary."""
    known = [token for token in vocabulary.tokens if re.fullmatch(r"[A-Za-z]{2,}", token)]
    words = "|".join(sorted(known, key=lambda word: (-len(word), word)))
    tokenizer = Tokenizer(models.WordLevel(dict(vocabulary.ids), unk_token=OTHER))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rf" (?=(?:{words})(?![A-Za-z]))"), "removed"),
            pre_tokenizers.Split(Regex(rf"(?<![A-Za-z])(?:{words})(?![A-Za-z])|[\s\S]"), "isolated"),
        ]
    )
    replaced = [
        decoders.Replace(Regex(r"^<[bl]\d+\.\d+>$"), ""),
        *(decoders.Replace(token, " ") for token in (NEXT_LINE, END)),
        *(decoders.Replace(token, CANNOT_TEXT) for token in CANNOT),
        *(decoders.Replace(token, NOTHING_TEXT) for token in NOTHING),
    ]
    tokenizer.decoder = decoders.Sequence([*replaced, decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=OTHER,
        additional_special_tokens=[IMAGE, ASK],
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        chat_template=CHAT_TEMPLATE,
    )
