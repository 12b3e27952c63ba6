"""How people ask about text; what they ask that no text answers is in `foreign`.

`{c}` is a colour with its article where needed, `{n}` a noun (known or not), `{t}` a text, `{p}` a place in
the picture. Wordings of the measurement (`benchmarks/`) are not among these.
"""

from __future__ import annotations

import re

from training.reader.foreign import OFF_ADJECTIVES, OFF_DOMAIN, OFF_NOUNS

NOUNS = (
    "sign",
    "door",
    "bus",
    "wall",
    "box",
    "bottle",
    "label",
    "plate",
    "shop",
    "van",
    "car",
    "truck",
    "building",
    "board",
    "poster",
    "banner",
    "screen",
    "window",
    "package",
    "bag",
    "book",
    "cover",
    "can",
    "jar",
    "card",
    "tag",
    "shirt",
    "train",
    "taxi",
    "gate",
    "fence",
    "house",
    "billboard",
    "notice",
    "panel",
    "plaque",
    "display",
    "menu",
    "ticket",
    "container",
    "machine",
    "pole",
    "street",
    "cup",
    "tin",
    "badge",
    "storefront",
    "placard",
)

READ_COLOR = (
    "What is written on the {c} sign?",
    "What does the {c} sign say?",
    "Read the {c} sign.",
    "What is the text on the {c} sign?",
    "Which characters are on the {c} sign?",
    "What's on the {c} sign?",
    "What can you read on the {c} sign?",
    "What number is on the {c} sign?",
    "What does it say on the {c} sign?",
    "Please read the {c} sign",
    "what is written on the {c} one?",
    "Tell me what the {c} sign says.",
    "What does the {c} {n} say?",
    "What is written on the {c} {n}?",
    "Read the text on the {c} {n}.",
    "Which words are on the {c} sign?",
    "What are the words on the {c} {n}?",
    "text on the {c} sign",
    "What is printed on the {c} {n}?",
    "Can you read the {c} sign?",
    "What word is on the {c} sign?",
    "What name is on the {c} sign?",
    "What do the letters on the {c} {n} spell?",
    "the {c} sign says what?",
)
SHORT_COLOR = ("written {c}", "read {c}")
READ_ONLY = (
    "What does the sign say?",
    "What is written on the sign?",
    "Read the sign.",
    "What is written here?",
    "What does it say?",
    "Read the text.",
    "What is the text?",
    "What text is shown?",
    "What can you read?",
    "What does the {n} say?",
    "What is written on the {n}?",
    "Read the {n}.",
    "What does this {n} say?",
    "Which text is on the {n}?",
    "What is on the {n}?",
    "What is printed on the {n}?",
    "read this",
    "Please read the text on the {n}.",
    "What words are on the {n}?",
    "Can you read what it says?",
    "What text is visible in the picture?",
    "Tell me what is written on the {n}.",
    "Transcribe the text.",
    "What do you read on the {n}?",
    "What is the {n} called?",
    "What is the name on the {n}?",
    "what is the writing",
    "What does it say on the {n}?",
    "Which words can you see?",
    "What is the word on the {n}?",
)
SHORT_ONLY = ("written", "read")
READ_LARGEST = (
    "Read the largest text.",
    "What is the largest text?",
    "What does the largest text say?",
    "What is the biggest word?",
    "Read the biggest text in the picture.",
    "What is written in the largest letters?",
    "What does the big text say?",
    "Which text is the largest?",
    "read the big letters",
    "What is the main text?",
    "What is the title?",
    "What is the headline?",
)
SHORT_LARGEST = ("written largest", "read largest")
READ_SMALLEST = (
    "Read the smallest text.",
    "What is the smallest text?",
    "What does the small text say?",
    "What is written in the smallest letters?",
    "Which text is the smallest?",
    "What does the fine print say?",
)
SHORT_SMALLEST = ("written smallest",)
READ_PLACE = (
    "What is written {p}?",
    "What does the sign {p} say?",
    "Read the text {p}.",
    "What text is {p}?",
    "What does it say {p}?",
    "Read the sign {p}.",
    "What is the text {p}?",
    "What can you read {p}?",
    "What is on the {n} {p}?",
    "What does the text {p} say?",
    "Which words are {p}?",
)
SHORT_PLACE = ("written {p}",)
PLACES = {
    "left": ("on the left", "at the left", "on the left side", "to the left"),
    "right": ("on the right", "at the right", "on the right side", "to the right"),
    "top": ("at the top", "on top", "in the upper part", "above"),
    "bottom": ("at the bottom", "in the lower part", "below", "down below"),
    "top left": ("at the top left", "in the top left corner", "top left"),
    "top right": ("at the top right", "in the top right corner", "top right"),
    "bottom left": ("at the bottom left", "in the bottom left corner", "bottom left"),
    "bottom right": ("at the bottom right", "in the bottom right corner", "bottom right"),
}
KIND_NAMES = {
    "number": ("number", "house number", "room number", "bus number", "line number"),
    "plate": (
        "plate",
        "license plate",
        "licence plate",
        "registration number",
        "number plate",
        "plate number",
    ),
    "price": ("price", "amount", "cost"),
    "time": ("time", "hour", "opening time"),
    "year": ("year", "years"),
    "name": ("name", "person's name", "full name"),
    "phone": ("phone number", "telephone number", "number to call"),
    "date": ("date", "day"),
    "percent": ("discount", "percentage", "percent"),
}
READ_KIND = (
    "What is the {k}?",
    "What {k} is shown?",
    "Which {k} is on the {n}?",
    "Read the {k}.",
    "What's the {k}?",
    "What {k} can you see?",
    "What is the {k} on the {n}?",
    "Which {k} do you see?",
    "Tell me the {k}.",
    "What is the {k} of the {n}?",
    "What {k} is written on the {n}?",
    "the {k} please",
    "What {k} is it?",
    "Which {k} is on the sign?",
    "What {k} is on the sign?",
    "What is the {k} on the {c} sign?",
    "Which {k} is on the {c} {n}?",
)
SHORT_KIND = ("read {k}",)
COST = (
    "How much does it cost?",
    "How much is it?",
    "What does it cost?",
    "How much is the {n}?",
    "How much does the {n} cost?",
)
COUNT = (
    "How many signs are there?",
    "How many signs can you see?",
    "Count the signs.",
    "What is the number of signs?",
    "How many signs are in the picture?",
    "How many signs do you see?",
    "number of signs",
)
PRESENCE = (
    "Is there {a} {c} sign?",
    "Can you see {a} {c} sign?",
    "Does the picture show {a} {c} sign?",
    "Is any of the signs {c}?",
    "Do you see {a} {c} sign?",
    "Is there any sign that is {c}?",
)
ANY_TEXT = (
    "Is there any text?",
    "Is there text in the picture?",
    "Can you see any text?",
    "Is anything written here?",
    "Does the picture contain text?",
    "Are there any words?",
    "Is there any writing on the {n}?",
)
COLOR_OF = (
    "What color is the sign that says {t}?",
    "Which color is the sign with {t}?",
    "What is the color of the sign that reads {t}?",
    "What colour is the sign that says {t}?",
    'What color is the sign that says "{t}"?',
    "What is the colour of the {t} sign?",
    "Which colour has the sign with {t}?",
)
SAYS = (
    "Does it say {t}?",
    "Does the sign say {t}?",
    "Is there a sign that says {t}?",
    'Does any sign say "{t}"?',
    "Can you read {t} anywhere?",
    "Is the word {t} in the picture?",
    "Is {t} written here?",
)


_COLORS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black", "brown", "grey", "gray")
_ALL = (
    *(READ_COLOR + SHORT_COLOR + READ_ONLY + READ_LARGEST + SHORT_LARGEST + READ_SMALLEST + SHORT_SMALLEST),
    *(READ_PLACE + READ_KIND + COST + COUNT + PRESENCE + ANY_TEXT + COLOR_OF + SAYS + OFF_DOMAIN),
    *(place for group in PLACES.values() for place in group),
    *(kind for group in KIND_NAMES.values() for kind in group),
    *(NOUNS + OFF_NOUNS[:60] + OFF_ADJECTIVES[:30]),
)


def known_words() -> tuple[str, ...]:
    """Return the words of all wordings, which are single tokens; all others are spelled."""
    plain = [re.sub(r"\{\w+\}", " ", text) for text in _ALL]
    words = {word for text in plain for word in re.findall(r"[A-Za-z]{2,}", text)}
    return tuple(sorted(words | {*_COLORS, "yes", "no", "an"}))
