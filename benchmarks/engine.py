"""The engine beside stock `generate` and beside the published pipeline: same weights, same inputs, one run.

The published pipeline (ViCrop) is written out here as it is described: generate, a forward pass with eager
attention and `output_attentions` for the question, another for the neutral prompt, then a generate over two
images from scratch. Both sides begin with encoded pictures: a first question decodes the picture, a second
stage the patch, a follow-up nothing, for the server holds the pixels and the prefix. Uploads, cropping and
HTTP are in neither. All answers have the same number of tokens. Calls are interleaved, so that a busy machine
is busy for all of them; a ratio is the median of the ratios round by round.

python -m benchmarks.engine [--repeats N] [--model NAME ...] [--clock wall|cpu]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import pathlib
import platform
import re
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.utils.logging import set_verbosity_error

from benchmarks.instruments.models import MODELS, available
from secondglance_eval.asking.in_process import region
from secondglance_protocol.wire import ImageSize
from secondglance_server.engine.loader import attention_setting
from secondglance_server.engine.prefix import NEUTRAL_PROMPT, PrefixEngine
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, EncoderBudget, Picture
from secondglance_server.inference.intake import decode, image_limits
from secondglance_server.settings import ServerSettings

QUESTION = "What number is on the red sign?"
FOLLOW_UP = "What color is the sign on the left?"
NEW_TOKENS = 8
ORIGINAL = ImageSize(width=4032, height=3024)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_LIMITS = image_limits(ServerSettings())  # as a server has them: made once
EXPECTED = {"stage1_ratio": 1.0, "two_stage_ratio": 0.42, "stage2_ratio": 0.65, "followup_ratio": 0.2}


class Stock:
    """The same model driven by transformers alone."""

    def __init__(self, engine: PrefixEngine) -> None:
        self._adapter, self._prompts = engine.adapter, engine.prompts
        self._model = engine.adapter.model

    def generate(self, question: str, pictures: Sequence[np.ndarray]) -> None:
        """Greedy, as many tokens as the engine's; end tokens do not shorten it."""
        self._model.generate(
            **self._inputs(question, pictures),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            pad_token_id=0,
        )

    def attentions(self, question: str, pictures: Sequence[np.ndarray]) -> None:
        with torch.inference_mode():
            self._model(**self._inputs(question, pictures), output_attentions=True, use_cache=False)

    def attend_with(self, implementation: str | dict[str, str]) -> None:
        self._model.set_attn_implementation(implementation)

    def _inputs(self, question: str, pictures: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        layouts = [self._adapter.layout(rgb.shape[1], rgb.shape[0]) for rgb in pictures]
        ids = torch.tensor([self._prompts.build(question, layouts).ids])
        pixels = [self._adapter.pixels(rgb) for rgb in pictures]
        inputs = {name: torch.cat([p[name] for p in pixels]) for name in pixels[0]}
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "image_grid_thw" in inputs:  # models with positions on three axes want to know where images are
            inputs["mm_token_type_ids"] = (ids == self._adapter.image_token_id).int()
        return {
            name: values.to(self._model.device, self._model.dtype if values.is_floating_point() else None)
            for name, values in inputs.items()
        }


class Ours:
    """The engine, a fresh picture for each repeat."""

    def __init__(self, engine: PrefixEngine) -> None:
        self._engine = engine

    def ask(self, question: str, picture: Picture, patch: Picture | None = None) -> AnswerResult:
        request = AnswerRequest(picture, question, patch=patch, max_new_tokens=NEW_TOKENS)
        (result,) = self._engine.answer([request])
        if not isinstance(result, AnswerResult):
            raise result
        return result

    def find(self, picture: Picture, first: AnswerResult) -> None:
        """From the first stage's attention to a box, as the server does when its gate fires."""
        region(self._engine, first, picture, ORIGINAL)


class Clock:
    """Milliseconds by step. Waits for the device before and after."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.times: dict[str, list[float]] = {}

    def __call__(self, step: str, call: Callable[..., Any], *arguments: Any) -> Any:
        synchronize()
        started = self._now()
        result = call(*arguments)
        synchronize()
        self.times.setdefault(step, []).append(1e3 * (self._now() - started))
        return result


def measure(engine: PrefixEngine, repeats: int, now: Callable[[], float]) -> dict[str, list[float]]:
    """Milliseconds of every step, interleaved; the first round warms up and is dropped."""
    stock, ours = Stock(engine), Ours(engine)
    engine.adapter.end_ids = frozenset(
        {-1}
    )  # random weights end at random places: both sides go to the limit
    engine.steps.patience = 0  # recorded in the first round, as a server does while it warms up
    clock = Clock(now)
    for repeat in range(repeats + 1):
        rng = np.random.default_rng(repeat)
        picture, patch = (Encoded(f"{name} {repeat}", jpeg_of(rng, engine.info.image)) for name in "ab")
        run_once(clock, stock, ours, picture, patch)
    return {step: values[1:] for step, values in clock.times.items()}


def run_once(clock: Clock, stock: Stock, ours: Ours, encoded: Encoded, encoded_patch: Encoded) -> None:
    picture = encoded.decode()
    first = clock("engine: first question", lambda: ours.ask(QUESTION, encoded.decode()))
    clock("engine: region", ours.find, picture, first)
    clock("engine: second stage", lambda: ours.ask(QUESTION, picture, encoded_patch.decode()))
    clock("engine: follow-up question", ours.ask, FOLLOW_UP, picture)
    stock.attend_with("sdpa")
    clock("stock: generate", lambda: stock.generate(QUESTION, [encoded.decode().rgb]))
    clock(
        "stock: generate, two images",
        lambda: stock.generate(QUESTION, [picture.rgb, encoded_patch.decode().rgb]),
    )
    stock.attend_with("eager")
    clock("published: attention, question", stock.attentions, QUESTION, [picture.rgb])
    clock("published: attention, neutral", stock.attentions, NEUTRAL_PROMPT, [picture.rgb])
    stock.attend_with(attention_setting("sdpa"))


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture as it is uploaded."""

    key: str
    jpeg: bytes

    def decode(self) -> Picture:
        return Picture(self.key, decode(self.jpeg, _LIMITS))


def jpeg_of(rng: np.random.Generator, budget: EncoderBudget) -> bytes:
    """Noise at 4:3, as large as the encoder can use."""
    width, height = budget.max_width, budget.max_width * 3 // 4
    if budget.max_pixels is not None:
        height = int((budget.max_pixels * 3 / 4) ** 0.5)
        width = height * 4 // 3
    buffer = io.BytesIO()
    noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    noise.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def ratios(times: dict[str, list[float]]) -> dict[str, float]:
    """Return the median of each ratio over the rounds."""
    rounds = [dict(zip(times, values, strict=True)) for values in zip(*times.values(), strict=True)]
    found = [ratios_of(one) for one in rounds]
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def ratios_of(times: dict[str, float]) -> dict[str, float]:
    first, region, second = (
        times[f"engine: {step}"] for step in ("first question", "region", "second stage")
    )
    published = times["stock: generate"] + times["stock: generate, two images"]
    published += times["published: attention, question"] + times["published: attention, neutral"]
    return {
        "stage1_ratio": first / times["stock: generate"],
        "two_stage_ratio": (first + region + second) / published,
        "stage2_ratio": second / times["stock: generate, two images"],
        "followup_ratio": times["engine: follow-up question"] / first,
    }


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def forget_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):  # not Linux, or not allowed: the peak is then the process's so far
            pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_mb() -> float:
    """Of the device where there is one, of the process otherwise."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))
    return int(kilobytes) / 2**10


def report(name: str, times: dict[str, list[float]], found: dict[str, float]) -> None:
    print(f"\n{name}: {NEW_TOKENS} tokens, milliseconds")
    for step, values in times.items():
        print(f"  {step:32} median {np.median(values):9.1f}   p95 {np.quantile(values, 0.95):9.1f}")
    for ratio, value in found.items():
        verdict = "as expected" if value <= EXPECTED[ratio] else "NOT as expected"
        print(f"  {ratio:32} {value:9.3f}   expected <= {EXPECTED[ratio]}: {verdict}")
    print(f"  {'peak memory':32} {peak_memory_mb():9.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="rounds; one more warms up")
    parser.add_argument(
        "--model", action="append", choices=sorted(MODELS), help="default: all that can run here"
    )
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="cpu",
        help="cpu: processor time, which other programs change least; on an accelerator take wall",
    )
    arguments = parser.parse_args()
    set_verbosity_error()  # attention is switched back and forth on purpose
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    has_cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if has_cuda else f"cpu, {torch.get_num_threads()} threads"
    print(
        f"device {device} · {platform.machine()} · torch {torch.__version__} · commit {commit.stdout.strip()}"
    )
    results = []
    for name in arguments.model or available(has_cuda=has_cuda):
        torch.manual_seed(0)
        forget_peak_memory()
        engine = MODELS[name].build()
        times = measure(engine, arguments.repeats, CLOCKS[arguments.clock])
        found = ratios(times)
        report(f"{name} ({arguments.clock} clock)", times, found)
        rounded = {key: round(value, 4) for key, value in found.items()}
        results.append({"device": engine.info.device, "model": name, **rounded})
        engine.close()
        del engine
        gc.collect()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
