"""The embedded model's tokenizer: bytes at the bottom, whole small words, a token per digit and capital."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from scenes.questions import WORDINGS
from scenes.signs import COLORS

SPECIALS = ("<pad>", "<s>", "</s>", "<image>", "USER:", "ASSISTANT:")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'user' %}USER: "
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}"
    "{% else %} ASSISTANT:{% for part in message.content %}{{ part.text }}{% endfor %}{{ eos_token }}"
    "{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
# Words that people put into such questions without our having trained on them: they should at least be whole.
OTHER_WORDS = (
    "a an and any are at be big board can caption color colour description do does find for from general "
    "give have here image in is it label letters letter little look me name near number of on one or panel "
    "photo picture plate please read right left say says see show shown sign signs small street tell that "
    "the there this to top what where which with word words write written you Write What Which How Is Are "
    "Can Does Read Count Tell Please The yes no"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Deterministic: the same wordings give the same vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    pieces = Regex(r" ?[A-Z]?[a-z]+(?:'[a-z]+)?|[A-Z0-9]|\s|[^\sA-Za-z0-9]")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [
        w.format(color=c, a=a, text="A7")
        for ws in WORDINGS.values()
        for w in ws
        for c in COLORS
        for a in ("a", "an")
    ]
    corpus += [f"{word} {word}" for word in (*OTHER_WORDS.split(), *COLORS)] + list(COLORS)
    corpus += ["Write a general description of the image."] * 20
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>", "USER:", "ASSISTANT:"],
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        chat_template=CHAT_TEMPLATE,
    )
