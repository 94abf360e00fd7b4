"""One way in: a file or DICOM series becomes a Scan in HU, or a clear refusal."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from pancreas_seg.errors import InputError
from pancreas_seg.geometry import Geometry
from pancreas_seg.io import nifti
from pancreas_seg.io.limits import LARGEST_BYTES, check_file

if TYPE_CHECKING:
    from pancreas_seg.io.dicom import DicomSeries

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
"""File name endings that are read."""

_SPACING_MM = (0.05, 50.0)
_FARTHEST_MM = 1e5


@dataclass(frozen=True, eq=False)
class Scan:
    """A CT.

    Parameters
    ----------
    image : (I, J, K) int16 or float32 array
        HU; int16 where they are whole numbers that fit, which halves the memory.
    geometry : Geometry
        Where the voxels lie.
    path : Path
        The file or DICOM folder it came from.
    sha256 : str
        Of the file's bytes; of a DICOM series, of its files in the order of the slices, however they are named.
    nifti_header : nibabel.Nifti1Header or None
        The header fields that stated the grid, for a mask that states it in the same way; None if it was no NIfTI.
    series : DicomSeries or None
        The headers of the DICOM series; None if it was none.
    """

    image: NDArray[np.int16] | NDArray[np.float32]
    geometry: Geometry
    path: Path
    sha256: str
    nifti_header: nib.Nifti1Header | None = None
    series: DicomSeries | None = None


@dataclass(frozen=True, eq=False)
class Mask:
    """A label map: (I, J, K) integers on a grid, with the SHA-256 of the file it came from."""

    labels: NDArray[np.integer[Any]]
    geometry: Geometry
    path: Path
    sha256: str


def read_ct(path: str | Path, series_uid: str | None = None, allow_tilt: bool = False) -> Scan:
    """Read a CT from .nii, .nii.gz, .nrrd or .mha, in any orientation and number type, or from DICOM.

    Scale factors in the header (scl_slope, scl_inter; each slice's RescaleSlope and RescaleIntercept) are applied once.

    Parameters
    ----------
    path : path
        An image file; or a folder, with all folders in it, a .zip or a multi-frame file of DICOM.
    series_uid : str, optional
        SeriesInstanceUID of the DICOM series to take; without it there must be only one CT.
    allow_tilt : bool
        Whether to shear DICOM slices of a tilted gantry back to a rectangular grid instead of refusing them.

    Raises
    ------
    InputError
        If the file is missing, damaged or no sound three-dimensional CT.
    """
    from pancreas_seg.io.dicom import is_dicom_input, read_dicom

    path = Path(path)
    header = series = None
    image: NDArray[np.int16] | NDArray[np.float32]
    if not path.name.lower().endswith(IMAGE_SUFFIXES) and _may_be_dicom(path) and is_dicom_input(path):
        image, geometry, series, sha256 = read_dicom(path, series_uid, allow_tilt)
        _check_grid(geometry, path)
    else:
        values, slope, inter, geometry, header, sha256 = _decoded(path)
        _check_grid(geometry, path)
        if values.min() == values.max():
            raise _constant(path, float(values.min()) * slope + inter)
        image = _hounsfield(values, slope, inter)
    _check_values(image, path)
    return Scan(image, geometry, path, sha256, header, series)


def _may_be_dicom(path: Path) -> bool:
    """Whether a path is a folder or a plain file, which can be opened without waiting for anything."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISDIR(mode) or stat.S_ISREG(mode)


def _check_values(image: NDArray[Any], path: Path) -> None:
    low, high = float(image.min()), float(image.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(
            "input.not_finite",
            where=path,
            found=f"{int((~np.isfinite(image)).sum())} voxels that are NaN or infinite",
            expected="a finite HU in each voxel",
            advice="Export the image again, or replace these voxels by -1000 (air) if you know them to be outside.",
        )
    if low == high:
        raise _constant(path, low)


def read_mask(path: str | Path) -> Mask:
    """Read a label map from .nii, .nii.gz, .nrrd or .mha.

    Raises
    ------
    InputError
        If the file is missing, damaged, or holds values that are no whole numbers from 0 to 65535.
    """
    path = Path(path)
    values, slope, inter, geometry, _, sha256 = _decoded(path)
    if slope != 1.0 or inter != 0.0:
        with np.errstate(over="ignore", invalid="ignore"):
            values = values.astype(np.float64) * slope + inter
    low, high = values.min(), values.max()
    labels = values
    if values.dtype.kind == "f" and np.isfinite(low) and np.isfinite(high):
        labels = np.rint(values)
    if not (low >= 0 and high <= 65535) or (labels is not values and not np.array_equal(labels, values)):
        raise InputError(
            "input.not_labels",
            where=path,
            found=f"values from {low} to {high}, not all of them whole numbers from 0 to 65535",
            expected="a label map",
            advice="Give the label file; threshold a probability map first.",
        )
    dtype = np.uint8 if high <= 255 else np.uint16
    return Mask(labels.astype(dtype), geometry, path, sha256)


def _hounsfield(values: NDArray[Any], slope: float, inter: float) -> NDArray[np.int16] | NDArray[np.float32]:
    """Stored values as HU, see `Scan.image`."""
    if values.dtype.kind in "iu" and slope == 1.0 and inter == round(inter) and abs(inter) < 2**15:
        limits = np.iinfo(np.int16)
        low, high = int(values.min()) + int(inter), int(values.max()) + int(inter)
        if limits.min <= low and high <= limits.max:
            whole: NDArray[np.int16] = values.astype(np.int16, order="F", copy=inter != 0.0)
            if inter != 0.0:
                whole += np.int16(inter)
            return whole
    with np.errstate(over="ignore", invalid="ignore"):
        image: NDArray[np.float32] = values.astype(np.float32, order="F")
        if slope != 1.0:
            image *= np.float32(slope)
        if inter != 0.0:
            image += np.float32(inter)
    return image


def _check_grid(geometry: Geometry, where: Path) -> None:
    low, high = _SPACING_MM
    if not all(low <= mm <= high for mm in geometry.spacing_mm):
        raise InputError(
            "input.spacing",
            where=where,
            found=f"a voxel spacing of {' x '.join(f'{mm:.4g}' for mm in geometry.spacing_mm)} mm",
            expected=f"{low:g} to {high:g} mm along each axis",
            advice="No CT of an abdomen has such voxels; check the units of the header.",
        )
    if not np.abs(geometry.corners_mm()).max() <= _FARTHEST_MM:
        raise InputError(
            "input.position",
            where=where,
            found=f"voxels {np.abs(geometry.corners_mm()).max() / 1000:.4g} m from the origin",
            expected=f"a CT within {_FARTHEST_MM / 1000:g} m",
            advice="Export the image again; its header does not say where the voxels lie.",
        )
    if min(geometry.shape) < 2:
        raise InputError(
            "input.single_slice",
            where=where,
            found=f"an image of {' x '.join(str(n) for n in geometry.shape)} voxels",
            expected="a volume of several slices",
            advice="Give the whole CT.",
        )


def _constant(where: Path, value: float) -> InputError:
    return InputError(
        "input.constant",
        where=where,
        found=f"the value {value:g} in every voxel",
        expected="a CT",
        advice="The image is empty; export it again.",
    )


def sha256_of(path: Path) -> str | None:
    """SHA-256 of a file's bytes, also of one that is refused; None where there is no file of a CT's size to read."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST_BYTES:
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None


def case_name(path: Path) -> str:
    """A file's name without the suffixes that this package reads; a folder's as it is."""
    try:
        is_folder = path.is_dir()
    except OSError:  # a name that no file can have, or in a folder that may not be entered
        is_folder = False
    if is_folder:
        return path.name or path.resolve().name or "ct"
    for suffix in (*IMAGE_SUFFIXES, ".zip", ".dcm"):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def _decoded(path: Path) -> tuple[NDArray[Any], float, float, Geometry, nib.Nifti1Header | None, str]:
    content = _content(path)
    sha256 = hashlib.sha256(content).hexdigest()
    if path.name.lower().endswith((".nii", ".nii.gz")):
        image = nifti.decode(content, path)
        return image.stored, image.slope, image.inter, image.geometry, image.grid_header, sha256
    from pancreas_seg.io import itk

    try:
        array, geometry = itk.decode(path, content)
    except InputError as error:
        if error.where == "grid":
            raise InputError(
                error.code, where=path, found=error.found, expected=error.expected, advice=error.advice
            ) from error
        raise
    return array, 1.0, 0.0, geometry, None, sha256


def _content(path: Path) -> bytes:
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if stat.S_ISDIR(found.st_mode):
        raise InputError(
            "input.is_folder",
            where=path,
            found="a folder",
            expected=f"a file that ends with {', '.join(IMAGE_SUFFIXES)}",
            advice="Name a file in it.",
        )
    if not path.name.lower().endswith(IMAGE_SUFFIXES):
        raise InputError(
            "input.unknown_format",
            where=path,
            found="a file of another name or format",
            expected=f"one that ends with {', '.join(IMAGE_SUFFIXES)}, or DICOM",
            advice="Convert the image to NIfTI.",
        )
    if not stat.S_ISREG(found.st_mode):
        raise InputError(
            "input.not_a_file",
            where=path,
            found="a pipe, a device or a socket",
            expected="a file",
            advice="Save the image to a file first.",
        )
    check_file(found.st_size, path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(where: Path, error: OSError | ValueError) -> InputError:
    why = (error.strerror or "unknown error") if isinstance(error, OSError) else "no valid path"
    return InputError(
        "input.unreadable",
        where=where,
        found=f"a file that cannot be opened ({why})",
        expected="a file that may be read",
        advice="Check the path and its permissions.",
    )
