"""Conversations over a link that cuts, resets, stalls, slices and duplicates, at points all over them."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.hardening.chaos import converse

pytestmark = pytest.mark.live


@pytest.mark.timeout(1200)
async def test_a_conversation_over_a_broken_link_ends_well_and_is_inferred_once(is_full: bool) -> None:
    """The right answer, the marked draft or a documented exit code; one inference per key and stage.

    Where only the first connections are in trouble, only the right answer will do.
    """
    results = await converse(1000 if is_full else 60)
    kinds = Counter((re.sub(r"\d.*", "", result.trouble.name).strip(), result.ending) for result in results)
    print("\n".join(f"{times:4} {kind}: {ending}" for (kind, ending), times in sorted(kinds.items())))
    to_break = [each for each in results if re.match("(always )?(cut|reset)", each.trouble.name)]
    broken = [each.is_struck for each in to_break]
    print(f"{sum(broken)} of {len(broken)} conversations that were to be cut or reset were")
    assert sum(broken) > 0.8 * len(broken) > 0, "the relay does not break what it should"
    assert [complaint for result in results for complaint in result.complaints()] == []
