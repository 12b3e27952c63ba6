"""The characters that the model knows, and how the recogniser's eighteen thousand classes fold into them.

Accents are taken off, Greek and Cyrillic look-alikes become Latin letters, everything else is one class
`OTHER`. No torch here.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

OTHER = "\ufffd"  # a character outside the alphabet, or a place where the reader saw perhaps none
CHARACTERS = "".join(chr(code) for code in range(32, 127)) + "€£°" + OTHER
INDEX = {character: index for index, character in enumerate(CHARACTERS)}
OTHER_INDEX = INDEX[OTHER]

# fmt: off
_LOOK_ALIKES = str.maketrans(
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0423\u0406\u0408\u0405"  # Cyrillic
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf"  # Greek
    "ßøØłŁđıœŒæÆ"
    "\u2013\u2014\u2212\u2010\u00b7\u2022\u2019\u2018\u00b4\u201c\u201d\u201e\u00ab\u00bb\u2039\u203a\u00d7",
    "ABEKMHOPCTXYIJS" "aeopcyxijs" "ABEZHIKMNOPTYXo" "soOlLdioOaA" "----..'''\"\"\"\"\"<>x",
)
# fmt: on


def fold(character: str) -> str:
    """Return the alphabet's character for any character; `OTHER` where there is none."""
    plain = unicodedata.normalize("NFKD", character.translate(_LOOK_ALIKES))
    kept = "".join(c for c in plain if not unicodedata.combining(c))
    return kept if len(kept) == 1 and kept in INDEX else OTHER


def folded(text: str) -> str:
    """Return the text with every character folded."""
    return "".join(fold(character) for character in text)


def folding(classes: Sequence[str]) -> NDArray[np.int64]:
    """Return, for every class of the recogniser, its index in the alphabet."""
    return np.array([INDEX[_fold_once(name)] for name in classes])


@functools.cache
def _fold_once(character: str) -> str:
    return fold(character)
