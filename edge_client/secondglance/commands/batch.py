"""`secondglance batch`: the same questions about many pictures, to be gone on with after any interruption."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secondglance.commands.console import complain, exit_code_of_errors
from secondglance.commands.lines import text_line
from secondglance.commands.options import (
    Json,
    MaxRounds,
    MaxUplinkBytes,
    ModeName,
    Strict,
    Threshold,
    Timeout,
    Url,
    terms_of,
)
from secondglance.commands.questions import Questions, QuestionsFile, all_questions

if TYPE_CHECKING:
    from secondglance.batch.asking import Task
    from secondglance.batch.results_file import ResultsFile, Version
    from secondglance.commands.tally import Tally
    from secondglance.conversation.requests import Terms
    from secondglance.reply import Reply
    from secondglance.settings import EdgeSettings


def batch(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATHS...", help="Files, folders, patterns; - reads a list of names."),
    ],
    question: Questions = None,
    questions: QuestionsFile = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="results.jsonl",
            dir_okay=False,
            help="Write one JSON object on each line of this file; default: stdout.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on: ask only what --out does not hold yet.")
    ] = False,
    concurrency: Annotated[int, typer.Option("--concurrency", "-j", min=1, max=64)] = 4,
    wait: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="How long to wait for a server that is away or busy."),
    ] = 60.0,
    url: Url = None,
    json_: Json = False,
    mode: ModeName = "auto",
    threshold: Threshold = None,
    timeout: Timeout = None,
    max_uplink_bytes: MaxUplinkBytes = None,
    max_rounds: MaxRounds = 1,
    strict: Strict = False,
) -> None:
    """Ask the same questions about many pictures.

    Folders are searched to the bottom. Each answer is on disk before the next question of that worker leaves,
    so a run may be killed at any time: the same command with --resume asks only for what is missing, and a
    picture that was replaced since counts as missing. Failed pictures are listed on stderr, are not in the
    results, and are tried again by --resume. An answer that should not be relied on is marked: "(not sure)"
    in a last column, "doubtful" in JSON.

    If the server stays away for longer than --wait, the run stops with the exit code of that failure.

    \b
    Examples:
      secondglance batch photos/ -q "What is written on the sign?" --out results.jsonl
      secondglance batch photos/ -q "What is written on the sign?" --out results.jsonl --resume
      secondglance batch 'site/**/*.jpg' --questions questions.txt --out results.jsonl -j 8
      find . -name '*.png' -print0 | secondglance batch - -q "How many people?" --json

    \b
    A line of results holds path, bytes, mtime_ns, question, run, and all that `ask --json` prints.

    \b
    Environment: SECONDGLANCE_URL, SECONDGLANCE_API_KEY, SECONDGLANCE_EDGE_*

    \b
    Exit codes:
      0 all answered   1 some failed   2 usage   130 interrupted
      stopped early: 69 server unavailable   75 busy, try later   77 not allowed
    """
    asked = all_questions(question, questions)
    if resume and out is None:
        raise typer.BadParameter("needs --out", param_hint="--resume")
    with exit_code_of_errors():
        from secondglance.batch.results_file import ResultsFile
        from secondglance.settings import load_settings

        settings = load_settings(url=url)
        found = _find(paths)
        with nullcontext() if out is None else ResultsFile(out, resume=resume) as results:
            terms = terms_of(mode, threshold, timeout, max_uplink_bytes, strict, max_rounds)
            run = _Run(results, as_json=json_, with_question=len(asked) > 1)
            tasks = run.plan(found, asked)
            if tasks:
                run.carry_out(tasks, terms, settings, concurrency=concurrency, patience_s=wait)
            run.end()


@dataclass(slots=True)
class _Run:
    """One run of the command: what was planned, what came of it, and how it is told."""

    results: ResultsFile | None
    as_json: bool
    with_question: bool
    tally: Tally = field(init=False)

    def __post_init__(self) -> None:
        from secondglance.commands.tally import Tally

        self.tally = Tally()

    def plan(self, found: list[Path], questions: list[str]) -> list[Task]:
        from secondglance.batch.asking import Task
        from secondglance.batch.results_file import Version

        tasks: list[Task] = []
        for path in found:
            try:
                version = Version.of(path)
            except OSError as exc:
                self.tally.failed += len(questions)
                complain(f"{path}: {exc.strerror}")
                continue
            missing = tuple(text for text in questions if not self._holds(version, text))
            self.tally.skipped += len(questions) - len(missing)
            if missing:
                tasks.append(Task(path, version, missing))
        return tasks

    def carry_out(
        self, tasks: list[Task], terms: Terms, settings: EdgeSettings, *, concurrency: int, patience_s: float
    ) -> None:
        import asyncio

        from secondglance.batch.asking import BatchAsker, BatchStoppedError
        from secondglance.batch.progress import progress_bar
        from secondglance.client import AsyncEdgeClient

        total = sum(len(task.questions) for task in tasks)
        before = self.tally.failed
        with progress_bar(total) as tell:

            def show() -> None:
                tell(self.tally.answered + self.tally.failed - before, str(self.tally))

            async def answered(task: Task, question: str, reply: Reply) -> None:
                await asyncio.to_thread(self._keep, task, question, reply)
                if not reply.is_answered:
                    complain(f"{task.path}: {reply.notes[-1]}")
                self.tally.add(reply, is_first=question == task.questions[0])
                show()

            def failed(task: Task, question: str, error: Exception) -> None:
                self.tally.failed += 1
                complain(f"{task.path}: {_told(error)}")
                show()

            async def ask_all() -> None:
                async with AsyncEdgeClient(settings=settings) as client:
                    asker = BatchAsker(
                        client.with_options(**terms),
                        idempotency_key=None if self.results is None else self.results.run,
                        policy=settings.retry_policy,
                        patience_s=patience_s,
                        answered=answered,
                        failed=failed,
                    )
                    await asker.run(tasks, concurrency=concurrency)

            try:
                asyncio.run(ask_all())
            except BatchStoppedError as exc:
                left = total - self.tally.answered - (self.tally.failed - before)
                complain(f"stopped, {left} of {total} questions are left: {exc}")
                raise typer.Exit(exc.error.exit_code) from exc
            except KeyboardInterrupt:
                complain(f"interrupted: {self.tally}")
                raise

    def end(self) -> None:
        if self.tally.failed:
            complain(f"{self.tally.failed} failed, {self.tally.answered} answered")
            raise typer.Exit(1)

    def _holds(self, version: Version, question: str) -> bool:
        return self.results is not None and self.results.holds(version, question)

    def _keep(self, task: Task, question: str, reply: Reply) -> None:
        if self.results is not None:
            self.results.add(task.version, question, task.path, reply.to_dict())
        elif self.as_json:
            print(json.dumps({"path": str(task.path), "question": question, **reply.to_dict()}), flush=True)
        else:
            line = text_line(
                str(task.path),
                question,
                reply.answer,
                with_question=self.with_question,
                doubtful=reply.doubtful,
            )
            print(line, flush=True)


def _told(error: Exception) -> str:
    """Return what to say of a failure; one that nobody foresaw is named with its type."""
    from secondglance.errors import EdgeError

    return str(error) if isinstance(error, EdgeError) else f"unexpected {type(error).__name__}: {error}"


def _find(names: list[str]) -> list[Path]:
    """Pictures of all arguments. Says which hold none; names of a list may be missing, as no wrong usage."""
    from secondglance.pictures.files import find_pictures, listed_names
    from secondglance.text import shown_path

    found: list[Path] = []
    for name in names:
        if name == "-":
            pictures = [Path(listed) for listed in listed_names(sys.stdin.buffer.read())]
        else:
            pictures = find_pictures([name])
        if not pictures:
            complain(f"no picture in {'the list' if name == '-' else shown_path(name)}")
        found += pictures
    return list({os.path.abspath(path): path for path in reversed(found)}.values())[::-1]
