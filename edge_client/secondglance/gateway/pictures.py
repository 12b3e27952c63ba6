"""From a content part to the picture's bytes: data URIs, uploaded files, and listed remote hosts."""

from __future__ import annotations

import base64
import binascii

import anyio.to_thread

from secondglance.gateway.errors import ApiError, bad_request
from secondglance.gateway.files import FileStore
from secondglance.gateway.messages import FilePart, PicturePart
from secondglance.wire.remote import HostNotListedError, NotFetchedError, RemotePictures


async def load_picture(part: PicturePart, files: FileStore, remote: RemotePictures) -> bytes:
    """The encoded original. Raises ApiError."""
    if isinstance(part, FilePart):
        if part.file.file_id is not None:
            return files.get(part.file.file_id).data
        url = part.file.file_data or ""
        if not url.startswith("data:"):  # the official API takes bare base64 here
            return await anyio.to_thread.run_sync(_decoded, url)
    else:
        url = part.image_url.url
    scheme = url.partition(":")[0].lower()
    if scheme == "data":
        return await anyio.to_thread.run_sync(_of_data_uri, url)
    if scheme in ("http", "https"):
        return await _fetched(url, remote)
    raise _invalid("a picture is a data URI, an uploaded file or an http(s) URL")


async def _fetched(url: str, remote: RemotePictures) -> bytes:
    try:
        return await remote.fetch(url)
    except HostNotListedError as exc:
        advice = f"{exc} (an option of the gateway); or send a data URI"
        raise bad_request(advice, code="remote_url_not_allowed", param="messages") from exc
    except NotFetchedError as exc:
        raise _invalid(str(exc)) from exc


def _of_data_uri(url: str) -> bytes:
    head, comma, data = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise _invalid("not a data URI in base64 (data:image/jpeg;base64,...)")
    return _decoded(data)


def _decoded(text: str) -> bytes:
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise _invalid(f"not base64: {exc}") from exc
    if not data:
        raise _invalid("the picture is empty")
    return data


def _invalid(message: str) -> ApiError:
    return bad_request(message, code="invalid_image_url", param="messages")
