"""Options that several commands share, so that they read and behave alike everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

if TYPE_CHECKING:
    from secondglance.conversation.requests import Terms

Url: TypeAlias = Annotated[str | None, typer.Option(help="The server; default: SECONDGLANCE_URL.")]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Write the result as one JSON object on stdout.")
]
ModeName: TypeAlias = Annotated[
    Literal["auto", "answer_only", "always"],
    typer.Option(help="Take a second glance if the model is unsure, never, or always."),
]
Threshold: TypeAlias = Annotated[
    float | None, typer.Option(min=0, help="Take a second glance above this uncertainty (nats).")
]
Timeout: TypeAlias = Annotated[
    float | None,
    typer.Option(min=0.001, metavar="SECONDS", help="The longest time for a whole conversation."),
]
MaxUplinkBytes: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Send no more than this for an answer.")
]
Strict: TypeAlias = Annotated[
    bool, typer.Option("--strict", help="Fail if stage two fails, instead of giving the draft answer.")
]
MaxRounds: TypeAlias = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", help="Send up to N regions, one after the other, while the answer stays doubtful."
    ),
]


def terms_of(
    mode: ModeName,
    threshold: Threshold,
    timeout: Timeout,
    max_uplink_bytes: MaxUplinkBytes,
    strict: Strict,
    max_rounds: MaxRounds,
) -> Terms:
    """The options that say how to ask, as a client takes them."""
    return {
        "mode": mode,
        "threshold": threshold,
        "timeout_s": timeout,
        "max_uplink_bytes": max_uplink_bytes,
        "strict": strict,
        "max_rounds": max_rounds,
    }
