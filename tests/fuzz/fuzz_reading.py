"""Reads mutated images: each must be refused by one of our errors, or lie where an independent reader says.

    python -m tests.fuzz.fuzz_reading --cases 20000 --seed 1 --seconds 1200 --format nifti gzip nrrd mha dicom

A worker process with a memory limit does the reading; it is replaced when it dies or takes too long. The same seed and
number give the same file, whatever came before. NIfTI is judged by nibabel, NRRD and MHA by SimpleITK, DICOM slice by
slice by pydicom and GDCM. Exit code 1 if anything crashed, hung, or was read onto another grid or with other values.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import resource
import select
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from pancreas_seg.errors import PancreasSegError
from pancreas_seg.geometry import Geometry
from pancreas_seg.io import Scan, read_ct
from tests.fuzz import dicom_series

FORMATS = {"nifti": ".nii", "gzip": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha", "dicom": ".zip"}
BAD = ("crash", "died", "hang", "memory", "wrong grid", "wrong values")
_SHAPE = (7, 6, 5)
_LIMIT_BYTES = 512 * 2**20
_LIMIT_S = 20.0
_NUMBERS = (
    b"0", b"1", b"-1", b"2", b"3", b"4", b"7", b"nan", b"inf", b"-inf", b"1e30", b"-1e-30", b"1e400", b"0x10", b"32768",
    b"65536", b"2147483647", b"4294967296", b"99999999999999999999", b"1,5", b"", b"1 2", b"None", b"0.5", b"-2.5",
)  # fmt: skip
_VALUES = {
    "i2": (0, 1, -1, 2, 3, 4, 8, 16, 64, 127, 128, 255, 256, 512, 768, 2304, 32767, -32768),
    "i4": (0, 1, -1, 348, 540, 2**31 - 1, -(2**31)),
    "i8": (0, 1, -1, 2**40, 2**63 - 1, -(2**63)),
    "f4": (0.0, -0.0, 1.0, -1.0, 0.5, np.nan, np.inf, -np.inf, 1e-40, 1e30, 3e38, 352.0, 1e6),
    "f8": (0.0, 1.0, -1.0, np.nan, np.inf, 1e300, 1e-300),
    "u1": tuple(range(256)),
}


def sound_files(suffix: str) -> list[bytes]:
    """Files that are read: by several writers, number types, axes and header variants."""
    if suffix == ".zip":
        return dicom_series.sound()
    rng = np.random.default_rng(5)
    if suffix in (".nii", ".nii.gz"):
        return list(_sound_nifti(rng))
    out = []
    with tempfile.TemporaryDirectory() as folder:
        for dtype, packed in ((np.int16, False), (np.int16, True), (np.float32, False), (np.uint8, True)):
            image = sitk.GetImageFromArray(rng.integers(0, 255, _SHAPE[::-1]).astype(dtype))
            image.SetSpacing((0.7, 0.8, 2.5))
            image.SetOrigin((-10.0, 20.0, 30.0))
            image.SetDirection((0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
            image.SetMetaData("note", "text")
            path = Path(folder) / f"x{suffix}"
            sitk.WriteImage(image, str(path), useCompression=packed)
            out.append(path.read_bytes())
    return out


def _sound_nifti(rng: np.random.Generator) -> Iterator[bytes]:
    turned = np.array([[0, 0, 2.5, -3], [-0.7, 0, 0, 9], [0, 0.8, 0, 4], [0, 0, 0, 1]])
    for kind, order, dtype, codes in (
        (nib.Nifti1Image, "<", "i2", (1, 1)),
        (nib.Nifti1Image, ">", "i2", (1, 0)),
        (nib.Nifti1Image, "<", "f4", (0, 2)),
        (nib.Nifti1Image, "<", "u1", (2, 4)),
        (nib.Nifti2Image, "<", "i2", (1, 1)),
        (nib.Nifti2Image, ">", "f8", (0, 1)),
    ):
        array = rng.integers(0, 255, _SHAPE).astype(f"{order}{dtype}")
        image = kind(array, turned, kind.header_class(endianness=order))
        image.set_data_dtype(array.dtype)
        image.set_qform(turned, code=codes[0])
        image.set_sform(turned, code=codes[1])
        image.header.set_xyzt_units("mm")
        yield image.to_bytes()


def mutated(content: bytes, header_bytes: int, is_text: bool, rng: np.random.Generator) -> bytes:
    """One to four random changes, most of them in the first ``header_bytes`` bytes."""
    changes = [_set_value, _set_value, _flip_bit, _cut, _move]
    if is_text:
        changes = [_change_number, _change_number, _change_lines, _change_lines, *changes]
    for _ in range(int(rng.integers(1, 5))):
        reach = header_bytes if rng.random() < 0.8 else len(content)
        content = changes[int(rng.integers(len(changes)))](content, max(1, min(reach, len(content))), rng)
    return content


def _set_value(content: bytes, reach: int, rng: np.random.Generator) -> bytes:
    dtype = list(_VALUES)[int(rng.integers(len(_VALUES)))]
    value = _VALUES[dtype][int(rng.integers(len(_VALUES[dtype])))]
    new = np.array(value, f"{'<>'[int(rng.random() < 0.2)]}{dtype}").tobytes()
    at = int(rng.integers(reach))
    at -= at % (2 if len(new) == 2 else 4 if len(new) > 2 else 1)
    return (content[:at] + new + content[at + len(new) :])[: max(len(content), at)]


def _flip_bit(content: bytes, reach: int, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(reach))
    return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :] if content else content


def _cut(content: bytes, reach: int, rng: np.random.Generator) -> bytes:
    at, n = int(rng.integers(reach)), int(rng.integers(1, 64))
    return content[:at] if rng.random() < 0.3 else content[:at] + content[at + n :]


def _move(content: bytes, reach: int, rng: np.random.Generator) -> bytes:
    a, b, n = int(rng.integers(reach)), int(rng.integers(reach)), int(rng.integers(1, 24))
    return content[:a] + content[b : b + n] + content[a + (n if rng.random() < 0.5 else 0) :]


def _change_number(content: bytes, reach: int, rng: np.random.Generator) -> bytes:
    places = list(re.finditer(rb"-?[0-9]+(?:\.[0-9]+)?", content[:reach]))
    if not places:
        return content
    place = places[int(rng.integers(len(places)))]
    return content[: place.start()] + _NUMBERS[int(rng.integers(len(_NUMBERS)))] + content[place.end() :]


def _change_lines(content: bytes, reach: int, rng: np.random.Generator) -> bytes:
    lines = content[:reach].split(b"\n")
    a, b = (int(rng.integers(len(lines))) for _ in range(2))
    change = int(rng.integers(5))
    if change == 0:
        del lines[a]
    elif change == 1:
        lines.insert(b, lines[a])
    elif change == 2:
        lines[a], lines[b] = lines[b], lines[a]
    elif change == 3:
        lines[a] = lines[a].swapcase()
    else:
        separator = b"=" if b"=" in lines[a] else b":"
        lines[a] = lines[a].partition(separator)[0] + separator + b" " + lines[b].partition(separator)[2].strip()
    return b"\n".join(lines) + content[reach:]


def case(n: int, seed: int, formats: list[str], sound: dict[str, list[bytes]]) -> tuple[str, bytes]:
    """Format and bytes of case ``n``."""
    rng = np.random.default_rng([seed, n])
    name = formats[int(rng.integers(len(formats)))]
    content = sound[name][int(rng.integers(len(sound[name])))]
    if name == "dicom":
        return name, dicom_series.mutated(content, lambda c, reach, rng: mutated(c, reach, False, rng), rng)
    if name in ("nifti", "gzip"):
        header, is_text = 352 if content[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") else 544, False
    else:
        end = rb"\n\n" if name == "nrrd" else rb"ElementDataFile = LOCAL\n"
        header, is_text = re.search(end, content).end(), True  # type: ignore[union-attr]
    if name == "gzip" and rng.random() < 0.4:
        packed = gzip.compress(content, mtime=0)
        return name, mutated(packed, len(packed), False, rng)
    content = mutated(content, header, is_text, rng)
    return name, gzip.compress(content, 1, mtime=0) if name == "gzip" else content


def outcome(path: Path, read: Callable[[Path], Scan] = read_ct) -> str:
    """What became of a file: "refused CODE", "same grid", "unjudged ...", or one that starts as in BAD."""
    try:
        scan = read(path)
    except PancreasSegError as error:
        return f"refused {error.code}"
    except MemoryError:
        return "memory"
    except Exception as error:
        return f"crash {type(error).__name__}: {error}"
    if path.suffix == ".zip":
        return dicom_series.judged(path, scan)
    try:
        shape, affine, values = _judged(path)
    except Exception as error:
        return f"unjudged {type(error).__name__}"
    if shape != scan.geometry.shape or not np.allclose(affine, scan.geometry.affine, rtol=1e-5, atol=1e-3):
        return "wrong grid"
    with np.errstate(all="ignore"):
        if not np.allclose(values, scan.image, rtol=1e-5, atol=1e-5 * float(np.abs(scan.image).max())):
            return "wrong values"
    return "same grid"


def _judged(path: Path) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.name.endswith((".nii", ".nii.gz")):
            image = nib.load(path)
            return image.shape[:3], image.affine, np.asarray(image.get_fdata()).reshape(image.shape[:3], order="F")
        image = sitk.ReadImage(str(path))
    if image.GetDimension() != 3:
        return image.GetSize(), np.eye(4), np.zeros(0)
    corners = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    points = np.array([image.TransformIndexToPhysicalPoint(c) for c in corners]) * (-1, -1, 1)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = (points[1:] - points[0]).T, points[0]
    return image.GetSize(), affine, sitk.GetArrayFromImage(image).transpose(2, 1, 0)


def work() -> None:
    """Read paths from stdin, one a line; answer each with its outcome."""
    warnings.simplefilter("error")
    answers = os.fdopen(os.dup(1), "w")
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    Geometry((1, 1, 1), np.eye(4))
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (taken + _LIMIT_BYTES, taken + _LIMIT_BYTES))
    for line in sys.stdin:
        answers.write(json.dumps(outcome(Path(line.rstrip("\n")))) + "\n")
        answers.flush()


class Worker:
    """The process that reads; a new one takes over where one had to end."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, path: Path) -> str:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.fuzz_reading", "--worker"],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        ready, answer = True, ""
        with suppress(BrokenPipeError):
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            ready = bool(select.select([process.stdout], [], [], _LIMIT_S)[0])
            answer = process.stdout.readline() if ready else ""
        if answer:
            return str(json.loads(answer))
        self.close()
        return f"died with {process.returncode}" if ready else "hang"

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            with suppress(BrokenPipeError):
                self._process.communicate()
            self._process = None


def run(cases: int, seed: int, seconds: float, formats: list[str], keep: Path | None = None) -> Counter[str]:
    """Outcomes of cases 0, 1, ..., counted by format; files with a bad outcome are copied to ``keep``."""
    sound = {name: sound_files(FORMATS[name]) for name in formats}
    found: Counter[str] = Counter()
    worker, start = Worker(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            for n in range(cases):
                if time.monotonic() - start > seconds:
                    break
                name, content = case(n, seed, formats, sound)
                path = Path(folder) / f"x{FORMATS[name]}"
                path.write_bytes(content)
                result = worker(path)
                found[f"{name}: {result}"] += 1
                if keep is not None and result.startswith((*BAD, "unjudged")):
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}-{n}-{re.sub('[^a-z]+', '-', result.lower())[:60]}{FORMATS[name]}").write_bytes(
                        content
                    )
        finally:
            worker.close()
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--format", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="copy files with a bad outcome, and unjudged ones, here"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        work()
        return 0
    found = run(options.cases, options.seed, options.seconds, options.format, options.keep)
    bad = sum(n for what, n in found.items() if what.partition(": ")[2].startswith(BAD))
    report = {"cases": found.total(), "bad": bad, "outcomes": dict(sorted(found.items()))}
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
