"""Lines as the text reader gives them, made up."""

from __future__ import annotations

import numpy as np

from secondglance_server.engine.reader.alphabet import INDEX
from secondglance_server.engine.reader.ocr import CANDIDATES, ReadLine


def read_line(text: str, left: float, top: float, right: float, bottom: float) -> ReadLine:
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)
    ids = np.zeros((len(text), CANDIDATES), np.uint8)
    ids[:, 0] = [INDEX[c] for c in text]
    probabilities = np.zeros((len(text), CANDIDATES), np.float32)
    probabilities[:, 0] = 0.9
    return ReadLine(corners, ids, probabilities, 0.8)
