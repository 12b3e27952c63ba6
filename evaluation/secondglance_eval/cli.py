"""`secondglance-eval`: measure, then report.

stdout carries results only (the last line is JSON), progress goes to stderr. Heavy imports wait until a
command runs. Exit codes: 0 ok, 1 the run failed (run it again to go on), 2 usage or something is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from secondglance_eval.datasets.example import Dataset
    from secondglance_server.calibrated_gate import CalibratedGate

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_DATASETS = "scenes, textures, jsonl:FILE, textvqa:DIR, docvqa:DIR, vstar:DIR."
_METRICS = "For jsonl: exact, vqa, anls, letter."

Out = Annotated[Path, typer.Option(help="Folder of the run: records, choices, report.")]

# Where a module comes from that is not one of this command's own dependencies.
_PROJECTS = {"secondglance": "second-glance", "secondglance_server": "second-glance-server"}

_USUAL_RETRANSMIT = 0.5  # of the questions, where --localization came without a wish
_LOOKS_FILE = "localization.json"
_NAMED = 12  # pictures; the report names all
_READY_TIMEOUT_S = 600.0  # a large model, or a busy machine

# The original whole is larger than what a server takes by default.
RAISED_LIMITS = {
    "SECONDGLANCE_SERVER_MAX_IMAGE_BYTES": str(64 * 1024 * 1024),
    "SECONDGLANCE_SERVER_MAX_IMAGE_PIXELS": "100000000",
}


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        print(f"secondglance-eval {version('second-glance-eval')}")
        raise typer.Exit


@app.callback()
def _secondglance_eval(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which this is.")
    ] = False,
) -> None:
    """Measure accuracy against bytes on the wire, beside every baseline, and choose the gate.

    `run` asks a server every question under every method; `report` shows what came of it. `calibrate`
    writes the gate that a server loads, `recipes` the encodings that edges follow. Results go to stdout,
    the last line as JSON; progress goes to stderr.

    \b
    Exit codes:
      0 ok   1 the run failed; the same command goes on   2 usage, or something is missing
    """


@app.command()
def run(
    out: Out = Path("out/evaluation"),
    dataset: Annotated[str, typer.Option(help=_DATASETS)] = "scenes",
    pictures: Annotated[
        int | None, typer.Option(min=1, help="At most so many; by default all, of the scenes 1,000.")
    ] = None,
    metric: Annotated[str, typer.Option(help=_METRICS)] = "exact",
    first_seed: Annotated[int | None, typer.Option(min=0, help="Of the first scene.")] = None,
    url: Annotated[
        str | None, typer.Option(help="A running server; by default one is started with raised limits.")
    ] = None,
    model: Annotated[str, typer.Option(help="For the server that is started.")] = "embedded",
    parallel: Annotated[int, typer.Option(min=1, help="Pictures asked about at a time.")] = 4,
    workers: Annotated[int, typer.Option(min=1, help="Processes that render pictures ahead.")] = 2,
    choice_pictures: Annotated[
        int, typer.Option(min=1, help="Other pictures, on which the equal-bytes encodings are chosen.")
    ] = 40,
) -> None:
    """Ask a server every question under every method; what OUT holds already is not asked again."""
    with _failures():
        from secondglance_eval.asking.asker import Asker
        from secondglance_eval.asking.run import Pace
        from secondglance_eval.campaign import left_out, measure
        from secondglance_eval.datasets.named import open_with_choice
        from secondglance_eval.datasets.seeds import TEST_SEED
        from secondglance_eval.facts import Facts, files_of_model

        data, choice_set = open_with_choice(
            dataset,
            pictures=pictures,
            choice_pictures=choice_pictures,
            first_seed=TEST_SEED if first_seed is None else first_seed,
            metric=metric,
        )
        not_judged = left_out(choice_set)
        _say_left_out(len(data), not_judged)
        with _server(url, model) as address, Asker(address, data.score) as asker:
            files = None if url else files_of_model(model)
            Facts.gather(data, asker.model, model_files=files, left_out=not_judged).keep_in(out)
            measure(data, choice_set, asker, out, pace=Pace(parallel=parallel, workers=workers))


@app.command()
def report(
    out: Out = Path("out/evaluation"),
    markdown: Annotated[Path | None, typer.Option(help="Also write the figures there.")] = None,
) -> None:
    """Write figures, plots and one HTML page from the records in OUT; print the headline as JSON."""
    with _failures():
        from secondglance_eval.report.write import write_report

        headline = write_report(out, markdown=markdown)
    print(json.dumps(headline))


@app.command()
def calibrate(
    write: Annotated[
        Path | None, typer.Option(help="The file for the server: gate.json, or secondglance.json if unset.")
    ] = None,
    localization: Annotated[
        bool, typer.Option("--localization", help="Choose layer and window first, from the answers' boxes.")
    ] = False,
    max_retransmit: Annotated[
        float | None, typer.Option(min=0, max=1, help="At most this share of questions asked again.")
    ] = None,
    max_uplink_bytes: Annotated[
        float | None, typer.Option(min=0, help="At most so many bytes up for a question, on average.")
    ] = None,
    target_accuracy: Annotated[
        float | None, typer.Option(min=0, max=1, help="At least this accuracy, with fewest bytes.")
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Of the answers that are not called doubtful, this share is right."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help=f"{_DATASETS.removesuffix('.')}; default: OUT's records.")
    ] = None,
    pictures: Annotated[int | None, typer.Option(min=1, help="Of the dataset; by default all.")] = None,
    metric: Annotated[str, typer.Option(help=_METRICS)] = "exact",
    out: Out = Path("out/calibration"),
    url: Annotated[str | None, typer.Option(help="A running server; by default one is started.")] = None,
    model: Annotated[str, typer.Option(help="For the server that is started.")] = "embedded",
    parallel: Annotated[int, typer.Option(min=1, help="Pictures asked about at a time.")] = 4,
    workers: Annotated[int, typer.Option(min=1, help="Processes that render pictures ahead.")] = 2,
) -> None:
    """Choose the gate on half of the pictures for one wish, and test it on the other half.

    With --localization, choose before it which layer of the model is read and how its attention becomes a
    region; the wish may be left out, which means --max-retransmit 0.5. Needs the model here (no --url).
    With --precision also choose above which value a final answer is called doubtful; alone it leaves the gate
    as it is. Twenty pictures are needed at least. Load the file with
    `secondglance-server serve --calibration FILE`, or lay it beside the model's weights as
    secondglance.json.
    """
    with _failures():
        from secondglance_eval.asking.asker import Asker
        from secondglance_eval.asking.run import Pace
        from secondglance_eval.datasets.named import open_dataset
        from secondglance_eval.datasets.seeds import CALIBRATION_SEED
        from secondglance_eval.errors import MissingPieceError
        from secondglance_eval.facts import Facts, files_of_model
        from secondglance_eval.judging.calibration import (
            always_ask,
            calibrate_from,
            one_target,
            refuse_too_few_pictures,
        )

        if localization and (dataset is None or url is not None):
            raise MissingPieceError(
                "--localization needs a --dataset with boxes; it loads the model: no --url"
            )
        if localization and (max_retransmit, max_uplink_bytes, target_accuracy) == (None, None, None):
            max_retransmit = _USUAL_RETRANSMIT
        target = one_target(
            or_none=precision is not None,
            max_retransmit=max_retransmit,
            max_uplink_bytes=max_uplink_bytes,
            target_accuracy=target_accuracy,
        )
        looks: CalibratedGate | None = None
        write = write or Path("secondglance.json" if localization else "gate.json")
        if dataset is not None:
            data = open_dataset(dataset, pictures=pictures, first_seed=CALIBRATION_SEED, metric=metric)
            refuse_too_few_pictures(data, out)
            if localization:
                looks = _choose_localization(data, model, workers, out)
            with (
                _server(url, model, calibration=out / _LOOKS_FILE if looks else None) as address,
                Asker(address, data.score) as asker,
            ):
                files = None if url else files_of_model(model)
                Facts.gather(data, asker.model, model_files=files).keep_in(out)
                always_ask(data, asker, out, pace=Pace(parallel=parallel, workers=workers))
        section = looks.localization if looks else None
        calibration, text = calibrate_from(out, target, write, precision=precision, localization=section)
    print(text)
    print(calibration.model_dump_json())


@app.command()
def recipes(
    write: Annotated[
        Path | None, typer.Option(help="The model's secondglance.json: gets the section `recipes`.")
    ] = None,
    dataset: Annotated[list[str] | None, typer.Option(help=f"May be repeated. {_DATASETS}")] = None,
    pictures: Annotated[int | None, typer.Option(min=1, help="Of each dataset; drawn ones: 200.")] = None,
    metric: Annotated[str, typer.Option(help=_METRICS)] = "exact",
    first_seed: Annotated[int | None, typer.Option(min=0, help="Of the first drawn picture.")] = None,
    image: Annotated[
        list[str] | None, typer.Option(help="To try: FORMAT:QUALITY[:SCALE]; may be repeated.")
    ] = None,
    patch: Annotated[
        list[str] | None, typer.Option(help="To try: FORMAT:QUALITY[:SCALE]; may be repeated.")
    ] = None,
    max_points_lost: Annotated[
        float, typer.Option(min=0, help="Of right answers, on every dataset, against the edge's own.")
    ] = 0.5,
    out: Out = Path("out/recipes"),
    url: Annotated[str | None, typer.Option(help="A running server; by default one is started.")] = None,
    model: Annotated[str, typer.Option(help="For the server that is started.")] = "embedded",
    parallel: Annotated[int, typer.Option(min=1, help="Pictures asked about at a time.")] = 2,
    workers: Annotated[int, typer.Option(min=1, help="Processes that render pictures ahead.")] = 1,
) -> None:
    """Choose how picture and region are encoded for a model: the fewest bytes that lose next to nothing.

    Every question is asked with every encoding, the region's first, then the picture's. Edges follow what the
    model's secondglance.json names unless they are told otherwise. What OUT holds already is not asked again.
    """
    with _failures():
        from secondglance_eval.asking.asker import Asker
        from secondglance_eval.asking.run import Pace
        from secondglance_eval.datasets.named import open_dataset
        from secondglance_eval.datasets.seeds import CALIBRATION_SEED
        from secondglance_eval.facts import Facts, files_of_model
        from secondglance_eval.judging.recipe_choice import IMAGES, PATCHES
        from secondglance_eval.recipes import Asked, choose_recipes, recipes_of, write_recipes

        seed = CALIBRATION_SEED if first_seed is None else first_seed
        images, patches = recipes_of(image, IMAGES), recipes_of(patch, PATCHES)
        opened = [
            (name, open_dataset(name, pictures=pictures, first_seed=seed, metric=metric))
            for name in dataset or ["scenes"]
        ]
        with _server(url, model) as address, contextlib.ExitStack() as open_askers:
            sets = []
            for number, (name, data) in enumerate(opened, start=1):
                asker = open_askers.enter_context(Asker(address, data.score))
                folder = out / f"{number}-{name.partition(':')[0]}"
                files = None if url else files_of_model(model)
                Facts.gather(data, asker.model, model_files=files).keep_in(folder)
                sets.append(Asked(data, asker, folder))
            study = choose_recipes(
                sets,
                images=images,
                patches=patches,
                max_points_lost=max_points_lost,
                pace=Pace(parallel=parallel, workers=workers),
            )
        if write is not None:
            write_recipes(study.chosen, write)
    print(study.table())
    print(json.dumps(study.summary()))


def _choose_localization(data: Dataset, model: str, workers: int, out: Path) -> CalibratedGate:
    """Choose layer and window, say what the test showed, and leave them where the server finds them.

    Records of an earlier choice are put aside: they were made with other regions.
    """
    from secondglance_eval.campaign import RECORDS_FILE
    from secondglance_eval.judging.calibration import write_calibration
    from secondglance_eval.judging.localization import calibrate_localization, described_localization
    from secondglance_server.calibrated_gate import read_calibrated_gate
    from secondglance_server.settings import load_settings

    choice = calibrate_localization(data, load_settings(model=model), workers=workers)
    print(described_localization(choice))
    path = out / _LOOKS_FILE
    is_same = path.exists() and read_calibrated_gate(path).localization == choice.file.localization
    if not is_same:
        (out / RECORDS_FILE).unlink(missing_ok=True)
    write_calibration(choice.file, path)
    return choice.file


def main() -> None:
    """Run the command line."""
    app(prog_name="secondglance-eval")


@contextlib.contextmanager
def _server(url: str | None, model: str, calibration: Path | None = None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    from secondglance_server.testing import serving

    # Half of the cores, as the edge needs the others: more threads than cores wait for each other.
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2))}
    settings = threads | RAISED_LIMITS
    options = ["--calibration", str(calibration)] if calibration else []
    with serving(
        "--model", model, *options, environment=settings, ready_timeout_s=_READY_TIMEOUT_S
    ) as address:
        yield address


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Say in one line what failed or what is missing, and leave with its exit code."""
    try:
        yield
    except ModuleNotFoundError as exc:
        name = (exc.name or "").partition(".")[0]
        _complain(f"the module {name} is missing: pip install {_PROJECTS.get(name, 'second-glance-eval')}")
        raise typer.Exit(2) from exc
    except Exception as exc:
        exit_code = _exit_code(exc)
        if exit_code is None:
            raise
        _complain(str(exc))
        raise typer.Exit(exit_code) from exc


def _exit_code(error: Exception) -> int | None:
    """Return the exit code of an error that is told in one line; None for a fault of the program."""
    from secondglance.errors import EdgeError
    from secondglance_eval.errors import EvaluationError
    from secondglance_server.engine.protocol import ModelLoadError
    from secondglance_server.errors import SettingsError
    from secondglance_server.testing import ServerDidNotStartError

    if isinstance(error, (ModelLoadError, SettingsError)):
        return 2
    if isinstance(error, EvaluationError):
        return error.exit_code
    return 1 if isinstance(error, (EdgeError, ServerDidNotStartError)) else None


def _say_left_out(judged: int, left_out: Sequence[str]) -> None:
    if not left_out:
        return
    names = ", ".join(left_out[:_NAMED])
    if len(left_out) > _NAMED:
        names += f" and {len(left_out) - _NAMED} more"
    _complain(
        f"results are taken from {judged} of {judged + len(left_out)} pictures; the encodings that the"
        f" equal-bytes baseline needs are chosen on the other {len(left_out)}: {names}"
    )


def _complain(text: str) -> None:
    print(f"secondglance-eval: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
