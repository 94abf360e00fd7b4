from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pancreas_seg.geometry import Geometry
from pancreas_seg.io import Scan, read_ct

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory limit needs Linux")


@pytest.fixture(scope="module")
def fuzz():
    sys.path.insert(0, str(Path(__file__).parents[2]))
    try:
        from tests.fuzz import fuzz_reading
    finally:
        sys.path.pop(0)
    return fuzz_reading


@pytest.mark.parametrize("seed", [11])
def test_no_crash_and_no_wrong_grid(fuzz, seed: int) -> None:
    """The long run is in the script's own words; this is a short one."""
    found = fuzz.run(500, seed, seconds=300.0, formats=list(fuzz.FORMATS))
    assert found.total() == 500
    assert [what for what in found if what.partition(": ")[2].startswith(fuzz.BAD)] == []
    for name in fuzz.FORMATS:
        assert found[f"{name}: same grid"] > 0
        assert sum(n for what, n in found.items() if what.startswith(f"{name}: refused")) > 20


def test_cases_depend_on_seed_and_number_alone(fuzz) -> None:
    sound = {name: fuzz.sound_files(suffix) for name, suffix in fuzz.FORMATS.items()}
    names = list(fuzz.FORMATS)
    assert fuzz.case(7, 1, names, sound) == fuzz.case(7, 1, names, sound)
    assert len({fuzz.case(n, 1, names, sound) for n in range(50)}) == 50


def test_every_sound_file_is_read(fuzz, tmp_path) -> None:
    for name, suffix in fuzz.FORMATS.items():
        for content in fuzz.sound_files(suffix):
            path = tmp_path / f"x{suffix}"
            path.write_bytes(fuzz.gzip.compress(content) if name == "gzip" else content)
            assert fuzz.outcome(path) == "same grid"


def _wrong_grid(path: Path) -> Scan:
    scan = read_ct(path)
    return replace(scan, geometry=Geometry(scan.geometry.shape, scan.geometry.affine @ np.diag([1, 1, -1, 1])))


def _wrong_values(path: Path) -> Scan:
    scan = read_ct(path)
    return replace(scan, image=scan.image[::-1])


def _crashes(path: Path) -> Scan:
    raise RuntimeError("no")


def _memory(path: Path) -> Scan:
    raise MemoryError


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha", ".zip"])
@pytest.mark.parametrize(
    ("read", "expected"),
    [(_wrong_grid, "wrong grid"), (_wrong_values, "wrong values"), (_crashes, "crash"), (_memory, "memory")],
)
def test_a_bad_reader_is_found(fuzz, tmp_path, suffix: str, read, expected: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(fuzz.sound_files(suffix)[0])
    found = fuzz.outcome(path, read)
    assert found.startswith(expected)
    assert found.startswith(fuzz.BAD)


def test_a_worker_that_dies_or_hangs_is_replaced(fuzz, tmp_path, monkeypatch) -> None:
    path = tmp_path / "x.nii"
    path.write_bytes(fuzz.sound_files(".nii")[0])
    worker = fuzz.Worker()
    try:
        assert worker(path) == "same grid"
        os.kill(worker._process.pid, 9)
        time.sleep(0.5)
        monkeypatch.setattr(fuzz, "_LIMIT_S", 60.0)
        assert worker(path).startswith("died")
        assert worker(path) == "same grid"
        os.kill(worker._process.pid, 19)  # stopped
        monkeypatch.setattr(fuzz, "_LIMIT_S", 0.5)
        assert worker(path) == "hang"
        monkeypatch.setattr(fuzz, "_LIMIT_S", 60.0)
        assert worker(path) == "same grid"
    finally:
        worker.close()
