"""What is taken from a watched folder, and when it counts as complete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pancreas_seg.watch.folders import case_of
from pancreas_seg.watch.inbox import Inbox, Look


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def inbox(tmp_path, clock) -> Inbox:
    return Inbox(tmp_path, 10.0, clock)


def _ready(look: Look) -> list[str]:
    return [arrival.path.name for arrival in look.ready]


def test_a_file_is_complete_when_nothing_changed_for_the_settle_time(tmp_path, inbox, clock) -> None:
    ct = tmp_path / "ct.nii.gz"
    ct.write_bytes(b"1")
    os.utime(ct, (1, 1))  # an old time says nothing: copying may keep it
    assert inbox.look().settling == ("ct.nii.gz",)
    clock.now += 9.9
    assert inbox.look().settling == ("ct.nii.gz",)
    ct.write_bytes(b"12")
    os.utime(ct, (1, 1))
    clock.now += 9.9
    assert inbox.look().settling == ("ct.nii.gz",)
    clock.now += 9.9
    assert _ready(inbox.look()) == []
    clock.now += 0.1
    assert _ready(inbox.look()) == ["ct.nii.gz"]


def test_a_change_of_time_alone_starts_the_wait_anew(tmp_path, inbox, clock) -> None:
    ct = tmp_path / "ct.nii"
    ct.write_bytes(b"1")
    inbox.look()
    clock.now += 9.0
    os.utime(ct, (5, 5))
    inbox.look()
    clock.now += 9.0
    assert _ready(inbox.look()) == []


def test_a_folder_is_complete_when_none_of_its_files_changes(tmp_path, inbox, clock) -> None:
    (tmp_path / "series" / "deep").mkdir(parents=True)
    assert inbox.look() == Look((), (), 0)  # no file yet
    for n in range(3):
        (tmp_path / "series" / "deep" / f"{n}.dcm").write_bytes(b"x")
        assert inbox.look().settling == ("series",)
        clock.now += 8.0
    clock.now += 2.0
    assert _ready(inbox.look()) == ["series"]
    (tmp_path / "series" / "deep" / "3.dcm.part").write_bytes(b"x")
    assert inbox.look().settling == ("series",)


def test_a_marker_says_at_once_that_an_input_is_complete(tmp_path, inbox) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        (tmp_path / name).write_bytes(b"1")
    for name in ("inside", "beside", "neither"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1").write_bytes(b"1")
    for marker in ("a.nii.gz.done", "inside/.done", "beside.done"):
        (tmp_path / marker).touch()
    look = inbox.look()
    assert sorted(_ready(look)) == ["a.nii.gz", "beside", "inside"]
    assert look.settling == ("b.nii.gz", "neither")
    assert look.ignored == 0


def test_what_is_no_ct_is_left_alone(tmp_path, inbox, clock) -> None:
    names = [".hidden.nii", "a.nii.part", "b.nii.gz.tmp", "c.zip.crdownload", "d.nrrd~"]
    others = ["notes.txt", "mask.png"]
    taken = ["a.nii", "b.nii.gz", "c.nrrd", "d.MHA", "e.zip"]
    for name in (*names, *others, *taken):
        (tmp_path / name).write_bytes(b"1")
    for name in ("running", "done", "refused", "failed", ".git"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.nii").write_bytes(b"1")
    (tmp_path / "link.nii").symlink_to(tmp_path / "a.nii")
    inbox.look()
    clock.now += 10
    look = inbox.look()
    assert sorted(_ready(look)) == taken
    assert look.settling == ()
    assert look.ignored == len(others) + 1


def test_the_oldest_comes_first(tmp_path, inbox, clock) -> None:
    for age, name in enumerate(["c.nii", "a.nii", "b.nii"]):
        (tmp_path / name).write_bytes(b"1")
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    inbox.look()
    clock.now += 10
    assert _ready(inbox.look()) == ["c.nii", "a.nii", "b.nii"]


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("ct.nii.gz", "ct"),
        ("ct.zip", "ct"),
        ("series 1", "series 1"),
        ("a\nb<c>.nii", "a_b_c_"),
        ("x" * 240 + ".nii", "x" * 60),
        ("status.json.nii", "status.json_"),
        ("summary.csv", "summary.csv_"),
        (os.fsdecode(b"caf\xe9.mha"), "caf_"),
        ("dots. . .nii", "dots"),
        (" .nii", "_"),
    ],
)
def test_names_of_cases(name: str, case: str) -> None:
    assert case_of(name) == case
    assert Path(case).name == case
