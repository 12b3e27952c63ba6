"""The stock processor of a model, without what only videos and sound need (torchvision, audio libraries).

Knows no model type: transformers' own tables name the class, the model's files its settings.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import NoneType
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
    processor = made_for_pictures(stock, lambda kind: kind.from_pretrained(source, **hub))
    if processor.image_processor is None:
        raise ValueError(f"{stock.__name__} has no image processor that runs without torchvision")
    return processor


class _Absent(dict[str, Any]):  # transformers logs a processor with its parts, as JSON
    """A part that is not there: whatever is asked of it is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def made_for_pictures(stock: type[ProcessorMixin], make: Callable[[Any], Any]) -> Any:
    """Return what `make` makes of the processor class, without its parts that deal with videos and sound."""
    try:
        return make(pictures_only(stock))
    except AttributeError as exc:  # its constructor asks the video processor for settings
        if not isinstance(exc.obj, NoneType):
            raise
    processor = make(pictures_only(stock, absent=_Absent()))
    for name in processor.get_attributes():
        if isinstance(getattr(processor, name, None), _Absent):
            setattr(processor, name, None)
    return processor


def pictures_only(stock: type[ProcessorMixin], absent: _Absent | None = None) -> type[ProcessorMixin]:
    """Return the processor class with `absent` for its parts that deal with videos and sound."""

    class PicturesOnly(stock):  # type: ignore[misc, valid-type]  # any class of transformers'
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument is absent:
                return type(argument)
            return super().check_argument_for_proper_class(argument_name, argument)

        @classmethod
        def of(cls, **parts: Any) -> Any:
            """Return a processor of these parts."""
            missing = [
                name for name in cls.get_attributes() if any(part in name for part in _NOT_FOR_PICTURES)
            ]
            return cls(**dict.fromkeys(missing, absent), **parts)

        @classmethod
        def _get_arguments_from_pretrained(
            cls, source: str, processor_dict: dict[str, Any] | None = None, **kwargs: Any
        ) -> list[Any]:
            loaded: list[Any] = []
            for name in cls.get_attributes():
                if _is_for_others(name):
                    loaded.append(absent)
                elif name == "image_processor":
                    auto: Any = AutoImageProcessor
                    loaded.append(auto.from_pretrained(source, backend="pil", **kwargs))
                else:
                    loaded.append(cls._load_tokenizer_from_pretrained(name, source, **kwargs))
            return loaded

    PicturesOnly.__name__ = stock.__name__  # transformers looks at it
    return PicturesOnly


def _is_for_others(part: str) -> bool:
    return any(kind in part for kind in _NOT_FOR_PICTURES)


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
