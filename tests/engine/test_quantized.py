"""Quantised checkpoints, as transformers loads them: answers equal stock, sizes count as stored.

A package that is missing is named.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from secondglance_server.engine import placement
from secondglance_server.engine.checkpoint.weights import read_weights
from secondglance_server.engine.loader import load_engine
from secondglance_server.engine.prefix import PrefixEngine
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, ModelLoadError, Picture
from tests.engine.tiny.parts import Tiny, picture
from tests.engine.types import free, squares
from tests.engine.types.row import build
from tests.needs import needs_module

# torch's own, of the compiler that bitnet's module asks for
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
ROWS = {**squares.ROWS, **free.ROWS}
RGB, SQUARE = picture(40, 72), picture(56, 56, seed=1)
QUESTION = "What is it?"
# all but the text model: 4 bits come in blocks of 64, and the encoder is 32 wide
KEPT = ["model.vision_tower", "model.visual", "model.multi_modal_projector", "lm_head"]
# with outliers apart, which ones are depends on what runs together, and so does the rounding
EIGHT_BITS = {"load_in_8bit": True, "llm_int8_threshold": 0.0}
Quantize = Callable[[pathlib.Path, pathlib.Path], None]


def by_bitsandbytes(**options: Any) -> Quantize:
    """Return what saves a model to another folder in fewer bits."""

    def quantize(source: pathlib.Path, target: pathlib.Path) -> None:
        config = BitsAndBytesConfig(llm_int8_skip_modules=KEPT, **options)
        model: Any = AutoModelForImageTextToText.from_pretrained(source, quantization_config=config)
        model.save_pretrained(target)

    return quantize


def by_bitnet(source: pathlib.Path, target: pathlib.Path) -> None:
    """Save the text model's weights as -1, 0 and 1, four of them a byte: transformers needs no package."""
    from transformers.integrations.bitnet import pack_weights  # torch warns while it is imported

    model: Any = AutoModelForImageTextToText.from_pretrained(source)
    tensors = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.startswith(tuple(KEPT)):
            scale = 1 / module.weight.abs().mean()
            ternary = (module.weight * scale).round().clamp(-1, 1)
            tensors[f"{name}.weight"] = pack_weights(ternary)
            tensors[f"{name}.weight_scale"] = scale.reshape(1)
    model.save_pretrained(target, state_dict=tensors)
    path = target / "config.json"
    quantization = {"quant_method": "bitnet", "modules_to_not_convert": KEPT, "linear_class": "bitlinear"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": quantization}))


def quantized(model_type: str, quantize: Quantize, folder: pathlib.Path) -> tuple[Tiny, pathlib.Path]:
    """Return a random model's stock side and the folder of its quantised twin."""
    source, target = folder / "whole", folder / "quantized"
    tiny = build(model_type, ROWS[model_type], source)
    quantize(source, target)
    for file in source.iterdir():
        if not (target / file.name).exists() and file.suffix != ".safetensors":
            shutil.copy(file, target)
    return tiny, target


def assert_equal_to_stock(tiny: Tiny, folder: pathlib.Path) -> None:
    """Both stages, on an empty cache and on a held prefix."""
    stock: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    engine = load_engine(str(folder), device="cpu", dtype="float32")
    assert isinstance(engine, PrefixEngine), engine.info.notes
    for pictures in ([RGB], [RGB], [RGB, SQUARE]):
        patch = Picture("patch", SQUARE) if len(pictures) == 2 else None
        request = AnswerRequest(Picture("picture", RGB), QUESTION, patch=patch, max_new_tokens=1)
        (result,) = engine.answer([request])
        assert isinstance(result, AnswerResult), result
        with torch.inference_mode():
            logits = stock(**tiny.stock_inputs(QUESTION, pictures)).logits[0, -1]
        sure = -float(logits.log_softmax(-1).max())
        assert result.tokens[0].min_entropy == pytest.approx(sure, abs=2e-3)
    engine.close()


@needs_module("bitsandbytes", package="bitsandbytes")
# its own: of a model in single precision, and of a kernel that could be downloaded
@pytest.mark.filterwarnings("ignore:MatMul8bitLt", "ignore:.*torch.compile", "ignore::DeprecationWarning")
@pytest.mark.parametrize("model_type", ["qwen2_vl", "vipllava"])
@pytest.mark.parametrize("options", [EIGHT_BITS, {"load_in_4bit": True}], ids=["8bit", "4bit"])
def test_bitsandbytes_answers_as_stock_does(
    model_type: str, options: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    assert_equal_to_stock(*quantized(model_type, by_bitsandbytes(**options), tmp_path))


@pytest.fixture
def no_compiler() -> Iterator[None]:
    """A tiny model needs none, and compiling bitnet's layers takes a minute."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.usefixtures("no_compiler")
def test_packed_weights_answer_as_stock_does(tmp_path: pathlib.Path) -> None:
    assert_equal_to_stock(*quantized("qwen2_vl", by_bitnet, tmp_path))


@pytest.mark.usefixtures("no_compiler")
def test_the_room_that_is_asked_for_is_that_of_the_packed_weights(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed weights counted as floats would refuse a model of 4 GB for want of 32 GB."""
    _, folder = quantized("qwen2_vl", by_bitnet, tmp_path)
    needed = sum(tensor.nbytes for tensor in load_file(folder / "model.safetensors").values())
    assert read_weights(folder).bytes_as(torch.float32, is_quantized=True) == needed
    assert needed < read_weights(tmp_path / "whole").bytes_as(torch.float32)
    monkeypatch.setattr(placement, "free_bytes", lambda _: needed - 1)
    with pytest.raises(ModelLoadError, match="as they are stored"):
        load_engine(str(folder), device="cpu", dtype="float32")
    monkeypatch.setattr(placement, "free_bytes", lambda _: needed)
    load_engine(str(folder), device="cpu", dtype="float32")


PACKAGES = {
    "bitsandbytes 4 bit": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        "quantizer_bnb_4bit.is_bitsandbytes_available",
    ),
    "bitsandbytes 8 bit": (
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "quantizer_bnb_8bit.is_bitsandbytes_available",
    ),
    "awq": ({"quant_method": "awq", "bits": 4}, "quantizer_awq.is_gptqmodel_available"),
    "gptq": ({"quant_method": "gptq", "bits": 4}, "quantizer_gptq.is_gptqmodel_available"),
    "compressed-tensors": (
        {"quant_method": "compressed-tensors"},
        "quantizer_compressed_tensors.is_compressed_tensors_available",
    ),
    "torchao": (
        {
            "quant_method": "torchao",
            "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {}}},
        },
        "quantizer_torchao.is_torchao_available",
    ),
    "quanto": ({"quant_method": "quanto"}, "quantizer_quanto.is_optimum_quanto_available"),
    "bitnet": ({"quant_method": "bitnet"}, "quantizer_bitnet.is_accelerate_available"),
}


@pytest.mark.parametrize("method", PACKAGES)
def test_a_quantisation_whose_package_is_missing_names_it(
    method: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, before any weights are read."""
    config, asks = PACKAGES[method]
    build("qwen2_vl", ROWS["qwen2_vl"], tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": config}))
    (tmp_path / "model.safetensors").unlink()
    monkeypatch.setattr(f"transformers.quantizers.{asks}", lambda *_, **__: False)
    with pytest.raises(ModelLoadError) as caught:
        load_engine(str(tmp_path), device="cpu")
    text = str(caught.value)
    assert "\n" not in text
    assert "a package is missing: pip install " in text
    assert not caught.value.may_pass
