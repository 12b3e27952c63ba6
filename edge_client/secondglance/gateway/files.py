"""Uploads that wait to be asked about, in memory: nothing of a picture is written to the edge's disk.

Bounded in bytes; the oldest go first, and all go when the gateway stops.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from secondglance.gateway.errors import ApiError


@dataclass(frozen=True, slots=True)
class StoredFile:
    id: str
    name: str
    purpose: str
    created_at: int
    data: bytes = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """OpenAI's file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.data),
            "created_at": self.created_at,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


class FileStore:
    """Used from the event loop only."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._files: OrderedDict[str, StoredFile] = OrderedDict()
        self._bytes = 0

    def __iter__(self) -> Any:
        return reversed(self._files.values())  # newest first, as the official API lists them

    def add(self, data: bytes, *, name: str, purpose: str) -> StoredFile:
        """Raises ApiError for a file that could never be kept."""
        if len(data) > self._max_bytes:
            raise ApiError(
                413, f"at most {self._max_bytes} bytes of files are kept", "file_too_large", "file"
            )
        stored = StoredFile(f"file-{secrets.token_hex(12)}", name, purpose, int(time.time()), data)
        self._files[stored.id] = stored
        self._bytes += len(data)
        while self._bytes > self._max_bytes:
            _, oldest = self._files.popitem(last=False)
            self._bytes -= len(oldest.data)
        return stored

    def get(self, file_id: str) -> StoredFile:
        """Raises ApiError if there is none, or none any more."""
        stored = self._files.get(file_id)
        if stored is None:
            raise ApiError(404, f"no such file: {file_id[:64]!r}", "file_not_found", "id")
        return stored

    def remove(self, file_id: str) -> None:
        """Raises ApiError if there is none."""
        self._bytes -= len(self.get(file_id).data)
        del self._files[file_id]
