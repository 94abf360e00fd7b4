"""Watchers that are killed again and again: nothing is lost, nothing is done twice."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pancreas_seg.config import Config
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.weights import save_weights

pytestmark = pytest.mark.slow

log = logging.getLogger(__name__)

FOR_AT_MOST_S = 500

KILLS = int(os.environ.get("PANCREAS_SEG_KILLS", "150"))
CASES = max(10, 2 * KILLS // 5)

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def _ct(seed: int, shape: tuple[int, int, int] = (24, 20, 16)) -> bytes:
    rng = np.random.default_rng(seed)
    array = rng.integers(-900, -100, shape).astype(np.int16)
    array[4:12, 5:11, 3:9] = 100
    image = nib.Nifti1Image(array, np.diag([2.0, 2.0, 3.0, 1.0]))
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), 1)


class Dropper:
    """Drops cases as people and scanners do; knows what must come of each."""

    def __init__(self, inputs: Path, n: int, rng: random.Random, shape: tuple[int, int, int] = (24, 20, 16)) -> None:
        self._inputs, self._rng = inputs, rng
        self.good: set[str] = set()
        self.bad: set[str] = set()
        self._left = []
        for i in range(n):
            content = _ct(i, shape)
            if i % 5 == 4:
                content = content[: len(content) // 2]
            (self.bad if i % 5 == 4 else self.good).add(hashlib.sha256(content).hexdigest())
            self._left.append((f"patient {i // 2 if i % 6 < 2 else i}.nii.gz", content))  # some names come twice

    @property
    def left(self) -> int:
        return len(self._left)

    def step(self) -> None:
        """Write one file, in one of three ways."""
        name, content = self._left[0]
        path = self._inputs / name
        if path.exists():
            return
        self._left.pop(0)
        way = self._rng.randrange(3)
        if way == 0:
            part = path.with_name(name + ".part")
            part.write_bytes(content)
            part.rename(path)
        elif way == 1:
            with path.open("wb") as file:
                file.write(content[: len(content) // 3])
                file.flush()
                time.sleep(0.1)
                file.write(content[len(content) // 3 :])
        else:
            path.write_bytes(content)
            path.with_name(name + ".done").touch()


def _is_over(inputs: Path, dropper: Dropper) -> bool:
    waiting = [p for p in inputs.iterdir() if p.name not in ("running", "done", "refused", "failed")]
    return not (dropper.left or waiting or list((inputs / "running").iterdir()))


def _count(inputs: Path, out: Path, dropper: Dropper) -> dict[str, int]:
    """Inputs by their hash against where they lie, and results by the hash that they name."""
    lying = {
        end: Counter(
            hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (inputs / end).glob("*/*")
            if path.name not in ("case.json", "reason.txt")
        )
        for end in ("done", "refused", "failed")
    }
    results = Counter()
    for path in out.glob("*/result.json"):
        facts = json.loads(path.read_text())
        if facts["verdict"] != "refused":
            results[facts["input"]["sha256"]] += 1
            assert (path.parent / "mask.nii.gz").is_file()
    everything = sum(lying.values(), Counter())
    return {
        "dropped": len(dropper.good | dropper.bad),
        "segmented": len(results),
        "refused": sum(lying["refused"].values()),
        "failed": sum(lying["failed"].values()),
        "lost": len((dropper.good | dropper.bad) - set(everything)) + len(dropper.good - set(results)),
        "repeated": sum(n - 1 for n in (everything | results).values()),
        "misplaced": len(set(lying["done"]) ^ dropper.good) + len(set(lying["refused"]) ^ dropper.bad),
    }


def _check(counts: dict[str, int], inputs: Path, out: Path, dropper: Dropper) -> None:
    assert counts["dropped"] == len(dropper.good) + len(dropper.bad)
    assert counts["segmented"] == len(dropper.good)
    assert counts["refused"] == len(dropper.bad)
    assert [counts[name] for name in ("failed", "lost", "repeated", "misplaced")] == [0, 0, 0, 0]
    for path in (inputs / "done").glob("*/case.json"):
        assert (out / json.loads(path.read_text())["output"] / "mask.nii.gz").is_file()
        assert path.parent.name == json.loads(path.read_text())["output"]
    status = json.loads((out / "status.json").read_text())
    assert status["counts"]["ok"] + status["counts"]["review"] == counts["segmented"]
    assert status["counts"]["refused"] == counts["refused"]


@pytest.mark.parametrize("paused", [False, True], ids=["killed", "killed and paused, on machines apart"])
def test_watchers_under_a_storm_of_kills(tmp_path, paused: bool) -> None:
    """Three watchers, killed again and again; in the second run the paused ones come back after their lease."""
    inputs, out, finished = tmp_path / "in", tmp_path / "out", tmp_path / "finished"
    inputs.mkdir()
    finished.touch()
    rng = random.Random(5)  # noqa: S311
    dropper = Dropper(inputs, CASES, rng)
    arguments = [str(p) for p in (inputs, out, finished)] + ["1.0", "1" if paused else "0"]
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("kill_server.py")), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )

    def start() -> int:
        server.stdin.write("start\n")
        server.stdin.flush()
        return int(server.stdout.readline())

    watchers: list[int] = []
    asleep: dict[int, float] = {}
    kills = pauses = 0
    end = time.monotonic() + FOR_AT_MOST_S
    try:
        watchers += [start() for _ in range(3)]
        while time.monotonic() < end and (kills < KILLS or not _is_over(inputs, dropper)):
            time.sleep(rng.uniform(0.02, 0.8))
            if dropper.left and kills > 2 * (CASES - dropper.left):  # so that kills meet cases
                dropper.step()
            for pid in [pid for pid, until in asleep.items() if time.monotonic() > until]:
                del asleep[pid]
                os.kill(pid, signal.SIGCONT)
                watchers.append(pid)
            pid = watchers.pop(rng.randrange(len(watchers)))
            if paused and rng.random() < 0.3 and len(asleep) < 3:
                os.kill(pid, signal.SIGSTOP)
                asleep[pid] = time.monotonic() + rng.uniform(1.5, 4.0)
                pauses += 1
            else:
                os.kill(pid, signal.SIGKILL)
                kills += 1
            if len(watchers) < 3:
                watchers.append(start())
        for pid in asleep:
            os.kill(pid, signal.SIGCONT)
        while time.monotonic() < end and not _is_over(inputs, dropper):
            time.sleep(0.1)
        for pid in (*watchers, *asleep):
            os.kill(pid, signal.SIGTERM)
        for pid in (*watchers, *asleep):
            while time.monotonic() < end and not _has_ended(pid):
                time.sleep(0.05)
    finally:
        for pid in (*watchers, *asleep):
            if not _has_ended(pid):
                os.kill(pid, signal.SIGKILL)
        server.communicate(timeout=60)
    counts = _count(inputs, out, dropper)
    log.info("%s, %d kills, %d pauses", counts, kills, pauses)
    _check(counts, inputs, out, dropper)
    assert kills >= KILLS
    made = Counter(finished.read_text().split())
    if not paused:  # who is only paused makes his result to the end, though it doesn't count
        assert set(made.values()) <= {1}
    assert set(made) <= dropper.good


def _has_ended(pid: int) -> bool:
    """Also when its parent hasn't waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_real_watchers_killed_and_started_again(tmp_path) -> None:
    """The command itself: two at a time on 16 CTs, at least 20 kills."""
    config = Config().changed(
        {"data": {"spacing_mm": [4.0, 4.0, 4.0], "patch_size": [16, 16, 16]}, "network": {"channels": [4, 8]}}
    )
    weights = tmp_path / "w.safetensors"
    save_weights(weights, AttentionUNet.from_config(config), config, {"note": "untrained"})
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    rng = random.Random(3)  # noqa: S311
    dropper = Dropper(inputs, 16, rng, (96, 96, 60))
    command = [
        sys.executable,
        "-m",
        "pancreas_seg",
        "--quiet",
        "watch",
        str(inputs),
        str(out),
        "--weights",
        str(weights),
    ]
    command += ["--settle", "1", "--interval", "0.2", "--device", "cpu", "--preview"]

    def start(*more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, *more], env=ENVIRONMENT)

    watchers = [start(), start()]
    kills = 0
    end = time.monotonic() + FOR_AT_MOST_S
    try:
        while time.monotonic() < end and kills < min(20, KILLS):
            if dropper.left and dropper.left > 16 - 1.2 * (kills + 2):
                dropper.step()
            running = list((inputs / "running").glob("*/case.json"))
            pids = {json.loads(p.read_text())["watcher"]["pid"] for p in running if p.exists()} if running else set()
            busy = [watcher for watcher in watchers if watcher.pid in pids]
            if rng.random() < 0.2:  # in the middle of a case, at its end, or between cases
                victim = rng.choice(busy or watchers)
                victim.kill()
                victim.wait()
                kills += 1
                watchers[watchers.index(victim)] = start()
            time.sleep(rng.uniform(0.05, 0.6))
        while dropper.left:
            dropper.step()
            time.sleep(0.05)
        for watcher in watchers:
            watcher.terminate()
        # One that was just started may not yet listen.
        assert {watcher.wait() for watcher in watchers} <= {0, -signal.SIGTERM}
        last = start("--once")
        assert last.wait(timeout=max(1.0, end - time.monotonic())) in (0, 3, 4)
    finally:
        for watcher in watchers:
            watcher.kill()
            watcher.wait()
    counts = _count(inputs, out, dropper)
    log.info("%s, %d kills", counts, kills)
    _check(counts, inputs, out, dropper)
    assert kills >= min(20, KILLS)
    assert len(list(out.glob("*/preview.png"))) == counts["segmented"]
