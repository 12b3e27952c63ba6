"""Shares that are mounted again, restored or away: what was seen is known by what it holds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from secondglance.watching.folder import Arrival, Folder
from secondglance.watching.sightings import Sightings, Stamp
from secondglance.watching.state import WatchState

DAY_S = 24 * 3600.0


class Share:
    """A folder of old pictures that a watch knows: asked about, or called seen at the first start."""

    def __init__(
        self, root: Path, state: WatchState, clock: Any, photos: list[bytes], *, skipped: bool
    ) -> None:
        self.root, self.state, self.clock = root, state, clock
        (root / "2026" / "05").mkdir(parents=True)
        for number, photo in enumerate(photos):
            (root / ("2026/05" if number % 2 else ".") / f"{number}.jpg").write_bytes(photo)
        self.start()
        if skipped:
            self.folder.skip_present()
            assert self.asked() == []
        else:
            assert len(self.asked()) == len(photos)

    def start(self) -> None:
        self.sightings = Sightings(self.state, now=self.clock)
        self.folder = Folder(self.root, self.sightings, settle_s=1, patience_s=10, clock=self.clock)

    def asked(self) -> list[str]:
        """What the watch asks about in the next seconds."""
        names = []
        for _ in range(3):
            for found in self.folder.scan():
                assert isinstance(found, Arrival)
                self.sightings.add(found.path, found.stamp, found.sha256)
                names.append(found.path)
            self.clock.now += 1
        return names

    def wait(self, days: float) -> None:
        for _ in range(int(days * 24)):
            self.folder.forget_vanished()
            self.clock.now += 3600


@pytest.fixture(params=[False, True], ids=["asked", "skipped"])
def share(
    request: pytest.FixtureRequest, tmp_path: Path, state: WatchState, clock: Any, pictures: Any
) -> Share:
    photos = [pictures.photo((48, 36), seed=seed) for seed in range(6)]
    return Share(tmp_path / "share", state, clock, photos, skipped=request.param)


def renumber(monkeypatch: pytest.MonkeyPatch, *, device: int = 0, inode: int = 0) -> None:
    """Let every file and folder have other numbers, as after a mount."""
    of = Stamp.of

    def moved(status: os.stat_result) -> Stamp:
        stamp = of(status)
        return Stamp(stamp.device + device, stamp.inode + inode, stamp.bytes, stamp.mtime_ns)

    monkeypatch.setattr(Stamp, "of", moved)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize(("device", "inode"), [(7, 0), (0, 10**9), (7, 10**9)])
def test_e6_a_share_that_is_mounted_again_is_not_new(
    share: Share, monkeypatch: pytest.MonkeyPatch, restarts: bool, device: int, inode: int, pictures: Any
) -> None:
    """E6: another device number made the whole old archive new."""
    renumber(monkeypatch, device=device, inode=inode)
    if restarts:
        share.start()
    assert share.asked() == []
    (share.root / "new.jpg").write_bytes(pictures.photo((48, 36), seed=99))
    assert share.asked() == [str(share.root / "new.jpg")]


@pytest.mark.parametrize("keeps_times", [False, True])
def test_e6_a_copy_put_back_from_a_backup_is_not_new(share: Share, keeps_times: bool) -> None:
    """E6: restored by copy, with other inodes and other times; then moved to another folder below."""
    copy = shutil.copy2 if keeps_times else shutil.copyfile
    shutil.copytree(share.root, share.root.with_name("backup"), copy_function=copy)
    shutil.rmtree(share.root)
    share.wait(0.5)
    share.root.with_name("backup").rename(share.root)
    if not keeps_times:
        for path in share.root.rglob("*.jpg"):
            os.utime(path, ns=(5, 5))
    assert share.asked() == []
    (share.root / "2027").mkdir()
    shutil.copyfile(share.root / "0.jpg", share.root / "2027" / "x.part")
    (share.root / "0.jpg").unlink()
    (share.root / "2027" / "x.part").rename(share.root / "2027" / "moved.jpg")
    assert share.asked() == []


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("how", ["empty", "gone", "sub-folder empty"])
def test_e6_a_share_that_is_away_for_a_weekend_is_not_new(share: Share, how: str, restarts: bool) -> None:
    """E6: an empty mount point, or none, proves nothing: the files are there when the share is back."""
    share.wait(0.1)
    mounted = share.root if how != "sub-folder empty" else share.root / "2026"
    away = share.root.with_name("away")
    mounted.rename(away)
    if how != "gone":
        mounted.mkdir()
    if restarts:
        share.start()
    assert share.asked() == []
    share.wait(3)
    if how != "gone":
        mounted.rmdir()
    away.rename(mounted)
    if restarts:
        share.start()
    assert share.asked() == []


def test_e16_an_empty_mount_point_is_said(share: Share) -> None:
    """E16: the folder is there, but it is not the one that it was, and nothing is in it."""
    share.wait(0.1)
    assert share.folder.trouble is None
    share.root.rename(share.root.with_name("away"))
    share.root.mkdir()
    share.asked()
    assert share.folder.trouble is not None
    assert "mounted" in share.folder.trouble
    share.root.rmdir()
    share.root.with_name("away").rename(share.root)
    share.asked()
    assert share.folder.trouble is None


def test_e6_what_was_deleted_is_still_forgotten_after_a_day(share: Share) -> None:
    """E6: a ring of pictures must not grow in memory for ever."""
    share.wait(0.1)
    for path in share.root.rglob("*.jpg"):
        if path.name != "0.jpg":
            path.unlink()
    (share.root / "2026" / "05").rmdir()
    share.wait(2)
    assert len(share.sightings) == 1
    share.start()
    assert len(share.sightings) == 1


def test_e6_content_decides_where_numbers_and_times_are_the_same(share: Share, pictures: Any) -> None:
    """E6: hints do not make a replaced file an old one: other content, the same length and time."""
    path = share.root / "0.jpg"
    status, data = path.stat(), path.read_bytes()
    path.unlink()
    (share.root / "other.part").write_bytes(data[:-20] + bytes(18) + data[-2:])
    os.utime(share.root / "other.part", ns=(status.st_atime_ns, status.st_mtime_ns))
    (share.root / "hold").write_bytes(b"so that the inode is another one")
    (share.root / "other.part").rename(path)
    if path.stat().st_ino != status.st_ino:
        assert share.asked() == [str(path)]
