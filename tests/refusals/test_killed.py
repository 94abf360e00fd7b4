"""Runs that are killed or run out of disk: nothing half-written has a final name, and `--resume` completes them."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path

import jsonschema
import nibabel as nib
import numpy as np
import pytest
import torch

from pancreas_seg.cli import main
from pancreas_seg.config import Config
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.weights import save_weights

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((resources.files("pancreas_seg") / "report" / "result.schema.json").read_text())
KILLS = int(os.environ.get("PANCREAS_SEG_KILLS", "60"))
"""Of processes that have loaded torch already; those that start anew are a tenth as many."""

SERVER = """
import os, sys
import pancreas_seg.cli, pancreas_seg.inference.cohort, pancreas_seg.report.preview
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        devnull = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(devnull, stream)
        os._exit(pancreas_seg.cli.main(line.rstrip("\\n").split("\\t")))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    config = Config().changed(
        {"data": {"spacing_mm": [4.0, 4.0, 4.0], "patch_size": [16, 16, 16]}, "network": {"channels": [4, 8]}}
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, AttentionUNet.from_config(config), config)
    return path


@pytest.fixture(scope="module")
def cts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cts")
    for n in range(24):
        array = np.random.default_rng(n).integers(-900, 300, (20, 18, 12)).astype(np.int16)
        image = nib.Nifti1Image(array, np.diag([2.0, 2.0, 3.0, 1.0]))
        image.set_qform(image.affine, code=1)
        nib.save(image, folder / f"c{n:02}.nii.gz")
    (folder / "c05.nii.gz").write_bytes(b"\x1f\x8b no CT")
    return folder


@pytest.fixture(scope="module")
def reference(cts, weights, tmp_path_factory) -> Path:
    """What an undisturbed run writes."""
    out = tmp_path_factory.mktemp("reference")
    assert main(_arguments(cts, weights, out)) == 4
    assert len(list(out.glob("*/mask.nii.gz"))) == 23
    return out


def _arguments(cts: Path, weights: Path, out: Path, *more: str) -> list[str]:
    options = ["--weights", str(weights), "--out", str(out), "--probability", "--set", "clean.minimum_volume_ml=0"]
    return ["segment", str(cts), *options, *more]


def _check(out: Path, reference: Path) -> dict[str, int]:
    """Every file of a final name is whole and the right one; the finished cases and when they were written."""
    done = {}
    for path in out.rglob("*"):
        if path.is_dir() or path.name.startswith(".unfinished-"):
            continue
        if path.name == "result.json":
            facts = json.loads(path.read_text())
            jsonschema.validate(facts, SCHEMA)
            if facts["verdict"] != "refused":
                assert path.with_name("mask.nii.gz").is_file()
                assert path.with_name("probability.nii.gz").is_file()
                done[path.parent.name] = path.stat().st_mtime_ns
        elif path.suffix == ".gz":
            assert path.read_bytes() == (reference / path.relative_to(out)).read_bytes()
            gzip.decompress(path.read_bytes())
        else:
            assert path.name == "summary.csv"
            with path.open() as file:
                assert all(row["status"] in ("ok", "review", "refused", "failed") for row in csv.DictReader(file))
    return done


def _complete(out: Path, reference: Path) -> None:
    def files(folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    assert files(out) == files(reference)
    assert set(_check(out, reference)) == {path.parent.name for path in reference.glob("*/mask.nii.gz")}
    rows = []
    for folder in (out, reference):
        with (folder / "summary.csv").open() as file:
            rows.append(
                [(row["case"], row["status"], row["reasons"], row["volume_ml"]) for row in csv.DictReader(file)]
            )
    assert rows[0] == rows[1]
    assert len(rows[0]) == 24


class Server:
    """Processes that run the command line; forked from one that has loaded torch, so that a kill costs no start."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, arguments: Sequence[str]) -> int:
        """The process's id."""
        self._process.stdin.write("\t".join(arguments) + "\n")  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]
        return int(self._process.stdout.readline())  # type: ignore[union-attr]

    def ended(self) -> int:
        return int(self._process.stdout.readline())  # type: ignore[union-attr]

    def close(self) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait(timeout=60)
        self._process.stdout.close()  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_any_moment_and_resumed(cts, weights, reference, tmp_path) -> None:
    """Runs are killed after random times; each time they got through, a new folder is begun."""
    rng = np.random.default_rng(0)
    server = Server()
    kills = runs = 0
    try:
        while kills < KILLS:
            out, done = tmp_path / str(runs), dict[str, int]()
            while True:
                child = server.start(_arguments(cts, weights, out, "--resume"))
                time.sleep(float(rng.uniform(0.02, 0.5)))
                if kills < KILLS:
                    with suppress(ProcessLookupError):  # it was done before
                        os.kill(child, signal.SIGKILL)
                code = server.ended()
                kills += code == -signal.SIGKILL
                now = _check(out, reference)
                assert {case: now[case] for case in done} == done, "a finished case was lost or done again"
                done = now
                if code != -signal.SIGKILL:
                    break
            assert code == 4
            _complete(out, reference)
            runs += 1
    finally:
        server.close()
    assert kills == KILLS
    assert runs >= 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_from_its_start_on(cts, weights, reference, tmp_path) -> None:
    """As a user starts it, killed once it has written one case more."""
    rng = np.random.default_rng(1)
    out, done = tmp_path / "out", dict[str, int]()
    command = [sys.executable, "-m", "pancreas_seg", *_arguments(cts, weights, out, "--resume")]
    for _ in range(max(1, KILLS // 10)):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while len(list(out.glob("*/result.json"))) <= len(done) + 1 and process.poll() is None:
                time.sleep(0.01)
            time.sleep(float(rng.uniform(0, 0.03)))
        finally:
            process.kill()
            process.wait()
        now = _check(out, reference)
        assert {case: now[case] for case in done} == done
        done = now
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert completed.returncode == 4
    assert {case: when for case, when in _check(out, reference).items() if case in done} == done
    _complete(out, reference)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk needs root on Linux")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)  # noqa: S607


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)  # noqa: S607


def test_a_full_disk_ends_cases_but_not_the_run(cts, weights, reference, small_disk, capsys) -> None:
    out = small_disk / "out"
    assert main(_arguments(cts, weights, out)) in (2, 4)
    done = _check(out, reference)
    assert 0 < len(done) < 23
    assert not list(out.rglob(".unfinished-*"))
    assert "Traceback" not in capsys.readouterr().err
    _remount(small_disk, "size=8m")
    assert main(_arguments(cts, weights, out, "--resume")) == 4
    assert {case: when for case, when in _check(out, reference).items() if case in done} == done
    _complete(out, reference)


def test_a_disk_without_any_room_is_exit_code_2(cts, weights, small_disk, capsys) -> None:
    (small_disk / "filler").write_bytes(bytes(64 * 1024))
    assert main(_arguments(cts / "c00.nii.gz", weights, small_disk / "out")) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_read_only_disk_is_exit_code_2(cts, weights, small_disk, capsys) -> None:
    _remount(small_disk, "ro")
    assert main(_arguments(cts, weights, small_disk / "out")) == 2
    assert "config.file" in capsys.readouterr().err


@pytest.mark.slow
def test_files_that_may_not_grow(cts, weights, reference, tmp_path) -> None:
    """A limit on the size of files stands for a disk that fills up within one."""
    out = tmp_path / "out"
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)); {_RUN}"
    command = [sys.executable, "-c", limited, *_arguments(cts, weights, out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr  # summary.csv is too large, too
    assert "output.not_written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not _check(out, reference)
    assert {path.name for path in out.rglob("*") if path.is_file()} <= {"summary.csv"}  # of the first cases
    assert main(_arguments(cts, weights, out, "--resume")) == 4
    _complete(out, reference)


_RUN = "import sys; from pancreas_seg.cli import main; sys.exit(main(sys.argv[1:]))"


def test_files_that_vanish_after_they_were_listed(cts, weights, tmp_path) -> None:
    from pancreas_seg.inference.cohort import CaseOptions, find_cases, segment_cases
    from pancreas_seg.inference.segmenter import Segmenter

    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("c00.nii.gz", "c01.nii.gz", "c02.nii.gz"):
        (folder / name).write_bytes((cts / name).read_bytes())
    outcomes = segment_cases(
        Segmenter.from_weights(weights),
        find_cases([folder]),
        tmp_path / "out",
        CaseOptions(on_saved=lambda *_: (folder / "c01.nii.gz").unlink(missing_ok=True)),
    )
    assert [outcome.status == "refused" for outcome in outcomes] == [False, True, False]
    assert outcomes[1].reasons == "input.unreadable"
