"""One way out: arrays on the grid of the CT they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from pancreas_seg.geometry import Geometry
from pancreas_seg.io import nifti
from pancreas_seg.io.atomic import replacing
from pancreas_seg.io.reading import IMAGE_SUFFIXES, Scan


def write_mask(path: str | Path, labels: NDArray[Any], on: Scan | Geometry, description: str = "") -> Path:
    """Write a label map as uint8 on the grid of a CT.

    Parameters
    ----------
    path : path
        Ends with .nii.gz, .nii, .nrrd or .mha.
    labels : (I, J, K) array
        Whole numbers from 0 to 255.
    on : Scan or Geometry
        Whose grid it is. A Scan from NIfTI hands on its qform, sform, their codes and units bit for bit.
    description : str
        For NIfTI's descrip field, at most 79 characters.
    """
    values = np.asarray(labels)
    if values.dtype != np.uint8:
        if values.size and not (values.min() >= 0 and values.max() <= 255 and np.array_equal(values, np.rint(values))):
            raise ValueError("labels must be whole numbers from 0 to 255")
        values = values.astype(np.uint8)
    return write_image(path, values, on, description)


def write_image(
    path: str | Path, values: NDArray[Any], on: Scan | Geometry, description: str = "", scale: float = 1.0
) -> Path:
    """Write an (I, J, K) array, in its own number type, on the grid of a CT. See `write_mask`.

    NIfTI alone takes N volumes, (I, J, K, N), and a scale that readers multiply the values with (scl_slope).
    """
    path = Path(path)
    geometry = on.geometry if isinstance(on, Scan) else on
    nifti_only = values.ndim == 4 or scale != 1.0
    if values.shape[:3] != geometry.shape or values.ndim > 4:
        raise ValueError(f"array of shape {values.shape} does not lie on a grid of shape {geometry.shape}")
    name = path.name.lower()
    if not name.endswith(IMAGE_SUFFIXES):
        raise ValueError(f"{path.name} must end with {', '.join(IMAGE_SUFFIXES)}")
    if nifti_only and not name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path.name}: several volumes or a scale need .nii or .nii.gz")
    with replacing(path) as temporary:
        if name.endswith((".nii", ".nii.gz")):
            raw = nifti.encode(values, _nifti_header(on), description, scale)
            temporary.write_bytes(nifti.compress(raw) if name.endswith(".gz") else raw)
        else:
            from pancreas_seg.io import itk

            itk.encode(temporary, values, geometry)
    return path


def _nifti_header(on: Scan | Geometry) -> nib.Nifti1Header:
    if isinstance(on, Scan):
        return on.nifti_header if on.nifti_header is not None else nifti.header_for(on.geometry)
    return nifti.header_for(on)
