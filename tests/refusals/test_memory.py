"""Small files that claim, or decompress to, more than any memory: refused while hardly any is taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory limit needs Linux")

LIMIT_MB = 200

READ = """
import json, os, resource, sys
from pancreas_seg.errors import PancreasSegError
from pancreas_seg.io import itk, read_ct
read_ct(sys.argv[1])
taken = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
limit = taken + int(sys.argv[2]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
found = {}
for path in sys.argv[3:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read_ct(path)
        code = "read"
    except PancreasSegError as error:
        code = error.code
    except MemoryError:
        code = "memory"
    found[os.path.basename(path)] = [code, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]
print(json.dumps(found))
"""


def _nifti(shape: tuple[int, int, int]) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.int16)
    header.set_sform(np.eye(4), code=1)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    return bytes(header.binaryblock) + bytes(4)


def _mha(shape: str, n_bytes: int) -> bytes:
    return (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = True\n"
        f"CompressedDataSize = {n_bytes}\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 1 1\n"
        f"DimSize = {shape}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    ).encode()


def _nrrd(shape: str) -> bytes:
    return (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nendian: little\nencoding: gzip\n"
        f"sizes: {shape}\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n\n"
    ).encode()


@cache
def _zeros(n_mb: int, bits: int, start: bytes = b"") -> bytes:
    """Compressed zeros behind a start, made block by block."""
    packer = zlib.compressobj(9, wbits=bits)
    block = bytes(2**20)
    return b"".join([packer.compress(start), *(packer.compress(block) for _ in range(n_mb)), packer.flush()])


LARGE, SMALL = "2500 2500 2500", "20 20 20"
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "plain_claims_31_gb.nii": (lambda: _nifti((2500, 2500, 2500)) + bytes(10_000), "input.too_large"),
    "gzip_claims_31_gb.nii.gz": (lambda: _zeros(1, 31, _nifti((2500, 2500, 2500))), "input.too_large"),
    "gzip_claims_2_gb.nii.gz": (lambda: _zeros(1, 31, _nifti((1000, 1000, 1000))), "input.truncated"),
    "gzip_holds_256_mb.nii.gz": (lambda: _zeros(256, 31, _nifti((20, 20, 20))), "input.constant"),
    "gzip_is_256_mb_of_nothing.nii.gz": (lambda: _zeros(256, 31), "input.not_nifti"),
    "mha_claims_31_gb.mha": (lambda: _mha(LARGE, 10_000) + bytes(10_000), "input.too_large"),
    "mha_holds_256_mb.mha": (lambda: _mha(SMALL, len(_zeros(256, 15))) + _zeros(256, 15), "input.truncated"),
    "nrrd_claims_31_gb.nrrd": (lambda: _nrrd(LARGE) + bytes(10_000), "input.too_large"),
    "nrrd_claims_2_gb.nrrd": (lambda: _nrrd("1000 1000 1000") + bytes(10_000), "input.truncated"),
    "nrrd_holds_256_mb.nrrd": (lambda: _nrrd(SMALL) + _zeros(256, 31), "input.truncated"),
}


def test_bombs_are_refused_before_memory_is_taken(tmp_path, write_nifti) -> None:
    good = write_nifti(np.arange(210, dtype=np.int16).reshape(5, 6, 7))
    for name, (make, _) in BOMBS.items():
        (tmp_path / name).write_bytes(make())
    sparse = tmp_path / "sparse_31_gb.nii"
    sparse.write_bytes(_nifti((2500, 2500, 2500)))
    os.truncate(sparse, 31_250_000_352)
    paths = [*(str(tmp_path / name) for name in BOMBS), str(sparse)]
    command = [sys.executable, "-c", READ, str(good), str(LIMIT_MB), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = {name: code for name, (_, code) in BOMBS.items()} | {sparse.name: "input.too_large"}
    assert {name: code for name, (code, _) in found.items()} == expected
    assert max(taken_mb for _, taken_mb in found.values()) < 50
