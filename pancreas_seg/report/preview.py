"""One picture of a segmentation: an axial, a coronal and a sagittal slice with the mask's outline."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from pancreas_seg.geometry import Geometry
from pancreas_seg.io import replacing

OUTLINE_COLOURS = ("#ffd400", "#00d5ff", "#ff5fd2", "#7dff5a", "#ff8a3c", "#b59cff")
"""Of label 1, 2, 3, ...; further labels start again at the second colour."""

_SIZE_PX = (1500, 620)
_DPI = 100
_PICTURE_PX = (484, 484)
"""Room for one slice, width and height."""
_PICTURE_BOTTOM_PX = 54
_OUTLINE_PX = 1.0
_FONT = "DejaVu Sans"
_GREY = "#a0a0a0"
_WARNING = "#ff9d2e"


@dataclass(frozen=True, eq=False)
class DisplaySlice:
    """One slice as it is shown: row 0 at the top, column 0 on the left.

    Parameters
    ----------
    name : str
        "axial", "coronal" or "sagittal".
    image : (rows, columns) array
        HU.
    labels : (rows, columns) array
        The mask there.
    extent_mm : (left, right, bottom, top)
        Edges of the outermost pixels, with the lower left corner at (0, 0).
    edges : str
        Where left, right, top and bottom are in the patient, such as ``"RLAP"``.
    position : str
        Of the slice's centre along the axis it is perpendicular to, such as ``"I 286.4 mm"``: 286.4 mm towards the
        feet from the origin of the CT's coordinates.
    """

    name: str
    image: NDArray[Any]
    labels: NDArray[np.uint8]
    extent_mm: tuple[float, float, float, float]
    edges: str
    position: str


def write_preview(
    path: Path,
    image: NDArray[Any],
    mask: NDArray[np.uint8],
    geometry: Geometry,
    title: str = "",
    window_hu: tuple[float, float] = (-160.0, 240.0),
) -> Path:
    """Write a PNG with three slices of a CT and the outline of the mask on them.

    Each slice is the one where label 1 has its largest area, or the middle one if there is no label 1; then the picture
    says "no pancreas found". It is shown whole, in radiological convention: the patient's right is on the left of the
    axial and coronal slice, anterior is on the left of the sagittal slice. The picture holds nothing about the patient
    but the slices and what the caller puts into ``title``.

    Parameters
    ----------
    path : path
        The PNG file.
    image : (I, J, K) array
        HU, in any orientation.
    mask : (I, J, K) array
        0 is background; label 1 is the pancreas.
    geometry : Geometry
        Where the voxels lie.
    title : str
        Shown at the top.
    window_hu : (low, high)
        HU shown as black and as white.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    ValueError
        If the arrays do not lie on the grid, or the window is empty.
    """
    path = Path(path)
    if not window_hu[0] < window_hu[1]:
        raise ValueError(f"window {window_hu} must go from a lower to a higher HU")
    slices = display_slices(image, mask, geometry)
    figure = _draw(slices, found=bool((mask == 1).any()), title=title, window_hu=window_hu)
    with replacing(path) as temporary, temporary.open("wb") as file:
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return path


def display_slices(
    image: NDArray[Any], mask: NDArray[np.uint8], geometry: Geometry
) -> tuple[DisplaySlice, DisplaySlice, DisplaySlice]:
    """The axial, coronal and sagittal slice to show, turned the way they are looked at.

    The slices are views into the arrays: nothing is resampled. On an oblique grid they run along the voxel axes, and
    are named after the closest axes of the patient.

    Parameters
    ----------
    image, mask : (I, J, K) arrays
    geometry : Geometry

    Raises
    ------
    ValueError
        If the arrays do not lie on the grid.
    """
    for array in (image, mask):
        if array.shape != geometry.shape:
            raise ValueError(f"array of shape {array.shape} does not lie on a grid of shape {geometry.shape}")
    # From here on, axis 0 runs from right to left, axis 1 from anterior to posterior, axis 2 from superior to inferior.
    hu, labels = _turned(image, geometry), _turned(mask, geometry)
    spacing = [geometry.spacing_mm[axis] for axis, _ in geometry.ras_axes]
    chosen = _chosen(labels)

    def cut(name: str, across: int, edges: str) -> DisplaySlice:
        index: list[Any] = [slice(None)] * 3
        index[across] = chosen[across]
        pixels = hu[tuple(index)].T
        height, width = (n * spacing[axis] for n, axis in zip(pixels.shape, _rows_columns(across), strict=True))
        position = _position(geometry, across, chosen[across])
        return DisplaySlice(name, pixels, labels[tuple(index)].T, (0.0, width, 0.0, height), edges, position)

    return cut("axial", 2, "RLAP"), cut("coronal", 1, "RLSI"), cut("sagittal", 0, "APSI")


def outline(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pixel edges between a region and its outside, the outside of the picture included.

    Parameters
    ----------
    region : (rows, columns) array
        True inside.

    Returns
    -------
    (n, 2, 2) array
        Both ends of each edge as (column, row), where pixel (r, c) reaches from (c, r) to (c + 1, r + 1).
    """
    inside = np.pad(region, 1).astype(np.int8)
    row, column = np.nonzero(np.diff(inside, axis=1)[1:-1])
    upright = np.stack([np.stack([column, row], -1), np.stack([column, row + 1], -1)], axis=1)
    row, column = np.nonzero(np.diff(inside, axis=0)[:, 1:-1])
    level = np.stack([np.stack([column, row], -1), np.stack([column + 1, row], -1)], axis=1)
    return np.concatenate([upright, level]).astype(np.float64)


def _turned(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """The array as a view whose axes run towards Left, Posterior and Inferior."""
    view = array.transpose([axis for axis, _ in geometry.ras_axes])
    return view[tuple(slice(None, None, -sign) for _, sign in geometry.ras_axes)]


def _rows_columns(across: int) -> tuple[int, int]:
    """The axes that run down and to the right in the slice across an axis."""
    low, high = (axis for axis in range(3) if axis != across)
    return high, low


def _chosen(labels: NDArray[np.uint8]) -> tuple[int, int, int]:
    """For each axis the plane with most voxels of label 1, the first of equals; the middle if there are none."""
    planes = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        area = np.count_nonzero(labels == 1, axis=others)
        planes.append(int(area.argmax()) if area.any() else (labels.shape[axis] - 1) // 2)
    x, y, z = planes
    return x, y, z


def _position(geometry: Geometry, across: int, plane: int) -> str:
    axis, sign = geometry.ras_axes[across]
    n = geometry.shape[axis]
    index = (np.asarray(geometry.shape) - 1) / 2
    index[axis] = n - 1 - plane if sign > 0 else plane
    mm = round(float(geometry.world(index)[across]), 1)
    return f"{('RL', 'AP', 'SI')[across][0 if mm >= 0 else 1]} {abs(mm):.1f} mm"


def _draw(slices: tuple[DisplaySlice, ...], found: bool, title: str, window_hu: tuple[float, float]) -> Figure:
    width, height = _SIZE_PX
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="black", edgecolor="black")
    for number, shown in enumerate(slices):
        middle = (number + 0.5) / len(slices)
        room = (_PICTURE_PX[0] / width, _PICTURE_PX[1] / height)
        axes = figure.add_axes((middle - room[0] / 2, _PICTURE_BOTTOM_PX / height, *room))
        _draw_slice(axes, shown, window_hu)
        _draw_caption(axes, shown, window_hu)
    _write(figure, 0.015, 0.985, title, "left", size=12, color="white")
    if not found:
        _write(figure, 0.985, 0.985, "no pancreas found", "right", size=17, color=_WARNING, weight="bold")
    _draw_key(figure, slices)
    _write(figure, 0.5, 0.027, "Research software, not a medical device.", "center", size=9, color=_GREY)
    return figure


def _draw_slice(axes: Axes, shown: DisplaySlice, window_hu: tuple[float, float]) -> None:
    axes.set_axis_off()
    low, high = window_hu
    axes.imshow(
        shown.image,
        cmap="gray",
        vmin=low,
        vmax=high,
        extent=shown.extent_mm,
        origin="upper",
        aspect="equal",
        interpolation="bilinear",
        resample=True,
    )
    _, width, _, height = shown.extent_mm
    rows, columns = shown.image.shape
    for label in _present(shown.labels):
        edges = outline(shown.labels == label)
        edges[..., 0] *= width / columns
        edges[..., 1] = height - edges[..., 1] * height / rows
        lines = LineCollection(
            list(edges),
            colors=[_colour(label)],
            linewidths=_OUTLINE_PX * 72 / _DPI,
            antialiaseds=False,
            capstyle="projecting",
        )
        lines.set_snap(True)
        lines.set_clip_on(False)
        axes.add_collection(lines, autolim=False)


def _draw_caption(axes: Axes, shown: DisplaySlice, window_hu: tuple[float, float]) -> None:
    """Letters at the four edges of a slice, and what it is above them."""
    gap = 7
    places = (
        ((0.0, 0.5), (gap, 0), "left", "center"),
        ((1.0, 0.5), (-gap, 0), "right", "center"),
        ((0.5, 1.0), (0, gap), "center", "bottom"),
        ((0.5, 0.0), (0, -gap), "center", "top"),
    )
    low, high = (f"{hu:g}".replace("-", "\N{MINUS SIGN}") for hu in window_hu)
    caption = f"{shown.name}   {shown.position}   window {low} to {high} HU"
    texts = [(letter, *place, 11, "white") for letter, place in zip(shown.edges, places, strict=True)]
    texts.append((caption, (0.5, 1.0), (0, gap + 19), "center", "bottom", 9, _GREY))
    for text, at, offset, horizontal, vertical, size, colour in texts:
        written = axes.annotate(
            text,
            at,
            xycoords="axes fraction",
            xytext=offset,
            textcoords="offset pixels",
            ha=horizontal,
            va=vertical,
            fontsize=size,
            color=colour,
            family=_FONT,
            annotation_clip=False,
        )
        if text != caption:  # a letter may lie on bright tissue
            written.set_path_effects([withStroke(linewidth=2.5, foreground="black")])


def _draw_key(figure: Figure, slices: tuple[DisplaySlice, ...]) -> None:
    """Name the labels in their colours, if there is more than one."""
    labels = sorted({label for shown in slices for label in _present(shown.labels)})
    if len(labels) < 2:
        return
    for number, label in enumerate(labels[:10]):
        _write(figure, 0.015 + 0.042 * number, 0.027, f"label {label}", "left", size=9, color=_colour(label))


def _write(
    figure: Figure, x: float, y: float, text: str, align: str, size: float, color: str, weight: str = "normal"
) -> None:
    """Write into the top or the bottom row of the picture."""
    vertical = "top" if y > 0.5 else "center"
    written = figure.text(x, y, text, ha=align, va=vertical, fontsize=size, color=color, family=_FONT, weight=weight)
    written.set_parse_math(False)


def _present(labels: NDArray[np.uint8]) -> list[int]:
    return [int(label) for label in np.unique(labels) if label != 0]


def _colour(label: int) -> str:
    first, *others = OUTLINE_COLOURS
    return first if label == 1 else next(islice(cycle(others), label - 2, None))
