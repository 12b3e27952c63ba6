"""Write the tables of the documents anew: settings of both sides, metrics, errors, models, the log's entries.

    python docs/tables.py

A setting's meaning is the docstring below it or the comment behind it, a metric's its help text, an error's
its title in the protocol. The published models are computed from `published_models.json`: an entry is a
model's `config.json` and, for types without a file of their own, what their processor is published with.
Parameters are counted on a model without memory; image tokens and sizes are what the adapter says that would
serve it.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import tempfile
import textwrap
import tokenize
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args, get_origin

import torch
from pydantic_settings import BaseSettings
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

from secondglance.gateway.settings import GatewaySettings
from secondglance.settings import EdgeSettings, variable_of
from secondglance_eval.markdown import markdown_table
from secondglance_protocol.errors import ERRORS, ErrorCode
from secondglance_protocol.geometry import fit_within
from secondglance_protocol.wire import Confidence, ImageSize
from secondglance_server.app import create_app
from secondglance_server.engine.adapters import discover
from secondglance_server.engine.adapters.base import TransformersAdapter
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.engine.generic.adapter import GenericAdapter
from secondglance_server.engine.generic.processor import load_processor
from secondglance_server.engine.generic.registry import ModelType, model_types
from secondglance_server.inference.facts import RequestFacts
from secondglance_server.settings import ServerSettings, VllmSettings

FOLDER = Path(__file__).parent
LOGS = FOLDER / "log"
PUBLISHED = FOLDER / "published_models.json"
PHOTO = ImageSize(width=1024, height=768)
_OF_THE_PROCESSOR = ("preprocessor_config", "processor_config", "tokens")
_MIB = 1024 * 1024


def settings_table(settings: type[BaseSettings]) -> str:
    """Return one row for each field: its environment variable, default and meaning."""
    meanings = _comments(settings)
    rows = [
        (
            f"`{variable_of(settings, name)}`",
            _shown(field.default),
            _with_choices(" ".join((field.description or meanings[name]).split()), field.annotation),
        )
        for name, field in settings.model_fields.items()
        if not (inspect.isclass(field.annotation) and issubclass(field.annotation, BaseSettings))
    ]
    return markdown_table(("variable", "default", "meaning"), rows) + "\n"


def families_table() -> str:
    """Return the supported families, with what each adapter's module says about itself."""
    rows = []
    for name, adapter in discover().items():
        module = inspect.getmodule(adapter)
        about = (inspect.getdoc(module) or "").split("\n\n")[0].replace("\n", " ").rstrip(".")
        layer, depth = adapter.read_layer
        rows.append((f"`{name}`", about, f"{layer} of {depth}"))
    return (
        markdown_table(("`model_type`", "family: how it sees a picture", "attention read at layer"), rows)
        + "\n"
    )


def errors_table() -> str:
    """Return the wire's errors with what an app can do about them."""
    rows = [
        (f"`{code}`", str(row.status), row.title, "yes" if row.retryable else "no")
        for code, row in ERRORS.items()
    ]
    return markdown_table(("code", "status", "meaning", "may succeed later"), rows) + "\n"


def metrics_table() -> str:
    """Return the metrics of an app that has seen one request of everything, so that each label shows."""
    engine = FakeEngine()
    parts = create_app(ServerSettings(), engine).state.server
    parts.metrics.show_model(engine.info)
    sure = Confidence(
        metric="margin", aggregate="max", value=0, threshold=0, min_entropy=0, shannon=0, margin=0
    )
    facts = RequestFacts("", stage=1, outcome="answered", error=ErrorCode.BUSY, confidence=sure)
    parts.metrics.observe(facts, route="", method="", status=200, elapsed_s=0)
    parts.metrics.observe_store("claim", "ok", 0)
    rows = []
    for family in sorted(parts.metrics.registry.collect(), key=lambda family: family.name):
        if family.name.startswith("process_"):
            continue
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append((f"`{name}`", family.type, ", ".join(labels), family.documentation))
    return markdown_table(("metric", "type", "labels", "meaning"), rows) + "\n"


def types_table() -> str:
    """Return every image-text-to-text type of transformers: yes, answers only or no, and why."""
    rows = [row for row in model_types() if not _is_untried(row)]
    table = markdown_table(
        ("`model_type`", "asks for regions", "by", "how its picture is known, or why it asks for none"),
        [(f"`{row.type}`", row.verdict, row.how, _cell(row.reason)) for row in rows],
    )
    untried = ", ".join(f"`{row.type}`" for row in model_types() if _is_untried(row))
    return f"{table}\n\nNot tried, so nobody knows: {untried or 'none'}.\n"


@cache
def published_table() -> str:
    """Return ten published models with memory, image tokens, first picture and layer."""
    header = (
        "`--model`",
        "parameters",
        "16 bits",
        "4 bits",
        "image tokens, square",
        f"{PHOTO.width} x {PHOTO.height}",
        "first picture",
        "layer",
        "whose",
    )
    rows = [_published_row(name, raw) for name, raw in json.loads(PUBLISHED.read_text()).items()]
    return markdown_table(header, rows) + "\n"


def _published_row(name: str, raw: dict[str, Any]) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as folder:
        _write_published(Path(folder), raw)
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model: Any = AutoModelForImageTextToText.from_config(config)  # type: ignore[no-untyped-call]  # as transformers leaves it
        model.tie_weights()
        seen = _what_it_sees(_serving_adapter(folder, config, model))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    memory = [f"{parameters * bits / 8e9:.1f} GB" for bits in (16, 4)]
    return (f"`{name}`", f"{parameters / 1e9:.2f} B", *memory, *seen)


def _write_published(folder: Path, raw: dict[str, Any]) -> None:
    config = {key: value for key, value in raw.items() if key not in _OF_THE_PROCESSOR}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("preprocessor_config", "processor_config"):
        (folder / f"{name}.json").write_text(json.dumps(raw.get(name, {})))
    if "tokens" in raw:
        words = Tokenizer(WordLevel({"<unk>": 0} | raw["tokens"], unk_token="<unk>"))
        special = {"bos_token": "<unk>", "unk_token": "<unk>", "additional_special_tokens": [*raw["tokens"]]}
        PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)


def _serving_adapter(folder: str, config: Any, model: Any) -> TransformersAdapter:
    """Return the adapter that the model would be served by; no text is tokenised and no picture encoded."""
    family = discover().get(config.model_type)
    if family is None:
        return GenericAdapter(model, load_processor(folder, config), "")
    tokenizer = SimpleNamespace(eos_token_id=0, convert_ids_to_tokens=str)  # for the placeholder's name
    adapter: TransformersAdapter = family(model, tokenizer, family.load_image_processor(folder, config), "")
    return adapter


def _what_it_sees(adapter: TransformersAdapter) -> tuple[str, ...]:
    budget = adapter.image
    width, height = budget.max_width, budget.max_height
    limit = f"{width} x {height}"
    if budget.max_pixels is not None:
        width = height = int(budget.max_pixels**0.5)
        limit = f"{budget.max_pixels:,} pixels"
    square = adapter.layout(width, height).run
    sent = fit_within(
        PHOTO, max_width=budget.max_width, max_height=budget.max_height, max_pixels=budget.max_pixels
    )
    photo = adapter.layout(sent.width, sent.height).run
    (layer,) = adapter.layers
    origin = _cell(adapter.localization.origin)
    return str(square), str(photo), limit, f"{layer} of {adapter.n_layers}", origin


def _is_untried(row: ModelType) -> bool:
    return row.verdict == "no" and row.reason.startswith("not tried")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")


def entries_of(topic: str) -> str:
    """Return links to a log's entries, in their order."""
    headings = re.findall(r"^## (\S+) · (.*)$", (LOGS / f"{topic}.md").read_text(), re.MULTILINE)
    lines = [f"- {date} [{title}](log/{topic}.md#{_anchor(f'{date} · {title}')})" for date, title in headings]
    return "\n".join(lines) + "\n"


def _anchor(heading: str) -> str:
    """Return the name that the pages' host gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


TABLES: Mapping[str, Callable[[], str]] = {
    "settings": lambda: settings_table(ServerSettings),
    "vllm settings": lambda: settings_table(VllmSettings),
    "edge settings": lambda: settings_table(EdgeSettings),
    "gateway settings": lambda: settings_table(GatewaySettings),
    "metrics": metrics_table,
    "errors": errors_table,
    "families": families_table,
    "types": types_table,
    "published models": published_table,
    **{f"{log.stem} log": partial(entries_of, log.stem) for log in sorted(LOGS.glob("*.md"))},
}


def page_with_tables(text: str) -> str:
    """Return `text` with each table between its marks written anew."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: written by docs/tables.py -->\n", f"<!-- end of {name} -->"
        if begin in text:
            before, rest = text.split(begin)
            text = before + begin + "\n" + table() + "\n" + end + rest.split(end)[1]
    return text


def _comments(settings: type[BaseSettings]) -> dict[str, str]:
    """Return the first comment within each field's lines, by the field's name."""
    source = textwrap.dedent(inspect.getsource(settings))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    by_line = {token.start[0]: token.string.lstrip("# ") for token in comments}
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            found[node.target.id] = next((by_line[line] for line in lines if line in by_line), "")
    return found


def _shown(default: object) -> str:
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, int) and default >= _MIB and default % _MIB == 0:
        return f"{default} ({default // _MIB} MiB)"
    return f"{default:g}" if isinstance(default, float) else str(default)


def _with_choices(meaning: str, annotation: Any) -> str:
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    return f"{meaning} One of {', '.join(choices)}." if choices else meaning


if __name__ == "__main__":
    for page in FOLDER.glob("*.md"):
        page.write_text(page_with_tables(page.read_text()))
