"""Images of a series in order along their normal, as one grid; or what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.errors import InputError
from pancreas_seg.geometry import SHEAR_TOLERANCE, Geometry
from pancreas_seg.io.dicom.frames import Frame
from pancreas_seg.io.limits import check_memory

_LARGEST_VOXELS = 2**31
_LARGEST_PACKING = 1100
_SAME_PLACE_MM = 0.01
_SAME_COSINE = 1e-3
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Stack:
    """Frames in the order of their positions along the normal.

    Parameters
    ----------
    frames : list of Frame
    affine : (4, 4) array
        Voxel (column, row, slice) to RAS mm; the third axis leads from the first to the last position.
    tilt_deg : float
        Angle between the normal and the line through the positions; 0 if it is within tolerance.
    """

    frames: list[Frame]
    affine: NDArray[np.float64]
    tilt_deg: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        return self.frames[0].columns, self.frames[0].rows, len(self.frames)

    @property
    def geometry(self) -> Geometry:
        """The grid of a stack without tilt.

        Raises
        ------
        InputError
            If a spacing is 0, for example.
        """
        return Geometry(self.shape, self.affine)


def stack(frames: Sequence[Frame], where: object, label: Callable[[Frame], str]) -> Stack:
    """Put the frames of one series in order.

    Positions must be where an even spacing puts them, within 0.1 mm, or 2 % of the spacing if that is more, but never
    more than a fifth of it: enough for positions that are written with one decimal.

    Parameters
    ----------
    frames : sequence of Frame
    where : object
        For errors.
    label : callable
        What errors call a frame.

    Raises
    ------
    InputError
        If they are no even stack of like images. A tilt is no error here.
    """
    _check_alike(frames, where, label)
    row, column, normal = _axes(frames[0])
    positions = np.array([frame.position_mm for frame in frames])
    order = np.argsort(positions @ normal, kind="stable")
    frames, positions = [frames[n] for n in order], positions[order]
    depths = positions @ normal
    if len(frames) < 2:
        raise InputError(
            "input.single_slice",
            where=where,
            found="a single CT slice",
            expected="the slices of a volume",
            advice="Give the folder with all slices of the series.",
        )
    steps = np.diff(depths)
    _check_duplicates(steps, frames, where, label)
    _check_missing(steps, frames, where, label)
    n = len(frames) - 1
    spacing = (depths[-1] - depths[0]) / n
    tolerance = min(max(0.1, 0.02 * spacing), 0.2 * spacing)
    off = positions - positions[0] - np.arange(n + 1)[:, None] * (positions[-1] - positions[0]) / n
    _check_even(np.abs(off @ normal), steps, tolerance, frames, where, label)
    _check_in_line(np.abs(off @ np.stack([row, column], axis=1)).max(axis=1), tolerance, frames, where, label)

    affine = np.eye(4)
    between_rows, between_columns = frames[0].spacing_mm
    affine[:3, 0], affine[:3, 1] = row * between_columns, column * between_rows
    affine[:3, 2], affine[:3, 3] = (positions[-1] - positions[0]) / n, positions[0]
    out = Stack(frames, _LPS_TO_RAS @ affine, _tilt_deg(affine))
    _check_size(out, where)
    return out


def distinct_positions(frames: Sequence[Frame]) -> int:
    """Number of different positions along the normal of the first frame."""
    depths = np.sort([np.dot(frame.position_mm, _axes(frames[0])[2]) for frame in frames])
    return 1 + int((np.diff(depths) > _SAME_PLACE_MM).sum())


def typical_step_mm(frames: Sequence[Frame]) -> float:
    """Median distance between positions along the normal; 0 for a single frame."""
    depths = np.sort([np.dot(frame.position_mm, _axes(frames[0])[2]) for frame in frames])
    return float(np.median(np.diff(depths))) if len(frames) > 1 else 0.0


def tilt_refusal(tilt_deg: float, where: object) -> InputError:
    """The refusal of a series whose slices are stacked at a slant."""
    return InputError(
        "input.gantry_tilt",
        where=where,
        found=f"slices stacked {tilt_deg:.2f} degrees off their normal (a tilted gantry)",
        expected="slices stacked along their normal",
        advice="Give --allow-tilt to have the volume sheared back to a rectangular grid.",
    )


def _axes(frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    row, column = np.array(frame.orientation).reshape(2, 3)
    return row, column, np.cross(row, column)


def _tilt_deg(affine: NDArray[np.float64]) -> float:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(axes[:, 2] @ axes[:, :2]).max() <= SHEAR_TOLERANCE:
        return 0.0
    normal = np.cross(axes[:, 0], axes[:, 1])
    return float(np.degrees(np.arccos(min(1.0, axes[:, 2] @ normal / np.linalg.norm(normal)))))


def _check_alike(frames: Sequence[Frame], where: object, label: Callable[[Frame], str]) -> None:
    first = frames[0]

    def turned(frame: Frame) -> bool:
        return bool(np.abs(np.subtract(frame.orientation, first.orientation)).max() > _SAME_COSINE)

    def scaled(frame: Frame) -> bool:
        return not np.allclose(frame.spacing_mm, first.spacing_mm, rtol=1e-4, atol=0)

    def other_matrix(frame: Frame) -> bool:
        return (frame.rows, frame.columns) != (first.rows, first.columns)

    def other_reference(frame: Frame) -> bool:
        return bool(frame.frame_of_reference and frame.frame_of_reference != _reference(frames))

    for code, differs, what in (
        ("input.mixed_orientation", turned, "orientation (ImageOrientationPatient)"),
        ("input.mixed_matrix", other_matrix, "matrix (Rows, Columns)"),
        ("input.mixed_spacing", scaled, "PixelSpacing"),
        ("input.mixed_frame_of_reference", other_reference, "FrameOfReferenceUID"),
    ):
        odd = [frame for frame in frames if differs(frame)]
        if odd:
            raise InputError(
                code,
                where=where,
                found=f"{len(odd)} of {len(frames)} slices of one series with another {what} than the first, "
                f"such as {label(odd[0])}",
                expected=f"one {what} in all slices of a series",
                advice="Remove the slices that are not part of the volume, such as localizers, or split the series.",
            )


def _reference(frames: Sequence[Frame]) -> str:
    return next((frame.frame_of_reference for frame in frames if frame.frame_of_reference), "")


def _check_duplicates(
    steps: NDArray[np.float64], frames: Sequence[Frame], where: object, label: Callable[[Frame], str]
) -> None:
    twice = np.flatnonzero(steps < _SAME_PLACE_MM)
    if twice.size:
        raise InputError(
            "input.duplicate_positions",
            where=where,
            found=f"{twice.size} of {len(frames)} slices at the position of another one, such as "
            f"{label(frames[twice[0]])} and {label(frames[twice[0] + 1])}",
            expected="one slice at each position",
            advice="Delete copies; split phases or reconstructions that share a series into folders of their own.",
        )


def _check_missing(
    steps: NDArray[np.float64], frames: Sequence[Frame], where: object, label: Callable[[Frame], str]
) -> None:
    usual = float(np.median(steps[steps <= 1.25 * steps.min()]))
    places = steps / usual
    gaps = np.flatnonzero(np.rint(places) >= 2)
    if gaps.size and np.abs(places - np.rint(places)).max() <= 0.2:
        missing = int(np.rint(places[gaps] - 1).sum())
        raise InputError(
            "input.missing_slices",
            where=where,
            found=f"{missing} missing slice{'s' if missing > 1 else ''}: {steps[gaps[0]]:.4g} mm instead of "
            f"{usual:.4g} between {label(frames[gaps[0]])} and {label(frames[gaps[0] + 1])}",
            expected="all slices of the series",
            advice="Export or copy the whole series again.",
        )


def _check_even(
    off: NDArray[np.float64],
    steps: NDArray[np.float64],
    tolerance: float,
    frames: Sequence[Frame],
    where: object,
    label: Callable[[Frame], str],
) -> None:
    if off.max() > tolerance:
        raise InputError(
            "input.uneven_spacing",
            where=where,
            found=f"slices {steps.min():.4g} to {steps.max():.4g} mm apart; {label(frames[int(off.argmax())])} is "
            f"{off.max():.3g} mm from its place",
            expected=f"one distance between all slices, within {tolerance:.2g} mm",
            advice="Split the series where the distance changes, or have it reconstructed at one spacing.",
        )


def _check_in_line(
    off: NDArray[np.float64], tolerance: float, frames: Sequence[Frame], where: object, label: Callable[[Frame], str]
) -> None:
    if off.max() > tolerance:
        raise InputError(
            "input.shifted_slices",
            where=where,
            found=f"slices shifted in their own plane against each other; {label(frames[int(off.argmax())])} is "
            f"{off.max():.3g} mm from its place",
            expected=f"slices on one line, within {tolerance:.2g} mm",
            advice="Split the series where the field of view moves, or have it reconstructed in one.",
        )


def _check_size(found: Stack, where: object) -> None:
    columns, rows, n = found.shape
    voxels, stored = columns * rows * n, sum(frame.stored_bytes for frame in found.frames)
    if voxels > _LARGEST_VOXELS or 2 * voxels > _LARGEST_PACKING * stored + 2**24:
        raise InputError(
            "input.too_large",
            where=where,
            found=f"{columns} x {rows} x {n} voxels, from {stored:.0f} bytes of pixel data",
            expected=f"at most {_LARGEST_VOXELS} voxels, and pixel data that can hold them",
            advice="Export the series again, uncompressed.",
        )
    check_memory(voxels, 2, where)
