"""Wall seconds and peak memory of `pancreas-seg segment`, as a process, on a CT resampled to a larger grid.

    .venv/bin/python benchmarks/segment_memory.py CT --weights FILE [--shape 512 512 224]

The CT is resampled to the shape over its own extent and written to a temporary folder; the mask's grid is compared with
the input's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pancreas_seg.geometry import Geometry
from pancreas_seg.io import read_ct, read_mask, write_image
from pancreas_seg.resampling import resample


def _resampled(source: Path, shape: tuple[int, int, int], target: Path) -> Geometry:
    """Write a CT with the same extent and another number of voxels, as int16."""
    scan = read_ct(source)
    scale = np.asarray(scan.geometry.shape) / np.asarray(shape)
    affine = scan.geometry.affine.copy()
    affine[:3, 3] = scan.geometry.world((scale - 1) / 2)
    affine[:3, :3] *= scale
    grid = Geometry(shape, affine)
    image = resample(scan.image, scan.geometry, grid, "linear", fill=None)
    write_image(target, np.rint(image).astype(np.int16), grid)
    return grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("ct", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 224))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ct = Path(folder) / "ct.nii.gz"
        grid = _resampled(options.ct, tuple(options.shape), ct)
        command = [sys.executable, "-m", "pancreas_seg", "segment", str(ct)]
        command += ["--weights", str(options.weights), "--out", f"{folder}/out"]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        facts = json.loads((Path(folder) / "out" / "ct" / "result.json").read_text())
        mask = read_mask(Path(folder) / "out" / "ct" / "mask.nii.gz")
        print(f"grid {grid.shape}, spacing {tuple(round(v, 3) for v in grid.spacing_mm)} mm")
        print(f"exit code {os.waitstatus_to_exitcode(status)}, verdict {facts['verdict']}")
        cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9
        print(f"wall {wall:.1f} s, CPU {cpu:.1f} s, peak {peak:.2f} GB")
        print("stages " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in facts["timings_s"].items()))
        print(f"mask on the input's grid: {mask.geometry.same_grid(read_ct(ct).geometry, 0.0)}")
        print(f"volume {facts['volume_ml']} ml")


if __name__ == "__main__":
    main()
