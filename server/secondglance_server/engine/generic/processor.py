"""The stock processor of a model, without what only videos and sound need (torchvision, audio libraries).

Knows no model type: transformers' own tables name the class, the model's files its settings.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import AutoImageProcessor
from transformers.models.auto.auto_mappings import PROCESSOR_MAPPING_NAMES
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.processing_utils import ProcessorMixin

_NOT_FOR_PICTURES = ("video", "audio", "feature_extractor")


def load_processor(source: str, config: Any, **hub: Any) -> Any:
    """Return the model's processor, with its image processor in the variant without torchvision.

    `hub`: revision, token and the like, as transformers takes them. Raises ValueError where transformers has
    no processor that takes a text and pictures.
    """
    stock = _stock_class(source, config, hub)
    if stock is None or not issubclass(stock, ProcessorMixin):
        raise ValueError(f"transformers has no processor for model_type {config.model_type!r}")
    if "image_processor" not in stock.get_attributes():
        raise ValueError(f"{stock.__name__} takes no pictures")
    processor = pictures_only(stock).from_pretrained(source, **hub)
    if processor.image_processor is None:
        raise ValueError(f"{stock.__name__} has no image processor that runs without torchvision")
    return processor


def pictures_only(stock: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """Return the processor class with None for its parts that deal with videos and sound."""

    class PicturesOnly(stock):  # type: ignore[misc, valid-type]  # any class of transformers'
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument is None:
                return type(None)
            return super().check_argument_for_proper_class(argument_name, argument)

        @classmethod
        def _get_arguments_from_pretrained(
            cls, source: str, processor_dict: dict[str, Any] | None = None, **kwargs: Any
        ) -> list[Any]:
            loaded: list[Any] = []
            for name in cls.get_attributes():
                if any(part in name for part in _NOT_FOR_PICTURES):
                    loaded.append(None)
                elif name == "image_processor":
                    auto: Any = AutoImageProcessor
                    loaded.append(auto.from_pretrained(source, backend="pil", **kwargs))
                else:
                    loaded.append(cls._load_tokenizer_from_pretrained(name, source, **kwargs))
            return loaded

    PicturesOnly.__name__ = stock.__name__  # transformers looks at it
    return PicturesOnly


def _stock_class(source: str, config: Any, hub: dict[str, Any]) -> Any:
    """Return the class that the model's files name, else the one of its type, else None."""
    saved, _ = ProcessorMixin.get_processor_dict(source, **hub)
    name = saved.get("processor_class") or get_tokenizer_config(source, **hub).get("processor_class")
    found = processor_class_from_name(name) if name else None
    if found is None and type(config) in PROCESSOR_MAPPING:
        found = PROCESSOR_MAPPING[type(config)]
    return real_class(found) if getattr(found, "is_dummy", False) else found


def real_class(stand_in: Any) -> Any:
    """Return the class behind the stand-in that transformers exports where torchvision is missing.

    Some processors import it for a function that their image processor's variant without torchvision has as
    well. Raises ImportError where the class really needs it.
    """
    name = stand_in.__name__
    folders = [
        model_type_to_module_name(t) for t, listed in PROCESSOR_MAPPING_NAMES.items() if listed == name
    ]
    for folder in folders:
        package = f"transformers.models.{folder}"
        if importlib.util.find_spec(f"{package}.processing_{folder}") is None:
            continue
        with _pil_instead_of_torchvision(package, folder):
            return getattr(importlib.import_module(f"{package}.processing_{folder}"), name)
    raise ImportError(f"{name} needs a package that is not installed: pip install torchvision")


@contextmanager
def _pil_instead_of_torchvision(package: str, folder: str) -> Iterator[None]:
    """While it lasts, an import of the package's image processors gets those without torchvision."""
    wanted = f"{package}.image_processing_{folder}"
    if wanted in sys.modules or importlib.util.find_spec(f"{package}.image_processing_pil_{folder}") is None:
        yield
        return
    sys.modules[wanted] = importlib.import_module(f"{package}.image_processing_pil_{folder}")
    try:
        yield
    finally:
        del sys.modules[wanted]
