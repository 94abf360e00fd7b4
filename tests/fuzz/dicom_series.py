"""Small DICOM series as zips, sound and mutated, and what independent readers say of them.

A slice's place is judged by pydicom, its values by pydicom, GDCM (in SimpleITK), or bit by bit as the header says:
pydicom leaves bits above BitsStored as they are, GDCM clears them, and each refuses some files that the other reads.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from pancreas_seg.io import Scan
from pancreas_seg.io.dicom.header import quiet
from tests.io.conftest import make_multi_frame, make_slices

Mutate = Callable[[bytes, int, np.random.Generator], bytes]

_SHAPE = (7, 6, 5)
_TOLERANCE_MM = 0.11
_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
_KEYWORDS = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "SamplesPerPixel", "RescaleSlope", "RescaleIntercept", "RescaleType",
    "NumberOfFrames", "SliceThickness", "SpacingBetweenSlices", "InstanceNumber", "SeriesInstanceUID", "PatientID",
    "FrameOfReferenceUID", "ImageType", "Modality", "SOPClassUID", "SOPInstanceUID", "PhotometricInterpretation",
    "PixelData", "PlanarConfiguration", "PixelPaddingValue", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_NUMBERS: tuple[Any, ...] = (0, 1, 2, 3, 5, 6, 7, 8, 11, 12, 15, 16, 32, -1, 255, 256, 1000, 32767, 32768, 65535, 2**31)
_DECIMALS = ("0", "1", "-1", "0.5", "2.5", "nan", "inf", "-inf", "1e30", "-1e-30", "1e400", "", "one", "1,5", "2.6")
_TEXTS = ("", " ", "CT", "MR", "HU", "US", "1.2.3.4", "1.2.3.5", "0", "ORIGINAL\\PRIMARY\\LOCALIZER", "DERIVED")


def sound() -> list[bytes]:
    """Zips of sound series, in several transfer syntaxes, number types and orientations; one is multi-frame."""
    rng = np.random.default_rng(5)
    hu = rng.integers(-1000, 1000, _SHAPE)
    straight = np.diag([0.8, 0.9, 2.5, 1.0])
    a = np.deg2rad(20)
    oblique = straight.copy()
    oblique[:3, :3] = np.array([[np.cos(a), 0, np.sin(a)], [0, -1, 0], [np.sin(a), 0, -np.cos(a)]]) @ straight[:3, :3]
    oblique[:3, 3] = (12.5, -31.0, 108.0)
    out = []
    for n, syntax in enumerate((*_NATIVE, RLELossless, JPEGLSLossless)):
        slices = make_slices(hu, (straight, oblique)[n % 2])
        for k, ds in enumerate(slices):
            if n % 3 == 1:
                ds.PixelRepresentation, ds.RescaleIntercept, ds.BitsStored, ds.HighBit = 1, 0, 16, 15
                ds.PixelData = hu[:, :, k].T.astype("<i2").tobytes()
            if syntax == ExplicitVRBigEndian:
                ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
            if syntax in _NATIVE:
                ds.file_meta.TransferSyntaxUID = syntax
            else:
                ds.compress(syntax, generate_instance_uid=False)
        out.append(_zip([_bytes(ds, True) for ds in slices]))
    out.append(_zip([_bytes(make_multi_frame(hu, oblique, [3, 1, 0, 4, 2]), True)]))
    return out


def mutated(content: bytes, mutate: Mutate, rng: np.random.Generator) -> bytes:
    """A zip with changed attributes, files, or bytes (by ``mutate``, of bytes and a reach) of one file or all."""
    if rng.random() < 0.05:
        return mutate(content, len(content), rng)
    files = list(_files(content).values())
    suffix = ("", ".dcm")[int(rng.integers(2))]
    with quiet():
        for _ in range(int(rng.integers(1, 4))):
            kind = rng.random()
            if kind < 0.3:
                files = _change_bytes(files, mutate, rng)
            elif kind < 0.4:
                files = _change_files(files, rng)
            else:
                files = _change_attribute(files, rng)
    return _zip(files, suffix)


def _change_bytes(files: list[bytes], mutate: Mutate, rng: np.random.Generator) -> list[bytes]:
    n = int(rng.integers(len(files)))
    reach = 132 + (len(files[n]) - 132) * 3 // 4
    if rng.random() < 0.25:  # the same to all, so that the series stays of one kind
        seed = int(rng.integers(2**31))
        return [mutate(file, reach, np.random.default_rng(seed)) for file in files]
    return [*files[:n], mutate(files[n], reach, rng), *files[n + 1 :]]


def _change_files(files: list[bytes], rng: np.random.Generator) -> list[bytes]:
    n, kind = int(rng.integers(len(files))), int(rng.integers(4))
    if kind == 0 and len(files) > 1:
        return files[:n] + files[n + 1 :]
    if kind == 1:
        return [*files, files[n]]
    if kind == 2:
        return [*files, files[n][int(rng.integers(200)) :]]
    return [files[int(k)] for k in rng.permutation(len(files))]


def _change_attribute(files: list[bytes], rng: np.random.Generator) -> list[bytes]:
    keyword = _KEYWORDS[int(rng.integers(len(_KEYWORDS)))]
    chosen = range(len(files)) if rng.random() < 0.4 else [int(rng.integers(len(files)))]
    try:
        read = [pydicom.dcmread(BytesIO(file), force=True) for file in files]
        other = read[int(rng.integers(len(files)))].get(keyword)
        seed, out = int(rng.integers(2**31)), list(files)
        for n in chosen:
            _set(read[n], keyword, other, np.random.default_rng(seed))
            out[n] = _bytes(read[n])
    except Exception:  # what was changed before can no longer be read or written
        return files
    return out


def _set(ds: Dataset, keyword: str, other: Any, rng: np.random.Generator) -> None:
    """Change an attribute where it stands, at the top or in the functional groups."""
    holders = [item for item in (ds, *_items(ds)) if keyword in item] or [ds]
    holder = holders[int(rng.integers(len(holders)))]
    kind = rng.random()
    if kind < 0.15:
        if keyword in holder:
            del holder[keyword]
    elif kind < 0.25 and other is not None:
        setattr(holder, keyword, other)
    elif isinstance(holder.get(keyword), (bytes, bytearray)):
        value = bytes(holder[keyword].value)
        holder[keyword].value = value[: int(rng.integers(len(value) + 1)) // 2 * 2]
    elif isinstance(holder.get(keyword), Sequence):
        del holder[keyword].value[int(rng.integers(len(holder[keyword].value) + 1)) :]
    else:
        setattr(holder, keyword, _odd(holder.get(keyword), rng))


def _items(ds: Dataset) -> Iterator[Dataset]:
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from _items(item)


def _odd(value: Any, rng: np.random.Generator) -> Any:
    """Another value of the same kind; for several numbers, one of them changed, moved a little, or one left out."""
    if isinstance(value, (pydicom.multival.MultiValue, list)) and len(value):
        values = [str(v) for v in value]
        n, kind = int(rng.integers(len(values))), rng.random()
        if kind < 0.3:
            values[n] = _DECIMALS[int(rng.integers(len(_DECIMALS)))]
        elif kind < 0.7:
            try:
                values[n] = f"{float(values[n]) + rng.choice([0.01, 0.05, 0.5, 2.5, -2.5, 30]):.6g}"
            except ValueError:
                values[n] = _TEXTS[int(rng.integers(len(_TEXTS)))]
        elif kind < 0.85:
            values = values[::-1]
        else:
            del values[n]
        return values
    if isinstance(value, int) and not hasattr(value, "original_string"):
        return _NUMBERS[int(rng.integers(len(_NUMBERS)))]
    if hasattr(value, "original_string"):
        return _DECIMALS[int(rng.integers(len(_DECIMALS)))]
    return _TEXTS[int(rng.integers(len(_TEXTS)))]


@dataclass(frozen=True)
class Slice:
    """What independent readers make of an image; ``kind`` is what decides about belonging together.

    ``values`` are those of GDCM alone (which guesses where a header is damaged), or of pydicom and others.
    """

    kind: tuple[str, ...]
    place: np.ndarray
    values: list[np.ndarray]


def judged(path: Path, scan: Scan) -> str:
    """ "same grid", "wrong grid" or "wrong values", or "unjudged ..." if no independent reader reads the file."""
    columns, rows, n = scan.geometry.shape
    try:
        files = _files(path.read_bytes())
        # A file that neither its name nor its prefix says to be DICOM is none.
        dicom = [file for name, file in files.items() if name.endswith(".dcm") or file[128:132] == b"DICM"]
        slices = [one for file in dicom for one in _slices(file)]
    except Exception as error:
        return f"unjudged {type(error).__name__}"
    used: set[int] = set()
    for k in range(n):
        place = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.geometry.affine)[:3] @ np.array(
            [[0, columns, 0], [0, 0, rows], [k, k, k], [1, 1, 1]], float
        )
        here = [i for i, one in enumerate(slices) if np.abs(one.place[:, :3] - place).max() < _TOLERANCE_MM]
        here = [i for i in here if tuple(slices[i].place[:2, 3]) == (columns, rows)]
        if not here:
            return "wrong grid" if len(slices) >= n else "unjudged slices"
        plane = scan.image[:, :, k].astype(np.float64)
        limit = 1e-5 * max(1.0, float(np.abs(plane).max()))
        same = [i for i in here if any(np.allclose(v, plane, rtol=1e-5, atol=limit) for v in slices[i].values)]
        if not same:
            return "wrong values" if any(slices[i].values[1:] for i in here) else "unjudged values"
        used.add(same[0])
    kinds = {slices[i].kind for i in used}
    if any(one.kind in kinds for i, one in enumerate(slices) if i not in used):
        return "wrong grid, slices left out"
    return "same grid"


def _slices(content: bytes) -> Iterator[Slice]:
    """The images of a file that say where they lie; none of a file that pydicom cannot read."""
    with quiet():
        try:
            ds = pydicom.dcmread(BytesIO(content), force=True)
            pixels = _by_pydicom(ds)
            n = int(ds.get("NumberOfFrames") or 1)
        except Exception:
            return
        by_gdcm = _by_gdcm(content) if n == 1 else None
        for k in range(n):
            stored = [] if pixels is None or len(pixels) <= k else [pixels[k].T]
            try:
                place, slope, intercept = _place(ds, k)
                values = [v * slope + intercept for v in (*stored, *(_bits(v, ds) for v in stored))]
            except Exception:
                break
            if by_gdcm is not None:
                values.append(by_gdcm)
            kind = [str(ds.get(key, "")) for key in ("SeriesInstanceUID", "ImageType", "Modality", "SOPClassUID")]
            yield Slice(tuple(kind), place, values)


def _place(ds: Dataset, k: int) -> tuple[np.ndarray, float, float]:
    """Three corners in LPS and (columns, rows) as columns of a (3, 4) array; slope and intercept."""
    shared = (ds.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    frame = ds.PerFrameFunctionalGroupsSequence[k] if "PerFrameFunctionalGroupsSequence" in ds else Dataset()

    def number(sequence: str, keyword: str) -> np.ndarray:
        if not ds.get("PerFrameFunctionalGroupsSequence"):
            return np.atleast_1d(np.array(ds[keyword].value, float))
        holder = next(groups[sequence][0] for groups in (frame, shared) if groups.get(sequence))
        return np.atleast_1d(np.array(holder[keyword].value, float))

    origin = number("PlanePositionSequence", "ImagePositionPatient")
    row, column = number("PlaneOrientationSequence", "ImageOrientationPatient").reshape(2, 3)
    row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)
    down_mm, right_mm = number("PixelMeasuresSequence", "PixelSpacing")
    columns, rows = int(ds.Columns), int(ds.Rows)
    place = np.zeros((3, 4))
    place[:, 0], place[:, 1] = origin, origin + row * right_mm * columns
    place[:, 2], place[:2, 3] = origin + column * down_mm * rows, (columns, rows)
    slope, intercept = (number("PixelValueTransformationSequence", f"Rescale{w}")[0] for w in ("Slope", "Intercept"))
    return place, float(slope), float(intercept)


def _by_pydicom(ds: Dataset) -> np.ndarray | None:
    try:
        pixels = ds.pixel_array
    except Exception:
        return None
    return pixels if pixels.ndim == 3 else pixels[None]


def _bits(stored: np.ndarray, ds: Dataset) -> np.ndarray:
    """The numbers in the bits from HighBit down, one after the other."""
    high, n, signed = int(ds.HighBit), int(ds.BitsStored), int(ds.PixelRepresentation)
    out = [(int(v) >> max(0, high + 1 - n)) & (2**n - 1) for v in stored.ravel()]
    return np.array([v - 2**n if signed and v >= 2 ** (n - 1) else v for v in out]).reshape(stored.shape)


def _by_gdcm(content: bytes) -> np.ndarray | None:
    """HU of a single image, (columns, rows)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.dcm"
        path.write_bytes(content)
        try:
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float64)
        except Exception:
            return None
    return array[0].T if array.ndim == 3 and len(array) == 1 else None


def _bytes(ds: Dataset, is_sound: bool = False) -> bytes:
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=is_sound)
    return stream.getvalue()


def _zip(files: list[bytes], suffix: str = "") -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for n, file in enumerate(files):
            archive.writestr(zipfile.ZipInfo(f"IM{n}{suffix}"), file)
    return stream.getvalue()


def _files(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(BytesIO(content)) as archive:
        return {f"{n} {info.filename}": archive.read(info) for n, info in enumerate(archive.infolist())}
