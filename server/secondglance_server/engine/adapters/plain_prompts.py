"""Prompts of model types that are published without a chat template: what their authors ask them with."""

from __future__ import annotations

_PICTURES_THEN_TEXT = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<<picture>>{% else %}<<before>>{{ part.text }}<<after>>{% endif %}"
    "{% endfor %}{% endfor %}"
)
# what stands before and behind a question, by model type
_AROUND: dict[str, tuple[str, str]] = {
    "blip": ("", ""),
    "blip-2": ("Question: ", " Answer:"),
    "chameleon": ("", ""),
    "florence2": ("", ""),
    "fuyu": ("", "\n"),
    "git": ("", ""),
    "idefics": ("Question: ", " Answer:"),
    "instructblip": ("", ""),
    "instructblipvideo": ("", ""),
    "kosmos-2": ("<grounding> Question: ", " Answer:"),
    "kosmos-2.5": ("<ocr>", ""),
    "paligemma": ("answer en ", "\n"),
    "pix2struct": ("", ""),
    "udop": ("Question answering. ", ""),
    "vision-encoder-decoder": ("", ""),
    "vipllava": ("USER: ", " ASSISTANT:"),
    "video_llava": ("USER: ", " ASSISTANT:"),
}
# types whose processor wants to be told where the picture stands; those of the others know
_WRITTEN = ("chameleon", "paligemma", "video_llava", "vipllava")


def plain_template(model_type: str, placeholder: str | None) -> str | None:
    """Return a template for a type that has none of its own, None for all others.

    `placeholder`: what stands for a picture in types whose processor wants it written.
    """
    if model_type not in _AROUND:
        return None
    before, after = _AROUND[model_type]
    text = _PICTURES_THEN_TEXT.replace("<<picture>>", placeholder or "" if model_type in _WRITTEN else "")
    return text.replace("<<before>>", before).replace("<<after>>", after)
