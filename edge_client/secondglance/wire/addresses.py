"""Addresses of servers, cameras and web hooks, with and without their secrets."""

from __future__ import annotations

import re
from urllib.parse import unquote

DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def credentials(address: str) -> tuple[str, str, str]:
    """Split an address into user, password and the address without them.

    A password may hold `@`, or else `/`, `?` and `#`, unescaped. One that holds both has to be escaped: to
    guess the host would send passwords to strangers.
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
    """Return an address without all that may be secret.

    That is what precedes the last `@`, and what follows the first `?`, `#`, `;` or `=` behind it.
    """
    scheme = _SCHEME.match(address)
    if scheme is None:
        return address
    bare = address[scheme.end() :].rpartition("@")[2]
    shown = re.split(r"[?#;=]", bare, maxsplit=1)[0]
    return scheme[0] + shown + ("..." if shown != bare else "")


def without_secrets(text: str, address: str) -> str:
    """Return a message about `address` with every secret of the address taken out."""
    text = text.replace(address, shown_address(address))
    scheme = _SCHEME.match(address)
    login, _, bare = address[scheme.end() if scheme else 0 :].rpartition("@")
    _, password, _ = credentials(address)
    secrets = {login, login.partition(":")[2], password, *re.findall(r"=([^=&;#?/]+)", bare)}
    secrets |= {part for secret in tuple(secrets) for part in re.split(r"[@/?#:]", secret)}
    for secret in sorted({*secrets, *map(unquote, secrets)}, key=len, reverse=True):
        if len(secret) > 1:
            text = text.replace(secret, "***")
    return text
