"""One line of text for one answer, for terminals, `cut` and `grep`."""

from __future__ import annotations


def text_line(name: str, question: str, answer: str, *, with_question: bool) -> str:
    """Name, question and answer parted by tabs; white space inside them becomes single blanks."""
    fields = [name, question, answer] if with_question else [name, answer]
    return "\t".join(" ".join(printable(field).split()) for field in fields)


def printable(text: str) -> str:
    """File names may hold bytes that are no UTF-8; they are shown escaped."""
    return text.encode(errors="backslashreplace").decode()
