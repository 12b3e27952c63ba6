"""From what a user names (files, folders, patterns, a list) to picture files, each once."""

from __future__ import annotations

import codecs
import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from secondglance.errors import UsageError

PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".webp", ".tif", ".tiff", ".gif"),
    *(".bmp", ".ppm", ".pgm", ".pnm", ".avif", ".heic", ".heif"),
)
"""What a folder is searched for. A file that is named itself may be called anything."""


def find_pictures(names: Iterable[str]) -> list[Path]:
    """Pictures in the order of `names`, a folder's by name, none twice.

    Folders are searched to the bottom, without hidden files and without following links to folders. Raises
    UsageError for a name that stands for nothing.
    """
    found: dict[str, Path] = {}
    for name in names:
        for path in _expand(name):
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def listed_names(listing: bytes) -> list[str]:
    """Return file names from a list: one a line, or ended by NUL characters as `find -print0` writes them.

    Of lines a carriage return at the end, blank ones and a byte order mark are left out; a name that ends in
    NUL may be anything.
    """
    if b"\0" in listing:
        return [os.fsdecode(name) for name in listing.split(b"\0") if name]
    lines = listing.removeprefix(codecs.BOM_UTF8).split(b"\n")
    return [os.fsdecode(line.rstrip(b"\r")) for line in lines if line.strip()]


def is_picture_name(name: str) -> bool:
    """Whether a file of this name is looked at in a folder."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


def _expand(name: str) -> Iterator[Path]:
    path = Path(name)
    if path.is_dir():
        yield from _search(path)
    elif path.exists():
        yield path
    else:
        matches = _matches(name) if glob.has_magic(name) else []
        if not matches:
            raise UsageError(f"there is no file or folder {name!r}")
        for match in map(Path, matches):
            if match.is_dir():
                yield from _search(match)
            elif is_picture_name(match.name):
                yield match


def _matches(pattern: str) -> list[str]:
    """What a pattern matches, by name; `**` goes round in links to folders, so each file counts once."""
    by_file: dict[str, str] = {}
    for match in sorted(glob.glob(pattern, recursive=True)):
        by_file.setdefault(os.path.realpath(match), match)
    return list(by_file.values())


def _search(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if is_picture_name(name))
