"""Who has which case."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pancreas_seg.watch.claim import Leases, LostError, Record, held, take, take_over
from pancreas_seg.watch.folders import Folders
from pancreas_seg.watch.inbox import Arrival, signature_of
from pancreas_seg.watch.process import Process

ELSEWHERE = Process("other", "another machine", 1, "1")


@pytest.fixture
def folders(tmp_path) -> Folders:
    (tmp_path / "in").mkdir()
    folders = Folders(tmp_path / "in", tmp_path / "out")
    folders.make()
    return folders


@pytest.fixture
def arrival(folders) -> Arrival:
    path = folders.inputs / "ct.nii.gz"
    path.write_bytes(b"ct")
    return Arrival(path, signature_of(path))


def test_a_case_is_taken_once(folders, arrival) -> None:
    first = take(folders, arrival, ELSEWHERE, 60)
    assert first is not None
    assert first.input.read_bytes() == b"ct"
    assert take(folders, arrival, ELSEWHERE, 60) is None
    (only,) = held(folders)
    assert only.record == first.record
    assert only.record.case == "ct"


def test_one_of_the_same_name_can_be_dropped_meanwhile(folders, arrival) -> None:
    take(folders, arrival, ELSEWHERE, 60)
    arrival.path.write_bytes(b"another")
    second = take(folders, Arrival(arrival.path, signature_of(arrival.path)), ELSEWHERE, 60)
    assert second.input.read_bytes() == b"another"
    assert sorted(case.folder / case.record.name for case in held(folders)) == sorted(
        case.folder / "ct.nii.gz" for case in held(folders)
    )
    assert len(held(folders)) == 2


def test_what_changed_since_it_was_looked_at_is_not_taken(folders, arrival) -> None:
    arrival.path.write_bytes(b"longer")
    assert take(folders, arrival, ELSEWHERE, 60) is None
    assert arrival.path.read_bytes() == b"longer"
    assert held(folders) == []


def test_the_marker_goes_before_the_input_does(folders, arrival) -> None:
    marker = folders.inputs / "ct.nii.gz.done"
    marker.touch()
    assert take(folders, arrival, ELSEWHERE, 60) is not None
    assert not marker.exists()


def test_an_input_that_cannot_be_moved_stays(folders, arrival, monkeypatch) -> None:
    def denied(self: Path, target: Path) -> Path:
        if self == arrival.path:
            raise PermissionError(13, "Permission denied")
        return real(self, target)

    real = Path.rename
    monkeypatch.setattr(Path, "rename", denied)
    with pytest.raises(PermissionError):
        take(folders, arrival, ELSEWHERE, 60)
    assert arrival.path.read_bytes() == b"ct"
    assert held(folders) == []


def test_a_lease_ends_when_the_record_has_not_changed_before_the_lookers_eyes(folders, arrival, monkeypatch) -> None:
    monkeypatch.setattr("pancreas_seg.watch.claim.now", lambda: "2026-01-01T00:00:00.000Z")
    claim = take(folders, arrival, ELSEWHERE, 60)
    now = 0.0
    leases = Leases(5, lambda: now)
    assert leases.over(held(folders)) == []
    now = 59.0
    claim.change()
    assert leases.over(held(folders)) == []
    now = 118.0
    assert leases.over(held(folders)) == []
    now = 119.0
    assert [case.folder for case in leases.over(held(folders))] == [claim.folder]


def test_who_was_taken_over_can_do_nothing_more(folders, arrival) -> None:
    claim = take(folders, arrival, ELSEWHERE, 60)
    work = claim.work / "ct"
    work.mkdir(parents=True)
    (work / "half").touch()
    mine = take_over(folders, held(folders)[0], Process.here(), 60)
    assert mine.input.read_bytes() == b"ct"
    assert (mine.work / "ct" / "half").exists()
    assert mine.record.tries == 2
    with pytest.raises(LostError):
        claim.change()
    with pytest.raises(LostError):
        claim.move(work, folders.out / "ct")
    with pytest.raises(LostError):
        claim.move(claim.folder, folders.inputs / "done" / "ct")
    assert [case.folder for case in held(folders)] == [mine.folder]
    assert Record.read(mine.folder) == mine.record


def test_only_one_takes_over(folders, arrival) -> None:
    take(folders, arrival, ELSEWHERE, 60)
    (case,) = held(folders)
    assert take_over(folders, case, Process.here(), 60) is not None
    assert take_over(folders, case, Process.here(), 60) is None


def test_work_is_found_when_the_one_who_took_over_was_killed_while_doing_so(folders, arrival) -> None:
    claim = take(folders, arrival, ELSEWHERE, 60)
    claim.work.mkdir()
    between = claim.folder.with_name("ct.000000000000")
    claim.folder.rename(between)  # and killed before the work was renamed and the record written
    mine = take_over(folders, held(folders)[0], Process.here(), 60)
    assert mine.work.is_dir()
    assert list(folders.work.iterdir()) == [mine.work]


@pytest.mark.parametrize("record", [None, b"", b"{", b'{"case": 1}'])
def test_a_case_without_a_readable_record_is_still_a_case(folders, arrival, record) -> None:
    folder = folders.running / "ct.abc"
    folder.mkdir()
    arrival.path.rename(folder / "ct.nii.gz")
    (folder / ".half-a-record").touch()
    if record is not None:
        (folder / "case.json").write_bytes(record)
    now = 0.0
    leases = Leases(30, lambda: now)
    assert leases.over(held(folders)) == []
    now = 30.0
    (case,) = leases.over(held(folders))
    claim = take_over(folders, case, Process.here(), 60)
    assert claim.record.case == "ct"
    assert sorted(path.name for path in claim.folder.iterdir()) == ["case.json", "ct.nii.gz"]


def test_a_folder_whose_input_never_came_is_removed(folders) -> None:
    folder = folders.running / "ct.abc"
    folder.mkdir()
    Record("ct", "ct.nii.gz", None).write(folder)
    assert take_over(folders, held(folders)[0], Process.here(), 60) is None
    assert held(folders) == []


def test_given_back_or_gone_is_free_at_once(folders, arrival) -> None:
    claim = take(folders, arrival, Process.here(), 60)
    leases = Leases(60, lambda: 0.0)
    assert leases.over(held(folders)) == []
    claim.change(watcher=replace(Process.here(), started="0"))
    assert len(leases.over(held(folders))) == 1
    claim.change(watcher=Process.here())
    claim.give_back(0)
    assert len(leases.over(held(folders))) == 1


def test_a_process_is_surely_gone_only_if_one_can_see_that() -> None:
    code = (
        "import json; from dataclasses import asdict; from pancreas_seg.watch.process import Process; "
        "print(json.dumps(asdict(Process.here())), flush=True); input()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process = Process(**json.loads(child.stdout.readline()))
    assert not process.surely_gone()
    child.kill()
    child.stdout.close()
    child.stdin.close()
    deadline = 1000
    while not process.surely_gone() and deadline:  # a zombie for now, which nobody has waited for
        deadline -= 1
    assert process.surely_gone()
    child.wait()
    assert process.surely_gone()
    assert not Process.here().surely_gone()
    assert not ELSEWHERE.surely_gone()
    assert replace(Process.here(), started="0").surely_gone()
