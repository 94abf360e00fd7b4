"""Several processes on one folder of CTs: the same files as one process writes, whatever happens to a process."""

from __future__ import annotations

import json
import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pancreas_seg.config import Config
from pancreas_seg.inference.cohort import CaseInput, CaseOptions, find_cases, segment_cases
from pancreas_seg.inference.segmentation import Segmentation
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.inference.workers import segment_in_processes
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.weights import save_weights

CONFIG = Config().changed(
    {
        "data": {"spacing_mm": [3.0, 3.0, 3.0], "patch_size": [16, 16, 16]},
        "network": {"channels": [4, 8]},
        "infer": {"precision": "fp32"},
    }
)


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(path, AttentionUNet.from_config(CONFIG), CONFIG)
    return path


@pytest.fixture
def folder(tmp_path, write_nifti) -> Path:
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for n in range(4):
        write_nifti(rng.integers(-900, 300, (24, 20, 16)).astype(np.int16), name=f"in/ct{n}.nii.gz")
    (tmp_path / "in" / "bad.nii.gz").write_bytes(b"\x1f\x8b")
    return tmp_path / "in"


def _masks(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(out.glob("*/mask.nii.gz"))}


def _dies(once: Path, case: CaseInput, _result: Segmentation, _written: list[Path]) -> None:
    if case.case == "ct1" and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _notes_threads(folder: Path, case: CaseInput, _result: Segmentation, _written: list[Path]) -> None:
    (folder / f"{case.case}.threads").write_text(os.environ.get("OMP_NUM_THREADS", "not set"))


def test_each_process_has_its_share_of_the_threads(tmp_path, folder, weights) -> None:
    load, cases = partial(Segmenter.from_weights, weights, "cpu"), find_cases([folder / "ct0.nii.gz"])
    options = CaseOptions(on_saved=partial(_notes_threads, tmp_path))
    segment_in_processes(load, cases, tmp_path / "out", 1, options, threads=3)
    assert (tmp_path / "ct0.threads").read_text() == "3"


def test_two_processes_write_what_one_does(tmp_path, folder, weights) -> None:
    load = partial(Segmenter.from_weights, weights, "cpu")
    done: list[tuple[int, int]] = []
    cases = find_cases([folder])
    two = segment_in_processes(load, cases, tmp_path / "two", 2, threads=1, on_done=lambda *a: done.append(a))
    one = segment_cases(load(), cases, tmp_path / "one")
    assert [(o.case, o.status) for o in two] == [(o.case, o.status) for o in one]
    assert [o.case for o in two] == ["bad", "ct0", "ct1", "ct2", "ct3"]
    assert _masks(tmp_path / "two") == _masks(tmp_path / "one")
    assert done == [(n + 1, 5) for n in range(5)]
    rows = [(tmp_path / name / "summary.csv").read_text().splitlines() for name in ("one", "two")]
    assert [row.split(",")[:2] for row in rows[0]] == [row.split(",")[:2] for row in rows[1]]
    assert "OMP_NUM_THREADS" not in os.environ or os.environ["OMP_NUM_THREADS"] != "1"


def test_a_process_that_dies_takes_one_case_with_it_and_resume_does_that(tmp_path, folder, weights, caplog) -> None:
    load = partial(Segmenter.from_weights, weights, "cpu")
    cases, out = find_cases([folder]), tmp_path / "out"
    options = CaseOptions(resume=True, on_saved=partial(_dies, tmp_path / "died"))
    first = {o.case: o for o in segment_in_processes(load, cases, out, 2, options, threads=1)}
    assert (first["ct1"].status, first["ct1"].reasons) == ("failed", "process.died")
    assert "code -9" in caplog.text
    assert [first[f"ct{n}"].status for n in (0, 2, 3)] == ["review"] * 3
    assert not (out / "ct1" / "mask.nii.gz").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/result.json") if path.parent.name != "bad"}
    second = {o.case: o.status for o in segment_in_processes(load, cases, out, 2, options, threads=1)}
    assert second == {"bad": "refused", **{f"ct{n}": "review" for n in range(4)}}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert json.loads((out / "ct1" / "result.json").read_text())["verdict"] == "review"
    segment_cases(load(), cases, tmp_path / "one")
    assert _masks(out) == _masks(tmp_path / "one")


def _waits_for_its_end(pid: Path, case: CaseInput, _result: Segmentation, _written: list[Path]) -> None:
    if case.case == "ct1" and not pid.exists():
        pid.with_suffix(".new").write_text(str(os.getpid()))
        pid.with_suffix(".new").rename(pid)
        time.sleep(600)


@pytest.mark.timeout(90)
def test_a_process_that_dies_while_another_s_end_is_dealt_with_is_not_forgotten(tmp_path, folder, weights) -> None:
    pid, killed = tmp_path / "pid", list[int]()

    def kill(_done: int, _total: int) -> None:
        if pid.exists() and not killed:
            killed.append(int(pid.read_text()))
            os.kill(killed[0], signal.SIGKILL)
            while "\nState:\tZ" not in Path(f"/proc/{killed[0]}/status").read_text():
                time.sleep(0.01)

    cases = find_cases([folder])
    options = CaseOptions(on_saved=partial(_waits_for_its_end, pid))
    load = partial(Segmenter.from_weights, weights, "cpu")
    outcomes = segment_in_processes(load, cases * 3, tmp_path / "out", 2, options, threads=1, on_done=kill)
    assert killed
    assert len(outcomes) == 3 * len(cases)
