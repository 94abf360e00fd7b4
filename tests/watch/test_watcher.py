"""The watcher with a stand-in for the segmenter."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import threading
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from pancreas_seg.cli import main
from pancreas_seg.config import Config
from pancreas_seg.errors import ConfigError
from pancreas_seg.inference.cohort import CaseInput, CaseOutcome
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.watch import watcher
from pancreas_seg.watch.claim import Record, held, take
from pancreas_seg.watch.folders import Folders
from pancreas_seg.watch.inbox import Arrival, signature_of
from pancreas_seg.watch.process import Process
from pancreas_seg.watch.pulse import health
from pancreas_seg.watch.segmenting import segment_with
from pancreas_seg.watch.stop import Stop, Stopped, stopping_on_signals
from pancreas_seg.watch.watcher import WatchOptions, watch

ONCE = WatchOptions(settle_s=0.0, interval_s=0.05, once=True)
ELSEWHERE = Process("other", "another machine", 1, "1")


class StandIn:
    """Segments by the input's bytes: its status, or an error."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def __call__(self, case: CaseInput, folder: Path, progress) -> CaseOutcome:
        self.begun.append(case.case)
        status = case.path.read_text() if case.path.is_file() else "ok"
        if status == "bug":
            raise RuntimeError("bug")
        result = folder / case.case
        if status == "failed":
            return CaseOutcome(case.case, "failed", "bug", "", "1.00")
        result.mkdir(parents=True, exist_ok=True)
        reasons = [{"code": "x.y", "text": "Because <b>."}] if status in ("review", "refused") else []
        (result / "result.json").write_text(json.dumps({"reasons": reasons}))
        (result / "mask.nii.gz").write_text(status)
        progress(1, 2)
        return CaseOutcome(case.case, status, " ".join(r["code"] for r in reasons), "1.00", "2.00")


@pytest.fixture
def folders(tmp_path) -> Folders:
    (tmp_path / "in").mkdir()
    return Folders(tmp_path / "in", tmp_path / "out")


def _drop(folders: Folders, name: str, text: str = "ok") -> None:
    (folders.inputs / name).write_text(text)


def _lying(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def _status(folders: Folders) -> dict:
    status = json.loads((folders.out / "status.json").read_text())
    schema = json.loads(resources.files("pancreas_seg.watch").joinpath("status.schema.json").read_text())
    jsonschema.validate(status, schema)
    return status


def test_each_case_ends_where_it_belongs(folders) -> None:
    for name, text in {"a.nii": "ok", "b.nii.gz": "review", "c.mha": "refused", "d.nrrd": "failed"}.items():
        _drop(folders, name, text)
    (folders.inputs / "e").mkdir()
    _drop(folders, "e/1.dcm")
    stand_in = StandIn()
    outcomes = watch(folders.inputs, folders.out, stand_in, ONCE)
    assert sorted(o.status for o in outcomes) == ["failed", "ok", "ok", "refused", "review"]
    assert sorted(stand_in.begun) == ["a", "b", "c", "d", "d", "e"]
    assert _lying(folders.inputs) == [
        *("done/a/a.nii", "done/a/case.json", "done/b/b.nii.gz", "done/b/case.json", "done/e/case.json"),
        *("done/e/e/1.dcm", "failed/d/case.json", "failed/d/d.nrrd", "failed/d/reason.txt"),
        *("refused/c/c.mha", "refused/c/case.json", "refused/c/reason.txt"),
    ]
    assert (folders.inputs / "refused" / "c" / "reason.txt").read_text() == "refused: x.y\nBecause <b>.\n"
    assert sorted(p.name for p in folders.out.iterdir() if p.is_dir()) == [".watch", "a", "b", "c", "e"]
    assert list(folders.work.iterdir()) == []
    counts = _status(folders)["counts"]
    assert counts == {
        **dict.fromkeys(("settling", "waiting", "running", "ignored"), 0),
        **dict.fromkeys(("review", "refused", "failed"), 1),
        "ok": 2,
    }
    with (folders.out / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    statuses = [row["status"] for row in sorted(rows, key=lambda row: row["case"])]
    assert statuses == ["ok", "review", "refused", "failed", "ok"]


def test_a_bug_counts_as_failed_and_is_tried_twice(folders) -> None:
    _drop(folders, "a.nii", "bug")
    stand_in = StandIn()
    (outcome,) = watch(folders.inputs, folders.out, stand_in, ONCE)
    assert (outcome.status, stand_in.begun) == ("failed", ["a", "a"])
    assert Record.read(folders.inputs / "failed" / "a").failures == 1


def test_no_drop_hides_another_of_the_same_name(folders) -> None:
    for text in ("ok", "review", "refused", "ok"):
        _drop(folders, "ct.nii", text)
        watch(folders.inputs, folders.out, StandIn(), ONCE)
    assert (folders.out / "ct" / "mask.nii.gz").read_text() == "ok"
    assert (folders.out / "ct-2" / "mask.nii.gz").read_text() == "review"
    assert (folders.out / "ct-3" / "mask.nii.gz").read_text() == "refused"
    assert (folders.out / "ct-4" / "mask.nii.gz").read_text() == "ok"
    assert (folders.inputs / "refused" / "ct-3" / "ct.nii").exists()
    assert sorted(p.name for p in (folders.inputs / "done").iterdir()) == ["ct", "ct-2", "ct-4"]


def test_a_name_that_is_taken_in_the_last_moment_is_left_alone(folders, monkeypatch) -> None:
    _drop(folders, "ct.nii")
    monkeypatch.setattr(Folders, "free_names", lambda self, case: iter([case, f"{case}-2"]))
    (folders.out / "ct").mkdir(parents=True)
    (folders.out / "ct" / "mine").touch()
    watch(folders.inputs, folders.out, StandIn(), ONCE)
    assert _lying(folders.out / "ct") == ["mine"]
    assert (folders.out / "ct-2" / "mask.nii.gz").exists()
    assert (folders.inputs / "done" / "ct-2" / "ct.nii").exists()


@pytest.mark.parametrize("step", range(1, 8))
def test_a_kill_at_any_step_of_the_end_loses_and_repeats_nothing(folders, monkeypatch, step) -> None:
    """Each rename and each record write is a step; the process "dies" before the given one."""
    folders.make()
    _drop(folders, "ct.nii")
    stand_in = StandIn()
    count = 0

    class Killed(BaseException):
        pass

    def counted(real):
        def call(self, *arguments):
            nonlocal count
            if stand_in.begun and armed:
                count += 1
                if count == step:
                    raise Killed
            return real(self, *arguments)

        return call

    armed = True
    real_rename, real_write = Path.rename, Record.write
    monkeypatch.setattr(Path, "rename", counted(real_rename))
    monkeypatch.setattr(Record, "write", counted(real_write))
    monkeypatch.setattr("pancreas_seg.watch.pulse.Pulse.begin", lambda self, claim: None)
    died = False
    try:
        watch(folders.inputs, folders.out, stand_in, ONCE)
    except Killed:
        died = True
    assert died == (step <= 4)  # outcome, name of the result, result, input
    armed = False
    for case in held(folders):  # as it stands when the process is gone
        replace(case.record, watcher=replace(Process.here(), started="0")).write(case.folder)
    watch(folders.inputs, folders.out, stand_in, ONCE)
    assert stand_in.begun == ["ct", "ct"] if step == 1 else ["ct"]
    assert _lying(folders.inputs) == ["done/ct/case.json", "done/ct/ct.nii"]
    assert _lying(folders.out / "ct") == ["mask.nii.gz", "result.json"]
    assert [p.name for p in folders.out.iterdir() if p.name.startswith("ct")] == ["ct"]
    assert list(folders.work.iterdir()) == []


def test_what_is_finished_is_not_segmented_again_after_a_kill(write_nifti, folders, threshold_network) -> None:
    """Killed between the last file of a result and the record of the outcome."""
    array = np.full((8, 8, 8), -900, np.int16)
    array[2:5, 2:5, 2:5] = 100
    folders.make()
    write_nifti(array, name="in/ct.nii.gz")
    tree = {"data": {"spacing_mm": [2.0, 2.0, 3.0], "patch_size": [8, 8, 8]}, "clean": {"minimum_volume_ml": 0.0}}
    segmenter = Segmenter(threshold_network, Config().changed(tree), "12" * 32)
    segmented = []
    real = segmenter.segment
    segmenter.segment = lambda scan, **options: segmented.append(1) or real(scan, **options)
    segment = segment_with(segmenter, preview=True)
    path = folders.inputs / "ct.nii.gz"
    claim = take(folders, Arrival(path, signature_of(path)), replace(Process.here(), started="0"), 60)
    segment(CaseInput("ct", claim.input), claim.work, lambda done, total: None)
    (outcome,) = watch(folders.inputs, folders.out, segment, ONCE)
    assert outcome.status in ("ok", "review")
    assert len(segmented) == 1
    assert _lying(folders.out / "ct") == ["mask.nii.gz", "preview.png", "result.json"]
    assert (folders.inputs / "done" / "ct" / "ct.nii.gz").exists()


def test_a_result_that_somebody_deleted_is_made_again(folders) -> None:
    folders.make()
    _drop(folders, "ct.nii")
    path = folders.inputs / "ct.nii"
    claim = take(folders, Arrival(path, signature_of(path)), ELSEWHERE, 60)
    claim.change(watcher=None, outcome=asdict(CaseOutcome("ct", "ok", "", "", "")))
    stand_in = StandIn()
    watch(folders.inputs, folders.out, stand_in, ONCE)
    assert stand_in.begun == ["ct"]
    assert (folders.out / "ct" / "mask.nii.gz").exists()


def test_a_refusal_without_a_result_is_one_nevertheless(folders) -> None:
    _drop(folders, "ct.nii", "refused")

    def on_a_full_disk(case: CaseInput, folder: Path, progress) -> CaseOutcome:
        outcome = StandIn()(case, folder, progress)
        shutil.rmtree(folder / case.case)
        return outcome

    (outcome,) = watch(folders.inputs, folders.out, on_a_full_disk, ONCE)
    assert outcome.status == "refused"
    assert (folders.inputs / "refused" / "ct" / "ct.nii").exists()


def test_unfinished_results_of_nobody_are_deleted_when_they_are_old(folders) -> None:
    folders.make()
    _drop(folders, "ct.nii")
    path = folders.inputs / "ct.nii"
    claim = take(folders, Arrival(path, signature_of(path)), ELSEWHERE, 60)
    for work in (claim.work, folders.work / "old", folders.work / "new"):
        work.mkdir()
        if work.name != "new":
            os.utime(work, (1, 1))
    stop = Stop()
    stop.ask()
    watch(folders.inputs, folders.out, StandIn(), ONCE, stop)
    assert sorted(folders.work.iterdir()) == sorted([claim.work, folders.work / "new"])


def test_who_lost_a_case_meanwhile_drops_what_he_made(folders) -> None:
    _drop(folders, "ct.nii")

    def slow(case: CaseInput, folder: Path, progress) -> CaseOutcome:
        outcome = StandIn()(case, folder, progress)
        held(folders)[0].folder.rename(folders.running / "ct.000000000000")  # by somebody else
        return outcome

    stop = Stop()
    real = stop.wait
    stop.wait = lambda seconds: stop.ask() or real(seconds)
    assert watch(folders.inputs, folders.out, slow, replace(ONCE, once=False), stop) == []
    assert not (folders.out / "ct").exists()
    assert (folders.running / "ct.000000000000" / "ct.nii").exists()
    assert list(folders.work.iterdir()) == []


def test_an_input_that_changes_while_it_is_read_is_read_again(folders) -> None:
    _drop(folders, "ct.nii", "refused")

    def growing(case: CaseInput, folder: Path, progress) -> CaseOutcome:
        outcome = StandIn()(case, folder, progress)
        if outcome.status == "refused":
            case.path.write_text("ok")
        return outcome

    (outcome,) = watch(folders.inputs, folders.out, growing, ONCE)
    assert outcome.status == "ok"
    assert (folders.out / "ct" / "mask.nii.gz").read_text() == "ok"


def test_a_case_that_kills_its_watchers_comes_last_and_is_given_up(folders) -> None:
    folders.make()
    for name in ("bad.nii", "good.nii"):
        _drop(folders, name)
    path = folders.inputs / "bad.nii"
    claim = take(folders, Arrival(path, signature_of(path)), ELSEWHERE, 60)
    claim.change(watcher=None, tries=watcher.MOST_TRIES)
    stand_in = StandIn()
    outcomes = watch(folders.inputs, folders.out, stand_in, ONCE)
    assert [(o.case, o.status, o.reasons) for o in outcomes] == [
        ("good", "ok", ""),
        ("bad", "failed", "watch.interrupted"),
    ]
    assert stand_in.begun == ["good"]
    assert "killed" in (folders.inputs / "failed" / "bad" / "reason.txt").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_and_the_case_waits_for_the_next(folders, number) -> None:
    _drop(folders, "ct.nii")

    def interrupted(case: CaseInput, folder: Path, progress) -> CaseOutcome:
        signal.raise_signal(number)
        raise AssertionError("goes on after the signal")

    former = signal.getsignal(number)
    with stopping_on_signals() as stop:
        assert watch(folders.inputs, folders.out, interrupted, ONCE, stop) == []
    assert stop.asked
    assert signal.getsignal(number) is former
    (case,) = held(folders)
    assert case.record.watcher is None
    assert case.record.tries == 0
    status = _status(folders)
    assert (status["counts"]["waiting"], status["watchers"]) == (1, [])
    stand_in = StandIn()
    watch(folders.inputs, folders.out, stand_in, ONCE)
    assert stand_in.begun == ["ct"]


def test_a_signal_outside_of_interruptible_parts_waits_for_the_next() -> None:
    stop = Stop()
    stop.ask()
    with pytest.raises(Stopped):
        stop.wait(60.0)


def test_a_full_disk_makes_no_case_fail(folders, monkeypatch) -> None:
    _drop(folders, "ct.nii")
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=watcher.LEAST_FREE_BYTES - 1))
    stand_in, stop = StandIn(), Stop()
    sleep = stop.wait
    stop.wait = lambda seconds: sleep(0.2) or stop.ask()
    watch(folders.inputs, folders.out, stand_in, replace(ONCE, once=False), stop)
    assert stand_in.begun == []
    assert (folders.inputs / "ct.nii").exists()
    with pytest.raises(OSError, match="500 MB"):
        watch(folders.inputs, folders.out, stand_in, ONCE)


def test_an_error_of_the_file_system_is_not_the_cases_fault(folders) -> None:
    _drop(folders, "ct.nii")
    tried = []

    def full_twice(case: CaseInput, folder: Path, progress) -> CaseOutcome:
        tried.append(1)
        if len(tried) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        if len(tried) == 2:
            return CaseOutcome(case.case, "failed", "output.not_written", "", "")
        stop.asked = True
        return StandIn()(case, folder, progress)

    stop = Stop()
    (outcome,) = watch(folders.inputs, folders.out, full_twice, replace(ONCE, once=False), stop)
    assert (outcome.status, len(tried)) == ("ok", 3)
    record = Record.read(folders.inputs / "done" / "ct")
    assert (record.tries, record.failures) == (3, 0)


def test_an_input_that_cannot_be_taken_holds_up_no_other(folders, monkeypatch) -> None:
    for name in ("a.nii", "b.nii"):
        _drop(folders, name)
    os.utime(folders.inputs / "a.nii", (1, 1))
    real = Path.rename

    def denied(self: Path, target: Path) -> Path:
        if self.name == "a.nii":
            raise PermissionError(13, "Permission denied")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", denied)
    outcomes = watch(folders.inputs, folders.out, StandIn(), ONCE)
    assert [(o.case, o.status, o.reasons) for o in outcomes] == [
        ("b", "ok", ""),
        ("a", "failed", "watch.cannot_be_taken"),
    ]
    assert (folders.inputs / "a.nii").exists()


def test_a_long_case_keeps_its_lease(folders) -> None:
    _drop(folders, "ct.nii")
    seen = []

    def long(case: CaseInput, folder: Path, progress) -> CaseOutcome:
        enough = threading.Event()
        for _ in range(200):
            seen.append(held(folders)[0].record.seen)
            if len(set(seen)) > 3:
                break
            enough.wait(0.05)
        return StandIn()(case, folder, progress)

    watch(folders.inputs, folders.out, long, replace(ONCE, lease_s=1.0, interval_s=60.0))
    assert len(set(seen)) > 3


def test_the_status_tells_of_the_running_case_and_health_of_the_watcher(folders) -> None:
    _drop(folders, "ct.nii")
    _drop(folders, "patient<script>.nii")
    os.utime(folders.inputs / "ct.nii", (1, 1))
    told = []

    def looks(case: CaseInput, folder: Path, progress) -> CaseOutcome:
        progress(3, 7)
        pause = threading.Event()
        for _ in range(200):
            status = _status(folders)
            page = (folders.out / "status.html").read_text()
            if status["running"] and status["running"][0]["windows"] and "<progress" in page:
                told.append((status, page, health(folders.out)))
                break
            pause.wait(0.05)
        return StandIn()(case, folder, progress)

    assert not health(folders.out)[0]
    watch(folders.inputs, folders.out, looks, ONCE)
    status, page, (healthy, _) = told[0]
    assert healthy
    assert status["running"][0]["case"] == "ct"
    assert status["running"][0]["windows"] == [3, 7]
    assert status["waiting"] == ["patient<script>.nii"]
    assert (status["counts"]["running"], status["counts"]["waiting"]) == (1, 1)
    assert 'value="3" max="7"' in page
    assert "<script" not in page
    assert "patient&lt;script&gt;.nii" in page
    assert "not a medical device" in page
    assert not health(folders.out)[0]


@pytest.mark.parametrize(
    ("changes", "healthy"),
    [
        ({}, True),
        ({"seen": "2020-01-01T00:00:00Z"}, False),
        ({"active": "2020-01-01T00:00:00Z"}, False),
        ({"process": asdict(ELSEWHERE)}, False),
        ({"process": asdict(replace(Process.here(), started="0"))}, False),
        ({"process": {}}, False),
    ],
)
def test_health_is_that_of_a_watcher_here_that_lives_and_moves(folders, changes, healthy) -> None:
    from pancreas_seg.watch.claim import now

    folders.make()
    facts = {"process": asdict(Process.here()), "since": now(), "seen": now(), "active": now(), **changes}
    (folders.watchers / "w.json").write_text(json.dumps(facts))
    assert health(folders.out)[0] is healthy
    assert main(["watch", "--health", str(folders.out)]) == (0 if healthy else 1)


def test_folders_that_cannot_be_used_are_refused(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    for inputs, out, code in [
        ("none", "out", "no_folder"),
        ("in", "in", "nested"),
        ("in", "in/out", "nested"),
        ("in", ".", "nested"),
    ]:
        with pytest.raises(ConfigError, match=f"config.{code}"):
            watch(tmp_path / inputs, tmp_path / out, StandIn(), ONCE)
    assert main(["watch", str(tmp_path / "in")]) == 2
