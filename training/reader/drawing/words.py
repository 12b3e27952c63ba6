"""What is written on signs: words, phrases, numbers, prices, times, plates, names. Words of the held-out
split are never drawn for training."""

from __future__ import annotations

import functools
import hashlib
import pathlib
from typing import Literal

import numpy as np

from scenes.fonts import Split
from scenes.generator import random_text
from secondglance_server.engine.reader.alphabet import OTHER, folded

PACKAGES = ("wamerican", "wngerman", "wfrench")
Kind = Literal[
    "words", "code", "number", "plate", "price", "time", "year", "name", "phone", "date", "percent"
]

_PHRASES = """
no parking|exit|entrance|push|pull|open|closed|stop|caution|warning|danger|keep out|private property
no entry|no smoking|wet floor|fire exit|emergency exit|please knock|do not enter|for sale|to let|bus stop
taxi|car park|way out|one way|road closed|slow down|staff only|toilets|ladies|gents|information|reception
platform|library|museum|town hall|city centre|post office|police|pharmacy|bakery|coffee shop|hair salon
book store|speed limit|dead end|no through road|private road|keep clear|beware of the dog|mind the gap
please wait here|ausgang|eingang|einfahrt freihalten|betreten verboten|parken verboten|achtung|notausgang
bahnhof|rathaus|geschlossen|rauchen verboten|kein zutritt|sortie|entree|defense de fumer|boulangerie|gare
mairie|rue|place|musee|hotel|restaurant|sale|new|free|fresh bread|daily specials|special offer|welcome
thank you|happy hour|self service|pay here|cash only|authorized personnel only|high voltage|hard hat area
no dogs|no bicycles|visitors only|please ring the bell
""".replace("\n", "|").split("|")
PHRASES = tuple(sorted({phrase.strip() for phrase in _PHRASES if phrase.strip()}))
_FIRST_NAMES = [
    "Anna",
    "James",
    "Maria",
    "John",
    "Emma",
    "Peter",
    "Clara",
    "Thomas",
    "Julia",
    "Paul",
    "Laura",
    "George",
    "Sophie",
    "Henry",
    "Alice",
    "Martin",
    "Eva",
    "Oscar",
    "Ruth",
    "Simon",
    "Nora",
    "David",
    "Ida",
    "Felix",
    "Helen",
    "Hugo",
    "Jane",
    "Karl",
    "Lucy",
    "Max",
    "Olga",
    "Robert",
    "Rosa",
    "Walter",
    "Vera",
    "Arthur",
    "Edith",
    "Victor",
]
_ON_SIGNS = 0.35  # of the words that are trained on
_STAMMERED = 0.12  # of the codes and numbers that are trained on
_DOMAINS = ("com", "org", "net", "de", "fr", "co.uk", "gov", "eu", "info")
_LITTLE_WORDS = (
    "the", "of", "and", "in", "for", "to", "at", "on", "is", "a", "all", "no", "your", "or", "by", "with",
    "our", "you", "we", "not", "und", "der", "die", "im", "zum", "am", "von", "de", "la", "les", "du", "et",
)  # fmt: skip
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
KINDS: tuple[Kind, ...] = (
    "words", "code", "number", "plate", "price", "time", "year", "name", "phone", "date", "percent",
)  # fmt: skip
_SHARES = np.array([0.42, 0.12, 0.11, 0.08, 0.07, 0.04, 0.04, 0.05, 0.02, 0.02, 0.03])


def is_held_out(word: str) -> bool:
    """Return whether a word belongs to the held-out split: a tenth of all words, by their hash."""
    return hashlib.md5(word.lower().encode(), usedforsecurity=False).digest()[0] < 26


@functools.cache
def word_list(split: Split) -> tuple[str, ...]:
    """Return the split's words. Raises FileNotFoundError naming the packages to install."""
    words: set[str] = set()
    for name in ("american-english", "ngerman", "french"):
        path = pathlib.Path("/usr/share/dict") / name
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: apt-get install {' '.join(PACKAGES)}")
        for line in path.read_text(encoding="utf-8").split():
            word = folded(line)
            if 2 <= len(word) <= 12 and word.isalpha() and OTHER not in word:
                words.add(word)
    return tuple(sorted(word for word in words if is_held_out(word) == (split == "test")))


def random_kind(rng: np.random.Generator) -> Kind:
    return KINDS[int(rng.choice(len(KINDS), p=_SHARES))]


def random_word(rng: np.random.Generator, split: Split) -> str:
    words = word_list(split)
    return words[int(rng.integers(len(words)))]


def text_of(rng: np.random.Generator, kind: Kind, split: Split) -> str:
    """Return a text of a kind."""
    if kind == "words":
        text = _cased(rng, _phrase(rng, split))
        return _as_on_signs(rng, text) if split == "train" and rng.random() < _ON_SIGNS else text
    if kind in ("code", "number"):
        text = random_text(rng) if kind == "code" else _number(rng)
        return _stammered(rng, text) if split == "train" and rng.random() < _STAMMERED else text
    if kind == "plate":
        return _plate(rng)
    if kind == "price":
        return _price(rng)
    if kind == "name":
        return f"{rng.choice(_FIRST_NAMES)} {random_word(rng, split).capitalize()}"
    return _dated(rng, kind)


def _phrase(rng: np.random.Generator, split: Split) -> str:
    if rng.random() < 0.25:
        phrases = [p for p in PHRASES if is_held_out(p) == (split == "test")]
        return phrases[int(rng.integers(len(phrases)))]
    count = int(rng.choice((1, 2, 3, 4), p=(0.5, 0.3, 0.14, 0.06)))
    words = [random_word(rng, split) for _ in range(count)]
    while len(" ".join(words)) > 22:
        words.pop()
    return " ".join(words) or random_word(rng, split)


def _cased(rng: np.random.Generator, text: str) -> str:
    style = rng.random()
    if style < 0.5:
        return text.upper()
    if style < 0.75:
        return text.title()
    if style < 0.88:
        return text[:1].upper() + text[1:]
    return text.lower()


def _as_on_signs(rng: np.random.Generator, text: str) -> str:
    """Return a text with what real signs have and dictionaries lack: web addresses, apostrophes, small words.

    In training only: held-out texts stay those of earlier measurements.
    """
    words, upper = text.split(), text.isupper()
    if len(words) == 1:
        other = random_word(rng, "train")
        words.append(other.upper() if upper else other)
    first, last = words[0], words[-1]
    style = int(rng.integers(9))
    if style == 0:
        host = "".join(words).lower()[:14]
        end = str(rng.choice(_DOMAINS))
        start = str(rng.choice(("www.", "", "info@", "@"), p=(0.5, 0.25, 0.15, 0.1)))
        address = f"{start}{host}" + ("" if start == "@" else f".{end}")
        return address.upper() if upper and rng.random() < 0.5 else address
    if style == 1:
        return f"{first}'{'S' if upper else 's'} {last}" if rng.random() < 0.7 else f"{first[0]}'{first}"
    if style == 2:
        return f"{first} {rng.choice(('&', '+', '-', '/', ','))} {last}".replace(" ,", ",")
    if style == 3:
        return f"{text}{rng.choice(('!', '?', '.', ':', '...'))}"
    if style == 4:
        return f"{rng.choice(('St.', 'Dr.', 'No.', 'Tel.', 'Mr.', 'Str.'))} {first}"
    if style == 5:
        number = f"{int(rng.integers(1, 100))}{rng.choice((',', '.'))}{_digits(rng, 3)}"
        return f"{number} {last}" if rng.random() < 0.6 else f"{last} {number}"
    if style == 6:
        number = (
            f"{int(rng.integers(1, 200))}{rng.choice(('', ' km', ' m', 'th', '-12', '/7', ' min', ' kg'))}"
        )
        return f"{last} {number}" if rng.random() < 0.5 else f"{number} {last}"
    little = [str(word) for word in rng.choice(_LITTLE_WORDS, int(rng.integers(1, 4)))]
    written = f"{first} {' '.join(little)} {last}" if rng.random() < 0.6 else f"{' '.join(little)} {last}"
    return written.upper() if upper else written[:1].upper() + written[1:]


def _stammered(rng: np.random.Generator, text: str) -> str:
    """Return a text with one character several times: copies of 3555 did not end."""
    place, times = int(rng.integers(len(text))), int(rng.integers(2, 5))
    return text[:place] + text[place] * times + text[place + 1 :]


def _number(rng: np.random.Generator) -> str:
    digits = str(
        int(rng.integers(1, 10 ** int(rng.choice((1, 2, 3, 4, 5), p=(0.15, 0.35, 0.3, 0.15, 0.05)))))
    )
    return digits + (str(rng.choice(list("ABCDab"))) if rng.random() < 0.08 else "")


def _letters(rng: np.random.Generator, count: int) -> str:
    return "".join(rng.choice(list(_LETTERS), count))


def _digits(rng: np.random.Generator, count: int) -> str:
    return "".join(str(d) for d in rng.integers(0, 10, count))


def _plate(rng: np.random.Generator) -> str:
    style = int(rng.integers(6))
    if style == 0:
        return f"{_letters(rng, 2)}-{_digits(rng, 3)}-{_letters(rng, 2)}"
    if style == 1:
        town, number = _letters(rng, int(rng.integers(1, 4))), int(rng.integers(2, 5))
        return f"{town} {_letters(rng, 2)} {_digits(rng, number)}"
    if style == 2:
        return f"{_letters(rng, 2)}{_digits(rng, 2)} {_letters(rng, 3)}"
    if style == 3:
        return f"{_letters(rng, 3)} {_digits(rng, int(rng.integers(3, 5)))}"
    if style == 4:
        return f"{_letters(rng, 3)}-{_digits(rng, int(rng.integers(3, 5)))}"
    return f"{_digits(rng, 1)}{_letters(rng, 3)}{_digits(rng, 3)}"


def _price(rng: np.random.Generator) -> str:
    whole, cents = int(rng.integers(0, 10 ** int(rng.integers(1, 4)))), _digits(rng, 2)
    style = int(rng.integers(6))
    if style == 0:
        return f"${whole}.{cents}"
    if style == 1:
        return f"{whole},{cents} €"
    if style == 2:
        return f"£{whole}.{cents}"
    if style == 3:
        return f"€{whole}.{cents}"
    if style == 4:
        return f"${whole}"
    return f"{whole},{cents}€"


def _dated(rng: np.random.Generator, kind: Kind) -> str:
    hour, minute = int(rng.integers(0, 24)), int(rng.integers(0, 60))
    year = int(rng.integers(1700, 2030))
    if kind == "time":
        return (
            f"{hour:02d}:{minute:02d}"
            if rng.random() < 0.6
            else f"{hour % 12 + 1}:{minute:02d} {rng.choice(('AM', 'PM'))}"
        )
    if kind == "year":
        return str(year) if rng.random() < 0.75 else f"{year}-{year % 100 + int(rng.integers(1, 20)):02d}"
    if kind == "date":
        day, month = int(rng.integers(1, 29)), int(rng.integers(1, 13))
        return f"{day:02d}.{month:02d}.{year}" if rng.random() < 0.5 else f"{day} {_MONTHS[month - 1]} {year}"
    if kind == "percent":
        return f"{int(rng.integers(1, 20)) * 5}%" + (" OFF" if rng.random() < 0.4 else "")
    return (
        f"{_digits(rng, 3)}-{_digits(rng, 4)}"
        if rng.random() < 0.5
        else f"0{_digits(rng, 3)} {_digits(rng, 6)}"
    )
