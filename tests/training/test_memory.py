from __future__ import annotations

import subprocess
import sys

import pytest

from pancreas_seg.cli import main

PROGRAM = """
import resource, sys
import numpy as np
from pancreas_seg.training.memory import keep_freed_memory
kept = sys.argv[1] == "kept" and keep_freed_memory()
def fill():
    for _ in range(5):
        np.ones(10_000_000)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told to keep memory")
def test_what_is_freed_needs_no_new_pages() -> None:
    """80 MB five times: 100,000 pages of 4 kB each time round, or none."""
    faults = {}
    for way in ("kept", "given_back"):
        run = subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True)
        kept, count = run.stdout.split()
        assert kept == str(way == "kept")
        faults[way] = int(count)
    assert faults["kept"] < 100
    assert faults["given_back"] > 1000


def test_the_verb_train_asks_for_it_before_anything_is_read(tmp_path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("pancreas_seg.training.memory.keep_freed_memory", lambda: asked.append(True))
    missing = str(tmp_path / "missing.json")
    assert main(["train", "--data", missing, "--out", str(tmp_path / "run"), "--preset", "tiny"]) != 0
    assert asked == [True]
