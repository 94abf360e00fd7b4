"""One way in: a file becomes a Scan in HU, or a clear refusal."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from pancreas_seg.errors import InputError
from pancreas_seg.geometry import Geometry
from pancreas_seg.io import nifti

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
"""File name endings that are read."""

_SPACING_MM = (0.05, 50.0)


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
        The file it came from.
    sha256 : str
        Of the file's bytes.
    nifti_header : nibabel.Nifti1Header or None
        The header fields that stated the grid, for a mask that states it in the same way; None if it was no NIfTI.
    series : object or None
        The DICOM series it came from, whose ``headers()`` gives its images without pixels; None if it was no DICOM.
    """

    image: NDArray[np.int16] | NDArray[np.float32]
    geometry: Geometry
    path: Path
    sha256: str
    nifti_header: nib.Nifti1Header | None = None
    series: Any = None


@dataclass(frozen=True, eq=False)
class Mask:
    """A label map: (I, J, K) integers on a grid, with the SHA-256 of the file it came from."""

    labels: NDArray[np.integer[Any]]
    geometry: Geometry
    path: Path
    sha256: str


def read_ct(path: str | Path) -> Scan:
    """Read a CT from .nii, .nii.gz, .nrrd or .mha, in any orientation and number type.

    Scale factors in the header (scl_slope, scl_inter) are applied once.

    Raises
    ------
    InputError
        If the file is missing, damaged or no sound three-dimensional CT.
    """
    path = Path(path)
    values, slope, inter, geometry, header, sha256 = _decoded(path)
    image = _hounsfield(values, slope, inter)
    _check_spacing(geometry, path)
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
        raise InputError(
            "input.constant",
            where=path,
            found=f"the value {low:g} in every voxel",
            expected="a CT",
            advice="The image is empty; export it again.",
        )
    return Scan(image, geometry, path, sha256, header)


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
    if values.dtype.kind in "iu" and slope == 1.0 and inter == round(inter):
        limits = np.iinfo(np.int16)
        low, high = int(values.min()) + int(inter), int(values.max()) + int(inter)
        if limits.min <= low and high <= limits.max:
            whole: NDArray[np.int16] = values.astype(np.int16, order="F", copy=inter != 0.0)
            if inter != 0.0:
                whole += np.int16(inter)
            return whole
    image: NDArray[np.float32] = values.astype(np.float32, order="F")
    if slope != 1.0:
        image *= np.float32(slope)
    if inter != 0.0:
        image += np.float32(inter)
    return image


def _check_spacing(geometry: Geometry, where: Path) -> None:
    low, high = _SPACING_MM
    if not all(low <= mm <= high for mm in geometry.spacing_mm):
        raise InputError(
            "input.spacing",
            where=where,
            found=f"a voxel spacing of {' x '.join(f'{mm:.4g}' for mm in geometry.spacing_mm)} mm",
            expected=f"{low:g} to {high:g} mm along each axis",
            advice="No CT of an abdomen has such voxels; check the units of the header.",
        )


def case_name(path: Path) -> str:
    """A file's name without the suffixes that this package reads."""
    for suffix in IMAGE_SUFFIXES:
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
    name = path.name.lower()
    if path.is_dir():
        raise InputError(
            "input.is_folder",
            where=path,
            found="a folder",
            expected=f"a file that ends with {', '.join(IMAGE_SUFFIXES)}",
            advice="DICOM folders are not read yet: convert the series to NIfTI, for example with dcm2niix.",
        )
    if not path.exists():
        raise InputError(
            "input.unreadable",
            where=path,
            found="nothing at this path",
            expected="a file that may be read",
            advice="Check the path.",
        )
    if not name.endswith(IMAGE_SUFFIXES):
        raise InputError(
            "input.unknown_format",
            where=path,
            found=f"a file that ends with {path.suffix[:8] or 'no suffix'}",
            expected=f"one that ends with {', '.join(IMAGE_SUFFIXES)}",
            advice="Convert the image to NIfTI.",
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            "input.unreadable",
            where=path,
            found=f"a file that cannot be opened ({error.strerror})",
            expected="a file that may be read",
            advice="Check the path and its permissions.",
        ) from error
    if not content:
        raise InputError(
            "input.empty_file",
            where=path,
            found="a file of 0 bytes",
            expected="an image",
            advice="Copy or export the file again.",
        )
    return content
