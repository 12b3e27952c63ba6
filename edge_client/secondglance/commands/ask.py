"""`secondglance ask`: one question about one picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secondglance.commands.console import complain, exit_code_of_errors, progress, writing
from secondglance.commands.options import (
    Json,
    MaxRounds,
    MaxUplinkBytes,
    ModeName,
    Strict,
    Threshold,
    Timeout,
    Url,
)
from secondglance.commands.source import read_source
from secondglance.commands.streamed import TokenPrinter

if TYPE_CHECKING:
    from secondglance.conversation.requests import Ask
    from secondglance.conversation.steps import Step
    from secondglance.pictures.original import ImageSource
    from secondglance.reply import Reply
    from secondglance.settings import EdgeSettings
    from secondglance.show.report import Sent
    from secondglance_protocol.wire import Include


_NOT_SURE = 3  # the exit code of --fail-on-doubt


def ask(
    image: Annotated[
        str,
        typer.Argument(metavar="IMAGE", help="A file, - for standard input, or a URL."),
    ],
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    url: Url = None,
    json_: Json = False,
    mode: ModeName = "auto",
    threshold: Threshold = None,
    timeout: Timeout = None,
    max_uplink_bytes: MaxUplinkBytes = None,
    max_rounds: MaxRounds = 1,
    strict: Strict = False,
    picture: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="Draw the region and both answers.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="OUT.html", help="Write a web page about the answer: pictures, region, bytes."),
    ] = None,
    save_sent: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the exact bytes that are sent.")
    ] = None,
    fail_on_doubt: Annotated[
        bool, typer.Option("--fail-on-doubt", help="Exit with 3 if the model is not sure of its answer.")
    ] = False,
    page: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The page of a PDF; 1 if unset.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="HOST[:PORT]", help="Fetch IMAGE from this host.")
    ] = None,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Print tokens as they come: the draft's, and on a new line those of a second answer.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")] = False,
) -> None:
    """Ask QUESTION about IMAGE.

    A small copy of IMAGE is sent; if the server's model is unsure, the region that it asks for follows, and
    further ones up to --max-rounds while it stays unsure. If that second stage fails, the draft answer is
    given with a warning, unless --strict. An answer that should not be relied on comes with "(not sure)" on
    stderr.

    \b
    Examples:
      secondglance ask photo.jpg "What is written on the red sign?"
      secondglance ask photo.jpg "How many signs?" --json
      secondglance ask photo.jpg "What number?" --picture answer.png
      secondglance ask photo.jpg "What number?" --report answer.html
      secondglance ask photo.jpg "What do the signs say?" --stream
      secondglance ask photo.jpg "What number?" --dry-run
      secondglance ask invoice.pdf "What is the total?" --page 2
      libcamera-still -o - | secondglance ask - "Is the gate open?"
      secondglance ask https://example.org/a.jpg "How many signs?" --allow-host example.org

    \b
    Environment: SECONDGLANCE_URL, SECONDGLANCE_API_KEY, SECONDGLANCE_EDGE_*

    \b
    Exit codes:
      0 answered   2 usage   3 answered, but not sure (--fail-on-doubt)
      65 IMAGE cannot be read or was refused
      69 server unavailable   75 busy, try later   77 not allowed   124 timed out
    """
    _check_outputs(picture, report, save_sent)
    with exit_code_of_errors():
        from secondglance.conversation.requests import Ask
        from secondglance.settings import load_settings

        settings = load_settings(url=url)
        include: tuple[Include, ...] = ("tokens", "relevance") if report else ()
        terms = Ask(
            question,
            mode,
            threshold,
            timeout,
            max_uplink_bytes,
            strict,
            include=include,
            max_rounds=max_rounds,
        )
        source = read_source(image, page=page, allowed_hosts=allow_host or ())
        if dry_run:
            _plan(source, terms, settings, save_sent, as_json=json_)
            return
        printer = TokenPrinter(as_json=json_) if stream else None
        reply, sent = _converse(source, terms, settings, save_sent, printer)
        _show(reply, printer, as_json=json_)
        if picture is not None:
            _draw(source, terms.question, reply, picture, settings)
        if report is not None:
            _report(source, terms.question, reply, sent, report, settings)
    if fail_on_doubt and reply.doubtful:
        if json_:
            complain(reply.notes[-1])
        raise typer.Exit(_NOT_SURE)


def _converse(
    image: ImageSource,
    terms: Ask,
    settings: EdgeSettings,
    save_sent: Path | None,
    printer: TokenPrinter | None,
) -> tuple[Reply, list[Sent]]:
    """The reply, and the pictures that left for it."""
    from secondglance.client import EdgeClient
    from secondglance.conversation.hooks import Hooks
    from secondglance.errors import EdgeError
    from secondglance.show.report import SentPictures

    sent = SentPictures()
    with progress(is_wanted=printer is None) as show:

        def observe(step: Step) -> None:
            show(str(step))
            _save(step, save_sent)

        hooks = Hooks(on_request=sent.note, on_token=printer.token if printer else None)
        with EdgeClient(settings=settings, observe=observe, hooks=hooks) as client:
            try:
                reply = client.ask(
                    image,
                    terms.question,
                    mode=terms.mode,
                    threshold=terms.threshold,
                    timeout_s=terms.timeout_s,
                    max_uplink_bytes=terms.max_uplink_bytes,
                    strict=terms.strict,
                    include=terms.include,
                    max_rounds=terms.max_rounds,
                )
            except EdgeError:
                if printer is not None:
                    printer.end("")
                raise
    return reply, sent.pictures


def _show(reply: Reply, printer: TokenPrinter | None, *, as_json: bool) -> None:
    from secondglance.text import printable

    is_shown = printer is not None and printer.end(reply.answer)
    if as_json:
        print(json.dumps(reply.to_dict()))
    elif reply.is_answered and not is_shown:
        print(printable(reply.answer, keep_lines=True))
    if reply.degraded and not as_json:
        failed = "a further look failed" if reply.second else "this is the draft answer, stage two failed"
        complain(f"{failed}: {reply.degraded}")
    for note in () if as_json else reply.notes:
        complain(note)
    if sys.stderr.isatty():
        _tell_cost(reply)


def _tell_cost(reply: Reply) -> None:
    from rich.console import Console

    from secondglance.text import readable_bytes

    receipt, confidence = reply.receipt, reply.confidence
    facts = [
        f"stage {reply.stage}" + (f", {len(reply.looks)} looks" if len(reply.looks) > 1 else ""),
        f"{confidence.metric} {confidence.value:.3f} (threshold {confidence.threshold:.3f})"
        if reply.is_answered
        else "no answer",
        f"{readable_bytes(receipt.uplink_bytes)} up, {readable_bytes(receipt.downlink_bytes)} down",
        f"{receipt.elapsed_ms:,.0f} ms",
    ]
    if receipt.original_bytes:
        facts.insert(3, f"original {readable_bytes(receipt.original_bytes)}")
    Console(stderr=True, highlight=False).print(" · ".join(facts), style="dim")


def _plan(
    image: ImageSource, terms: Ask, settings: EdgeSettings, save_sent: Path | None, *, as_json: bool
) -> None:
    from secondglance.conversation.dry_run import plan_first_request
    from secondglance.pictures.original import Original
    from secondglance.wire.addresses import shown_address

    send = plan_first_request(image, terms, settings)
    with Original(image, max_pixels=settings.max_original_pixels) as original:
        original_bytes = original.encoded_bytes
    _save(send, save_sent)
    parts = [{"name": part.name, "bytes": len(part.data)} for part in send.parts]
    plan: dict[str, Any] = {
        "dry_run": True,
        "url": shown_address(settings.url),
        "method": send.method,
        "path": send.path,
        "body_bytes": len(send.body),
        "parts": parts,
        "original_bytes": original_bytes,
        "assumed_side": settings.assumed_side,
    }
    if as_json:
        print(json.dumps(plan))
        return
    print(f"would send {send.method} {send.path} to {shown_address(settings.url)}: {len(send.body):,} bytes")
    for part in parts:
        print(f"  {part['name']}: {part['bytes']:,} bytes")
    size = "" if original_bytes is None else f" ({original_bytes:,} bytes)"
    print(f"and, if the server is unsure, one region of the original{size}")
    print(f"assuming a server that takes {settings.assumed_side} pixels a side; nothing was sent")


def _draw(image: ImageSource, question: str, reply: Reply, target: Path, settings: EdgeSettings) -> None:
    from secondglance.show.answer_sheet import draw_picture

    sheet = draw_picture(image, question, reply, max_original_pixels=settings.max_original_pixels)
    with writing(target):
        sheet.save(target)


def _report(
    image: ImageSource, question: str, reply: Reply, sent: list[Sent], target: Path, settings: EdgeSettings
) -> None:
    from secondglance.show.report import report_page

    page = report_page(image, question, reply, sent, max_original_pixels=settings.max_original_pixels)
    with writing(target):
        target.write_text(page, encoding="utf-8")


def _save(step: Step, folder: Path | None) -> None:
    """Keep what a step is about to send: the whole body, and the files inside it."""
    from secondglance.conversation.steps import Send

    if folder is None or not isinstance(step, Send) or not step.body:
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        name = step.stage if step.look == 1 else f"{step.stage}-look{step.look}"
        (folder / f"{name}-body").write_bytes(step.body)
        for part in step.parts:
            (folder / f"{name}-{part.name}").write_bytes(part.data)


def _check_outputs(picture: Path | None, report: Path | None, save_sent: Path | None) -> None:
    """Complain about where results should go before anything is sent."""
    if report is not None and not report.parent.is_dir():
        raise typer.BadParameter(f"{report.parent}: no such folder", param_hint="--report")
    if picture is not None:
        if picture.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            raise typer.BadParameter(f"{picture}: not a .png, .jpg or .webp", param_hint="--picture")
        if not picture.parent.is_dir():
            raise typer.BadParameter(f"{picture.parent}: no such folder", param_hint="--picture")
    if save_sent is not None and save_sent.exists() and not save_sent.is_dir():
        raise typer.BadParameter(f"{save_sent}: not a folder", param_hint="--save-sent")
