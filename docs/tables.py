"""Write the tables of the documents anew: settings of both sides, metrics, errors, models.

    python docs/tables.py

A setting's meaning is the docstring below it or the comment behind it, a metric's its help text, an error's
its title in the protocol. The published models are computed from the shapes in `published_models.json` (those
of their `config.json`): parameters are counted on a model without memory, image tokens and sizes are what the
family's adapter says of it.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import tempfile
import textwrap
import tokenize
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast, get_args, get_origin

import torch
from pydantic_settings import BaseSettings
from transformers import AutoConfig, AutoModelForImageTextToText

from secondglance.gateway.settings import GatewaySettings
from secondglance.settings import EdgeSettings
from secondglance_eval.markdown import markdown_table
from secondglance_protocol.errors import ERRORS, ErrorCode
from secondglance_protocol.wire import Confidence
from secondglance_server.app import create_app
from secondglance_server.engine.adapters import discover
from secondglance_server.engine.adapters.base import TransformersAdapter
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.engine.generic.registry import ModelType, model_types
from secondglance_server.engine.kv_cache import full_layers
from secondglance_server.inference.facts import RequestFacts
from secondglance_server.settings import ServerSettings, VllmSettings

FOLDER = Path(__file__).parent
PUBLISHED = FOLDER / "published_models.json"
_MIB = 1024 * 1024


def settings_table(settings: type[BaseSettings]) -> str:
    """Return one row for each field: its environment variable, default and meaning."""
    meanings = _comments(settings)
    rows = [
        (
            f"`{_variable(settings, name)}`",
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
        "image tokens",
        "first picture",
        "layer",
        "whose",
    )
    rows = [_published_row(name, raw) for name, raw in json.loads(PUBLISHED.read_text()).items()]
    return markdown_table(header, rows) + "\n"


def _published_row(name: str, raw: dict[str, Any]) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(raw))
        (Path(folder) / "preprocessor_config.json").write_text("{}")
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model: Any = AutoModelForImageTextToText.from_config(config)  # type: ignore[no-untyped-call]  # as transformers leaves it
        model.tie_weights()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        family = discover().get(config.model_type)
        seen = ("told at load", "told at load", *_layer_by_depth(config.get_text_config()))
        if family is not None:
            # no text is tokenised: the layout asks for the placeholder's name only
            tokenizer = SimpleNamespace(eos_token_id=0, convert_ids_to_tokens=str)
            processor = family.load_image_processor(folder, config)
            seen = _what_it_sees(family(model, tokenizer, processor, ""))
    memory = [f"{parameters * bits / 8e9:.1f} GB" for bits in (16, 4)]
    return (f"`{name}`", f"{parameters / 1e9:.2f} B", *memory, *seen)


def _layer_by_depth(text_config: Any) -> tuple[str, str]:
    """Return the layer that is read of a model without a file of its own, and whose number that is."""
    depth = text_config.num_hidden_layers
    model = SimpleNamespace(
        n_layers=depth,
        full_layers=full_layers(text_config),
        read_layer=TransformersAdapter.read_layer,
        read_layer_origin=TransformersAdapter.read_layer_origin,
    )
    (layer,), origin = TransformersAdapter.default_layers(cast("TransformersAdapter", model))
    return f"{layer} of {depth}", _cell(origin)


def _what_it_sees(adapter: TransformersAdapter) -> tuple[str, str, str, str]:
    budget = adapter.image
    width, height = budget.max_width, budget.max_height
    limit = f"{width} x {height}"
    if budget.max_pixels is not None:
        width = height = int(budget.max_pixels**0.5)
        limit = f"{budget.max_pixels:,} pixels"
    layout = adapter.layout(width, height)
    tokens = str(layout.run) if budget.max_pixels is None else f"up to {layout.run}"
    (layer,) = adapter.layers
    return tokens, limit, f"{layer} of {adapter.n_layers}", _cell(adapter.localization.origin)


def _is_untried(row: ModelType) -> bool:
    return row.verdict == "no" and row.reason.startswith("not tried")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")


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
}


def page_with_tables(text: str) -> str:
    """Return `text` with each table between its marks written anew."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: written by docs/tables.py -->\n", f"<!-- end of {name} -->"
        if begin in text:
            before, rest = text.split(begin)
            text = before + begin + "\n" + table() + "\n" + end + rest.split(end)[1]
    return text


def _variable(settings: type[BaseSettings], name: str) -> str:
    alias = settings.model_fields[name].validation_alias
    named = [choice for choice in getattr(alias, "choices", ()) if str(choice).isupper()]
    return str(named[0]) if named else f"{settings.model_config['env_prefix']}{name.upper()}"


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
