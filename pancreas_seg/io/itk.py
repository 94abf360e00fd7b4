"""NRRD and MHA through SimpleITK, whose world is LPS; ours is RAS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from pancreas_seg.errors import InputError
from pancreas_seg.geometry import Geometry
from pancreas_seg.io.itk_header import check_mha, check_nrrd

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TOLERANCE_MM = 1e-3


def decode(path: Path, content: bytes) -> tuple[NDArray[Any], Geometry]:
    """Voxels (I, J, K) as stored and their grid; ``content`` is the file's bytes.

    Raises
    ------
    InputError
        If the file is damaged, not three-dimensional, not one number per voxel, does not say where its voxels lie, or
        says it in a way that ITK takes otherwise.
    """
    is_nrrd = path.suffix.lower() == ".nrrd"
    stated = (check_nrrd if is_nrrd else check_mha)(content, path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NrrdImageIO" if is_nrrd else "MetaImageIO")
    show = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        reader.ReadImageInformation()
        _check_information(reader, stated, path)
        image = reader.Execute()
        if image.GetSize() != stated.shape:
            raise RuntimeError("the file changed")
    except RuntimeError as error:
        raise InputError(
            "input.truncated",
            where=path,
            found="a file that cannot be decoded as its format says",
            expected="a complete NRRD or MHA file",
            advice="Copy or export the file again.",
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(show)
    return sitk.GetArrayViewFromImage(image).copy().transpose(2, 1, 0), geometry_of(image)


def geometry_of(image: sitk.Image | sitk.ImageFileReader) -> Geometry:
    """The grid of a 3D SimpleITK image in RAS."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    i, j, k = (int(n) for n in image.GetSize())
    return Geometry((i, j, k), _LPS_TO_RAS @ affine)


def encode(path: Path, array: NDArray[Any], geometry: Geometry) -> None:
    """Write an (I, J, K) array on a grid to a .nrrd or .mha file, compressed."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    affine = _LPS_TO_RAS @ geometry.affine
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetSpacing(geometry.spacing_mm)
    image.SetDirection((affine[:3, :3] / np.asarray(geometry.spacing_mm)).ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=True)


def _check_information(reader: sitk.ImageFileReader, stated: Geometry, path: Path) -> None:
    if reader.GetNumberOfComponents() != 1 or "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise InputError(
            "input.not_scalar",
            where=path,
            found=f"{reader.GetNumberOfComponents()} values per voxel",
            expected="one integer or floating-point number per voxel (HU)",
            advice="Colour and vector images are no CT; export the original CT.",
        )
    if reader.GetDimension() != 3 or not geometry_of(reader).same_grid(stated, _TOLERANCE_MM):
        raise InputError(
            "input.readers_disagree",
            where=path,
            found="a header that ITK reads as another grid than it states",
            expected="one clear statement of where the voxels lie",
            advice="Save the image again, for example as NIfTI.",
        )
