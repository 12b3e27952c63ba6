"""Why a type has no row: what is missing to build a random model of it, or that nobody has."""

from __future__ import annotations

from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

_OTHER_TASKS = {
    "evolla": "it is asked about proteins, not pictures",
    "pi0": "it moves a robot and answers no question",
    "pp_formulanet": "it reads formulas and takes no question",
    "diffusion_gemma": "it writes an answer's tokens in no order, so none has a statistic when it comes",
    "instructblipvideo": "its processor takes videos and no pictures",
    "shieldgemma2": "it rates a picture against policies and writes no answer",
    "mistral4": "transformers maps it to a model of texts only",
}
_NEEDS_TIMM = ("fast_vlm", "gemma3n", "perception_lm")


def why_untried(model_type: str) -> str:
    """Return the reason that the registry gives for a type without a row."""
    if model_type in _OTHER_TASKS:
        return _OTHER_TASKS[model_type]
    if model_type in _NEEDS_TIMM:
        return "not tried: its encoder comes from timm, which is not installed"
    image_processors = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {})
    if image_processors and "pil" not in image_processors:
        return "not tried: its image processor needs torchvision"
    return "not tried: no random model of it is built in the tests"
