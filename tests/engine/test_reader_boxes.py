"""How the text reader reads the boxes that a detector found; detector and recogniser are made up."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from secondglance_server.engine.adapters.reader import ReaderAdapter
from secondglance_server.engine.reader import ocr
from secondglance_server.engine.reader.ocr import TextReader

CLASSES = ["blank", "7", "0", "\u53e3", "A", "B", "1"]
PANEL, SMALL, TINY = 40.0, 32.0, 24.0  # the heights of a box and of its inner parts, pixels


def square(left: float, side: float) -> NDArray[np.float32]:
    top = 20.0
    return np.array(
        [(left, top), (left + side, top), (left + side, top + side), (left, top + side)], np.float32
    )


class FakeDetector:
    session: Any = None

    def __init__(self, find: Callable[[NDArray[np.uint8]], Any]) -> None:
        self._find = find

    def __call__(self, image: NDArray[np.uint8]) -> Any:
        return self._find(image)


class FakeOcr:
    """One detected box; the recogniser's answer depends on the height of what it is given."""

    def __init__(self, box: NDArray[np.float32], answers: dict[float, tuple[str, float]]) -> None:
        self.box, self.answers = box, answers
        self.heights: list[float] = []

    def __call__(self, params: dict[str, Any]) -> FakeOcr:
        return self

    def _load_det_model(self) -> Any:
        return FakeDetector(lambda image: types.SimpleNamespace(boxes=self.box[None], scores=[0.9]))

    def _load_rec_model(self) -> Any:
        return types.SimpleNamespace(
            postprocess_op=types.SimpleNamespace(character=CLASSES),
            resize_norm_img=lambda crop, ratio: crop,
            session=self.session,
        )

    def preprocess_img(self, bgr: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], None]:
        return bgr, None

    def crop_text_regions(
        self, image: NDArray[np.uint8], boxes: NDArray[np.float32]
    ) -> list[NDArray[np.float32]]:
        return [np.full((2, 2), box[3, 1] - box[0, 1], np.float32) for box in boxes]

    def session(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        height = round(float(inputs[0, 0, 0]), 3)
        self.heights.append(height)
        text, p = self.answers[height]
        frames = np.zeros((1, 2 * len(text) + 1, len(CLASSES)), np.float32)
        frames[0, :, 0] = 1
        for place, character in enumerate(text):
            frames[0, 2 * place + 1] = (1 - p) / (len(CLASSES) - 1)
            frames[0, 2 * place + 1, CLASSES.index(character)] = p
        return frames


def install(monkeypatch: pytest.MonkeyPatch, fake: FakeOcr) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", types.SimpleNamespace(RapidOCR=fake))
    monkeypatch.setattr(ocr, "_let_threads_rest", lambda held: None)
    monkeypatch.setattr(ocr, "_run_by_openvino", lambda part, threads: None)


def read(monkeypatch: pytest.MonkeyPatch, fake: FakeOcr) -> list[str]:
    install(monkeypatch, fake)
    return [line.text for line in TextReader().read(np.zeros((100, 200, 3), np.uint8))]


@pytest.mark.parametrize("whole", [("\u53e3", 0.99), ("0", 0.7), ("", 1.0)])
def test_a_lone_character_is_read_within_its_panel(
    monkeypatch: pytest.MonkeyPatch, whole: tuple[str, float]
) -> None:
    fake = FakeOcr(square(50, PANEL), {PANEL: whole, SMALL: ("7", 0.95), TINY: ("0", 0.5)})
    assert read(monkeypatch, fake) == ["7"]
    assert fake.heights == [PANEL, SMALL]  # what is read surely ends the search


def test_the_surest_reading_counts_where_none_is_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeOcr(square(50, PANEL), {PANEL: ("0", 0.6), SMALL: ("AB", 0.5), TINY: ("7", 0.8)})
    assert read(monkeypatch, fake) == ["7"]
    assert fake.heights == [PANEL, SMALL, TINY]


def test_what_is_read_surely_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeOcr(square(50, PANEL), {PANEL: ("7", 0.97)})
    assert read(monkeypatch, fake) == ["7"]
    assert fake.heights == [PANEL]


def test_a_longer_line_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    box = square(50, PANEL) + np.array([(0, 0), (60, 0), (60, 0), (0, 0)], np.float32)
    fake = FakeOcr(box, {PANEL: ("AB", 0.4)})
    assert read(monkeypatch, fake) == ["AB"]
    assert fake.heights == [PANEL]


PERCENT = st.integers(30, 99).filter(lambda percent: percent != 90)  # float32 has no 0.9
SIDES = [100.0, 80.0, 60.0, 50.0, 35.0, 25.0]  # a large box and its inner parts


@pytest.mark.parametrize(
    ("readings", "expected", "parts"),
    [
        ("0.96 0.96 0.97 7.95", "7", 4),  # the edge of a panel, and what stands in its middle
        ("0.96 0.96 0.97 0.99 1.98 1.99", "0", 6),  # a zero: its middle is a stroke
        ("0.96 0.96 0.97 7.80 7.80 7.80", "0", 6),  # nothing surer than the edge
        ("0.50 0.72 0.86 0.55 0.55 7.93", "7", 6),
        ("7.95", "7", 1),
        ("A.40 7.99", "7", 2),
    ],
)
def test_a_large_box_is_read_further_in(
    monkeypatch: pytest.MonkeyPatch, readings: str, expected: str, parts: int
) -> None:
    """The edge of its panel was a sure "0" in place of a lone Y."""
    answers = [(reading[0], float("0" + reading[1:])) for reading in readings.split()]
    fake = FakeOcr(square(0, SIDES[0]), dict(zip(SIDES, answers, strict=False)))
    fake.box -= np.float32(20) * np.array([0, 1], np.float32)
    assert read(monkeypatch, fake) == [expected]
    assert fake.heights == SIDES[:parts]


@given(
    st.lists(
        st.tuples(st.sampled_from("7AB"), PERCENT),
        min_size=6,
        max_size=6,
        unique_by=lambda r: r[1],
    ),
    st.booleans(),
)
def test_where_no_part_can_be_an_edge_the_first_sure_one_counts_or_the_surest(
    readings: list[tuple[str, int]], is_large: bool
) -> None:
    """Generated: a further look inside never makes a box less surely read."""
    sides = SIDES if is_large else [PANEL, SMALL, TINY]
    answers = [(text, percent / 100) for text, percent in readings[: len(sides)]]
    sure = [place for place, (_, p) in enumerate(answers) if p >= 0.9]
    looked = answers[: sure[0] + 1] if sure else answers
    fake = FakeOcr(square(0, sides[0]), dict(zip(sides, answers, strict=True)))
    fake.box -= np.float32(20) * np.array([0, 1], np.float32)
    with pytest.MonkeyPatch.context() as patch:
        assert read(patch, fake) == [max(looked, key=lambda reading: reading[1])[0]]
    assert len(fake.heights) == len(looked)


@given(size=st.tuples(st.integers(8, 900), st.integers(8, 900)))
@example(size=(448, 448))
@example(size=(640, 480))
@example(size=(8, 3000))
def test_lines_of_a_large_picture_are_found_in_a_copy_and_read_in_the_picture(size: tuple[int, int]) -> None:
    """Generated: whatever the size, the recogniser gets all pixels of the line, and corners are shares."""
    width, height = size
    seen: list[tuple[int, ...]] = []

    class Half(FakeOcr):
        """Finds a line in the left half of whatever it is shown."""

        def _load_det_model(self) -> Any:
            def find(image: NDArray[np.uint8]) -> Any:
                seen.append(image.shape[1::-1])
                half, low = image.shape[1] / 2, image.shape[0]
                box = np.array([(0, 0), (half, 0), (half, low), (0, low)], np.float32)
                return types.SimpleNamespace(boxes=box[None], scores=[0.9])

            return FakeDetector(find)

        def session(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
            self.answers = {round(float(inputs[0, 0, 0]), 3): ("7A", 0.99)}
            return super().session(inputs)

    fake = Half(square(0, 1), {})
    with pytest.MonkeyPatch.context() as patch:
        install(patch, fake)
        (line,) = TextReader(most_side=448).read(np.zeros((height, width, 3), np.uint8))
    ((seen_width, seen_height),) = seen
    assert max(seen_width, seen_height) == min(max(size), 448)
    assert fake.heights[0] == pytest.approx(height, rel=1e-4)
    assert line.corners.max(axis=0) == pytest.approx((0.5, 1.0), abs=1e-4)


def test_the_detector_runs_on_openvino_which_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import of OpenVINO asks a name server for the host that its telemetry tells of it."""
    made: list[tuple[Any, ...]] = []

    class Core:
        def compile_model(self, *made_of: Any) -> Any:
            made.append((*made_of, sys.modules["openvino_telemetry"]))
            return lambda inputs: [inputs + 1, "another output"]

    monkeypatch.setitem(sys.modules, "openvino", types.SimpleNamespace(Core=Core))
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    inner = types.SimpleNamespace(_model_path="det.onnx")
    detector = types.SimpleNamespace(session=types.SimpleNamespace(session=inner))
    ocr._run_by_openvino(detector, 3)
    assert detector.session(np.zeros(2, np.float32)).tolist() == [1.0, 1.0]
    ((path, device, settings, telemetry),) = made
    assert (path, device, telemetry) == ("det.onnx", "CPU", None)
    assert (settings["INFERENCE_PRECISION_HINT"], settings["INFERENCE_NUM_THREADS"]) == ("f32", 3)
    monkeypatch.delitem(sys.modules, "openvino_telemetry")


@pytest.mark.parametrize("missing", ["rapidocr", "openvino"])
def test_a_missing_package_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """An environment from before OpenVINO has rapidocr, and was told that rapidocr is missing."""
    fake = FakeOcr(square(50, PANEL), {})
    for name, module in (("rapidocr", types.SimpleNamespace(RapidOCR=fake)), ("openvino_telemetry", None)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=rf"{missing}.*pip install 'second-glance-server\[reader\]'"):
        ReaderAdapter.load_image_processor("", None)


def test_the_networks_threads_rest_between_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime's threads spun on the processors that torch wanted next."""

    class Session:
        def __init__(self, path: str, options: dict[str, str], providers: list[str]) -> None:
            self._model_path, self.options, self.providers = path, options, providers

        def get_session_options(self) -> Any:
            return types.SimpleNamespace(
                threads=2, add_session_config_entry=lambda name, value: self.options.update({name: value})
            )

        def get_providers(self) -> list[str]:
            return self.providers

    loaded = Session("det.onnx", {}, ["CPUExecutionProvider"])
    made: list[tuple[Any, ...]] = []

    def make(path: str, options: Any, providers: list[str]) -> str:
        made.append((path, options.threads, providers))
        return "anew"

    monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace(InferenceSession=make))
    held = types.SimpleNamespace(session=loaded)
    ocr._let_threads_rest(held)
    assert held.session == "anew"
    assert made == [("det.onnx", 2, ["CPUExecutionProvider"])]
    assert loaded.options == {"session.intra_op.allow_spinning": "0"}
