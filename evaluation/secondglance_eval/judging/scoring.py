"""How right a prediction is, in [0, 1], by the published rule of each benchmark.

`exact_match`, for the scenes and for answers that are one thing, is in `secondglance_eval.datasets.example`.

Multiple choice is scored by the exact letter only. The other published way, the likelihood of every option,
needs the model's score of a text that it did not generate, and the REST API gives none: its statistics are
those of the tokens that greedy decoding chose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from secondglance_eval.datasets.example import Example, ScoreRule, exact_match

VQA_ANSWERS = 10  # given by ten people; the published formula is defined for that many
_AGREEING = 3  # people who make an answer wholly right
_ANLS_THRESHOLD = 0.5


def vqa_accuracy(prediction: str, example: Example) -> float:
    """Return TextVQA's accuracy: how many of ten people said so, min(n / 3, 1) over every nine of them.

    Raises ValueError if there are not ten answers.
    """
    if len(example.answers) != VQA_ANSWERS:
        raise ValueError(
            f"{example.id}: VQA accuracy needs {VQA_ANSWERS} answers, not {len(example.answers)}"
        )
    said = normalize_vqa(prediction)
    agree = [normalize_vqa(answer) == said for answer in example.answers]
    total = sum(agree)
    return sum(min((total - one) / _AGREEING, 1.0) for one in agree) / VQA_ANSWERS


def anls(prediction: str, example: Example) -> float:
    """Return the normalised Levenshtein similarity to the nearest answer; 0 below a half (DocVQA).

    At exactly a half the challenge's evaluator keeps the score, the paper's formula does not; this keeps it.
    """
    said = _plain(prediction)
    best = max((_similarity(said, _plain(answer)) for answer in example.answers), default=0.0)
    return best if best >= _ANLS_THRESHOLD else 0.0


def choice_letter(prediction: str, example: Example) -> float:
    """Return 1 if the prediction names the right option first: `B`, `(B)`, `b.`, `B) red`, `B: red`."""
    letter = re.match(r"\W*([A-Za-z])(?![A-Za-z'\u2019])", prediction)
    return float(letter is not None and letter[1].upper() in example.answers)


SCORE_RULES: Mapping[str, ScoreRule] = {
    "exact": exact_match,
    "vqa": vqa_accuracy,
    "anls": anls,
    "letter": choice_letter,
}


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(one: str, other: str) -> float:
    longer = max(len(one), len(other))
    return 1.0 - levenshtein(one, other) / longer if longer else 1.0


def levenshtein(one: str, other: str) -> int:
    """Return the fewest insertions, deletions and substitutions that turn one text into the other."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        previous, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


# From here on: the VQA challenge's answer normalisation as TextVQA's evaluator applies it, oddities included.

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
_NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_ARTICLES = frozenset({"a", "an", "the"})
_STRAY_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # the evaluator passes a flag where the number of replacements goes

_FORMS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've
we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's
who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've
you'll you're you've
"""


def _without_one_apostrophe(form: str) -> list[str]:
    return [form[:i] + form[i + 1 :] for i, character in enumerate(form) if character == "'"]


# A form that lacks one apostrophe -> the form. One entry of the published table goes the other way.
_CONTRACTIONS = {short: form for form in _FORMS.split() for short in _without_one_apostrophe(form)}
_CONTRACTIONS["somebody'd"] = "somebodyd"


def normalize_vqa(text: str) -> str:
    """Return the text in lower case, without punctuation and articles, with digits for number words."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = _without_marks(text.replace("\n", " ").replace("\t", " ").strip())
    words = (_NUMBERS.get(word, word) for word in text.split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _without_marks(text: str) -> str:
    """A mark that touches a space anywhere in the text vanishes everywhere; another becomes a space."""
    result = text
    for mark in _MARKS:
        result = result.replace(mark, "" if f"{mark} " in text or f" {mark}" in text else " ")
    return _STRAY_PERIOD.sub("", result, count=_MOST_PERIODS)
