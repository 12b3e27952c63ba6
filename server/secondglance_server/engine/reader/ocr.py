"""The frozen text reader: PP-OCRv6 small as the package `rapidocr` ships it.

OpenVINO runs its detector, in a third of onnxruntime's time, and onnxruntime its recogniser: each line has a
width of its own, and OpenVINO prepares anew for each shape.

It gives lines with the recogniser's posterior for every character, folded into the model's alphabet. It
knows no tokens and no torch. Its weights come with the package; nothing is downloaded.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secondglance_server.engine.reader.alphabet import CHARACTERS, OTHER_INDEX, folding

CANDIDATES = 5  # alphabet characters kept of each posterior
MOST_LINES = 24
_HEIGHT = 48  # the recogniser's input
_LEAST_WIDTH_PER_HEIGHT = 160 / 48  # half the package's own: a third faster, short texts read as well
_BLANK = 0
_LEAST_BOX_SCORE = 0.3  # the package's 0.5 misses half of the lone characters
_SQUARE = 1.5  # width per height of a box that holds a character or two, and often the edge of their panel
_WITHIN = (0.8, 0.6)  # the parts of such a box that are read too where the whole is not read surely
_LARGE_PX = 90  # a box of this height around so little text is mostly panel: its edge is far from the text
_FURTHER_WITHIN = (0.5, 0.35, 0.25)
_EDGES = frozenset("0OoDQ")  # what a panel's edge reads as,
_STROKES = frozenset("1Il|-.,'")  # and the middle of a large character
_SURE = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class ReadLine:
    """One line of text.

    `corners` float32 [4, 2] in [0, 1] of the picture, clockwise from the text's own top left. `ids`
    uint8 and `probabilities` float32, both [characters, CANDIDATES], most likely first. `score`: the
    detector's.
    """

    corners: NDArray[np.float32]
    ids: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    score: float

    @property
    def text(self) -> str:
        return _text(self.ids)

    @property
    def confidence(self) -> float:
        """The mean of the characters' largest probabilities."""
        return float(self.probabilities[:, 0].mean()) if len(self.ids) else 0.0


class TextReader:
    """Detection and recognition. `threads`: of each network; calls are not thread-safe.

    `least_side`: the detector enlarges a picture whose shorter side is below it. `most_side`: it finds the
    lines of a larger picture in a copy of this size; they are recognised in the picture itself. Raises
    ImportError where a package of the extra `reader` is missing.
    """

    def __init__(self, *, threads: int = 2, least_side: int = 352, most_side: int = 448) -> None:
        settings: dict[str, Any] = {
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "Global.log_level": "critical",
            "Global.use_cls": False,
            "Det.limit_side_len": least_side,
            "Det.box_thresh": _LEAST_BOX_SCORE,
        }
        self._ocr: Any = importlib.import_module("rapidocr").RapidOCR(params=settings)
        self._detector = self._ocr._load_det_model()
        self._recogniser = self._ocr._load_rec_model()
        _run_by_openvino(self._detector, threads)
        _let_threads_rest(self._recogniser.session)
        self._folding = folding(self._classes())
        self._most_side = most_side

    def read(self, rgb: NDArray[np.uint8]) -> list[ReadLine]:
        """Return the lines of a picture (uint8 [height, width, 3]), largest first, at most `MOST_LINES`."""
        height, width = rgb.shape[:2]
        if min(height, width) < 8:
            return []
        bgr = np.ascontiguousarray(rgb[:, :, ::-1])
        image, _ = self._ocr.preprocess_img(bgr)
        small = _at_most(image, self._most_side)
        found = self._detector(small)
        if found.boxes is None:
            return []
        scale = np.array([image.shape[1], image.shape[0]], np.float32)
        boxes = np.asarray(found.boxes, np.float32) * (scale / small.shape[1::-1]).astype(np.float32)
        sizes = np.linalg.norm(boxes[:, 3] - boxes[:, 0], axis=1)
        largest = np.argsort(-sizes, kind="stable")[:MOST_LINES]
        lines = []
        for index in largest:
            ids, probabilities = self._read_box(image, boxes[index])
            if len(ids):
                lines.append(ReadLine(boxes[index] / scale, ids, probabilities, float(found.scores[index])))
        return lines

    def _read_box(
        self, image: NDArray[np.uint8], box: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return candidates and probabilities of the characters in a box, float32 [4, 2] in pixels.

        A box around a lone character often holds the edge of its panel, which reads as a character too;
        so the surest of the box and its inner parts counts. In a large box the edge reads as a sure "0".
        """
        best = self._read_part(image, box, 1.0)
        width, height = np.linalg.norm(box[1] - box[0]), np.linalg.norm(box[3] - box[0])
        if width >= _SQUARE * height:
            return best
        is_large = height >= _LARGE_PX
        for share in (*_WITHIN, *_FURTHER_WITHIN) if is_large else _WITHIN:
            sure = _sureness(*best)
            may_be_edge = is_large and sure >= _SURE and _text(best[0]) in _EDGES
            if sure >= _SURE and not may_be_edge:
                break
            inner = self._read_part(image, box, share)
            if may_be_edge:
                is_better = _sureness(*inner) >= _SURE and _text(inner[0]) not in _EDGES | _STROKES
            else:
                is_better = _sureness(*inner) > sure
            best = inner if is_better else best
        return best

    def _read_part(
        self, image: NDArray[np.uint8], box: NDArray[np.float32], share: float
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        middle = box.mean(axis=0)
        (crop,) = self._ocr.crop_text_regions(image, (middle + (box - middle) * share)[None])
        return self._recognise(crop)

    def _recognise(self, crop: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        ratio = max(_LEAST_WIDTH_PER_HEIGHT, crop.shape[1] / max(crop.shape[0], 1))
        inputs = self._recogniser.resize_norm_img(crop, ratio)[None]
        frames: NDArray[np.float32] = np.asarray(self._recogniser.session(inputs.astype(np.float32)))[0]
        return peaks(frames, self._folding)

    def _classes(self) -> list[str]:
        """The recogniser's classes in order: blank, the characters, the space."""
        return list(self._recogniser.postprocess_op.character)


def _run_by_openvino(part: Any, threads: int) -> None:
    """Let OpenVINO run the network of a part of the package, which runs it by onnxruntime.

    In float32 where the processor has bfloat16 too, so that all machines find the same lines; the package
    cannot say that.
    """
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    network = _openvino().Core().compile_model(part.session.session._model_path, "CPU", settings)
    part.session = lambda inputs: np.asarray(network(inputs)[0])


def _openvino() -> Any:
    """Import OpenVINO without its telemetry, which tells a host on the internet of each import.

    With None in a module's place its import fails, and OpenVINO then takes its own stub.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")


def _let_threads_rest(held: Any) -> None:
    """Make a network's session anew, with threads that sleep after a call.

    onnxruntime's spin for a while, on the processors that torch wants then: a first answer took a sixth
    longer. The package has no setting for it.
    """
    options = held.session.get_session_options()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    make = importlib.import_module("onnxruntime").InferenceSession
    held.session = make(held.session._model_path, options, providers=held.session.get_providers())


def _at_most(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return a copy whose longer side is at most `side` pixels, or the picture itself."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _text(ids: NDArray[np.uint8]) -> str:
    return "".join(CHARACTERS[i] for i in ids[:, 0])


def _sureness(ids: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> float:
    """Return the least probability of a reading's characters; 0 if it has none or one of another alphabet."""
    is_read = len(ids) > 0 and not (ids[:, 0] == OTHER_INDEX).any()
    return float(probabilities[:, 0].min()) if is_read else 0.0


def peaks(
    frames: NDArray[np.float32], fold_to: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return candidates and probabilities of each character: a run of frames with one most likely class, at
    its peak frame. `frames` [T, classes], summing to one."""
    best = frames.argmax(1)
    top = frames.max(1)
    starts = np.flatnonzero(np.diff(best, prepend=-1))
    ends = np.append(starts[1:], len(best))
    places = [s + int(top[s:e].argmax()) for s, e in zip(starts, ends, strict=True) if best[s] != _BLANK]
    ids = np.zeros((len(places), CANDIDATES), np.uint8)
    probabilities = np.zeros((len(places), CANDIDATES), np.float32)
    for row, place in enumerate(places):
        folded = np.bincount(fold_to, weights=frames[place], minlength=len(CHARACTERS))
        order = np.argsort(-folded, kind="stable")[:CANDIDATES]
        ids[row], probabilities[row] = order, folded[order]
    return ids, probabilities


def folded_blank() -> int:
    """Return the class that the blank folds into: perhaps no character."""
    return OTHER_INDEX
