"""Each reader on a tiny sample in the published layout; whatever is wrong is named, file and field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from secondglance_eval.datasets.docvqa import read_docvqa
from secondglance_eval.datasets.files import FileDataset
from secondglance_eval.datasets.jsonl import read_jsonl
from secondglance_eval.datasets.named import open_with_choice
from secondglance_eval.datasets.textvqa import read_textvqa
from secondglance_eval.datasets.vstar import read_vstar
from secondglance_eval.errors import DatasetError
from secondglance_protocol.wire import PixelBox


def picture(path: Path, size: tuple[int, int] = (40, 30), orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, "grey").save(path, exif=exif)


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def textvqa_row(question_id: int, image_id: str, **changes: Any) -> dict[str, Any]:
    row = {
        "question": "what is the brand of this camera?",
        "image_id": image_id,
        "image_classes": ["Cassette deck", "Printer"],
        "flickr_original_url": "https://farm2.staticflickr.com/4/1_o.jpg",
        "flickr_300k_url": "https://c4.staticflickr.com/5/1_z.jpg",
        "image_width": 1024,
        "image_height": 664,
        "answers": ["nous les gosses", "dakota", "clos culombu", *["dakota digital"] * 6, "dakota"],
        "question_tokens": ["what", "is", "the", "brand", "of", "this", "camera"],
        "question_id": question_id,
        "set_name": "val",
    }
    return row | changes


def textvqa(directory: Path, *rows: dict[str, Any]) -> Path:
    document = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": rows}
    (directory / "TextVQA_0.5.1_val.json").write_text(json.dumps(document))
    return directory


def docvqa_row(question_id: int, image: str, **changes: Any) -> dict[str, Any]:
    row = {
        "questionId": question_id,
        "question": "What is the name of the company?",
        "question_types": ["figure/diagram"],
        "image": image,
        "docId": 14465,
        "ucsf_document_id": "pybv0228",
        "ucsf_document_page_no": "81",
        "answers": ["itc limited", "itc"],
        "data_split": "val",
    }
    return row | changes


def docvqa(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"dataset_name": "SP-DocVQA", "dataset_version": "1.0", "dataset_split": "val", "data": rows}
    path.write_text(json.dumps(document))


def vstar_row(image: str, label: str = "A", question_id: str = "0", **changes: Any) -> dict[str, Any]:
    text = "What is the material of the glove?\n(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather"
    text += "\nAnswer with the option's letter from the given choices directly."
    row = {"image": image, "text": text, "category": image.split("/")[0], "label": label}
    return row | {"question_id": question_id} | changes


def only(dataset: FileDataset) -> Any:
    ((example,),) = dataset
    return example


def test_textvqa_groups_questions_by_picture_and_scores_by_ten_people(tmp_path: Path) -> None:
    for name in ("003a8ae2ef43b901", "fff8c9f1c0ee5ee5"):
        picture(tmp_path / "train_images" / f"{name}.jpg", (64, 48))
    rows = [textvqa_row(34602, "003a8ae2ef43b901"), textvqa_row(34603, "fff8c9f1c0ee5ee5")]
    dataset = read_textvqa(textvqa(tmp_path, *rows, textvqa_row(34604, "003a8ae2ef43b901")))
    assert [[example.id for example in group] for group in dataset] == [["34602", "34604"], ["34603"]]
    (first, _), _ = dataset
    assert (first.width, first.height) == (64, 48)  # the file's own, not what the annotation says
    assert first.image().startswith(b"\xff\xd8")
    assert dataset.score("Dakota Digital", first) == 1.0
    assert dataset.score("dakota", first) == pytest.approx(0.6)
    assert dataset.score("nous les gosses", first) == pytest.approx(0.3)


@pytest.mark.parametrize("is_new", [False, True])
def test_docvqa_is_read_in_both_layouts_and_scored_by_anls(tmp_path: Path, is_new: bool) -> None:
    folder = "spdocvqa_images" if is_new else "documents"
    picture(tmp_path / folder / "pybv0228_81.png", (85, 110))
    docvqa(
        tmp_path / ("spdocvqa_qas" if is_new else "") / "val_v1.0_withQT.json",
        docvqa_row(49153, "documents/pybv0228_81.png"),
    )
    dataset = read_docvqa(tmp_path)
    example = only(dataset)
    assert (example.id, example.kind, example.width) == ("49153", "figure/diagram", 85)
    assert dataset.score("ITC Limited", example) == 1.0
    assert dataset.score("itc limitet", example) == pytest.approx(10 / 11)


def test_vstar_brings_letters_and_boxes(tmp_path: Path) -> None:
    picture(tmp_path / "direct_attributes" / "sa_4690.jpg", (200, 150))
    picture(tmp_path / "relative_position" / "sa_5.jpg", (200, 150))
    (tmp_path / "relative_position" / "sa_5.json").write_text(
        json.dumps({"target_object": ["a", "b"], "bbox": [[10, 20, 30, 5], [90.5, 2, 9, 9]], "options": []})
    )
    lines(
        tmp_path / "test_questions.jsonl",
        vstar_row("direct_attributes/sa_4690.jpg", "C"),
        vstar_row("relative_position/sa_5.jpg", "A", "1"),
    )
    dataset = read_vstar(tmp_path)
    (one,), (two,) = dataset
    assert one.box is None
    assert two.box == PixelBox(left=10, top=2, right=100, bottom=25)
    assert (two.kind, "(B) cotton" in two.question) == ("relative_position", True)
    assert [dataset.score(said, one) for said in ("C", "(C) kevlar", "A", "kevlar")] == [1, 1, 0, 0]


def test_own_questions_need_three_fields(tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "door.jpg", (40, 30), orientation=6)
    path = lines(
        tmp_path / "own.jsonl",
        {"image": "photos/door.jpg", "question": "Which?", "answers": ["12", "12a"]},
        {
            "image": "photos/door.jpg",
            "question": "Where?",
            "answers": ["left"],
            "box": [0, 0, 30, 40],
            "kind": "place",
        },
    )
    dataset = read_jsonl(path)
    ((first, second),) = dataset
    assert (first.width, first.height) == (30, 40)  # as a viewer shows it
    assert (dataset.name, first.id, second.id, second.kind) == ("own", "0", "1", "place")
    assert second.box == PixelBox(left=0, top=0, right=30, bottom=40)
    assert dataset.score("12A", first) == 1.0


def test_own_questions_may_name_another_metric(tmp_path: Path) -> None:
    picture(tmp_path / "p.png")
    path = lines(tmp_path / "own.jsonl", {"image": "p.png", "question": "?", "answers": ["kitten"]})
    dataset = read_jsonl(path, metric="anls")
    assert dataset.score("sitting", only(dataset)) == pytest.approx(4 / 7)


OWN = {"image": "p.jpg", "question": "What?", "answers": ["a"]}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"image": "p.jpg", "question": "What?"}, "own.jsonl, line 1: answers: Field required"),
        (OWN | {"answers": []}, "line 1: answers: Tuple should have at least 1 item"),
        (OWN | {"answer": "a"}, "line 1: answer: Extra inputs are not permitted"),
        (OWN | {"question": ""}, "line 1: question: String should have at least 1 character"),
        (OWN | {"image": "none.jpg"}, "line 1: image: no such picture: "),
        (OWN | {"image": "own.jsonl"}, "line 1: image: .*own.jsonl is no picture"),
        (OWN | {"box": [0, 0, 41, 30]}, r"line 1: box: \[0, 0, 41, 30\] does not lie in a picture of 40x30"),
        (OWN | {"box": [0, 0, 0, 30]}, "line 1: box: "),
        (OWN | {"box": [0, 0, 3]}, "line 1: box.3: Field required"),
    ],
)
def test_a_wrong_line_is_named_with_its_field(tmp_path: Path, row: dict[str, Any], complaint: str) -> None:
    picture(tmp_path / "p.jpg")
    with pytest.raises(DatasetError, match=complaint):
        read_jsonl(lines(tmp_path / "own.jsonl", row))


def test_what_is_no_json_is_named_with_its_line(tmp_path: Path) -> None:
    picture(tmp_path / "p.jpg")
    path = lines(tmp_path / "own.jsonl", OWN)
    path.write_text(path.read_text() + "{,\n")
    with pytest.raises(DatasetError, match=r"own\.jsonl, line 2: not JSON"):
        read_jsonl(path)


def test_two_questions_with_one_id_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "p.jpg")
    with pytest.raises(DatasetError, match="own: two questions have the id 7"):
        read_jsonl(lines(tmp_path / "own.jsonl", OWN | {"id": "7"}, OWN | {"id": "7"}))


def test_vqa_accuracy_of_own_questions_needs_ten_answers(tmp_path: Path) -> None:
    picture(tmp_path / "p.jpg")
    with pytest.raises(DatasetError, match="line 1: answers: the metric vqa needs 10, not 1"):
        read_jsonl(lines(tmp_path / "own.jsonl", OWN), metric="vqa")


def test_an_unknown_metric_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="metric 'rouge': one of exact, vqa, anls, letter"):
        read_jsonl(lines(tmp_path / "own.jsonl", OWN), metric="rouge")


def broken_textvqa(directory: Path) -> None:
    textvqa(directory, textvqa_row(1, "x", answers=["a"] * 9))


def textvqa_without_picture(directory: Path) -> None:
    textvqa(directory, textvqa_row(1, "gone"))


def textvqa_without_data(directory: Path) -> None:
    (directory / "TextVQA_0.5.1_val.json").write_text("{}")


def broken_docvqa(directory: Path) -> None:
    (directory / "documents").mkdir()
    docvqa(directory / "val_v1.0_withQT.json", docvqa_row(1, "documents/x.png", answers="itc"))


def docvqa_without_pages(directory: Path) -> None:
    docvqa(directory / "val_v1.0_withQT.json", docvqa_row(1, "documents/x.png"))


def broken_vstar(directory: Path) -> None:
    lines(directory / "test_questions.jsonl", vstar_row("direct_attributes/x.jpg", "glove"))


def vstar_with_a_wrong_box(directory: Path) -> None:
    picture(directory / "direct_attributes" / "x.jpg")
    (directory / "direct_attributes" / "x.json").write_text(json.dumps({"bbox": [[50, 50, 5, 5]]}))
    lines(directory / "test_questions.jsonl", vstar_row("direct_attributes/x.jpg"))


def nothing(directory: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("read", "make", "complaint"),
    [
        (read_textvqa, nothing, r"missing: .*TextVQA_0\.5\.1_val\.json"),
        (read_textvqa, broken_textvqa, r"val\.json: data\[0\]: answers: Tuple should have at least 10"),
        (read_textvqa, textvqa_without_picture, r"data\[0\]: image_id: no such picture: .*gone\.jpg"),
        (read_textvqa, textvqa_without_data, r"TextVQA_0\.5\.1_val\.json: data: a list is needed"),
        (read_docvqa, nothing, r"missing: .*val_v1\.0_withQT\.json or .*spdocvqa_qas"),
        (read_docvqa, broken_docvqa, r"withQT\.json: data\[0\]: answers: Input should be a valid tuple"),
        (read_docvqa, docvqa_without_pages, "missing: .*documents or .*spdocvqa_images"),
        (read_vstar, nothing, r"missing: .*test_questions\.jsonl"),
        (read_vstar, broken_vstar, r"test_questions\.jsonl, line 1: label: String should match"),
        (read_vstar, vstar_with_a_wrong_box, r"x\.json: bbox: .* does not lie in a picture of 40x30"),
    ],
)
def test_a_wrong_sample_is_named_with_its_field(
    tmp_path: Path,
    read: Callable[[Path], FileDataset],
    make: Callable[[Path], None],
    complaint: str,
) -> None:
    make(tmp_path)
    with pytest.raises(DatasetError, match=complaint):
        read(tmp_path)


def numbered(tmp_path: Path, count: int) -> str:
    rows = []
    for number in range(count):
        picture(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": "?", "answers": ["1"]})
    lines(tmp_path / "own.jsonl", *rows)
    return f"jsonl:{tmp_path / 'own.jsonl'}"


@pytest.mark.parametrize(("count", "choice"), [(2, 1), (3, 1), (8, 2), (50, 5), (400, 40)])
def test_files_are_divided_between_results_and_choice(tmp_path: Path, count: int, choice: int) -> None:
    name = numbered(tmp_path, count)
    results, others = open_with_choice(name, pictures=None, choice_pictures=min(40, choice), first_seed=0)
    judged, chosen = ({group[0].image_id for group in part} for part in (results, others))
    assert len(judged) + len(chosen) == count
    assert not judged & chosen
    assert 1 <= len(chosen) <= choice


def test_one_picture_cannot_be_divided(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="two pictures are needed"):
        open_with_choice(numbered(tmp_path, 1), pictures=None, choice_pictures=4, first_seed=0)


def test_scenes_are_divided_by_seed() -> None:
    results, others = open_with_choice("scenes", pictures=3, choice_pictures=2, first_seed=7)
    assert [group[0].image_id for group in results] == ["7", "8", "9"]
    assert len(others) == 2
    assert "7" not in {group[0].image_id for group in others}
