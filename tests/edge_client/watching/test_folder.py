"""Each version of each file once, when it is complete; the clock is the test's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from secondglance.watching.folder import Folder
from secondglance.watching.sightings import Sightings
from secondglance.watching.state import WatchState


class Watched:
    """A folder, and what a watch would ask about."""

    def __init__(self, root: Path, state: WatchState, clock: Any) -> None:
        root.mkdir(exist_ok=True)
        self.root, self._state, self._clock = root, state, clock
        self.restart()

    def restart(self) -> None:
        self.sightings = Sightings(self._state, now=self._clock)
        self.folder = Folder(self.root, self.sightings, settle_s=1, patience_s=10, clock=self._clock)

    def scan(self) -> list[str]:
        """Names that have become complete, remembered as the watch does."""
        names = []
        for arrival in self.folder.scan():
            self.sightings.add(arrival.path, arrival.stamp, arrival.sha256)
            names.append(str(Path(arrival.path).relative_to(self.root)))
        return names

    def after(self, seconds: float) -> list[str]:
        self._clock.now += seconds
        return self.scan()

    def settle(self) -> list[str]:
        return self.scan() + self.after(1)


@pytest.fixture
def watched(tmp_path: Path, state: WatchState, clock: Any) -> Watched:
    return Watched(tmp_path / "inbox", state, clock)


@pytest.fixture
def photo(pictures: Any) -> bytes:
    return pictures.photo((64, 48))


@pytest.fixture
def other(pictures: Any) -> bytes:
    return pictures.photo((64, 48), seed=1)


def test_a_file_is_taken_once_it_has_settled_and_never_again(watched: Watched, photo: bytes) -> None:
    (watched.root / "a.jpg").write_bytes(photo)
    assert watched.scan() == []
    assert watched.after(0.9) == []
    assert watched.after(0.1) == ["a.jpg"]
    assert watched.after(1) == watched.after(100) == []


def test_a_file_that_grows_is_left_alone(watched: Watched, photo: bytes) -> None:
    path = watched.root / "a.jpg"
    for length in range(100, len(photo), 200):
        path.write_bytes(photo[:length])
        assert watched.after(0.9) == []
    path.write_bytes(photo)
    assert watched.settle() == ["a.jpg"]


def test_a_pause_in_the_middle_does_not_make_a_file_whole(watched: Watched, photo: bytes) -> None:
    path = watched.root / "a.jpg"
    path.write_bytes(photo[:-1])
    assert watched.settle() == watched.after(5) == []
    path.write_bytes(photo)
    assert watched.settle() == ["a.jpg"]


def test_a_file_whose_end_never_comes_is_believed_after_a_while(watched: Watched, photo: bytes) -> None:
    (watched.root / "a.jpg").write_bytes(photo + b"what cameras append" * 10)
    assert watched.settle() == watched.after(8) == []
    assert watched.after(2) == ["a.jpg"]


def test_an_empty_file_is_nothing_yet(watched: Watched, photo: bytes) -> None:
    (watched.root / "a.jpg").touch()
    assert watched.settle() == []
    (watched.root / "a.jpg").write_bytes(photo)
    assert watched.settle() == ["a.jpg"]


def test_other_names_are_not_looked_at_until_they_are_renamed(watched: Watched, photo: bytes) -> None:
    for name in ("a.jpg.part", ".b.jpg", "c.txt"):
        (watched.root / name).write_bytes(photo)
    assert watched.settle() == []
    (watched.root / "a.jpg.part").rename(watched.root / "a.jpg")
    assert watched.settle() == ["a.jpg"]


def test_a_renamed_file_is_not_new(watched: Watched, photo: bytes) -> None:
    (watched.root / "a.jpg").write_bytes(photo)
    watched.settle()
    (watched.root / "a.jpg").rename(watched.root / "b.jpg")
    assert watched.settle() == []
    (watched.root / "b.jpg").rename(watched.root / "c.jpg")
    os.utime(watched.root / "c.jpg", ns=(1, 1))
    assert watched.settle() == []


def test_a_file_renamed_before_it_settled_has_its_last_name(watched: Watched, photo: bytes) -> None:
    (watched.root / "a.jpg").write_bytes(photo)
    watched.scan()
    (watched.root / "a.jpg").rename(watched.root / "b.jpg")
    assert watched.after(1) == []
    assert watched.after(1) == ["b.jpg"]


@pytest.mark.parametrize("in_place", [True, False])
def test_a_replaced_file_is_new(watched: Watched, photo: bytes, other: bytes, in_place: bool) -> None:
    path = watched.root / "a.jpg"
    path.write_bytes(photo)
    watched.settle()
    if in_place:
        path.write_bytes(other)
        os.utime(path, ns=(1, 1))  # the clock of the file system may not have moved
    else:
        (watched.root / "new.part").write_bytes(other)
        (watched.root / "new.part").replace(path)
    assert watched.settle() == ["a.jpg"]


def test_a_touched_file_and_one_replaced_by_itself_are_not_new(watched: Watched, photo: bytes) -> None:
    path = watched.root / "a.jpg"
    path.write_bytes(photo)
    watched.settle()
    os.utime(path, ns=(1, 1))
    assert watched.settle() == []
    shutil.copyfile(path, watched.root / "new.part")
    (watched.root / "new.part").replace(path)
    assert watched.settle() == []


def test_two_files_that_hold_the_same_are_two_files(watched: Watched, photo: bytes) -> None:
    (watched.root / "a.jpg").write_bytes(photo)
    (watched.root / "b.jpg").write_bytes(photo)
    assert sorted(watched.settle()) == ["a.jpg", "b.jpg"]
    shutil.copy2(watched.root / "a.jpg", watched.root / "c.jpg")
    assert watched.settle() == ["c.jpg"]


def test_folders_below_are_watched_and_the_oldest_comes_first(
    watched: Watched, photo: bytes, other: bytes
) -> None:
    (watched.root / "sub").mkdir()
    (watched.root / "a.jpg").write_bytes(photo)
    (watched.root / "sub" / "b.jpg").write_bytes(other)
    os.utime(watched.root / "a.jpg", ns=(2, 2))
    os.utime(watched.root / "sub" / "b.jpg", ns=(1, 1))
    assert watched.settle() == ["sub/b.jpg", "a.jpg"]


def test_a_restart_knows_what_was_seen_and_finds_what_came_meanwhile(
    watched: Watched, photo: bytes, other: bytes
) -> None:
    (watched.root / "a.jpg").write_bytes(photo)
    watched.settle()
    (watched.root / "a.jpg").rename(watched.root / "renamed.jpg")
    (watched.root / "b.jpg").write_bytes(other)
    watched.restart()
    assert watched.settle() == ["b.jpg"]


def test_what_is_not_remembered_comes_again(watched: Watched, photo: bytes) -> None:
    """The caller remembers; a crash before that must not lose the file."""
    (watched.root / "a.jpg").write_bytes(photo)
    list(watched.folder.scan())
    watched._clock.now += 1
    assert [Path(arrival.path).name for arrival in watched.folder.scan()] == ["a.jpg"]
    assert watched.settle() == ["a.jpg"]


def test_what_is_there_at_first_can_be_skipped_and_asked_for_later(
    watched: Watched, photo: bytes, other: bytes
) -> None:
    (watched.root / "a.jpg").write_bytes(photo)
    watched.folder.skip_present()
    (watched.root / "b.jpg").write_bytes(other)
    assert watched.settle() == ["b.jpg"]
    watched.sightings.forget_skipped()
    assert watched.settle() == ["a.jpg"]
    watched.restart()
    assert watched.settle() == []


def test_what_was_skipped_is_not_new_under_another_name(watched: Watched, photo: bytes) -> None:
    """What it holds was never read; it is known by where it lies."""
    (watched.root / "a.jpg").write_bytes(photo)
    watched.folder.skip_present()
    (watched.root / "a.jpg").rename(watched.root / "b.jpg")
    assert watched.settle() == []


def test_a_folder_that_is_away_for_an_hour_is_not_new_afterwards(
    watched: Watched, photo: bytes, clock: Any
) -> None:
    (watched.root / "a.jpg").write_bytes(photo)
    watched.settle()
    away = watched.root.with_name("away")
    watched.root.rename(away)
    watched.folder.forget_vanished()
    assert watched.after(3600) == []
    watched.folder.forget_vanished()
    away.rename(watched.root)
    watched.folder.forget_vanished()
    assert watched.settle() == []


def test_what_has_been_gone_for_a_day_is_forgotten(watched: Watched, photo: bytes, clock: Any) -> None:
    (watched.root / "a.jpg").write_bytes(photo)
    watched.settle()
    (watched.root / "a.jpg").unlink()
    watched.folder.forget_vanished()
    clock.now += 25 * 3600
    assert len(watched.sightings) == 1
    watched.folder.forget_vanished()
    assert len(watched.sightings) == 0
    watched.restart()
    assert len(watched.sightings) == 0


def test_settled_is_said_when_nothing_is_pending(watched: Watched, photo: bytes) -> None:
    (watched.root / "a.jpg").write_bytes(photo)
    watched.scan()
    assert not watched.folder.is_settled
    watched.after(1)
    assert watched.folder.is_settled
