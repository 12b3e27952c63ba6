"""Models on disk that are damaged, of the wrong kind or too large: one line that says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from secondglance_server.engine import placement
from secondglance_server.engine.adapters.llava import LlavaAdapter
from secondglance_server.engine.checkpoint.memory import free_host_bytes
from secondglance_server.engine.checkpoint.weights import read_weights
from secondglance_server.engine.loader import load_engine
from secondglance_server.engine.protocol import ModelLoadError
from tests.engine.tiny import llava

Damage = Callable[[Path], None]
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("model")
    llava.build(directory)
    return directory


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    for file in whole.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def refusal_of(directory: Path, **options: Any) -> str:
    """Return what the operator reads: one line, with nothing that a retry would mend."""
    with pytest.raises(ModelLoadError) as caught:
        load_engine(str(directory), device="cpu", **options)
    text = str(caught.value)
    assert "\n" not in text
    assert text.count("cannot be loaded") == 1
    assert not caught.value.may_pass
    return text


def configured(**changes: Any) -> Damage:
    """Return the damage that changes config.json; None takes a key away."""

    def damage(directory: Path) -> None:
        path = directory / "config.json"
        config = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))

    return damage


def written(name: str, content: str | bytes) -> Damage:
    data = content.encode() if isinstance(content, str) else content
    return lambda directory: bytes_to(directory / name, data)


def bytes_to(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def without(*names: str) -> Damage:
    return lambda directory: [(directory / name).unlink(missing_ok=True) for name in names] and None


def sharded(then: Damage) -> Damage:
    """Return the damage `then` done to the model in two files with an index."""

    def damage(directory: Path) -> None:
        tensors = load_file(directory / SINGLE)
        names = sorted(tensors)
        halves = {SHARDS[0]: names[::2], SHARDS[1]: names[1::2]}
        for file, part in halves.items():
            save_file({name: tensors[name] for name in part}, directory / file, {"format": "pt"})
        places = {name: file for file, part in halves.items() for name in part}
        (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
        (directory / SINGLE).unlink()
        then(directory)

    return damage


def tensors_changed(change: Callable[[dict[str, torch.Tensor]], None]) -> Damage:
    def damage(directory: Path) -> None:
        tensors = load_file(directory / SINGLE)
        change(tensors)
        save_file(tensors, directory / SINGLE, {"format": "pt"})

    return damage


def cut_to(share: float, name: str = SINGLE) -> Damage:
    return lambda directory: bytes_to(
        directory / name, (data := (directory / name).read_bytes())[: int(share * len(data))]
    )


def remove(tensors: dict[str, torch.Tensor], name: str) -> None:
    del tensors[name]


def a_tensor_of(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name in sorted(tensors) if name.endswith("q_proj.weight"))


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no config": (without("config.json"), "has no config.json"),
    "broken config": (written("config.json", '{"model_type": "llav'), "config.json"),
    "empty config": (written("config.json", "{}"), "model_type"),
    "a list for a config": (written("config.json", "[]"), "config.json"),
    "unknown type": (configured(model_type="news"), "Supported model types: gemma3"),
    "text model": (written("config.json", '{"model_type": "llama"}'), "no vision-language model"),
    "vision model": (written("config.json", '{"model_type": "vit"}'), "no vision-language model"),
    "own code": (
        written("config.json", '{"model_type": "mine", "auto_map": {"AutoConfig": "a.B"}}'),
        "brings its own code (auto_map, trust_remote_code), which is never run",
    ),
    "no weights": (without(SINGLE), f"{SINGLE} (safetensors) is missing"),
    "pickled weights": (
        lambda directory: (directory / SINGLE).rename(directory / "pytorch_model.bin") and None,
        "pickled (pytorch_model.bin)",
    ),
    "empty weights": (written(SINGLE, b""), f"{SINGLE} is broken or cut short"),
    "cut in the header": (cut_to(0.001), f"{SINGLE} is broken or cut short"),
    "cut in the middle": (cut_to(0.5), f"{SINGLE} is broken or cut short"),
    "cut at the end": (cut_to(0.9999), f"{SINGLE} is broken or cut short"),
    "no safetensors": (written(SINGLE, b"\xff" * 4096), f"{SINGLE} is broken or cut short"),
    "Git LFS": (written(SINGLE, "version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "a web page": (written(SINGLE, "<!doctype html><title>Sign in</title>"), f"{SINGLE} is broken"),
    "missing shard": (sharded(without(SHARDS[1])), f"{SHARDS[1]} (safetensors) is missing"),
    "cut shard": (sharded(cut_to(0.5, SHARDS[0])), f"{SHARDS[0]} is broken"),
    "broken index": (sharded(written(INDEX, "{")), f"{INDEX} is broken"),
    "index of nothing": (sharded(written(INDEX, '{"weight_map": {}}')), f"{INDEX} is broken"),
    "index of a list": (sharded(written(INDEX, "[]")), f"{INDEX} is broken"),
    "index that leaves": (
        sharded(written(INDEX, '{"weight_map": {"a": "../../etc/passwd"}}')), f"{INDEX} is broken"
    ),
    "missing tensor": (tensors_changed(lambda t: remove(t, a_tensor_of(t))), "1 tensor(s) are missing"),
    "wrong shape": (
        tensors_changed(lambda t: t.update({a_tensor_of(t): torch.zeros(3, 5)})),
        "do not fit its config.json",
    ),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), "tokenizer"),
    "broken tokenizer": (written("tokenizer.json", "{"), "tokenizer.json"),
    "no image processor": (
        without("preprocessor_config.json", "processor_config.json"), "preprocessor_config.json"
    ),
    "unknown quantisation": (configured(quantization_config={"quant_method": "mystery"}), "mystery"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_model_is_refused_in_one_line(copy: Path, kind: str) -> None:
    """Missing tensors were random numbers, sure of themselves; the rest were chains of tracebacks."""
    damage, words = DAMAGES[kind]
    damage(copy)
    assert words in refusal_of(copy)


def test_a_model_without_a_chat_template_is_told_where_to_put_one(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlavaAdapter, "default_chat_template", None)
    for name in ("chat_template.jinja", "processor_config.json"):
        (copy / name).unlink(missing_ok=True)
    (copy / "preprocessor_config.json").touch()
    text = refusal_of(copy)
    assert "comes without a chat template; put a chat_template.jinja" in text


def test_shards_load_as_one_file_does(copy: Path) -> None:
    sharded(lambda _: None)(copy)
    assert load_engine(str(copy), device="cpu").info.family == "llava"


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed for memory half a minute later, without a word."""
    weights = read_weights(copy)
    needed = weights.bytes_as(torch.float32)
    assert needed == sum(tensor.nbytes for tensor in load_file(copy / SINGLE).values())
    assert weights.bytes_as(torch.bfloat16) == needed // 2
    monkeypatch.setattr(placement, "free_bytes", lambda _: needed - 1)
    text = refusal_of(copy)
    assert (
        f"its weights take {needed / 1e6:.1f} MB as float32, and cpu has {(needed - 1) / 1e6:.1f} MB" in text
    )
    assert "take --dtype bfloat16" in text
    monkeypatch.setattr(placement, "free_bytes", lambda _: needed // 2 - 1)
    assert "bfloat16" not in refusal_of(copy)
    for free in (needed, None):
        monkeypatch.setattr(placement, "free_bytes", lambda _, free=free: free)
        load_engine(str(copy), device="cpu")


def written_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 8000 kB\nMemAvailable:  4000 kB\n"}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        (MEMINFO, 4000 * 1024),
        (MEMINFO | {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 4000 * 1024),
        (
            MEMINFO
            | {
                "proc/self/cgroup": "0::/user/me\n",
                "sys/fs/cgroup/memory.max": "1000000\n",
                "sys/fs/cgroup/memory.current": "900000\n",
                "sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 300000\n",
            },
            400_000,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu:/x\n4:memory:/x\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "500\n",
                "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "700\n",
            },
            0,
        ),
    ],
)
def test_free_memory_is_the_least_of_machine_and_container(
    tmp_path: Path, files: dict[str, str], free: int | None
) -> None:
    """A container of 2 GB on a machine of 256 GB has 2 GB; file pages that the kernel gives up are free."""
    assert free_host_bytes(written_tree(tmp_path, files)) == free


def test_this_machine_says_how_much_is_free() -> None:
    free = free_host_bytes()
    assert free is None or 0 < free < 1 << 50
