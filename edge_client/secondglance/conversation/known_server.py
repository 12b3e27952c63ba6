"""What a client has learnt of its server and reuses: the model's budgets, the images it holds, the link."""

from __future__ import annotations

import threading
from collections import OrderedDict

from secondglance.link.uplink import Uplink
from secondglance_protocol.wire import ModelResponse


class KnownServer:
    """Shared by a client's conversations, from any thread. Content keys are SHA-256 of encoded originals."""

    def __init__(self, *, max_images: int, model: ModelResponse | None = None) -> None:
        self._max_images = max_images
        self._image_ids: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()
        self.model = model
        self.link = Uplink()

    def image_id(self, content_key: str | None) -> str | None:
        """The server's name for a picture it was sent before, if it may still hold it."""
        if content_key is None:
            return None
        with self._lock:
            return self._image_ids.get(content_key)

    def remember_image(self, content_key: str | None, image_id: str) -> None:
        if content_key is None or self._max_images == 0:
            return
        with self._lock:
            self._image_ids[content_key] = image_id
            self._image_ids.move_to_end(content_key)
            while len(self._image_ids) > self._max_images:
                self._image_ids.popitem(last=False)

    def forget_image(self, content_key: str | None) -> None:
        with self._lock:
            self._image_ids.pop(content_key or "", None)
