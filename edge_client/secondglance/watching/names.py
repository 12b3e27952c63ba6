"""Names as people and logs may see them: file names of any bytes, addresses without their secrets."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def shown_path(path: str) -> str:
    r"""Return a file's name as text; bytes that are no UTF-8 become \xNN."""
    return os.fsencode(path).decode(errors="backslashreplace")


def credentials(address: str) -> tuple[str, str, str]:
    """Split an address into user, password and the address without them.

    Passwords that hold `@`, `/`, `?` or `#` unescaped are understood as people mean them: the last `@` ends
    them, unless what is before the first `/` is a host already.
    """
    scheme = _SCHEME.match(address)
    if scheme is None:
        return "", "", address
    rest = address[scheme.end() :]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        end = authority.rfind("@")
    elif re.fullmatch(r"(\[[^\]]*\]|[^:]*)(:\d*)?", authority):
        return "", "", address
    else:
        end = rest.rfind("@")  # user:p/ss@host
    if end < 0:
        return "", "", address
    user, _, password = rest[:end].partition(":")
    return unquote(user), unquote(password), scheme[0] + rest[end + 1 :]


def shown_address(address: str) -> str:
    """Return an address without user, password and whatever follows the first `?`, `#`, `;` or `=`."""
    _, _, bare = credentials(address)
    scheme = _SCHEME.match(bare)
    if scheme is None:
        return bare
    shown = re.split(r"[?#;=]", bare, maxsplit=1)[0]
    shown = scheme[0] + shown[scheme.end() :].rpartition("@")[2]
    return shown if len(shown) == len(bare) else f"{shown}..."


def without_secrets(text: str, address: str) -> str:
    """Return a message about `address` with every secret of the address taken out."""
    text = text.replace(address, shown_address(address))
    user, password, bare = credentials(address)
    secrets = {password, user, *re.findall(r"[=]([^=&;#?/]+)", bare)}
    scheme = _SCHEME.match(address)
    if scheme is not None and address != bare:
        secrets.add(address[scheme.end() : len(address) - len(bare) + scheme.end() - 1])
    secrets |= {part for secret in tuple(secrets) for part in re.split(r"[@/?#:]", secret)}
    for secret in sorted({*secrets, *map(unquote, secrets)} - {""}, key=len, reverse=True):
        if len(secret) > 1 or secret == password:
            text = text.replace(secret, "***")
    return text
